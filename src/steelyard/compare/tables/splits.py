"""Which rows train, which choose and which test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.compare.tables.data import Data

_BALANCED = 0.15  # of the smallest class: rows per class to choose by, and as many to test on


@dataclass(frozen=True)
class Split:
    """Row numbers of the three splits; no row is in two of them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        rows = np.concatenate([self.train, self.validation, self.test])
        if len(np.unique(rows)) != len(rows):
            raise AssertionError("a row is in two splits, so its score would mean nothing")


def split_rows(data: Data, seed: int, validation: float, test: float) -> Split:
    """Stratified splits, a function of the seed alone.

    Every class keeps at least one row for training and one for testing, which scikit-learn's
    stratified splitters refuse to do for a class of two rows; with three or more, one row is
    also kept for choosing, whatever the shares. Where `data.tail_ratio` is given, validation
    and test rows are balanced instead and the training rows follow an exponential profile.
    """
    rng = np.random.default_rng([seed, 0])
    counts = data.counts()
    parts: list[list[np.ndarray]] = [[], [], []]
    for c, n in enumerate(counts):
        rows = rng.permutation(np.flatnonzero(data.labels == c))
        if data.tail_ratio is None:
            n_train, n_validation, n_test = _by_shares(int(n), validation, test)
        else:
            n_train, n_validation, n_test = _long_tail(c, counts, data.tail_ratio)
        ends = np.cumsum([n_test, n_validation, n_train])
        for part, start, end in zip(parts, [0, *ends], ends, strict=False):
            part.append(rows[start:end])
    test_rows, validation_rows, train_rows = (np.sort(np.concatenate(part)) for part in parts)
    return Split(train_rows, validation_rows, test_rows)


def _by_shares(n: int, validation: float, test: float) -> tuple[int, int, int]:
    """Rows of one class to train on, to choose by and to test on."""
    others = 2 if n > 2 else 1  # a row for each of the other splits
    n_test = min(max(1, round(n * test)), n - others)
    n_validation = min(max(1, round(n * validation)), n - n_test - 1)
    return n - n_test - n_validation, n_validation, n_test


def _long_tail(c: int, counts: np.ndarray, ratio: float) -> tuple[int, int, int]:
    held_out = int(counts.min() * _BALANCED)
    head = int(counts.min()) - 2 * held_out
    n_train = int(head * ratio ** (-c / (len(counts) - 1)))
    return max(1, n_train), held_out, held_out
