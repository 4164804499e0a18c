"""What losses derive from class counts, in float64 until it meets the logits."""

import torch
from torch import Tensor

from steelyard.classes import ClassCountsLike, as_class_counts


def positive_counts(class_counts: ClassCountsLike) -> Tensor:
    """Counts (C,) in float64, those of absent classes taken as 1.

    In theory the log-prior of an absent class is −∞ and its margin infinite; one example is the
    smallest count that leaves the loss finite.
    """
    return as_class_counts(class_counts).counts.to(torch.float64).clamp(min=1)


def log_prior(class_counts: ClassCountsLike) -> Tensor:
    """Log-prior log π (C,), with π_c = n_c / Σ n."""
    counts = positive_counts(class_counts)
    return (counts / counts.sum()).log()
