"""The trials of one stack and their losses, in the order in which they train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import steelyard as sy
from steelyard.compare.candidates import build_loss, candidate
from steelyard.compare.tables.draws import draw_trials
from steelyard.compare.tables.objective import stack_order
from steelyard.compare.tables.study import Study, Trial
from steelyard.losses import SoftmaxLoss

Loss = SoftmaxLoss | sy.DeferredReweighting


@dataclass(frozen=True)
class Drawn:
    """What S seeds train: T trials each, by head and tail as the stack wants them.

    Attributes:
        seeds: the S seeds.
        trials: (S, T) the trials that train.
        losses: (S, T) their losses.
        linear: how many of the T have a linear head; they come first.
        post_hoc: of each seed the trials that read another's network instead of training one.
    """

    seeds: list[int]
    trials: list[list[Trial]]
    losses: list[list[Loss]]
    linear: int
    post_hoc: list[list[Trial]]

    def option(self, name: str) -> list[list[float]]:
        """One option of every trial, (S, T)."""
        return [[trial.options[name] for trial in row] for row in self.trials]

    def scales(self) -> list[list[float]]:
        """What logits (S, T) are multiplied by before they are probabilities.

        Cosines are in [-1, 1]; the training scales them, and changes no decision by it.
        """
        return [
            [t.options["scale"] if candidate(t.candidate).head == "cosine" else 1.0 for t in row]
            for row in self.trials
        ]

    def places(self, s: int, name: str) -> list[int]:
        """Where the trials of one candidate stand in the row of one seed, by draw."""
        return [t for t, trial in enumerate(self.trials[s]) if trial.candidate == name]


def draw(
    study: Study, candidates: Sequence[str], seeds: list[int], counts: Sequence[np.ndarray]
) -> Drawn:
    """Draw the trials of some candidates on some seeds, and build their losses.

    Args:
        study: the options.
        candidates: their names.
        seeds: the seeds.
        counts: per seed (C,) training rows of each class.
    """
    start = study.budget(int(counts[0].sum())).deferral_epoch
    drawn = [draw_trials(candidates, seed, study.draws) for seed in seeds]
    post_hoc = [[t for t in row if candidate(t.candidate).post_hoc] for row in drawn]
    trained = [[t for t in row if not candidate(t.candidate).post_hoc] for row in drawn]
    losses = [
        [build_loss(candidate(t.candidate), t.options, n, start) for t in row]
        for row, n in zip(trained, counts, strict=True)
    ]
    kinds = [candidate(trial.candidate) for trial in trained[0]]
    order = stack_order(kinds, losses[0])
    return Drawn(
        seeds,
        [[row[i] for i in order] for row in trained],
        [[row[i] for i in order] for row in losses],
        sum(kind.head == "linear" for kind in kinds),
        post_hoc,
    )
