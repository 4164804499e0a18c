"""Scores of decisions: one confusion matrix, and every score from it.

A confusion matrix is (…, C, C); rows are the true classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count predictions: int64 (…, C, C) from two tensors (…, N); rows are the true classes.

    Both are class indices in 0..C-1, which is not checked.
    """
    pair = target * num_classes + prediction
    batch = pair.shape[:-1]
    trial = torch.arange(batch.numel(), device=pair.device).reshape(*batch, 1)
    cell = trial * num_classes**2 + pair
    counts = torch.bincount(cell.flatten(), minlength=batch.numel() * num_classes**2)
    return counts.reshape(*batch, num_classes, num_classes)


def recall(confusion: Tensor) -> Tensor:
    """Per class (…, C), from a confusion matrix (…, C, C); NaN for a class without rows."""
    return _hits(confusion) / confusion.sum(-1).double()


def precision(confusion: Tensor) -> Tensor:
    """Per class (…, C), from a confusion matrix (…, C, C); NaN for a class never predicted."""
    return _hits(confusion) / confusion.sum(-2).double()


def accuracy(confusion: Tensor) -> Tensor:
    """Share of rows predicted right (…), from a confusion matrix (…, C, C)."""
    return _hits(confusion).sum(-1) / confusion.sum((-2, -1)).double()


def balanced_accuracy(confusion: Tensor) -> Tensor:
    """Mean recall (…) of the classes that occur, from a confusion matrix (…, C, C)."""
    return recall(confusion).nanmean(-1)


def macro_f1(confusion: Tensor) -> Tensor:
    """Mean F1 (…) of the classes that occur or are predicted, from a confusion matrix (…, C, C)."""
    return (2 * _hits(confusion) / (confusion.sum(-1) + confusion.sum(-2)).double()).nanmean(-1)


def worst_class_recall(confusion: Tensor) -> Tensor:
    """Smallest recall (…) of a class that occurs, from a confusion matrix (…, C, C)."""
    return recall(confusion).nanquantile(0.0, dim=-1)


def geometric_mean(confusion: Tensor) -> Tensor:
    """Geometric mean (…) of the recalls of the classes that occur, from (…, C, C)."""
    return recall(confusion).log().nanmean(-1).exp()


def f1(confusion: Tensor, positive: int = 1) -> Tensor:
    """2TP / (2TP + FP + FN) of one class (…); NaN where it neither occurs nor is predicted."""
    found = _hits(confusion)[..., positive]
    rows = confusion[..., positive, :].sum(-1) + confusion[..., positive].sum(-1)
    return 2 * found / rows.double()


def matthews(confusion: Tensor) -> Tensor:
    """Matthews' correlation of decision and truth (…), for any number of classes.

    0 where all rows have one class or one decision, as in scikit-learn.
    """
    rows, columns = confusion.sum(-1).double(), confusion.sum(-2).double()
    total = rows.sum(-1)
    covariance = _hits(confusion).sum(-1) * total - (rows * columns).sum(-1)
    spread = (total**2 - (rows**2).sum(-1)) * (total**2 - (columns**2).sum(-1))
    return torch.where(spread > 0, covariance / spread.clamp_min(1).sqrt(), 0.0)


def mean_cost(confusion: Tensor, costs: Tensor | Sequence[Sequence[float]]) -> Tensor:
    """Cost per row (…), from a confusion matrix (…, C, C) and the cost (C, C) of each cell.

    ``costs[c, k]`` is the cost of deciding for k where c is true.
    """
    total = confusion.sum((-2, -1)).double()
    matrix = torch.as_tensor(costs, dtype=torch.float64, device=confusion.device)
    return (confusion * matrix).sum((-2, -1)) / total


def _hits(confusion: Tensor) -> Tensor:
    return confusion.diagonal(dim1=-2, dim2=-1).double()
