"""What cannot fit is refused by an estimate that is not far from the truth."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info

from steelyard import compare
from steelyard.compare import machine
from steelyard.compare.machine import fitting_workers, free_memory, in_words
from steelyard.compare.tables.encoder import Encoder
from steelyard.compare.tables.shape import Shape
from steelyard.compare.tables.study import Study


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
    shape = Shape(30, 0, 200, 1, 5)
    model = torch.nn.Sequential(torch.nn.Linear(30, 200), torch.nn.ReLU(), torch.nn.Linear(200, 5))
    numbers = sum(p.numel() for p in model.parameters())
    assert shape.parameters == numbers
    assert 4 * 8 * numbers < shape.trial_bytes(64) < 4 * 4 * 8 * numbers


@pytest.mark.parametrize(
    ("size", "words"), [(1, "1 MB"), (5 * 2**30, "5,120 MB"), (96 * 2**30, "96 GB")]
)
def test_bytes_in_words(size, words):
    assert in_words(size) == words


def test_networks_have_the_shapes_that_the_documentation_names():
    def shape(network, numeric=10, hidden=None):
        return Study(("focal",), network=network, hidden=hidden).shape(40, numeric, 3)

    assert shape("small") == (40, 0, 64, 1, 3)
    assert shape("standard") == (40, 10, 256, 2, 3)
    assert shape("large") == (40, 10, 512, 3, 3)
    assert shape("large", hidden=7).hidden == 7
    assert shape("standard", 32).numeric == 32
    assert shape("standard", 33).numeric == 0  # so many columns are better off without
    assert shape("small").in_words == "one hidden layer of 64"
    assert shape("standard").in_words == "2 hidden layers of 256, 10 numbers embedded"
    assert shape("standard", 1).in_words == "2 hidden layers of 256, 1 number embedded"


def test_the_estimate_holds_embeddings_too():
    for shape in (Shape(12, 8, 64, 2, 5), Shape(12, 8, 64, 3, 5)):
        drawn = shape.initial(0)
        assert shape.parameters == sum(tensor.numel() for tensor in drawn.values())
        # Both waves of each number are kept for the gradient, and so is every hidden value.
        kept = 8 * 100 * (2 * 24 * 8 + 64 * shape.layers)
        assert kept < shape.trial_bytes(100) < 12 * kept


def test_workers_are_as_many_as_cores_unless_memory_is_short(system, monkeypatch):
    monkeypatch.setattr(machine.joblib, "cpu_count", lambda: 6)
    assert fitting_workers("cpu", 100 * 2**20) == 6
    assert fitting_workers("cpu", 2**30) == 2  # half of 8 GB, a process takes 400 MB by itself
    assert fitting_workers("cpu", 2**40) == 1
    assert fitting_workers("cuda", 1) == 1


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Encoder, "__call__"), (NearestNeighbors, "fit"), (LogisticRegression, "fit")],
)
def test_all_that_a_study_computes_is_computed_by_one_thread(monkeypatch, owner, name):
    """More threads would add numbers in another order, and take the cores of other groups."""
    seen, before = [], getattr(owner, name)

    def watched(*args):
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return before(*args)

    monkeypatch.setattr(owner, name, watched)
    rng = np.random.default_rng(0)
    options = {"losses": ["smote"], "references": ["logistic-regression"], "hidden": 4}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows = rng.normal(size=(60, 3)), rng.integers(2, size=60)
        compare.run(*rows, seeds=1, draws=1, epochs=1, **options)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
