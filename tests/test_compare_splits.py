"""Which rows train, which choose and which test."""

import numpy as np
import pytest

from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import from_any, from_arrays, load_digits
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.splits import Split, split_rows


@pytest.mark.parametrize("n", range(2, 12))
def test_every_class_is_trained_and_tested_whatever_its_rows(n):
    labels = np.array([0] * 30 + [1] * n)
    data = from_arrays(np.arange(30.0 + n)[:, None], labels, name="x", target="y")
    split = split_rows(data, 1, 0.2, 0.2)
    train, test = ((data.labels[rows] == 1).sum() for rows in (split.train, split.test))
    assert train >= 1
    assert test >= 1
    everything = np.sort(np.concatenate([split.train, split.validation, split.test]))
    assert everything.tolist() == list(range(30 + n))


def test_shares_are_those_asked_for():
    data = from_arrays(np.zeros((1000, 1)), np.repeat([0, 1], [900, 100]), name="x", target="y")
    split = split_rows(data, 0, 0.2, 0.3)
    assert [len(rows) for rows in (split.train, split.validation, split.test)] == [500, 200, 300]
    assert (data.labels[split.test] == 1).sum() == 30


def test_digits_are_long_tailed_in_training_and_balanced_elsewhere():
    data = load_digits()
    part = prepare(data, 0, 0.2, 0.2)
    assert part.counts.tolist() == [int(122 * 50 ** (-c / 9)) for c in range(10)]
    for split in (part.validation, part.test):
        assert np.bincount(split.labels).tolist() == [26] * 10


def test_seeds_split_differently_and_repeat():
    data = load_digits()
    a, b, again = (split_rows(data, seed, 0.2, 0.2) for seed in (0, 1, 0))
    assert a.train.tolist() == again.train.tolist()
    assert a.train.tolist() != b.train.tolist()


@pytest.mark.parametrize("validation", [0.01, 0.2, 0.45, 0.59])
@pytest.mark.parametrize("test", [0.01, 0.2, 0.4, 0.9])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_splits_are_disjoint_and_sensible_whatever_the_shares(n, test, validation):
    labels = np.array([0] * 30 + [1] * n)
    data = from_arrays(np.arange(30.0 + n)[:, None], labels, name="x", target="y")
    split = split_rows(data, 0, validation, test)
    everything = np.concatenate([split.train, split.validation, split.test])
    assert sorted(everything) == list(range(30 + n))
    rare = [int((labels[rows] == 1).sum()) for rows in (split.train, split.validation, split.test)]
    assert rare[0] >= 1
    assert rare[2] >= 1
    assert rare[1] >= (n > 2)
    if n < 4:
        assert rare == [1, n - 2, 1]


def test_a_row_in_two_splits_is_never_passed_over():
    rows = [np.array([0, 1]), np.array([2]), np.array([3])]
    for place in range(3):
        broken = list(rows)
        broken[place] = np.append(broken[place], rows[place - 1][0])
        with pytest.raises(AssertionError, match="a row is in two splits"):
            Split(*broken)


def test_two_rows_of_every_class_leave_none_to_choose_by():
    data = from_any(np.arange(6.0)[:, None], [0, 1, 2] * 2)
    with pytest.raises(StudyError, match="no class has a third row: one trains, one tests"):
        prepare(data, 0, 0.2, 0.2)
