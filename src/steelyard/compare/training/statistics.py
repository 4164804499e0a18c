"""What paired seeds and test rows allow one to say of two candidates.

A fixed test set is the same for all seeds: two things vary, the training and the rows that
happen to be in the test set. Test sets that are carved anew for every seed overlap instead:
`steelyard.compare.evidence.RepeatedSplits` is for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from steelyard.compare.evidence import LEVEL, Interval, Paired, detectable
from steelyard.compare.training.evaluation import Marks
from steelyard.compare.training.streams import stream

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


@dataclass(frozen=True)
class FixedTest:
    """Evidence from one test set for all seeds: seeds × test units, resampled together.

    With few seeds a bootstrap over seeds is too sure of itself. Under ten, the variance over test
    units is added to that of the paired t-test.

    Attributes:
        values: per candidate one score for each seed; None where it failed.
        resampled: per candidate the same scores (R, K) of resampled test units.
        seed: of the resampling of seeds.
    """

    values: Mapping[str, Sequence[float | None]]
    resampled: Mapping[str, np.ndarray]
    seed: int

    def interval(self, name: str) -> Interval:
        """Mean of one candidate over seeds, with both variances."""
        known = [k for k, value in enumerate(self.values[name]) if value is not None]
        values = np.array([self.values[name][k] for k in known], dtype=np.float64)
        return self._judged(values, self.resampled[name][:, known])[0]

    def against(self, name: str, baseline: str) -> Paired:
        """A candidate minus another."""
        pairs = enumerate(zip(self.values[name], self.values[baseline], strict=True))
        both = {k: a - b for k, (a, b) in pairs if a is not None and b is not None}
        differences = np.array(list(both.values()), dtype=np.float64)
        resampled = self.resampled[name] - self.resampled[baseline]
        found, p, least = self._judged(differences, resampled[:, list(both)])
        return Paired(len(both), found, p, least)

    def _judged(
        self, values: np.ndarray, resampled: np.ndarray
    ) -> tuple[Interval, float | None, float | None]:
        """Interval, p and detectable difference of values (K,) and their replicates (R, K)."""
        k = len(values)
        if k < 2:
            mean = float(values.mean()) if k else None
            return Interval(mean, None, None, None), None, None
        if k < MANY_SEEDS:
            found, error = few_seeds(values, float(np.nanvar(resampled.mean(1), ddof=1)))
            distance = abs(float(values.mean()))
            p = 1.0 if error < _ALIKE else float(2 * stdtr(k - 1, -distance / error))
            return found, p, detectable(error, k)
        mean = float(values.mean())
        rng = np.random.default_rng(self.seed)
        seeds = rng.integers(k, size=(len(resampled), k))
        means = np.take_along_axis(resampled, seeds, 1).mean(1)
        low, high = np.nanquantile(means, [LEVEL / 2, 1 - LEVEL / 2])
        centred = np.abs(means - np.nanmean(means))
        p = float((1 + (centred >= abs(mean) - _ALIKE).sum()) / (1 + len(means)))
        error = float(np.nanstd(means, ddof=1))
        found = Interval(mean, float(values.std(ddof=1)), float(low), float(high))
        return found, p, detectable(error, k)


def few_seeds(values: np.ndarray, over_units: float) -> tuple[Interval, float]:
    """The mean of few seeds, and its standard error with the variance over test units in it."""
    k, mean, std = len(values), float(values.mean()), float(values.std(ddof=1))
    error = math.sqrt(std**2 / k + over_units)
    half = float(stdtrit(k - 1, 1 - LEVEL / 2)) * error
    return Interval(mean, std, mean - half, mean + half), error


@dataclass(frozen=True)
class Resampling:
    """What resampled test units give: for every score, and for the recall of every class.

    Attributes:
        tests: per score its evidence.
        recall: per candidate the variance (C,) over test units of each class's mean recall.
    """

    tests: Mapping[str, FixedTest]
    recall: Mapping[str, np.ndarray]


def resample(
    marks: Mapping[str, Sequence[Marks | None]],
    strata: np.ndarray,
    scores: Sequence[str],
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Resampling:
    """Draw the units of a fixed test set again and again, the same for candidates and seeds.

    Args:
        marks: per candidate the marks of each seed; None where it failed. All have one order of
            units.
        strata: (U,) the class within which a unit is exchanged for another.
        scores: names of the scores.
        seed: of the resampling.
        replicates: how often.
    """
    rng = np.random.default_rng(stream(seed, "units"))
    members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    shape = {name: (replicates, len(row)) for name, row in marks.items()}
    found = {score: {name: np.full(shape[name], np.nan) for name in marks} for score in scores}
    recalls: dict[str, list[np.ndarray]] = {name: [] for name in marks}
    for start in range(0, replicates, _CHUNK):
        rows = slice(start, min(start + _CHUNK, replicates))
        times = np.zeros((rows.stop - rows.start, len(strata)))  # how often each unit is drawn
        for units in members:
            even = np.full(len(units), 1 / len(units))
            times[:, units] = rng.multinomial(len(units), even, size=len(times))
        for name, row in marks.items():
            of_seeds = []
            for k, one in enumerate(row):
                if one is None:
                    continue
                # (r, C) each, from sparse (U, C)
                sums = [(part.T @ times.T).T for part in (one.found, one.there, one.predicted)]
                for score in scores:
                    found[score][name][rows, k] = SCORES[score](*sums)
                of_seeds.append(_ratio(sums[0], sums[1]))
            if of_seeds:
                recalls[name].append(np.mean(of_seeds, axis=0))
    with np.errstate(invalid="ignore"):
        variance = {
            name: np.concatenate(parts).var(0, ddof=1) for name, parts in recalls.items() if parts
        }
    return Resampling(
        {
            name: FixedTest(_values(marks, name), found[name], stream(seed, "seeds"))
            for name in scores
        },
        variance,
    )


def _values(
    marks: Mapping[str, Sequence[Marks | None]], score_name: str
) -> dict[str, list[float | None]]:
    return {
        name: [None if one is None else _known(score(score_name, one)) for one in row]
        for name, row in marks.items()
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
