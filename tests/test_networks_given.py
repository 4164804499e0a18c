"""Every argument of a study, given wrong once: one sentence, before anything is trained."""

import pytest
import torch
from network_cases import blobs, network, sgd, study
from torch import nn
from torch.utils.data import DataLoader

from steelyard import compare
from steelyard.compare.given import shown
from steelyard.compare.study import StudyError

DATASET = "expected a Dataset of (input, target), which has a length and can be indexed"
LOADER = DataLoader(blobs())


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(4, width)


def loop(trial):
    return trial.prepare(network())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"network": network()},
            "network is a Sequential that is made already, and every training needs a new one; "
            "give a function that makes it, as in `lambda: Sequential(…)`",
        ),
        (
            {"network": Wide},
            "network is the class Wide; expected a function without arguments that makes a new "
            "network, as in `lambda: Wide(…)`",
        ),
        (
            {"network": loop},
            "network is the function loop(trial); expected a function without arguments that makes "
            "a new network, as in `lambda: Net()`; a loop of your own is for compare.trainings",
        ),
        ({"network": "resnet18"}, "network is 'resnet18'; expected a function without arguments"),
        ({"network": lambda: nn.Linear}, "network() returned the class Linear; expected a new"),
        (
            {"optimizer": torch.optim.SGD},  # its third argument would take the decay for momentum
            "optimizer is the class SGD; expected a function of (parameters, learning_rate, "
            "weight_decay) that makes an optimiser, as in `lambda p, rate, decay: "
            "torch.optim.SGD(p, lr=rate, weight_decay=decay)`",
        ),
        ({"optimizer": torch.optim.Adam([torch.ones(1)])}, "optimizer is an Adam; expected a func"),
        ({"optimizer": lambda p: sgd(p, 0.1, 0)}, "optimizer is the function <lambda>(p); expec"),
        ({"optimizer": lambda *_: None}, "optimizer(…) returned None; expected a torch.optim.Opti"),
        ({"train": None}, f"train is None; {DATASET}"),
        (
            {"train": LOADER},
            "train is a DataLoader; expected its Dataset, as in train=loader.dataset: the study "
            "makes its own batches",
        ),
        (
            {"train": blobs(5).tensors},
            f"train is a tuple of a Tensor of shape (5, 4), a Tensor of shape (5,); {DATASET}, as "
            "torch.utils.data.TensorDataset(inputs, targets) makes one",
        ),
        ({"train": {"train": 1}}, f"train is a dict with the keys 'train'; {DATASET}"),
        ({"train": blobs}, "train is the function blobs(rows, classes, seed, dtype, spread); exp"),
        ({"train": [1, 2]}, "train: a sample is 1; expected (input, target)"),
        ({"test": LOADER}, "test is a DataLoader; expected its Dataset, as in test=loader.dataset"),
        ({"test": 0.2}, f"test is 0.2; {DATASET}; for a share of the rows of train say "
         "test_share=0.2"),
        ({"test": None, "test_share": None}, "test_share is None; expected a share of the rows"),
        ({"test": None, "test_groups": [0]}, "test_groups are of a Dataset test=, and there is no"),
        (
            {"validation": None},  # draws would be chosen by the rows that trained them
            f"validation is None; {DATASET}, or a share of the rows of train",
        ),
        ({"validation": 20}, "validation is 20; it is a share of the rows, as in 0.2"),
        ({"unaugmented": LOADER}, "unaugmented is a DataLoader; expected its Dataset"),
        ({"groups": "patient"}, "groups is 'patient'; expected one label for each row of train"),
        ({"groups": torch.zeros(150, 2)}, "groups is a Tensor of shape (150, 2); expected one"),
        ({"test_groups": [0]}, "test_groups has 1 entries and test has 90 rows; expected one for"),
        ({"losses": "focal"}, "losses is 'focal'; expected a list of names, of callables"),
        ({"losses": nn.CrossEntropyLoss()}, "losses is a CrossEntropyLoss; expected a list"),
        ({"losses": {"mine": loop}}, "losses is a dict with the keys 'mine'; expected a list"),
        ({"head": nn.Linear(8, 3)}, "head is a Linear; expected the name of the network's last la"),
        ({"space": [0.1]}, "space is [0.1]; expected a dict, as in {'learning_rate': (low, high, "),
        ({"space": {"learning_rate": (-1, 1, 0.1)}}, "space['learning_rate'] begins at -1; expec"),
        ({"schedule": lambda step: 1.0}, "schedule is the function <lambda>(step); choose from"),
        ({"schedule": lambda step, steps: None}, "schedule(0, 100) is None; expected the share"),
        ({"classes": 3}, "classes is 3; expected a list of names"),
        ({"classes": ["a", "a", "b"]}, "classes has 'a' twice; every class needs a name"),
        ({"num_classes": "3"}, "num_classes is '3'; expected a whole number, at least 1"),
        ({"collate": "pad"}, "collate is 'pad'; expected a function from samples to a batch"),
        ({"loaders": LOADER}, "loaders is a DataLoader; expected a number of processes, 0 or more"),
        ({"fingerprint": 3}, "fingerprint is 3; expected a text that names the data"),
        ({"out": True}, "out is True; expected a folder"),
        ({"workers": None}, "workers is None; expected a number of processes, at least 1"),
        ({"seeds": [0, 1]}, "seeds is [0, 1]; it must be a whole number, at least 1"),
        ({"epochs": None}, "epochs is None; it must be a whole number, at least 1"),
        ({"first_seed": -1}, "first_seed is -1; it must be a whole number, at least 0"),
        ({"clip": "1"}, "clip is '1'; it must be a number above 0"),
        ({"ignore_index": None}, "ignore_index is None; expected a class index, as in -100"),
        ({"batchsize": 3}, "there is no option 'batchsize'. Did you mean batch_size? The options "),
    ],
)  # fmt: skip
def test_an_argument_that_is_something_else(given, text):
    with pytest.raises(StudyError) as caught:
        study(**given)
    assert str(caught.value).startswith(text)


def test_a_loop_is_a_function_of_a_trial():
    for given, what in ((network(), "a Sequential"), (Wide, "the class Wide"), (None, "None")):
        with pytest.raises(StudyError) as caught:
            compare.trainings(given, train=blobs())
        assert str(caught.value) == (
            f"loop is {what}; expected a function that takes a Trial, trains a new network and "
            "returns it. A network without a loop is for compare.networks"
        )


def test_a_network_that_was_trained_before_is_refused():
    """Every candidate would begin where the one before it ended."""
    once = network()
    with pytest.raises(StudyError) as caught:
        study(network=lambda: once)
    assert str(caught.value) == (
        "the Sequential has been trained before, and every training needs a new one: make it anew "
        "each time, as in `Net()` or `copy.deepcopy(net)`"
    )


def test_a_device_may_be_torchs_own():
    found = study(device=torch.device("cpu"), losses=["focal"], seeds=1, draws=1, epochs=1)
    assert found.results["study"]["device"] == "cpu"


def test_values_are_shown_in_a_line():
    assert shown("a\nb") == r"'a\nb'"
    assert shown("a" * 90) == f"'{'a' * 58}…"
    assert shown([1] * 40).endswith("1, 1…")
    assert shown(dict.fromkeys("abcde")) == "a dict with the keys 'a', 'b', 'c', …"
    assert shown((len, torch.zeros(2))) == (
        "a tuple of the function len(obj), a Tensor of shape (2,)"
    )
