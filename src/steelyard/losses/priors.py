"""What losses derive from class counts, in float64 until it meets the logits."""

from typing import TypeAlias, cast

import torch
from torch import Tensor

from steelyard.classes import ClassCounts, ClassCountsLike, as_class_counts
from steelyard.classes.given import counts_or_number
from steelyard.losses.vectors import has_values

# Positions in training: one number, or one per class where labels are missing.
Total: TypeAlias = "int | ClassCountsLike | None"


def known(class_counts: ClassCountsLike) -> ClassCounts | None:
    """The class counts; None if they are a vector of whoever traces, with no numbers to look at."""
    if isinstance(class_counts, Tensor) and class_counts.ndim == 1 and not has_values(class_counts):
        return None
    return as_class_counts(class_counts)


def positive_counts(class_counts: ClassCountsLike) -> Tensor:
    """Counts (C,) in float64, those of absent classes taken as 1.

    In theory the log-prior of an absent class is −∞ and its margin infinite; one example is the
    smallest count that leaves the loss finite.
    """
    counts = known(class_counts)
    vector = cast("Tensor", class_counts) if counts is None else counts.counts
    return vector.to(torch.float64).clamp(min=1)


def softmax_counts(class_counts: ClassCountsLike) -> Tensor:
    """The same, for a loss of one class per position.

    Raises:
        ValueError: counts of several labels, whose shares do not sum to 1.
    """
    counts = known(class_counts)
    if counts is not None and counts._total is not None:
        raise ValueError(
            "class_counts are of several labels (multi_label=True), and a softmax has one class "
            "per position: SigmoidLogitAdjustedLoss takes them; one-hot labels are counted as "
            "class indices, count_classes(labels.argmax(1))"
        )
    return positive_counts(class_counts if counts is None else counts)


def log_prior(class_counts: ClassCountsLike) -> Tensor:
    """Log-prior log π (C,), with π_c = n_c / Σ n."""
    counts = softmax_counts(class_counts)
    return (counts / counts.sum()).log()


def log_odds(class_counts: ClassCountsLike, total: Total) -> Tensor:
    """Log-odds log(π / (1 − π)) (C,) in float64, with π_c = n_c / total_c.

    A class that is never there is taken to be there once, and one that always is to be missing
    once: the log-odds would be infinite.

    Raises:
        ValueError: no total, or one below a count.
    """
    counts = as_class_counts(class_counts)
    # As Python's numbers, which whoever traces the loss may look at.
    out_of: Total = counts._total if total is None else total
    if out_of is None:
        raise ValueError(
            "class_counts says how often each class is there, but not out of how often: give "
            "total=, the number of positions that were counted, or count the targets with "
            "count_classes(…, multi_label=True)"
        )
    totals = counts_or_number(out_of, len(counts), "total")
    for c, (positives, of) in enumerate(zip(counts, totals, strict=True)):
        if positives > of:
            raise ValueError(
                f"total of class {c} is {of}, but class_counts says that it is there {positives} "
                "times: total counts the positions with and without it"
            )
    there = counts.counts.double()
    return (there.clamp(min=1) / (totals.counts.double() - there).clamp(min=1)).log()
