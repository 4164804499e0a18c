"""What cannot fit is refused by an estimate that is not far from the truth."""

import pytest
import torch

from steelyard.compare import machine
from steelyard.compare.machine import free_memory, in_words
from steelyard.compare.tables.stack import trial_bytes


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8 GB free, and the folder of its control group."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_free_in_system", lambda: 8 * 2**30)
    return tmp_path


def test_a_container_has_what_its_limit_leaves(system):
    assert free_memory("cpu") == 8 * 2**30
    (system / "memory.max").write_text("max\n")
    assert free_memory("cpu") == 8 * 2**30
    (system / "memory.max").write_text(f"{2 * 2**30}\n")
    (system / "memory.current").write_text(f"{1500 * 2**20}\n")
    (system / "memory.stat").write_text(f"anon 7\ninactive_file {500 * 2**20}\n")
    assert free_memory("cpu") == 1048 * 2**20


def test_this_machine_has_some():
    assert 0 < free_memory("cpu:0") < 2**50


def test_the_estimate_holds_what_training_keeps():
    """Parameters, their gradients and AdamW's two moments, in float64."""
    model = torch.nn.Sequential(torch.nn.Linear(30, 200), torch.nn.ReLU(), torch.nn.Linear(200, 5))
    kept = 4 * 8 * sum(p.numel() for p in model.parameters())
    assert kept < trial_bytes(features=30, hidden=200, classes=5, batch=64) < 4 * kept


@pytest.mark.parametrize(
    ("size", "words"), [(1, "1 MB"), (5 * 2**30, "5,120 MB"), (96 * 2**30, "96 GB")]
)
def test_bytes_in_words(size, words):
    assert in_words(size) == words
