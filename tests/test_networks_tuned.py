"""The decision that is tuned on validation rows, in studies with the user's own network."""

import json

import pytest
import torch
from network_cases import blobs, masks, sgd, study
from torch import nn
from torch.utils.data import TensorDataset

from steelyard import compare, metrics
from steelyard._results import chosen_trial, read_results
from steelyard.compare.study import StudyError
from steelyard.report import render

ROWS_OF_ALL = TensorDataset(torch.randn(402, 4).double(), torch.arange(402) % 201)
VALIDATION, TEST = blobs(60, seed=3), blobs(90, seed=5)


@pytest.mark.parametrize("select", ["balanced_accuracy", "macro_f1"])
def test_its_lines_give_its_scores(tmp_path, select):
    found = study(
        losses=["tuned-decision"], select=select, validation=VALIDATION, test=TEST, out=tmp_path
    ).results
    kept = {(k.candidate, k.seed, k.draw): k for k in compare.predictions(tmp_path)}
    by_name = {entry["name"]: entry for entry in found["candidates"]}
    entry, plain = by_name["tuned-decision"], by_name["cross-entropy"]
    assert entry["rider"] == "tuned"
    assert entry["post_hoc"]
    lines = entry["code"].partition("# then at prediction:\n")[2]
    for cell, ridden in zip(entry["seeds"], plain["seeds"], strict=True):
        said = kept["cross-entropy", cell["seed"], ridden["chosen"]]
        scope = {
            "validation_logits": torch.from_numpy(said.validation.logits),
            "validation_labels": VALIDATION.tensors[1],
            "logits": torch.from_numpy(said.test.logits),
        }
        exec("import steelyard as sy\n" + lines, scope)
        confusion = metrics.confusion_matrix(scope["decision"], TEST.tensors[1], 3)
        assert confusion.tolist() == cell["confusion"]
        score = getattr(metrics, select)
        assert score(confusion).item() == pytest.approx(cell["scores"][select], abs=1e-12)
        chosen = (scope["validation_logits"] + scope["biases"]).argmax(1)
        best = score(metrics.confusion_matrix(chosen, VALIDATION.tensors[1], 3)).item()
        trial = chosen_trial(cell)
        assert [trial] == cell["trials"]
        assert trial["validation"] == pytest.approx(best, abs=1e-12)
        assert trial["options"] == chosen_trial(ridden)["options"]
        assert best >= chosen_trial(ridden)["validation"]
    assert [cell["confusion"] for cell in entry["seeds"]] != [
        cell["confusion"] for cell in plain["seeds"]
    ]
    again = json.loads(json.dumps(found))
    read_results(again)
    assert "Tuned decision" in render(again)


def test_it_is_in_every_study_of_classes_and_in_none_of_masks():
    shown = [e["name"] for e in study(losses=None, seeds=1, draws=1).results["candidates"]]
    assert shown[:5] == [
        "cross-entropy", "post-hoc", "tuned-decision", "tau-normalised", "weighted-cross-entropy",
    ]  # fmt: skip
    few = {"losses": None, "seeds": 1, "draws": 1, "epochs": 1, "head": None}
    many = study(
        network=lambda: nn.Linear(4, 201).double(), num_classes=201, train=ROWS_OF_ALL, **few
    )
    assert "tuned-decision" not in [e["name"] for e in many.results["candidates"]]
    dense = {"train": masks(12), "test": masks(6, seed=1), "ignore_index": 255, "epochs": 1}
    dense |= {"network": lambda: nn.Conv2d(1, 4, 3, padding=1), "seeds": 1, "draws": 1}
    dense |= {"optimizer": sgd, "head": None}
    names = [e["name"] for e in study(losses=None, **dense).results["candidates"]]
    assert names == [
        "cross-entropy", "post-hoc", "weighted-cross-entropy", "deferred-weighted",
        "balanced-softmax", "logit-adjusted", "focal",
    ]  # fmt: skip
    with pytest.raises(
        StudyError, match="tuned-decision needs one class per row, and these are masks"
    ):
        study(losses=["tuned-decision"], **dense)
