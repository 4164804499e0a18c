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
    """Every trial of one seed: the same number of draws for each candidate."""
    return [
        Trial(name, seed, k, options)
        for name in names
        for k, options in enumerate(draw_options((*SHARED, *candidate(name).space), seed, draws))
    ]


def draw_options(space: Sequence[Range], seed: int, draws: int) -> list[dict[str, float]]:
    """So many draws from a space, for one seed.

    They are the points of a scrambled Halton sequence, which fills the space evenly for any
    number of draws. Its first columns do not depend on how many there are, so what comes first in
    two spaces is drawn alike. Draw 0 is not a point of the sequence: it is the defaults.
    """
    defaults = {item.name: item.default for item in space}
    points = qmc.Halton(len(space), rng=np.random.default_rng([seed, 1])).random(draws - 1)
    return [
        defaults,
        *({r.name: r.at(float(u)) for r, u in zip(space, row, strict=True)} for row in points),
    ]
