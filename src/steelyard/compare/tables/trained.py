"""From fresh networks to trained ones, validated on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from steelyard import _results, metrics
from steelyard.compare.candidates import candidate
from steelyard.compare.decisions import Decided
from steelyard.compare.scores import Scoring
from steelyard.compare.tables.drawn import Drawn
from steelyard.compare.tables.objective import Objective
from steelyard.compare.tables.prepare import Part, Prepared
from steelyard.compare.tables.sampler import Sampler
from steelyard.compare.tables.stack import Networks
from steelyard.compare.tables.study import Study
from steelyard.compare.tables.train import Plan, Rows, train

CURVE_POINTS = 20


@dataclass
class Curves:
    """What was seen after some of the epochs."""

    epochs: list[int] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)  # (S, T) each
    scores: list[np.ndarray] = field(default_factory=list)  # (S, T) each

    def add(self, epoch: int, losses: np.ndarray, scores: np.ndarray) -> None:
        """Training losses and validation scores (S, T) after an epoch."""
        self.epochs.append(epoch)
        self.losses.append(losses)
        self.scores.append(scores)

    def of(self, s: int, t: int, *, validated: bool) -> _results.Curve:
        """One trial's curve; `validated` says whether its validation score is the network's."""
        return {
            "epoch": self.epochs,
            "train_loss": [float(losses[s, t]) for losses in self.losses],
            "validation": [float(scores[s, t]) for scores in self.scores] if validated else None,
        }


@dataclass(frozen=True)
class Trained:
    """S × T trained networks, and what is needed to choose among them and to judge them.

    Attributes:
        study: the options.
        scoring: how they are scored.
        drawn: their trials.
        prepared: the rows of each seed.
        networks: themselves.
        curves: how they came about.
        validation: the rows to choose by.
    """

    study: Study
    scoring: Scoring
    drawn: Drawn
    prepared: Sequence[Prepared]
    networks: Networks
    curves: Curves
    validation: Rows

    def finite(self) -> np.ndarray:
        """Which trials (S, T) did not diverge: loss, score and parameters are finite."""
        last = np.isfinite(self.curves.losses[-1]) & np.isfinite(self.curves.scores[-1])
        found: np.ndarray = last & self.networks.finite()
        return found


def train_stack(
    study: Study,
    scoring: Scoring,
    drawn: Drawn,
    prepared: Sequence[Prepared],
    advance: Callable[[float], None],
) -> Trained:
    """Train all trials of some seeds as one stack.

    Args:
        study: the options.
        scoring: how networks are scored on the validation rows.
        drawn: the trials.
        prepared: the rows of each seed, all with the same number of features, and of numeric ones.
        advance: called with the share of the epochs that is done.
    """
    dtype = getattr(torch, study.dtype)
    classes = len(prepared[0].counts)
    networks = Networks.initial(
        drawn.seeds,
        len(drawn.trials[0]),
        drawn.linear,
        study.shape(prepared[0].width, prepared[0].numeric, classes),
        study.device,
        dtype,
    )
    rows = _stacked([part.train for part in prepared], study.device, dtype)
    validation = _stacked([part.validation for part in prepared], study.device, dtype)
    curves = Curves()
    epochs, batch_size = study.budget(rows.labels.shape[1])
    shown = set(np.linspace(1, epochs, min(CURVE_POINTS, epochs)).astype(int))
    scale = torch.tensor(drawn.scales(), device=study.device, dtype=dtype)

    def after_epoch(epoch: int, losses: Tensor) -> None:
        if epoch + 1 in shown:
            scores = selecting_scores(study.select, scoring, networks, validation, scale)
            curves.add(epoch + 1, losses.cpu().numpy(), scores)
        advance((epoch + 1) / epochs)

    def option(name: str) -> Tensor:
        return torch.tensor(drawn.option(name), device=study.device, dtype=dtype)

    train(
        networks,
        Objective(drawn.losses, classes, study.device, dtype),
        rows,
        option("learning_rate"),
        option("weight_decay"),
        Plan(_samplers(drawn, prepared, study), epochs, batch_size),
        after_epoch,
    )
    return Trained(study, scoring, drawn, prepared, networks, curves, validation)


def _samplers(drawn: Drawn, prepared: Sequence[Prepared], study: Study) -> list[Sampler]:
    """What each seed reads; the trials of a stack read the same."""
    kind = candidate(drawn.trials[0][0].candidate)
    start = study.budget(len(prepared[0].train.labels)).deferral_epoch
    return [
        Sampler(seed, part.train, kind, start)
        for seed, part in zip(drawn.seeds, prepared, strict=True)
    ]


def selecting_scores(
    select: str, scoring: Scoring, networks: Networks, rows: Rows, scale: Tensor
) -> np.ndarray:
    """The score that draws are chosen by, (S, T).

    Args:
        select: its name.
        scoring: how it is worked out.
        networks: S × T of them.
        rows: of S seeds.
        scale: (S, T) of the logits.
    """
    decided = scoring.of_decisions(select)
    if decided is not None:
        parts = []
        for where, logits in networks.logits_in_chunks(rows.features):  # (S, T, C, B)
            labels = rows.labels[:, where].unsqueeze(1)
            parts.append(metrics.confusion_matrix(logits.argmax(2), labels, logits.shape[2]))
        return decided(torch.stack(parts).sum(0)).cpu().numpy()
    logits, labels = networks.all_logits(rows.features, scale).cpu(), rows.labels.cpu()
    return np.array(
        [
            # A network that diverged has no order, and no score.
            [scoring.score(select, Decided(z), y) for z in trials]
            for trials, y in zip(logits, labels, strict=True)
        ]
    )


def _stacked(parts: Sequence[Part], device: str, dtype: torch.dtype) -> Rows:
    return Rows.stacked(
        [part.features for part in parts], [part.labels for part in parts], device, dtype
    )
