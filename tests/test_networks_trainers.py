"""One trial trained by Lightning and by Hugging Face's Trainer is the trial of the plain loop."""

import logging

import pytest
from network_cases import Noisy, blobs, dropping, problem_of, same_parameters, sgd
from test_networks_training import train
from torch import nn
from torch.utils.data import Dataset


def loop_with(train_trial, factory, kept):
    def loop(trial):
        network = trial.prepare(factory())
        optimizer = sgd(network.parameters(), trial.learning_rate, trial.weight_decay)
        kept[trial.candidate] = train_trial(trial, network, optimizer)
        return kept[trial.candidate]

    return loop


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("micro", [None, 5])
def test_lightning_trains_the_same_parameters(micro):
    pytest.importorskip("lightning")
    from steelyard.integrations.lightning import train_trial

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data, kept = Noisy(blobs()), {}
    for name in ("ldam-drw", "focal"):
        given = {"train": data, "micro_batch": micro}
        theirs, trial = train(
            *problem_of([name], loop=loop_with(train_trial, dropping, kept), **given), name
        )
        ours, other = train(*problem_of([name], factory=dropping, **given), name)
        assert same_parameters(ours, theirs)
        assert trial.curve == other.curve


class Named(Dataset):
    def __init__(self, base):
        self.base = base

    def __len__(self):
        return len(self.base)

    def __getitem__(self, row):
        features, label = self.base[row]
        return {"x": features, "labels": label}


class Taking(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = dropping()

    def forward(self, x):
        return {"logits": self.net(x)}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_hugging_face_trains_the_same_parameters():
    pytest.importorskip("transformers")
    from steelyard.integrations.transformers import train_trial

    data, kept = Named(blobs()), {}
    for name in ("ldam-drw", "focal"):
        given = {"train": data, "test": data, "head": "net.3"}
        theirs, trial = train(
            *problem_of([name], loop=loop_with(train_trial, Taking, kept), **given), name
        )
        ours, other = train(*problem_of([name], factory=Taking, **given), name)
        assert same_parameters(ours, theirs)
        assert trial.curve == other.curve
    with pytest.raises(ValueError, match="a whole step at once"):
        train(
            *problem_of(
                ["focal"], loop=loop_with(train_trial, Taking, kept), micro_batch=2, **given
            ),
            "focal",
        )
