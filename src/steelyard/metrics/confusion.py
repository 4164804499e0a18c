"""Scores of decisions: one confusion matrix, and every score from it.

A confusion matrix is (…, C, C); rows are the true classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard._given import expected_tensor


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count predictions: int64 (…, C, C) from two tensors (…, N); rows are the true classes.

    Args:
        prediction: class indices in [0, C).
        target: likewise; the two broadcast.
        num_classes: how many, C.

    Raises:
        TypeError: logits, or other numbers that are no class indices.
        ValueError: shapes that do not fit, or an index outside.

    Example:
        >>> from steelyard.metrics import confusion_matrix
        >>> confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
        tensor([[1, 0],
                [1, 1]])
    """
    for name, indices in (("prediction", prediction), ("target", target)):
        _check_indices(name, indices, num_classes)
    try:
        pair = target.long() * num_classes + prediction
    except RuntimeError:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}, "
            "expected one class index each for every row: of logits (N, C) .argmax(1)"
        ) from None
    batch = pair.shape[:-1]
    trial = torch.arange(batch.numel(), device=pair.device).reshape(*batch, 1)
    cell = trial * num_classes**2 + pair
    counts = torch.bincount(cell.flatten(), minlength=batch.numel() * num_classes**2)
    return counts.reshape(*batch, num_classes, num_classes)


def _check_indices(name: str, indices: Any, num_classes: int) -> None:
    if not isinstance(indices, Tensor):
        raise TypeError(
            f"{name} is a {type(indices).__name__}, expected {expected_tensor(indices)}"
        )
    if indices.is_floating_point() or indices.is_complex():
        raise TypeError(
            f"{name} is {indices.dtype}, expected class indices: of logits (N, C) .argmax(1)"
        )
    if indices.numel() and not (indices.amin() >= 0 and indices.amax() < num_classes):
        wrong = int(indices[(indices < 0) | (indices >= num_classes)][0])
        raise ValueError(
            f"{name} holds {wrong}, outside [0, {num_classes}): leave out rows without a label in "
            f"both, as in known = target != {wrong}"
        )


class Tally(NamedTuple):
    """All that scores other than costs read of a confusion matrix; each is (…, C).

    Whoever compares many decisions of many classes hands them this instead: C numbers are fewer
    than C².

    Attributes:
        found: rows of each class that were decided for it.
        there: rows of each class.
        predicted: decisions for each class.
    """

    found: Tensor
    there: Tensor
    predicted: Tensor


def tally(confusion: Tensor | Tally) -> Tally:
    """The three counts, float64, of a confusion matrix (…, C, C)."""
    if isinstance(confusion, Tally):
        return confusion
    found = confusion.diagonal(dim1=-2, dim2=-1)
    return Tally(found.double(), confusion.sum(-1).double(), confusion.sum(-2).double())


def recall(confusion: Tensor | Tally) -> Tensor:
    """Per class (…, C), from a confusion matrix (…, C, C); NaN for a class without rows.

    Example:
        Of 100 cats 90 are found, of 10 dogs 7.

        >>> from steelyard.metrics import recall
        >>> recall(torch.tensor([[90, 10], [3, 7]]))
        tensor([0.9000, 0.7000], dtype=torch.float64)
    """
    found, there, _ = tally(confusion)
    return found / there


def precision(confusion: Tensor | Tally) -> Tensor:
    """Per class (…, C), from a confusion matrix (…, C, C); NaN for a class never predicted.

    Example:
        Of 93 animals called cats 90 are, of 17 called dogs 7.

        >>> from steelyard.metrics import precision
        >>> precision(torch.tensor([[90, 10], [3, 7]]))
        tensor([0.9677, 0.4118], dtype=torch.float64)
    """
    found, _, predicted = tally(confusion)
    return found / predicted


