"""Which of the metrics a study shows, by what names, and by which of them it chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from steelyard import metrics
from steelyard._results import Judged
from steelyard._results import Reliability as Bins
from steelyard._units import REPAIRS, plain, sign
from steelyard.classes import ClassCounts
from steelyard.compare.curves import cost_curve, ranking
from steelyard.compare.decisions import Costs, Decided, cheapest
from steelyard.compare.study import SELECTABLE
from steelyard.decide import fit_temperature
from steelyard.metrics.calibration import Reliability, reliability_of_class

# Name in results.json → heading, in the order of tables.
TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "worst_class_recall": "worst class",
    "geometric_mean": "geometric mean",
    "many_shot_recall": "many-shot",
    "medium_shot_recall": "medium-shot",
    "few_shot_recall": "few-shot",
    "calibration_error": "calibration error",
    "log_loss": "log loss",
}
# And what an order of the rows, two classes and probabilities add to them.
ORDER_TITLES = {
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "matthews": "Matthews",
    "brier": "Brier score",
}
BINARY_TITLES = {
    "f1": "F1",
    "recall_at_precision": "recall at {at} precision",
    "precision_at_recall": "precision at {at} recall",
}
POSITIVE_TITLES = {"positive_calibration_error": "calibration error of the positive class"}
COST_TITLES = {"mean_cost": "mean cost", "least_cost": "mean cost, decided by costs"}
# Scores of probabilities, and what has been done to them.
PROBABILITY = ("calibration_error", "log_loss", "brier")
_REPAIRED = {"corrected": "shift undone", "tempered": "with a temperature"}


@dataclass(frozen=True)
class Scoring:
    """What the scores of a study depend on besides logits and labels.

    Attributes:
        classes: how many there are.
        positive: of two classes, the position of the one that is looked for.
        at: the precision at which recall is read, and the recall at which precision is.
        costs: what each decision costs, row by true class; None has no costs.
    """

    classes: int
    positive: int = 1
    at: float = 0.9
    costs: Costs | None = None

    @property
    def titles(self) -> dict[str, str]:
        """Names of the scores and their headings, in the order of tables."""
        binary = BINARY_TITLES if self.classes == 2 else {}
        at = f"{100 * self.at:g} %"
        found = TITLES | ORDER_TITLES | {k: v.format(at=at) for k, v in binary.items()}
        if self.classes == 2:
            found |= POSITIVE_TITLES
        if self.costs is not None:
            found |= COST_TITLES
        return found | {
            f"{name}_{repair}": f"{found[name]}, {_REPAIRED[repair]}"
            for repair in REPAIRS
            for name in self.of_probability
        }

    @property
    def of_probability(self) -> tuple[str, ...]:
        """The scores of probabilities: they are computed anew after each repair."""
        return (*PROBABILITY, *POSITIVE_TITLES) if self.classes == 2 else PROBABILITY

    @property
    def looked_for(self) -> int | None:
        """Of two classes, the position of the one that is looked for."""
        return self.positive if self.classes == 2 else None

    @property
    def selectable(self) -> list[str]:
        """The scores that draws may be chosen by: defined wherever each class has a row."""
        some = ("many_shot_recall", "medium_shot_recall", "few_shot_recall", "least_cost")
        return [
            name
            for name in self.titles
            if name not in (*some, "calibration_error", *POSITIVE_TITLES) and plain(name) == name
        ]

    @property
    def of_both(self) -> list[str]:
        """The scores of two classes that are undefined where one of them has no row."""
        return [*ORDER_TITLES, *BINARY_TITLES] if self.classes == 2 else []

    def of_decisions(self, name: str) -> Callable[[Tensor], Tensor] | None:
        """The score of confusion matrices by that name; None where it reads logits instead."""
        if name == "f1":
            return partial(metrics.f1, positive=self.positive)
        if name == "mean_cost" and self.costs is not None:
            return partial(metrics.mean_cost, costs=self.costs)
        if name in (*SELECTABLE, "matthews"):
            score: Callable[[Tensor], Tensor] = getattr(metrics, name)
            return score
        return None

    def tuned_for(self, select: str) -> str:
        """The score of decisions that a decision is tuned for: the selecting one if it is one."""
        if self.of_decisions(select) is not None:
            return select
        return "f1" if self.classes == 2 else "balanced_accuracy"

    def tuning(self, select: str) -> Callable[[Tensor], Tensor]:
        """The same as a function of confusion matrices, of which more is better."""
        name = self.tuned_for(select)
        score = self.of_decisions(name)
        assert score is not None
        return score if sign(name) > 0 else lambda confusion: -score(confusion)

    def of_logits(self, name: str, logits: Tensor, labels: Tensor) -> float:
        """The score of logits (n, C) by that name, which reads probabilities or an order."""
        if name in self.of_probability:
            return of_probabilities(logits, labels, self.looked_for)[name]
        score: Callable[[Tensor, Tensor], Tensor] = getattr(metrics, name)
        if name in ("recall_at_precision", "precision_at_recall"):
            score = partial(getattr(metrics, name), **{name.rpartition("_")[2]: self.at})
        if self.classes == 2:
            ranks = logits[:, self.positive].double() - logits[:, 1 - self.positive].double()
            return score(ranks, labels == self.positive).item()
        return metrics.one_vs_rest(score, logits, labels).nanmean().item()

    def score(self, name: str, said: Decided, labels: Tensor) -> float:
        """Any score that can select, of what a candidate says; NaN where its logits are no numbers.

        Args:
            name: of the score.
            said: of n rows.
            labels: (n,).
        """
        if not said.logits.isfinite().all():
            return math.nan
        decided = self.of_decisions(name)
        if decided is None:
            return self.of_logits(name, said.logits, labels)
        return decided(metrics.confusion_matrix(said.classes, labels, self.classes)).item()


def of_probabilities(
    logits: Tensor, labels: Tensor, positive: int | None = None
) -> dict[str, float]:
    """Calibration error, log loss and Brier score of logits (n, C).

    Args:
        logits: (n, C).
        labels: (n,).
        positive: adds the calibration error of this class's probability.
    """
    log_p = logits.double().log_softmax(1)
    top, guess = log_p.max(1)
    bins = metrics.reliability_bins(top.exp(), guess == labels)
    found = {
        "calibration_error": bins.calibration_error().item(),
        "log_loss": -log_p.gather(1, labels[:, None]).mean().item(),
        "brier": metrics.brier(log_p, labels).item(),
    }
    if positive is not None:
        of_class = _reliability_of_class(logits, labels, positive)
        found["positive_calibration_error"] = of_class.calibration_error().item()
    return found


def _reliability_of_class(logits: Tensor, labels: Tensor, c: int) -> Reliability:
    return reliability_of_class(logits.double().softmax(1)[:, c], labels == c)


def score_predictions(
    said: Decided,
    labels: Tensor,
    counts: np.ndarray,
    scoring: Scoring | None = None,
    repaired: Repaired | None = None,
) -> Judged:
    """Everything a cell records of one network on its test rows.

    Args:
        said: of n rows.
        labels: (n,).
        counts: (C,) training rows per class, for the many-, medium- and few-shot groups.
        scoring: adds the scores of an order, of two classes and of probabilities.
        repaired: the same rows after each repair of their probabilities.
    """
    groups = ClassCounts(torch.from_numpy(counts)).groups()
    scores, confusion, reliability = metrics.evaluate(said.logits, labels, groups, said.decision)
    numbers, bins = scores.to_dict(), reliability.to_dict()
    names = list(TITLES)
    if repaired is not None:
        numbers |= repaired.scores
    if scoring is not None:
        names = list(scoring.titles) if repaired is not None else [*TITLES, *scoring.selectable]
        names = list(dict.fromkeys(names))
        for name in names:
            if name not in numbers:
                value = scoring.score(name, said, labels)
                numbers[name] = None if math.isnan(value) else value
    judged: Judged = {
        "scores": {name: numbers[name] for name in names},
        "recall": numbers["recall"],
        "precision": numbers["precision"],
        "confusion": confusion.tolist(),
        "reliability": {
            "count": bins["count"],
            "confidence": bins["confidence"],
            "accuracy": bins["accuracy"],
        },
    }
    if scoring is not None and repaired is not None:
        judged["temperature"] = repaired.temperature
        judged["ranking"] = ranking(said.logits, labels, confusion, scoring.positive)
        if scoring.looked_for is not None:
            of_class = _reliability_of_class(said.logits, labels, scoring.looked_for).to_dict()
            judged["positive_reliability"] = cast("Bins", of_class)
        if scoring.costs is not None and scoring.classes == 2:
            judged["cost_curve"] = cost_curve(
                repaired.logits, labels, scoring.costs, scoring.positive
            )
    return judged


class Repaired(NamedTuple):
    """What repairs have made of a network's probabilities.

    Attributes:
        scores: by name.
        temperature: that was fitted.
        logits: (n, C) after all repairs.
    """

    scores: dict[str, float | None]
    temperature: float
    logits: Tensor


def repair(
    scoring: Scoring,
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    undo: Callable[[Tensor], Tensor] | None,
) -> Repaired:
    """Undo what the loss has moved, fit a temperature, and score the probabilities after each.

    Args:
        scoring: names and costs.
        validation: logits (m, C) of the network as it was trained, and labels (m,).
        test: the same of the rows that judge.
        undo: takes out of the logits what the loss has moved them by; None where there is nothing
            to take out, or no formula for it.
    """
    correct = undo or (lambda logits: logits)
    temperature = fit_temperature(correct(validation[0]), validation[1])
    logits = {"corrected": correct(test[0]), "tempered": correct(test[0]) / temperature}
    found: dict[str, float | None] = {}
    for step in REPAIRS:
        known = step == "tempered" or undo is not None
        scores = of_probabilities(logits[step], test[1], scoring.looked_for) if known else {}
        found |= {f"{name}_{step}": scores.get(name) for name in scoring.of_probability}
    if scoring.costs is not None:
        rule = cheapest(1.0, scoring.costs)
        found["least_cost"] = scoring.score("mean_cost", rule(logits["tempered"]), test[1])
    return Repaired(found, temperature, logits["tempered"])
