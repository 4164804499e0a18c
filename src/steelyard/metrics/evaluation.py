"""All scores of one model, or of a stack of them, on one test set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steelyard.metrics.calibration import Reliability, none_for_nan, reliability_bins
from steelyard.metrics.confusion import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    geometric_mean,
    macro_f1,
    precision,
    recall,
    worst_class_recall,
)

# Class indices of the many-, medium- and few-shot classes: `steelyard.classes.ClassCounts.groups()`
# of the training data.
ShotGroups: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[int]]


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


class Evaluation(NamedTuple):
    """One model on one test set: the scores, and what they were computed from.

    Attributes:
        scores: the numbers.
        confusion: int64 (C, C) on the CPU; rows are the true classes.
        reliability: how confidence and accuracy agree.
    """

    scores: Scores
    confusion: Tensor
    reliability: Reliability


def evaluate(
    logits: Tensor,
    target: Tensor,
    groups: ShotGroups | None = None,
    decision: Tensor | None = None,
) -> Evaluation:
    """Score one model on one test set.

    Args:
        logits: Floating tensor (N, C) on any device; log-probabilities serve as well. −inf rules a
            class out.
        target: Class indices (N,) of any integer dtype.
        groups: ``ClassCounts.groups()`` of the training data. None: no recall by group.
        decision: Class indices (N,) that are decided for. None: those of the largest logits, of
            which calibration always is.

    Raises:
        TypeError: Logits that are not floating, targets that are not integers.
        ValueError: Shapes that do not fit, no rows, NaN or infinite logits, a group's class ≥ C.
        IndexError: A target outside 0..C-1.

    Example:
        >>> from steelyard.metrics import evaluate
        >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 1.0]])
        >>> found = evaluate(logits, torch.tensor([0, 0, 1, 1]))
        >>> found.scores.recall, found.scores.balanced_accuracy
        ((1.0, 0.5), 0.75)
        >>> found.confusion
        tensor([[2, 0],
                [1, 1]])
    """
    if logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected (N, C)")
    return evaluate_stack(
        logits[None],
        target,
        None if groups is None else [groups],
        None if decision is None else decision[None],
    )[0]


def evaluate_stack(
    logits: Tensor,
    target: Tensor,
    groups: Sequence[ShotGroups] | None = None,
    decision: Tensor | None = None,
) -> list[Evaluation]:
    """Score a stack of T models at once.

    Args:
        logits: Floating tensor (T, N, C).
        target: Class indices (N,), the same rows for all, or (T, N), a test set for each.
        groups: One ``ClassCounts.groups()`` per trial.
        decision: (T, N) what is decided, if not for the largest logits.

    Returns:
        T evaluations, on the CPU. Errors are those of `evaluate` and name the trial.

    Example:
        The same rows, judged by a model and by one that says the opposite.

        >>> from steelyard.metrics import evaluate_stack
        >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> both = evaluate_stack(torch.stack([logits, -logits]), torch.tensor([0, 0, 1]))
        >>> [found.scores.accuracy for found in both]
        [1.0, 0.0]
    """
    target = _checked_target(logits, target)
    if groups is not None and len(groups) != len(logits):
        raise ValueError(f"groups for {len(groups)} trials, logits for {len(logits)}: one for each")
    rows = _rows(logits, target)
    target = target.cpu()
    decided = rows.prediction if decision is None else decision.cpu().long()
    confusion = confusion_matrix(decided, target, logits.shape[-1])
    reliability = reliability_bins(rows.confidence, rows.prediction == target)
    scores = _scores(confusion, reliability.calibration_error(), rows.loss.mean(-1), groups)
    return [Evaluation(s, confusion[i], reliability[i]) for i, s in enumerate(scores)]


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
                recall=tuple(none_for_nan(recalls[i].tolist())),
                precision=tuple(none_for_nan(precisions[i].tolist())),
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
    return none_for_nan(means)


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