def accuracy(confusion: Tensor | Tally) -> Tensor:
    """Share of rows predicted right (…), from a confusion matrix (…, C, C).

    Example:
        >>> from steelyard.metrics import accuracy
        >>> accuracy(torch.tensor([[90, 10], [3, 7]]))
        tensor(0.8818, dtype=torch.float64)
    """
    found, there, _ = tally(confusion)
    return found.sum(-1) / there.sum(-1)


def balanced_accuracy(confusion: Tensor | Tally) -> Tensor:
    """Mean recall (…) of the classes that occur, from a confusion matrix (…, C, C).

    Example:
        >>> from steelyard.metrics import balanced_accuracy
        >>> balanced_accuracy(torch.tensor([[90, 10], [3, 7]]))
        tensor(0.8000, dtype=torch.float64)
    """
    return recall(confusion).nanmean(-1)


def macro_f1(confusion: Tensor | Tally) -> Tensor:
    """Mean F1 (…) of the classes that occur or are predicted, from a confusion matrix (…, C, C).

    Example:
        >>> from steelyard.metrics import macro_f1
        >>> macro_f1(torch.tensor([[90, 10], [3, 7]]))
        tensor(0.7256, dtype=torch.float64)
    """
    found, there, predicted = tally(confusion)
    return (2 * found / (there + predicted)).nanmean(-1)


def worst_class_recall(confusion: Tensor | Tally) -> Tensor:
    """Smallest recall (…) of a class that occurs, from a confusion matrix (…, C, C).

    Example:
        >>> from steelyard.metrics import worst_class_recall
        >>> worst_class_recall(torch.tensor([[90, 10], [3, 7]]))
        tensor(0.7000, dtype=torch.float64)
    """
    return recall(confusion).nanquantile(0.0, dim=-1)


def geometric_mean(confusion: Tensor | Tally) -> Tensor:
    """Geometric mean (…) of the recalls of the classes that occur, from (…, C, C).

    Example:
        >>> from steelyard.metrics import geometric_mean
        >>> geometric_mean(torch.tensor([[90, 10], [3, 7]]))
        tensor(0.7937, dtype=torch.float64)
    """
    return recall(confusion).log().nanmean(-1).exp()


def f1(confusion: Tensor | Tally, positive: int = 1) -> Tensor:
    """2TP / (2TP + FP + FN) of one class (…); NaN where it neither occurs nor is predicted.

    Example:
        >>> from steelyard.metrics import f1
        >>> f1(torch.tensor([[90, 10], [3, 7]]))
        tensor(0.5185, dtype=torch.float64)
    """
    found, there, predicted = (part[..., positive] for part in tally(confusion))
    return 2 * found / (there + predicted)


def matthews(confusion: Tensor | Tally) -> Tensor:
    """Matthews' correlation of decision and truth (…), for any number of classes.

    0 where all rows have one class or one decision, as in scikit-learn.

    Example:
        >>> from steelyard.metrics import matthews
        >>> matthews(torch.tensor([[90, 10], [3, 7]]))
        tensor(0.4772, dtype=torch.float64)
    """
    found, there, predicted = tally(confusion)
    total = there.sum(-1)
    covariance = found.sum(-1) * total - (there * predicted).sum(-1)
    spread = (total**2 - (there**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    return torch.where(spread > 0, covariance / spread.clamp_min(1).sqrt(), 0.0)


def mean_cost(confusion: Tensor, costs: Tensor | Sequence[Sequence[float]]) -> Tensor:
    """Cost per row (…), from a confusion matrix (…, C, C) and the cost (C, C) of each cell.

    ``costs[c, k]`` is the cost of deciding for k where c is true.

    Example:
        Ten false alarms cost 5 each, three misses 100 each, and there are 110 rows.

        >>> from steelyard.metrics import mean_cost
        >>> mean_cost(torch.tensor([[90, 10], [3, 7]]), [[0, 5], [100, 0]])
        tensor(3.1818, dtype=torch.float64)
    """
    total = confusion.sum((-2, -1)).double()
    matrix = torch.as_tensor(costs, dtype=torch.float64, device=confusion.device)
    return (confusion * matrix).sum((-2, -1)) / total
