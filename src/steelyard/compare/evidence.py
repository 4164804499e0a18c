"""Statistics over paired seeds: intervals, tests and judgements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.special import stdtr, stdtrit

from steelyard import _results
from steelyard.compare.study import MINIMUM_SEEDS

LEVEL = 0.05
POWER = 0.8
# Of the numbers that went into a sum: what is left of less is rounding, and no difference.
_ROUNDING = 1e-12
Judgement = Literal["better", "worse", "no detectable difference", "too few seeds", "failed"]


@dataclass(frozen=True)
class Interval:
    """Mean, standard deviation and 95 % interval over seeds; None where undefined."""

    mean: float | None
    std: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> _results.Interval:
        """As results hold it."""
        return {"mean": self.mean, "std": self.std, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Comparison:
    """A candidate against the baseline, paired by seed.

    Attributes:
        candidate: its name.
        seeds: how many seeds both finished.
        difference: mean of candidate − baseline, with the corrected 95 % interval.
        p: two-sided; None where there is nothing to test.
        p_holm: the same after Holm's correction across candidates.
        judgement: what may be said.
        detectable: the difference that four of five such studies would find.
    """

    candidate: str
    seeds: int
    difference: Interval
    p: float | None
    p_holm: float | None
    judgement: Judgement
    detectable: float | None

    def to_dict(self) -> _results.Comparison:
        """As results hold it."""
        return {
            "candidate": self.candidate,
            "seeds": self.seeds,
            "difference": self.difference.to_dict(),
            "p": self.p,
            "p_holm": self.p_holm,
            "judgement": self.judgement,
            "detectable": self.detectable,
        }


@dataclass(frozen=True)
class Paired:
    """Two candidates, paired by seed, with nothing corrected yet.

    Attributes:
        seeds: how many both finished.
        difference: its mean, with the 95 % interval.
        p: two-sided; None where there is nothing to test.
        detectable: the difference that four of five such studies would find; None for one seed.
    """

    seeds: int
    difference: Interval
    p: float | None
    detectable: float | None


class Evidence(Protocol):
    """Scores over seeds, and the test that belongs to how their rows were split."""

    @property
    def values(self) -> Mapping[str, Sequence[float | None]]:
        """Per candidate, simplest first, one score for each seed; None where it failed."""

    def interval(self, name: str) -> Interval:
        """The mean of one candidate over seeds."""

    def against(self, name: str, baseline: str) -> Paired:
        """A candidate minus another."""


@dataclass(frozen=True)
class RepeatedSplits:
    """Evidence from data split anew for every seed: the corrected resampled t-test.

    Attributes:
        values: per candidate one score for each seed, in the same order; None where it failed.
        overlap: rows tested on ÷ rows learnt from.
    """

    values: Mapping[str, Sequence[float | None]]
    overlap: float

    def interval(self, name: str) -> Interval:
        """See `Evidence`."""
        return interval(self.values[name], self.overlap)

    def against(self, name: str, baseline: str) -> Paired:
        """See `Evidence`."""
        pairs = zip(self.values[name], self.values[baseline], strict=True)
        differences = np.array(
            [
                _without_rounding(a - b, max(abs(a), abs(b)))
                for a, b in pairs
                if a is not None and b is not None
            ]
        )
        few = len(differences) < 2
        return Paired(
            len(differences),
            interval(differences.tolist(), self.overlap),
            p_value(differences, self.overlap),
            None
            if few
            else detectable(_standard_error(differences, self.overlap), len(differences)),
        )


def detectable(standard_error: float, seeds: int) -> float:
    """The difference that a two-sided test finds with a power of 80 %."""
    freedom = seeds - 1
    return float(stdtrit(freedom, 1 - LEVEL / 2) + stdtrit(freedom, POWER)) * standard_error


def interval(values: Sequence[float | None], overlap: float) -> Interval:
    """The mean of repeated splits with its interval by the corrected resampled t.

    Args:
        values: one per seed; None is left out.
        overlap: rows tested on ÷ rows learnt from. Repeated splits share rows, so the variance
            of their mean is σ²·(1/J + overlap) rather than σ²/J (Nadeau & Bengio, Machine
            Learning 52, 2003).
    """
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if not len(known):
        return Interval(None, None, None, None)
    mean = _without_rounding(float(known.mean()), float(np.abs(known).max()))
    if len(known) == 1:
        return Interval(mean, None, None, None)
    std = _spread(known)
    half = float(stdtrit(len(known) - 1, 1 - LEVEL / 2)) * _standard_error(known, overlap)
    return Interval(mean, std, mean - half, mean + half)


def _without_rounding(value: float, size: float) -> float:
    """The value, or 0 where it is no more than the rounding of numbers of that size."""
    return 0.0 if abs(value) <= _ROUNDING * size else value


def _spread(values: np.ndarray) -> float:
    """The standard deviation."""
    return _without_rounding(float(values.std(ddof=1)), float(np.abs(values).max()))


def _standard_error(values: np.ndarray, overlap: float) -> float:
    return _spread(values) * math.sqrt(1 / len(values) + overlap)


def p_value(differences: np.ndarray, overlap: float) -> float | None:
    """Two-sided p of the corrected resampled t-test that the mean difference is zero.

    Differences without any spread carry no information on their spread, so nothing is claimed
    of them: p is 1.
    """
    if len(differences) < 2:
        return None
    # Rounding makes spread too: of scores, which are near 1, and of costs, which have any size.
    if np.ptp(differences) < _ROUNDING or not _spread(differences):
        return 1.0
    t = differences.mean() / _standard_error(differences, overlap)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def compare(evidence: Evidence, baseline: str, sign: int = 1) -> list[Comparison]:
    """Every candidate against the baseline on one score.

    Args:
        evidence: the scores.
        baseline: the name of the candidate that the others are compared with.
        sign: −1 where less is better.
    """
    pairs = {name: evidence.against(name, baseline) for name in evidence.values if name != baseline}
    holm = _holm({name: pair.p for name, pair in pairs.items()})
    return [
        Comparison(
            name,
            pair.seeds,
            pair.difference,
            pair.p,
            holm.get(name),
            _judge(pair, holm.get(name), sign),
            pair.detectable,
        )
        for name, pair in pairs.items()
    ]


def _holm(p: Mapping[str, float | None]) -> dict[str, float]:
    """Holm's correction: the least p is multiplied by all that are tested, the next by one less."""
    tested = {name: value for name, value in p.items() if value is not None}
    corrected, before = {}, 0.0
    for rank, name in enumerate(sorted(tested, key=tested.__getitem__)):
        before = max(before, min(1.0, (len(tested) - rank) * tested[name]))
        corrected[name] = before
    return corrected


def _judge(pair: Paired, p_holm: float | None, sign: int) -> Judgement:
    mean = pair.difference.mean
    if mean is None:
        return "failed"
    if pair.seeds < MINIMUM_SEEDS or p_holm is None:
        return "too few seeds"
    if p_holm >= LEVEL:
        return "no detectable difference"
    return "better" if sign * mean > 0 else "worse"
