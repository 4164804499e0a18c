"""One seed's view of the data: three splits, and features that a network can read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.compare.machine import one_thread
from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import Data
from steelyard.compare.tables.encoder import Encoder
from steelyard.compare.tables.splits import split_rows


@dataclass(frozen=True)
class Part:
    """The rows of one split: features (n, d) float32 and labels (n,) int64."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """What one seed trains, chooses and is judged on, and the training split's counts (C,).

    The first `numeric` features hold numbers, the others two values each.
    """

    train: Part
    validation: Part
    test: Part
    counts: np.ndarray
    numeric: int

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.train.features.shape[1])


def prepare(data: Data, seed: int, validation: float, test: float) -> Prepared:
    """Split and prepare one seed's data; the last two results are kept for the next group.

    Imputation, scaling, categories and counts are learnt from the training rows alone.

    Raises:
        StudyError: no feature varies within the training rows, or no row is left to choose by.
    """
    key = (data.digest, data.target, data.tail_ratio, seed, validation, test)
    if key not in _kept:
        while len(_kept) >= _KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = _prepare(data, seed, validation, test)
    return _kept[key]


_KEPT = 2
_kept: dict[tuple[object, ...], Prepared] = {}


@one_thread()
def _prepare(data: Data, seed: int, validation: float, test: float) -> Prepared:
    split = split_rows(data, seed, validation, test)
    if not len(split.validation):
        raise StudyError(
            "no class has a third row: one trains, one tests, and none is left to choose by; "
            "find more rows"
        )
    encoder = Encoder(seed)
    parts = []
    for rows in (split.train, split.validation, split.test):
        rest = None if data.rest is None else data.rest[rows.tolist()]
        parts.append(Part(encoder(data.numbers[rows], rest), data.labels[rows]))
    train, validating, testing = parts
    counts = np.bincount(train.labels, minlength=len(data.classes))
    return Prepared(train, validating, testing, counts, encoder.numeric)
