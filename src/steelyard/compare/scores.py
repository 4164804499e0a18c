"""Which of the metrics a study shows, by what names, and by which of them it chooses."""

from __future__ import annotations

from collections.abc import Callable

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
LOWER_IS_BETTER = ("calibration_error", "log_loss")
SELECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(metrics, name) for name in SELECTABLE
}


def score_predictions(logits: Tensor, labels: Tensor, counts: np.ndarray) -> Judged:
    """Everything a cell records of one network on its test rows.

    Args:
        logits: (n, C).
        labels: (n,).
        counts: (C,) training rows per class, for the many-, medium- and few-shot groups.
    """
    groups = ClassCounts(torch.from_numpy(counts)).groups()
    scores, confusion, reliability = metrics.evaluate(logits, labels, groups)
    numbers, bins = scores.to_dict(), reliability.to_dict()
    return {
        "scores": {name: numbers[name] for name in TITLES},
        "recall": numbers["recall"],
        "precision": numbers["precision"],
        "confusion": confusion.tolist(),
        "reliability": {
            "count": bins["count"],
            "confidence": bins["confidence"],
            "accuracy": bins["accuracy"],
        },
    }
