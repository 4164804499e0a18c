"""The long-tailed benchmark: its files, its profile and its networks, without a long training."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

PATH = Path(__file__).parent.parent / "benchmarks" / "long_tail.py"
spec = importlib.util.spec_from_file_location("long_tail", PATH)
long_tail = importlib.util.module_from_spec(spec)
spec.loader.exec_module(long_tail)


def test_the_profile_is_the_published_one():
    labels = torch.arange(10).repeat(5000)
    rows = long_tail.long_tailed(labels, 100)
    assert len(rows) == 12406
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert torch.bincount(labels[rows]).tolist() == counts
    assert rows[:3].tolist() == [0, 10, 20]  # the first ones in the files


def test_the_networks_have_the_published_size():
    # He et al. 2016, table 6: ResNet-32 has 0.46 million parameters.
    sizes = {
        name: sum(p.numel() for p in long_tail.ResNet(blocks).parameters())
        for name, blocks in long_tail.BLOCKS.items()
    }
    assert sizes == {"resnet8": 75290, "resnet32": 464154}
    assert long_tail.ResNet(1)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_schedule_is_that_of_two_hundred_epochs():
    rates = [long_tail.schedule(epoch, 200) for epoch in range(200)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(rates[5:160]) == {1.0}
    assert set(rates[160:180]) == {0.01}
    assert set(rates[180:]) == {0.0001}


def test_the_files_are_read(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = {}
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        pixels[name] = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        image.fromarray(pixels[name].reshape(4, 1024, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps([k % 10 for k in range(20)]))
    (tmp_path / "test_lables.json").write_text(json.dumps([3, 1, 4, 1]))
    train, labels, test, test_labels = long_tail.read(tmp_path)
    assert train.shape == (20, 3, 32, 32)
    assert np.array_equal(train[5].permute(1, 2, 0), pixels["data_batch_2"][1])
    assert np.array_equal(test[3].permute(1, 2, 0), pixels["test_batch"][3])
    assert labels.tolist()[:3] == [0, 1, 2]
    assert test_labels.tolist() == [3, 1, 4, 1]
    plain, target = long_tail.Images(train, labels, augmented=False)[5]
    assert target == 5
    mean, std = torch.tensor(long_tail.MEAN), torch.tensor(long_tail.STD)
    assert torch.allclose(plain[:, 7, 9], (train[5, :, 7, 9] / 255 - mean) / std)
    assert long_tail.Images(train, labels, augmented=True)[5][0].shape == (3, 32, 32)


def test_the_table_sets_differences_beside_published_ones():
    def entry(name, values):
        found = {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}
        return {"name": name, "title": name, "scores": {"accuracy": found}}

    study = SimpleNamespace(
        results={
            "candidates": [
                entry("cross-entropy", [0.70, 0.71, 0.72]),
                entry("balanced-softmax", [0.77, 0.78, 0.76]),
            ]
        }
    )
    lines = long_tail.table(study).splitlines()
    assert lines[1].split() == ["cross-entropy", "71.00", "±1.00", "+0.00"]
    assert lines[2].split() == ["balanced-softmax", "77.00", "±1.00", "+6.00", "+6.49"]
