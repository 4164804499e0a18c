"""Which rows a step holds, on which rank, and how they are loaded."""

import numpy as np
import pytest
import torch
from network_cases import (
    Noisy,
    blobs,
)

from steelyard.compare.study import StudyError
from steelyard.compare.training.loading import Loader, Steps, balanced, shuffled
from steelyard.compare.training.streams import seed_everything


def test_balanced_batches_hold_every_class_as_often():
    rows = np.arange(1000, 2000)
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    drawn = balanced(rows, labels, 0, 0)
    assert len(drawn) == 1000
    counts = np.bincount(labels[drawn - 1000])
    assert counts == pytest.approx([333, 333, 333], abs=60)
    assert not np.array_equal(drawn, balanced(rows, labels, 0, 1))


def test_an_epoch_holds_every_row_once():
    rows = np.array([3, 1, 4, 15, 9])
    assert sorted(shuffled(rows, 0, 0)) == sorted(rows)
    assert not np.array_equal(shuffled(np.arange(50), 0, 0), shuffled(np.arange(50), 0, 1))


@pytest.mark.parametrize(("rows", "ranks", "micro"), [(101, 3, 4), (17, 2, None), (33, 4, 1)])
def test_ranks_share_a_step_without_repeating_a_row(rows, ranks, micro):
    order = np.random.default_rng(0).permutation(rows)
    per_rank = [list(Steps(16, micro, r, ranks).pieces(order)) for r in range(ranks)]
    assert len({len(pieces) for pieces in per_rank}) == 1
    seen = np.concatenate([p.rows for pieces in per_rank for p in pieces if not p.stand_in])
    assert sorted(seen) == list(range(rows))
    for pieces in per_rank:
        assert sum(p.ends_step for p in pieces) == Steps(16).number(rows)
    sizes = [len(part) for part in np.array_split(order, Steps(16).number(rows))]
    assert max(sizes) <= 16
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_belongs_to_seed_epoch_and_row(workers):
    data = Noisy(blobs(rows=12))
    batches = [np.array([3, 1]), np.array([7])]
    seed_everything(1)
    here = [x for x, _ in Loader(data, 5, "train")(batches, 2)]
    after = torch.rand(1), np.random.rand()  # noqa: NPY002
    seed_everything(1)
    other = Loader(data, 5, "train", workers=workers)
    there = [x for x, _ in other([np.array([7, 3]), np.array([1])], 2)]
    assert torch.equal(torch.cat(here), torch.cat(there)[[1, 2, 0]])
    assert not torch.equal(torch.cat(here), torch.cat([x for x, _ in other(batches, 3)]))
    assert not torch.equal(
        torch.cat(here), torch.cat([x for x, _ in Loader(data, 6, "train")(batches, 2)])
    )
    if workers:
        return
    seed_everything(1)
    list(Loader(data, 5, "train")(batches, 9))
    assert (torch.rand(1), np.random.rand()) == after  # the loop's own streams go on  # noqa: NPY002


class Sometimes(Noisy):
    """Draws from NumPy's generator for one row in ten only."""

    def __getitem__(self, row):
        features, label = self.base[row]
        if row % 10 == 0:
            features = features + np.random.rand()  # noqa: NPY002
        return features + torch.rand(1), int(label)


def test_a_generator_that_is_seldom_drawn_from_is_seeded_all_the_same():
    data = Sometimes(blobs(rows=40))
    one = Loader(data, 5, "train")
    apart = torch.cat([x for x, _ in one([np.array([1, 2]), np.array([3, 30])], 2)])
    other = torch.cat([x for x, _ in Loader(data, 5, "train")([np.array([30, 3, 2, 1])], 2)])
    assert torch.equal(apart, other[[3, 2, 1, 0]])


class Broken(Noisy):
    def __getitem__(self, row):
        if row == 7:
            raise OSError("cannot read 7.png")
        return super().__getitem__(row)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_that_cannot_be_loaded_is_named(workers):
    loader = Loader(Broken(blobs(rows=12)), 0, "train", workers=workers)
    with pytest.raises(StudyError) as caught:
        list(loader([np.array([6, 7])], 0))
    assert str(caught.value) == "row 7 of train could not be loaded: OSError: cannot read 7.png"
