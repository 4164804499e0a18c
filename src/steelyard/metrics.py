"""Scores for imbalanced classes: one confusion matrix, and every score from it.

Everything is float64 and takes a leading trial dimension, so that a stack of models trained
together is scored together. A score that its data leave undefined (the recall of a class without a
test row, say) is NaN in tensors and None in results: it is never counted as 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

# Class indices of the many-, medium- and few-shot classes: `steelyard.classes.ClassCounts.groups()`
# of the training data.
ShotGroups: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[int]]

CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one model on one test set; higher is better, but for the last two numbers.

    None stands for what the test set leaves undefined, and is left out of every mean.

    Attributes:
        accuracy: Share of rows predicted right.
        balanced_accuracy: Mean recall over the classes that occur in the test set, as in
            scikit-learn.
        macro_f1: Mean of 2TP / (2TP + FP + FN) over the classes that occur or are predicted, as in
            scikit-learn.
        worst_class_recall: Smallest recall of a class that occurs.
        geometric_mean: Geometric mean of the recalls of the classes that occur; 0 where one is.
        many_shot_recall: Mean recall of the classes with many training rows; None for an empty
            group, or without groups.
        medium_shot_recall: The same for the medium-shot classes.
        few_shot_recall: The same for the few-shot classes.
        calibration_error: Expected calibration error of the predicted class in 15 bins of equal
            width: mean distance between confidence and accuracy (Guo et al., ICML 2017,
            arXiv:1706.04599).
        log_loss: Mean of −log p of the true class, in nats; infinite where the model rules it out.
        recall: Per class, the share of its rows that are found; None for a class without rows.
        precision: Per class, the share of its predictions that are right; None for a class that is
            never predicted (scikit-learn writes 0).
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    worst_class_recall: float
    geometric_mean: float
    many_shot_recall: float | None
    medium_shot_recall: float | None
    few_shot_recall: float | None
    calibration_error: float
    log_loss: float
    recall: tuple[float | None, ...]
    precision: tuple[float | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and None under the names above, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """How confidence and accuracy agree: tensors (…, B) for B bins of equal width over (0, 1]."""

    count: Tensor  # int64, rows whose confidence falls into the bin
    confidence: Tensor  # float64, their mean confidence; NaN in an empty bin
    accuracy: Tensor  # float64, the share predicted right; NaN in an empty bin

    def __getitem__(self, trial: int) -> "Reliability":
        return Reliability(self.count[trial], self.confidence[trial], self.accuracy[trial])

    def calibration_error(self) -> Tensor:
        """Expected calibration error (…), the bins weighted by their rows."""
        share = self.count.double() / self.count.sum(-1, keepdim=True)
        return (share * (self.accuracy - self.confidence).abs()).nan_to_num(0.0).sum(-1)

    def to_dict(self) -> dict[str, Any]:
        """Nested lists under the names above, None in empty bins, ready for JSON."""
        return {
            "count": self.count.tolist(),
            "confidence": _none_for_nan(self.confidence.tolist()),
            "accuracy": _none_for_nan(self.accuracy.tolist()),
        }


class Evaluation(NamedTuple):
    """One model on one test set: the scores, and what they were computed from."""

    scores: Scores
    confusion: Tensor  # int64 (C, C) on the CPU, rows are the true classes
    reliability: Reliability


def evaluate(logits: Tensor, target: Tensor, groups: ShotGroups | None = None) -> Evaluation:
    """Score one model on one test set.

    Args:
        logits: Floating tensor (N, C) on any device; log-probabilities serve as well. −inf rules a
            class out.
        target: Class indices (N,) of any integer dtype.
        groups: ``ClassCounts.groups()`` of the training data. None: no recall by group.

    Raises:
        TypeError: Logits that are not floating, targets that are not integers.
        ValueError: Shapes that do not fit, no rows, NaN or infinite logits, a group's class ≥ C.
        IndexError: A target outside 0..C-1.
    """
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (N, C)")
    return evaluate_stack(logits[None], target, None if groups is None else [groups])[0]


def evaluate_stack(
    logits: Tensor, target: Tensor, groups: Sequence[ShotGroups] | None = None
) -> list[Evaluation]:
    """Score a stack of T models at once.

    Args:
        logits: Floating tensor (T, N, C).
        target: Class indices (N,), the same rows for all, or (T, N), a test set for each.
        groups: One ``ClassCounts.groups()`` per trial.

    Returns:
        T evaluations, on the CPU. Errors are those of `evaluate` and name the trial.
    """
    target = _checked_target(logits, target)
    if groups is not None and len(groups) != len(logits):
        raise ValueError(f"groups for {len(groups)} trials, logits for {len(logits)}: one for each")
    rows = _rows(logits, target)
    target = target.cpu()
    confusion = confusion_matrix(rows.prediction, target, logits.shape[-1])
    reliability = reliability_bins(rows.confidence, rows.prediction == target)
    scores = _scores(confusion, reliability.calibration_error(), rows.loss.mean(-1), groups)
    return [Evaluation(s, confusion[i], reliability[i]) for i, s in enumerate(scores)]


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


def reliability_bins(
    confidence: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Bin predictions by their confidence: bin b holds b/B < confidence ≤ (b+1)/B.

    Args:
        confidence: Probability of the predicted class, float64 (…, N), in (0, 1].
        correct: Whether the prediction is right, bool (…, N).
        bins: B.
    """
    batch = confidence.shape[:-1]
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    inner = torch.bucketize(confidence, edges[1:-1])  # the outer edges are not needed
    trial = torch.arange(batch.numel(), device=confidence.device).reshape(*batch, 1)
    cell = (trial * bins + inner).flatten()

    def total(values: Tensor) -> Tensor:
        sums = values.new_zeros(batch.numel() * bins).index_add_(0, cell, values.flatten())
        return sums.reshape(*batch, bins)

    count = total(torch.ones_like(correct, dtype=torch.int64))
    return Reliability(count, total(confidence) / count, total(correct.double()) / count)


