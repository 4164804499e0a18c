"""One seed's view of the data: three splits, and features that a network can read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import polars as pl

from steelyard.compare.data import Data
from steelyard.compare.study import StudyError

_FAR = 2.0**60  # so many times the spread is as far as any further
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


@dataclass(frozen=True)
class Part:
    """The rows of one split: features (n, d) float32 and labels (n,) int64."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """What one seed trains, chooses and is judged on, and the training split's counts (C,)."""

    train: Part
    validation: Part
    test: Part
    counts: np.ndarray


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


def _prepare(data: Data, seed: int, validation: float, test: float) -> Prepared:
    split = split_rows(data, seed, validation, test)
    if not len(split.validation):
        raise StudyError(
            "no class has a third row: one trains, one tests, and none is left to choose by; "
            "find more rows"
        )
    encoder = _Encoder(seed)
    parts = []
    for rows in (split.train, split.validation, split.test):
        features = encoder(
            data.numbers[rows], None if data.rest is None else data.rest[rows.tolist()]
        )
        parts.append(Part(features, data.labels[rows]))
    train, validating, testing = parts
    counts = np.bincount(train.labels, minlength=len(data.classes))
    return Prepared(train, validating, testing, counts)


class _Encoder:
    """Fitted by its first call, which must be the training rows; then it only transforms."""

    def __init__(self, seed: int) -> None:
        from sklearn.feature_selection import VarianceThreshold
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from skrub import SquashingScaler, StringEncoder, TableVectorizer

        from steelyard.compare.moments import MomentEncoder

        self.table = TableVectorizer(
            high_cardinality=StringEncoder(random_state=seed), datetime=MomentEncoder()
        )
        self.matrix = make_pipeline(
            _Centre(),
            SimpleImputer(strategy="median", add_indicator=True),
            VarianceThreshold(),
            SquashingScaler(),  # outliers are squashed: no single column can swamp the network
        )
        self.fitted = False

    def __call__(self, numbers: np.ndarray, rest: pl.DataFrame | None) -> np.ndarray:
        step = "transform" if self.fitted else "fit_transform"
        with warnings.catch_warnings():
            # Unknown categories become zeros and empty columns vanish: what we want.
            warnings.simplefilter("ignore")
            if rest is not None:
                encoded = getattr(self.table, step)(rest)
                if encoded.width:  # every column may have been empty
                    numbers = np.hstack([numbers, encoded.to_numpy().astype(np.float64)])
            matrix = self._vary(step, numbers)
        self.fitted = True
        return np.ascontiguousarray(matrix, dtype=np.float32)

    def _vary(self, step: str, numbers: np.ndarray) -> np.ndarray:
        try:
            matrix: np.ndarray = getattr(self.matrix, step)(numbers)
        except ValueError as error:
            if "threshold" not in str(error) and "feature" not in str(error):
                raise
            raise StudyError(
                "every feature is constant or empty in the training rows: "
                "there is nothing to learn from"
            ) from error
        return matrix


class _Centre:
    """Subtracts the median and multiplies by a power of two, so that values are near 1.

    Both steps are exact or nearly so. What follows reads differences smaller than 1e-15 as none,
    and squares, so it would lose values that are all tiny and overflow on those that are huge.
    """

    def fit(self, numbers: np.ndarray, labels: None = None) -> _Centre:  # noqa: ARG002
        """See scikit-learn."""
        halves = numbers / 2  # the difference of two halves cannot overflow
        self.middle = np.nan_to_num(np.nanmedian(halves, axis=0))
        halves = halves - self.middle
        low, high = np.nanpercentile(halves, [25, 75], axis=0)
        spread = np.where(high > low, high - low, np.nanmax(halves, 0) - np.nanmin(halves, 0))
        self.exponent = np.frexp(np.where(spread > 0, spread, 1))[1]
        return self

    def transform(self, numbers: np.ndarray) -> np.ndarray:
        """See scikit-learn."""
        scaled: np.ndarray = np.ldexp(numbers / 2 - self.middle, -self.exponent)
        return scaled.clip(-_FAR, _FAR)

    def fit_transform(self, numbers: np.ndarray, labels: None = None) -> np.ndarray:  # noqa: ARG002
        """See scikit-learn."""
        return self.fit(numbers).transform(numbers)
