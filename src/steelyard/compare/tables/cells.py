"""From trained networks to cells: choose each candidate's draw, then judge it once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from steelyard import _results
from steelyard._results import BASELINE, Cell, Judged
from steelyard.compare.candidates import candidate
from steelyard.compare.scores import score_predictions
from steelyard.compare.tables.stack import Networks
from steelyard.compare.tables.study import Trial
from steelyard.compare.tables.train import Rows
from steelyard.compare.tables.trained import Trained, selecting_scores
from steelyard.decide import tune_biases
from steelyard.losses import adjust_logits


@dataclass(frozen=True)
class Choice:
    """The draws of one candidate on one seed, to be chosen among.

    Attributes:
        trials: the D draws.
        places: where the network of each stands in the stack.
        scores: (D,) on the validation rows.
        losses: (D,) of training.
        finite: (D,) which did not diverge.
        adjust: (D, C) what is subtracted from the logits before anything is decided, or None.
    """

    trials: Sequence[Trial]
    places: Sequence[int]
    scores: np.ndarray
    losses: np.ndarray
    finite: np.ndarray
    adjust: Tensor | None = None

    def best(self) -> int | None:
        """The draw that validated best among those that did not diverge; None if all did.

        Ties go to the earliest draw, so to the published defaults before anything else.
        """
        if not self.finite.any():
            return None
        return int(np.argmax(np.where(self.finite, self.scores, -math.inf)))

    def records(self) -> list[_results.Trial]:
        """Every draw as results hold it."""
        return [
            {
                "draw": trial.draw,
                "options": trial.options,
                "status": "done" if ok else "failed",
                "reason": None if ok else "the training diverged: its loss is not finite",
                "validation": float(score) if ok else None,
                "train_loss": float(loss) if ok else None,
            }
            for trial, ok, score, loss in zip(
                self.trials, self.finite, self.scores, self.losses, strict=True
            )
        ]


def cells_of(trained: Trained) -> list[Cell]:
    """Choose by the validation rows, and read the test rows once: a cell for each candidate."""
    return [
        _cell(trained, s, name, choice)
        for s in range(len(trained.drawn.seeds))
        for name, choice in _choices(trained, s).items()
    ]


def _choices(trained: Trained, s: int) -> dict[str, Choice]:
    """What there is to choose among on one seed, by candidate."""
    drawn = trained.drawn
    names = dict.fromkeys(trial.candidate for trial in drawn.trials[s])
    choices = {name: _among_draws(trained, s, name) for name in names}
    for name, run in groupby(drawn.post_hoc[s], key=lambda trial: trial.candidate):
        choices[name] = _among_adjusted(trained, s, list(run))
    return choices


def _among_draws(trained: Trained, s: int, name: str) -> Choice:
    places = trained.drawn.places(s, name)
    return Choice(
        [trained.drawn.trials[s][t] for t in places],
        places,
        trained.curves.scores[-1][s, places],
        trained.curves.losses[-1][s, places],
        trained.finite()[s, places],
    )


def _among_adjusted(trained: Trained, s: int, trials: Sequence[Trial]) -> Choice:
    """Draws of a candidate that moves the logits of the baseline's networks."""
    study, drawn = trained.study, trained.drawn
    by_draw = {drawn.trials[s][t].draw: t for t in drawn.places(s, BASELINE)}
    places = [by_draw[trial.draw] for trial in trials]
    finite = trained.finite()[s, places]
    networks = trained.networks.select(s, places)
    rows = Rows(trained.validation.features[s : s + 1], trained.validation.labels[s : s + 1])
    if candidate(trials[0].candidate).tuned:
        adjust = -_tuned_biases(trained, networks, rows, finite)
    else:
        adjust = _priors(trained, s, [trial.options["tau"] for trial in trials])
    adjust = adjust.to(study.device)
    scores = selecting_scores(study.select, trained.scoring, networks, rows, adjust.unsqueeze(0))[0]
    return Choice(
        trials,
        places,
        scores,
        trained.curves.losses[-1][s, places],
        finite & np.isfinite(scores),
        adjust,
    )


def _priors(trained: Trained, s: int, taus: Sequence[float]) -> Tensor:
    """What post-hoc adjustment of each strength subtracts, (D, C)."""
    counts = trained.prepared[s].counts
    zero = torch.zeros(len(counts), dtype=trained.validation.features.dtype)
    return torch.stack([-adjust_logits(zero, counts, tau=tau) for tau in taus])


def _tuned_biases(trained: Trained, networks: Networks, rows: Rows, finite: np.ndarray) -> Tensor:
    """What a tuned decision adds for each network that did not diverge, (D, C)."""
    score = trained.scoring.of_decisions(trained.scoring.tuned_for(trained.study.select))
    assert score is not None
    chunks = [logits[0] for _, logits in networks.logits_in_chunks(rows.features)]
    found = [
        tune_biases(logits.T, rows.labels[0], score) if ok else logits.new_zeros(len(logits))
        for logits, ok in zip(torch.cat(chunks, 2), finite, strict=True)
    ]
    return torch.stack([biases.to(rows.features.dtype).cpu() for biases in found])


def _cell(trained: Trained, s: int, name: str, choice: Choice) -> Cell:
    seed, best = trained.drawn.seeds[s], choice.best()
    if best is None:
        return {
            "seed": seed,
            "candidate": name,
            "trials": choice.records(),
            "status": "failed",
            "reason": "the training of every draw diverged",
        }
    place = choice.places[best]
    adjust = None if choice.adjust is None else choice.adjust[best]
    return {
        "seed": seed,
        "candidate": name,
        "trials": choice.records(),
        "status": "done",
        "reason": None,
        "chosen": best,
        **_judge(trained, s, place, adjust),
        "curve": trained.curves.of(s, place, validated=adjust is None),
    }


def _judge(trained: Trained, s: int, place: int, adjust: Tensor | None) -> Judged:
    """Every score of one network on the test rows, which nothing else reads."""
    like, test = trained.validation.features, trained.prepared[s].test
    features = torch.from_numpy(test.features).to(like)
    network = trained.networks.select(s, [place])
    chunks = [logits[0, 0] for _, logits in network.logits_in_chunks(features.unsqueeze(0))]
    logits = torch.cat(chunks, 1).T  # (n, C)
    if adjust is not None:
        logits = logits - adjust
    trial = trained.drawn.trials[s][place]
    if candidate(trial.candidate).head == "cosine":
        # No decision changes, but cosines are in [-1, 1]: probabilities need training's scale.
        logits = logits * trial.options["scale"]
    labels, counts = torch.from_numpy(test.labels), trained.prepared[s].counts
    return score_predictions(logits, labels, counts, trained.scoring)