class _Rows(NamedTuple):
    prediction: Tensor  # int64 (T, N)
    confidence: Tensor  # float64 (T, N), probability of the prediction
    loss: Tensor  # float64 (T, N), −log p of the true class


def _rows(logits: Tensor, target: Tensor) -> _Rows:
    """What each row contributes, on the CPU: from (T, N, C) to (T, N)."""
    parts = []
    for trial, (z, y) in enumerate(zip(logits.detach(), target, strict=True)):
        # One trial at a time: the float64 copy is larger than the logits. MPS has no float64.
        z = z.cpu() if z.device.type == "mps" else z
        log_p = z.double().log_softmax(-1)
        top = log_p.amax(-1)
        if top.isnan().any():
            row = int(top.isnan().nonzero()[0])
            raise ValueError(
                f"logits of trial {trial}, row {row} are {z[row].tolist()[:8]}…: NaN, +inf or −inf "
                f"alone give no probabilities; a model that diverged cannot be scored"
            )
        loss = -log_p.gather(-1, y.to(z.device)[:, None])[:, 0]
        # Of the logits: two that differ may share one log-probability.
        parts.append((z.argmax(-1).cpu(), top.exp().cpu(), loss.cpu()))
    return _Rows(*(torch.stack(column) for column in zip(*parts, strict=True)))


def _scores(
    confusion: Tensor, calibration: Tensor, loss: Tensor, groups: Sequence[ShotGroups] | None
) -> list[Scores]:
    columns = {
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "worst_class_recall": worst_class_recall(confusion),
        "geometric_mean": geometric_mean(confusion),
        "calibration_error": calibration,
        "log_loss": loss,
    }
    numbers = {name: column.tolist() for name, column in columns.items()}
    recalls, precisions = recall(confusion), precision(confusion)
    result = []
    for i in range(len(confusion)):
        many, medium, few = _group_recalls(recalls[i], None if groups is None else groups[i])
        result.append(
            Scores(
                **{name: column[i] for name, column in numbers.items()},
                many_shot_recall=many,
                medium_shot_recall=medium,
                few_shot_recall=few,
                recall=tuple(_none_for_nan(recalls[i].tolist())),
                precision=tuple(_none_for_nan(precisions[i].tolist())),
            )
        )
    return result


def _group_recalls(recalls: Tensor, groups: ShotGroups | None) -> list[float | None]:
    if groups is None:
        return [None, None, None]
    largest = max((c for group in groups for c in group), default=-1)
    if largest >= len(recalls):
        raise ValueError(f"groups name class {largest}, logits have {len(recalls)} classes")
    means = [recalls[list(group)].nanmean().item() for group in groups]
    return _none_for_nan(means)


def _checked_target(logits: Tensor, target: Tensor) -> Tensor:
    """The target as int64 (T, N), checked."""
    if not logits.is_floating_point():
        raise TypeError(f"logits are {logits.dtype}; expected a floating dtype")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target is {target.dtype}; expected class indices: target.long()")
    if logits.dim() != 3 or target.shape not in (logits.shape[:2], logits.shape[1:2]):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; expected "
            f"(N, C) or (T, N, C) for T models, and class indices (N,) or (T, N)"
        )
    trials, rows, classes = logits.shape
    if 0 in (trials, rows, classes):
        raise ValueError(f"logits have shape {tuple(logits.shape)}: there is nothing to score")
    target = target.long()
    outside = (target < 0) | (target >= classes)
    if outside.any():
        position = tuple(outside.nonzero()[0].tolist())
        raise IndexError(
            f"target {target[position].item()} at position {position} is outside 0..{classes - 1}; "
            f"the logits have {classes} classes"
        )
    return target.expand(trials, rows)


def _hits(confusion: Tensor) -> Tensor:
    return confusion.diagonal(dim1=-2, dim2=-1).double()


def _none_for_nan(values: list[Any]) -> list[Any]:
    """Undefined is None in JSON, which has no NaN; lists may be nested."""
    return [_none_for_nan(v) if isinstance(v, list) else None if v != v else v for v in values]
