"""Studies of tokens, of masks, and of a head with very many classes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import (
    masks,
    sgd,
)
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from steelyard import compare
from steelyard._results import read_results
from steelyard.compare.study import StudyError
from steelyard.report import render


class Sentences(Dataset):
    """Tokens of different length, padded by the collate function."""

    def __init__(self, rows, seed=0):
        rng = np.random.default_rng(seed)
        self.rows = [torch.tensor(rng.integers(0, 12, rng.integers(4, 9))) for _ in range(rows)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        tokens = self.rows[row]
        return {"tokens": tokens, "labels": (tokens == 11).long() + 2 * (tokens == 3).long()}


def padded(samples):
    from torch.nn.utils.rnn import pad_sequence

    tokens = pad_sequence([s["tokens"] for s in samples], batch_first=True)
    labels = pad_sequence([s["labels"] for s in samples], batch_first=True, padding_value=-100)
    return {"tokens": tokens, "labels": labels}


class Output:
    def __init__(self, logits):
        self.logits = logits


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(12, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        return Output(self.fc(self.embed(tokens)))


def test_tokens_in_dicts_with_padding():
    found = compare.networks(
        Tagger,
        train=Sentences(60),
        test=Sentences(30, seed=1),
        losses=["focal", ("mine", lambda z, y: F.cross_entropy(z, y))],
        space={"learning_rate": (0.01, 0.1, 0.05)},
        optimizer=sgd,
        collate=padded,
        epochs=6,
        batch_size=8,
        draws=1,
        seeds=2,
        progress=False,
    ).results
    assert found["data"]["targets"] == "tokens"
    assert found["data"]["unit"] == "sequences"
    by_name = {entry["name"]: entry for entry in found["candidates"]}
    assert by_name["weighted-cross-entropy"]["scores"]["balanced_accuracy"]["mean"] > 0.9
    plain, mine = by_name["cross-entropy"], by_name["mine"]
    assert plain["scores"]["accuracy"]["values"] == mine["scores"]["accuracy"]["values"]
    matrix = np.array(plain["seeds"][0]["confusion"])
    assert matrix.sum() == sum(len(row) for row in Sentences(30, seed=1).rows)
    iou = matrix.diagonal() / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())
    assert plain["seeds"][0]["iou"] == pytest.approx(iou.tolist())


def test_masks_with_an_ignored_border(monkeypatch):
    monkeypatch.setattr("steelyard.compare.results._CHANCE", 1.0)  # whatever it learns
    found = compare.networks(
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        train=masks(rows=40),
        test=masks(rows=20, seed=1),
        losses=["focal"],
        ignore_index=255,
        select="mean_iou",
        space={"learning_rate": (0.01, 0.1, 0.05)},
        optimizer=sgd,
        epochs=2,
        batch_size=8,
        draws=1,
        seeds=2,
        progress=False,
    ).results
    assert found["verdict"]["score"] == "mean_iou"
    # Of masks no logits are kept, so nothing is known of their order.
    assert any("Either it has learnt nothing" in said for said in found["verdict"]["sentences"])
    assert [score["name"] for score in found["scores"]][:2] == ["balanced_accuracy", "mean_iou"]
    for entry in found["candidates"]:
        for cell in entry["seeds"]:
            assert np.array(cell["confusion"]).sum() == 20 * 30
            assert cell["reliability"] == {"count": [], "confidence": [], "accuracy": []}
        assert len(entry["iou"]) == len(entry["dice"]) == 4
    read_results(json.loads(json.dumps(found)))
    page = render(found)
    assert "IoU and Dice of each class" in page
    assert "test images" in page
    images = found["panel"]["images"]
    assert [image["row"] for image in images] == [0, 1, 2]
    assert images[0]["predictions"].keys() == {"cross-entropy", "weighted-cross-entropy", "focal"}
    assert page.count('<img src="data:image/png;base64,') >= 9
    with pytest.raises(StudyError, match="balanced-sampling needs one class per row"):
        compare.networks(
            nn.Identity, train=masks(), test=masks(), losses=["balanced-sampling"], ignore_index=255
        )


def test_a_head_of_a_thousand_classes():
    def wide():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1000))

    def rows(seed, each):
        labels = torch.arange(1000).repeat(each)
        noise = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(noise, labels)

    found = compare.networks(
        wide,
        train=rows(0, 3),
        test=rows(1, 1),
        losses=["balanced-softmax"],
        head="2",
        epochs=1,
        draws=1,
        seeds=2,
        progress=False,
    ).results
    assert len(found["candidates"][0]["recall"]) == 1000
    assert found["candidates"][0]["seeds"][0]["confusion"] == []
    read_results(json.loads(json.dumps(found)))
    assert "<h2 id=" in render(found)
