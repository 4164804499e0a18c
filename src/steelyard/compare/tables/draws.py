"""The hyper-parameters that each trial draws: as many draws for every candidate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import qmc

from steelyard.compare.candidates import candidate
from steelyard.compare.study import Range
from steelyard.compare.tables.study import Trial

# Drawn alike for every candidate: for one seed, draw k has one learning rate, one weight decay
# and one smoothing, whichever loss it trains.
SHARED = (
    Range("learning_rate", 1e-3, 3e-2, 5e-3, "log"),
    Range("weight_decay", 1e-4, 1e-1, 1e-2, "log"),
    Range("label_smoothing", 0.0, 0.2, 0.0, "half"),
)


def draw_trials(names: Iterable[str], seed: int, draws: int) -> list[Trial]:
    """Every trial of one seed: the same number of draws for each candidate.

    The draws are the points of a scrambled Halton sequence, which fills the space evenly for
    any number of draws. Its first columns are learning rate, weight decay and smoothing, so
    these agree across candidates. Draw 0 is not a point of the sequence: it is the defaults.
    """
    chosen = [candidate(name) for name in names]
    columns = len(SHARED) + max(len(item.space) for item in chosen)
    points = qmc.Halton(columns, rng=np.random.default_rng([seed, 1])).random(max(draws - 1, 1))
    return [
        Trial(item.name, seed, k, _options((*SHARED, *item.space), points, k))
        for item in chosen
        for k in range(draws)
    ]


def _options(space: Sequence[Range], points: np.ndarray, k: int) -> dict[str, float]:
    if k == 0:
        return {item.name: item.default for item in space}
    return {item.name: item.at(float(points[k - 1, j])) for j, item in enumerate(space)}
