"""Which of the metrics a study shows, by what names, and by which of them it chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard import metrics
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
LOWER_IS_BETTER = ("calibration_error", "log_loss")
SELECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(metrics, name) for name in SELECTABLE
}


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts (S, T, C, C), true class by predicted class, of logits (S, T, C, B)."""
    guess = logits.argmax(2)  # (S, T, B)
    return metrics.confusion_matrix(guess, labels.unsqueeze(1), logits.shape[2])


def score_predictions(logits: Tensor, labels: Tensor, counts: np.ndarray) -> dict[str, Any]:
    """Everything a cell records of one network on its test rows.

    Args:
        logits: (n, C).
        labels: (n,).
        counts: (C,) training rows per class, for the many-, medium- and few-shot groups.
    """
    groups = ClassCounts(torch.from_numpy(counts)).groups()
    scores, confusion, reliability = metrics.evaluate(logits, labels, groups)
    numbers = scores.to_dict()
    return {
        "scores": {name: numbers[name] for name in TITLES},
        "recall": numbers["recall"],
        "precision": numbers["precision"],
        "confusion": confusion.tolist(),
        "reliability": reliability.to_dict(),
    }
