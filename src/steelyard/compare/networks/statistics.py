"""What paired seeds and test rows allow one to say of two candidates.

A fixed test set is the same for all seeds: two things vary, the training and the rows that
happen to be in the test set. Test sets that are carved anew for every seed overlap instead:
`steelyard.compare.verdict.RepeatedSplits` is for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from steelyard.compare.networks.evaluation import Marks
from steelyard.compare.networks.streams import stream
from steelyard.compare.verdict import LEVEL, Interval, Paired, detectable

REPLICATES = 2000
MANY_SEEDS = 10  # from here on seeds can be resampled; fewer make intervals too short
_CHUNK = 100  # replicates at a time: their weights are one number per test unit
_ALIKE = 1e-12  # differences without spread carry no information on their spread


def balanced_accuracy(found: np.ndarray, there: np.ndarray, predicted: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Mean recall over the classes that occur."""
    return _mean(_ratio(found, there))


def macro_f1(found: np.ndarray, there: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean of 2TP / (2TP + FP + FN): the Dice coefficient, over classes that occur at all."""
    return _mean(_ratio(2 * found, there + predicted))


def mean_iou(found: np.ndarray, there: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean intersection over union, over classes that occur or are predicted."""
    return _mean(_ratio(found, there + predicted - found))


def accuracy(found: np.ndarray, there: np.ndarray, predicted: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Share of positions predicted right."""
    return _ratio(found.sum(-1), there.sum(-1))


def worst_class_recall(found: np.ndarray, there: np.ndarray, predicted: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Smallest recall of a class that occurs."""
    worst: np.ndarray = np.where(there > 0, _ratio(found, there), np.inf).min(-1)
    return worst


def geometric_mean(found: np.ndarray, there: np.ndarray, predicted: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Geometric mean of the recalls of the classes that occur."""
    with np.errstate(divide="ignore"):
        mean: np.ndarray = np.exp(_mean(np.log(_ratio(found, there))))
    return mean


SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "accuracy": accuracy,
    "worst_class_recall": worst_class_recall,
    "geometric_mean": geometric_mean,
    "mean_iou": mean_iou,
}


def score(name: str, marks: Marks) -> float:
    """One score over all units of a test set."""
    sums = (
        np.asarray(part.sum(axis=0), dtype=np.float64).ravel()
        for part in (marks.found, marks.there, marks.predicted)
    )
    return float(SCORES[name](*sums))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to take a part of."""
    result = np.full(np.broadcast(part, whole).shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))


class FixedTest:
    """One test set for all seeds: seeds × test units, resampled together.

    With few seeds a bootstrap over seeds is too sure of itself. Under ten, the variance over test
    units is added to that of the paired t-test.

    Args:
        marks: per candidate the marks of each seed; None where it failed. All have one order of
            units.
        score: name of the score.
        strata: (U,) the class within which a unit is exchanged for another.
        seed: of the resampling.
        replicates: how often.
    """

    def __init__(
        self,
        marks: Mapping[str, Sequence[Marks | None]],
        score: str,
        strata: np.ndarray,
        seed: int = 0,
        replicates: int = REPLICATES,
    ) -> None:
        self.score = score
        self.replicates = replicates
        self._rng_seed = stream(seed, "bootstrap")
        self.values = {
            name: [None if m is None else _score_of(score, m) for m in row]
            for name, row in marks.items()
        }
        self._resampled = self._resample(marks, strata)

    def _resample(
        self, marks: Mapping[str, Sequence[Marks | None]], strata: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Per candidate the scores (R, K) of resampled test units, NaN where a seed failed."""
        rng = np.random.default_rng(self._rng_seed)
        members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
        result = {name: np.full((self.replicates, len(row)), np.nan) for name, row in marks.items()}
        for start in range(0, self.replicates, _CHUNK):
            rows = slice(start, min(start + _CHUNK, self.replicates))
            # (r, U) how often each unit is drawn: the same for all candidates and seeds.
            times = np.zeros((rows.stop - rows.start, len(strata)))
            for units in members:
                even = np.full(len(units), 1 / len(units))
                times[:, units] = rng.multinomial(len(units), even, size=len(times))
            for name, row in marks.items():
                for k, one in enumerate(row):
                    if one is not None:
                        sums = (
                            (part.T @ times.T).T for part in (one.found, one.there, one.predicted)
                        )
                        result[name][rows, k] = SCORES[self.score](*sums)
        return result

    def interval(self, name: str) -> Interval:
        """Mean of one candidate over seeds, with both variances."""
        known = [k for k, value in enumerate(self.values[name]) if value is not None]
        values = np.array([self.values[name][k] for k in known], dtype=np.float64)
        return self._judged(values, self._resampled[name][:, known])[0]

    def against(self, name: str, baseline: str) -> Paired:
        """A candidate minus another."""
        a, b = self.values[name], self.values[baseline]
        both = [k for k in range(len(a)) if a[k] is not None and b[k] is not None]
        differences = np.array([a[k] - b[k] for k in both], dtype=np.float64)  # type: ignore[operator]
        resampled = self._resampled[name][:, both] - self._resampled[baseline][:, both]
        found, p, detectable = self._judged(differences, resampled)
        return Paired(len(both), found, p, detectable)

    def _judged(
        self, values: np.ndarray, resampled: np.ndarray
    ) -> tuple[Interval, float | None, float | None]:
        """Interval, p and detectable difference of values (K,) and their replicates (R, K)."""
        k = len(values)
        if not k:
            return Interval(None, None, None, None), None, None
        mean = float(values.mean())
        if k == 1:
            return Interval(mean, None, None, None), None, None
        std = _spread(values)
        if k < MANY_SEEDS:
            error = math.sqrt(std**2 / k + float(np.nanvar(resampled.mean(1), ddof=1)))
            half = float(stdtrit(k - 1, 1 - LEVEL / 2)) * error
            p = 1.0 if error < _ALIKE else float(2 * stdtr(k - 1, -abs(mean) / error))
            return Interval(mean, std, mean - half, mean + half), p, detectable(error, k)
        rng = np.random.default_rng(self._rng_seed + 1)
        seeds = rng.integers(k, size=(len(resampled), k))
        means = np.take_along_axis(resampled, seeds, 1).mean(1)
        low, high = np.nanquantile(means, [LEVEL / 2, 1 - LEVEL / 2])
        centred = np.abs(means - np.nanmean(means))
        p = float((1 + (centred >= abs(mean) - _ALIKE).sum()) / (1 + len(means)))
        error = float(np.nanstd(means, ddof=1))
        return Interval(mean, std, float(low), float(high)), p, detectable(error, k)


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _score_of(name: str, marks: Marks) -> float | None:
    value = score(name, marks)
    return None if math.isnan(value) else value
