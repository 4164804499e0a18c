"""Scores for imbalanced classes.

Everything is float64 and takes leading dimensions, so that a stack of models trained together is
scored together. A score that its data leave undefined (the recall of a class without a test row,
say) is NaN in tensors and None in results: it is never counted as 0.

`confusion` has the scores of decisions, `ranking` those of an order, which no threshold changes,
`calibration` those of probabilities, and `evaluation` gathers them for one model.
"""

from steelyard.metrics.calibration import (
    CALIBRATION_BINS,
    Reliability,
    brier,
    reliability_bins,
    reliability_of_class,
)
from steelyard.metrics.confusion import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    f1,
    geometric_mean,
    macro_f1,
    matthews,
    mean_cost,
    precision,
    recall,
    worst_class_recall,
)
from steelyard.metrics.evaluation import (
    Evaluation,
    Scores,
    ShotGroups,
    evaluate,
    evaluate_stack,
)
from steelyard.metrics.ranking import (
    average_precision,
    one_vs_rest,
    precision_at_recall,
    precision_curve,
    recall_at_precision,
    roc_auc,
    roc_curve,
)

__all__ = [
    "CALIBRATION_BINS",
    "Evaluation",
    "Reliability",
    "Scores",
    "ShotGroups",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "confusion_matrix",
    "evaluate",
    "evaluate_stack",
    "f1",
    "geometric_mean",
    "macro_f1",
    "matthews",
    "mean_cost",
    "one_vs_rest",
    "precision",
    "precision_at_recall",
    "precision_curve",
    "recall",
    "recall_at_precision",
    "reliability_bins",
    "reliability_of_class",
    "roc_auc",
    "roc_curve",
    "worst_class_recall",
]
