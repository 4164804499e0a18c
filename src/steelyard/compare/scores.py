"""Which of the metrics a study shows, by what names, and by which of them it chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from steelyard import metrics
from steelyard._results import Judged
from steelyard.classes import ClassCounts
from steelyard.compare.study import SELECTABLE

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
LOWER_IS_BETTER = ("calibration_error", "log_loss", "brier")


@dataclass(frozen=True)
class Scoring:
    """What the scores of a study depend on besides logits and labels.

    Attributes:
        classes: how many there are.
        positive: of two classes, the position of the one that is looked for.
        at: the precision at which recall is read, and the recall at which precision is.
    """

    classes: int
    positive: int = 1
    at: float = 0.9

    @property
    def titles(self) -> dict[str, str]:
        """Names of the scores and their headings, in the order of tables."""
        binary = BINARY_TITLES if self.classes == 2 else {}
        at = f"{100 * self.at:g} %"
        return TITLES | ORDER_TITLES | {k: v.format(at=at) for k, v in binary.items()}

    @property
    def selectable(self) -> list[str]:
        """The scores that draws may be chosen by: defined wherever each class has a row."""
        shots = ("many_shot_recall", "medium_shot_recall", "few_shot_recall")
        return [name for name in self.titles if name not in (*LOWER_IS_BETTER, *shots)]

    @property
    def of_both(self) -> list[str]:
        """The scores of two classes that are undefined where one of them has no row."""
        return [*ORDER_TITLES, *BINARY_TITLES] if self.classes == 2 else []

    def of_decisions(self, name: str) -> Callable[[Tensor], Tensor] | None:
        """The score of confusion matrices by that name; None where it reads the order instead."""
        if name == "f1":
            return partial(metrics.f1, positive=self.positive)
        if name in (*SELECTABLE, "matthews"):
            score: Callable[[Tensor], Tensor] = getattr(metrics, name)
            return score
        return None

    def tuned_for(self, select: str) -> str:
        """The score of decisions that a decision is tuned for: the selecting one if it is one."""
        if self.of_decisions(select) is not None:
            return select
        return "f1" if self.classes == 2 else "balanced_accuracy"

    def of_order(self, name: str, logits: Tensor, labels: Tensor) -> float:
        """The score of logits (n, C) by that name, which reads the order of the rows."""
        score: Callable[[Tensor, Tensor], Tensor] = getattr(metrics, name)
        if name in ("recall_at_precision", "precision_at_recall"):
            score = partial(getattr(metrics, name), **{name.rpartition("_")[2]: self.at})
        if self.classes == 2:
            ranks = logits[:, self.positive].double() - logits[:, 1 - self.positive].double()
            return score(ranks, labels == self.positive).item()
        return metrics.one_vs_rest(score, logits, labels).nanmean().item()


def score_predictions(
    logits: Tensor, labels: Tensor, counts: np.ndarray, scoring: Scoring | None = None
) -> Judged:
    """Everything a cell records of one network on its test rows.

    Args:
        logits: (n, C).
        labels: (n,).
        counts: (C,) training rows per class, for the many-, medium- and few-shot groups.
        scoring: adds the scores of an order, of two classes and of probabilities.
    """
    groups = ClassCounts(torch.from_numpy(counts)).groups()
    scores, confusion, reliability = metrics.evaluate(logits, labels, groups)
    numbers, bins = scores.to_dict(), reliability.to_dict()
    if scoring is not None:
        numbers |= _more(scoring, logits.cpu(), labels.cpu(), confusion)
    return {
        "scores": {name: numbers[name] for name in (scoring.titles if scoring else TITLES)},
        "recall": numbers["recall"],
        "precision": numbers["precision"],
        "confusion": confusion.tolist(),
        "reliability": {
            "count": bins["count"],
            "confidence": bins["confidence"],
            "accuracy": bins["accuracy"],
        },
    }


def _more(
    scoring: Scoring, logits: Tensor, labels: Tensor, confusion: Tensor
) -> dict[str, float | None]:
    found = {"brier": metrics.brier(logits.double().log_softmax(-1), labels).item()}
    for name in scoring.titles:
        if name not in TITLES and name != "brier":
            decided = scoring.of_decisions(name)
            found[name] = (
                scoring.of_order(name, logits, labels)
                if decided is None
                else decided(confusion).item()
            )
    return {name: None if math.isnan(value) else value for name, value in found.items()}
