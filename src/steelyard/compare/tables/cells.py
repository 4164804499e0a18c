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
from steelyard._units import sign
from steelyard.compare.candidates import candidate
from steelyard.compare.decisions import Decided, Rule, adjusted, biased, cheapest
from steelyard.compare.repairs import undo
from steelyard.compare.scores import repair, score_predictions
from steelyard.compare.tables.study import Trial
from steelyard.compare.tables.trained import Trained
from steelyard.decide import fit_temperature, tune_biases


@dataclass(frozen=True)
class Choice:
    """The draws of one candidate on one seed, to be chosen among.

    Attributes:
        trials: the D draws.
        places: where the network of each stands in the stack.
        scores: (D,) on the validation rows.
        losses: (D,) of training.
        finite: (D,) which did not diverge.
        sign: −1 where less of the score is better.
        rules: D of them, what each makes of its network's logits; None takes them as they are.
    """

    trials: Sequence[Trial]
    places: Sequence[int]
    scores: np.ndarray
    losses: np.ndarray
    finite: np.ndarray
    sign: int = 1
    rules: Sequence[Rule] | None = None

    def best(self) -> int | None:
        """The draw that validated best among those that did not diverge; None if all did.

        Ties go to the earliest draw, so to the published defaults before anything else.
        """
        if not self.finite.any():
            return None
        return int(np.argmax(np.where(self.finite, self.sign * self.scores, -math.inf)))

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
        choices[name] = _among_rules(trained, s, list(run))
    return choices


def _among_draws(trained: Trained, s: int, name: str) -> Choice:
    places = trained.drawn.places(s, name)
    return Choice(
        [trained.drawn.trials[s][t] for t in places],
        places,
        trained.curves.scores[-1][s, places],
        trained.curves.losses[-1][s, places],
        trained.finite()[s, places],
        sign(trained.study.select),
    )


def _among_rules(trained: Trained, s: int, trials: Sequence[Trial]) -> Choice:
    """Draws of a candidate that decides anew from the logits of the baseline's networks."""
    select, drawn = trained.study.select, trained.drawn
    by_draw = {drawn.trials[s][t].draw: t for t in drawn.places(s, BASELINE)}
    places = [by_draw[trial.draw] for trial in trials]
    finite = trained.finite()[s, places]
    labels = trained.validation.labels[s].cpu()
    logits = _logits(trained, s, places, trained.validation.features[s])
    rules = [
        _rule(trained, s, trial, z, labels) if ok else Decided
        for trial, z, ok in zip(trials, logits, finite, strict=True)
    ]
    scores = np.array(
        [
            trained.scoring.score(select, rule(z), labels)
            for rule, z in zip(rules, logits, strict=True)
        ]
    )
    return Choice(
        trials,
        places,
        scores,
        trained.curves.losses[-1][s, places],
        finite & np.isfinite(scores),
        sign(select),
        rules,
    )


def _rule(trained: Trained, s: int, trial: Trial, logits: Tensor, labels: Tensor) -> Rule:
    """What a candidate makes of logits, chosen by those (m, C) of the validation rows."""
    item, scoring = candidate(trial.candidate), trained.scoring
    if item.by_costs:
        assert scoring.costs is not None
        return cheapest(fit_temperature(logits, labels), scoring.costs)
    if item.tuned:
        return biased(tune_biases(logits, labels, scoring.tuning(trained.study.select)))
    return adjusted(trained.prepared[s].counts, trial.options["tau"])


def _logits(trained: Trained, s: int, places: Sequence[int], features: Tensor) -> Tensor:
    """Logits (D, n, C) of some networks of a seed for rows (n, d), on the CPU."""
    networks = trained.networks.select(s, list(places))
    scale = torch.tensor([trained.drawn.scales()[s]])[:, list(places)].to(features)
    return networks.all_logits(features.unsqueeze(0), scale)[0].cpu()


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
    rule = None if choice.rules is None else choice.rules[best]
    return {
        "seed": seed,
        "candidate": name,
        "trials": choice.records(),
        "status": "done",
        "reason": None,
        "chosen": best,
        **_judge(trained, s, place, rule),
        "curve": trained.curves.of(s, place, validated=rule is None),
    }


def _judge(trained: Trained, s: int, place: int, rule: Rule | None) -> Judged:
    """Every score of one network on the test rows, which nothing else reads."""
    like, prepared = trained.validation, trained.prepared[s]
    features = torch.from_numpy(prepared.test.features).to(like.features)
    [logits] = _logits(trained, s, [place], features)
    [validation] = _logits(trained, s, [place], like.features[s])
    labels, known = torch.from_numpy(prepared.test.labels), like.labels[s].cpu()
    said, back = (
        Decided(logits),
        undo(
            candidate(trained.drawn.trials[s][place].candidate),
            trained.drawn.losses[s][place],
            prepared.counts,
        ),
    )
    if rule is not None:
        said = rule(logits)
        # A moved decision leaves the network's own logits as they were.
        back = None if said.logits is logits else _as_they_are
    repaired = repair(trained.scoring, (validation, known), (logits, labels), back)
    return score_predictions(said, labels, prepared.counts, trained.scoring, repaired)


def _as_they_are(logits: Tensor) -> Tensor:
    return logits
