"""What a study refuses, and what is left of one when something breaks."""

import math

import pytest
import torch
import torch.nn.functional as F
from network_cases import (
    Noisy,
    blobs,
    study,
)

from steelyard.compare.study import StudyError
from steelyard.compare.training import checkpoints
from steelyard.compare.training.kept import TrialStore


def test_what_cannot_be_asked_is_refused():
    def refusal(**given):
        with pytest.raises(StudyError) as caught:
            study(**given)
        return str(caught.value)

    assert "there is no loss called 'focall'. Did you mean focal?" in refusal(losses=["focall"])
    assert "ldam needs a cosine head" in refusal(losses=["ldam"], head=None)
    assert "tau-normalised needs the last layer" in refusal(losses=["tau-normalised"], head=None)
    assert "'focal' is in losses twice" in refusal(losses=["focal", ("focal", F.cross_entropy)])
    assert "expected a name, a callable" in refusal(losses=[3])
    assert "needs its learning rates" in refusal(space=None)
    assert "expected low ≤ default ≤ high" in refusal(space={"learning_rate": (1, 2, 3)})
    assert "space has no 'learning_rate'" in refusal(space={"weight_decay": 0.1})
    assert "expected (low, high, default)" in refusal(space={"learning_rate": "fast"})
    assert "there is no option 'epoch'" in refusal(epoch=3)
    assert "seeds is 0; it must be a whole number" in refusal(seeds=0)
    assert "select is 'f1'; choose from: balanced_accuracy" in refusal(select="f1")
    assert "schedule is 'step'; choose from cosine, constant" in refusal(schedule="step")
    assert "the network has no such layer; its layers are: 0, 1, 2, 3" in refusal(head="fc")
    assert "head is '1', a ReLU" in refusal(head="1")
    assert "precision is 'fp16'; choose float32 or bf16" in refusal(precision="fp16")
    assert "class 3 has no row in train: there are 4 classes" in refusal(num_classes=4)
    assert "classes has 2 names and there are 3 classes" in refusal(classes=["a", "b"])
    assert "unaugmented has 9 rows and train has 150" in refusal(unaugmented=blobs(9))
    assert "device 'cuda:9' cannot be used here" in refusal(device="cuda:9")


def test_a_fresh_loss_that_fails_leaves_the_others_in_the_results():
    def nan_loss(logits, target):
        return F.cross_entropy(logits, target) * math.nan

    found = study(losses=[nan_loss]).results
    entry = found["candidates"][-1]
    assert [cell["status"] for cell in entry["seeds"]] == ["failed", "failed"]
    assert entry["seeds"][0]["reason"] == "the training diverged: its loss was nan in epoch 1"
    assert entry["seeds"][1]["reason"] == "no draw of the first seed finished"
    assert len(found["failures"]) == 2
    assert found["candidates"][0]["scores"]["accuracy"]["mean"] is not None


class BrokenLater(Noisy):
    """A row that can be read a few times only."""

    looks = 0

    def __getitem__(self, row):
        type(self).looks += row == 7
        if self.looks > 20:
            raise OSError("the disk is gone")
        return super().__getitem__(row)


def test_a_dataset_that_breaks_keeps_what_was_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenLater, "looks", 0)
    data = BrokenLater(blobs(150))
    with pytest.raises(StudyError) as caught:
        study(train=data, losses=["focal"], out=tmp_path)
    assert str(caught.value) == "row 7 of train could not be loaded: OSError: the disk is gone"
    assert not (tmp_path / "results.json").exists()
    with TrialStore(tmp_path) as store:
        assert 0 < len(list(store.outcomes())) < 9


def test_a_full_disk_is_one_sentence_and_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoints.write_state({"epochs": 1}, path)

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StudyError) as caught:
        checkpoints.write_state({"epochs": 2}, path)
    assert str(caught.value).startswith(f"{path} could not be written: No space left on device;")
    monkeypatch.undo()
    assert checkpoints.read_state(path) == {"epochs": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(StudyError, match="is no checkpoint that can be read; delete it"):
        checkpoints.read_state(path)
