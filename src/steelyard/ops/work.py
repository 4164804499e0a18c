"""What one loss wants done, without a word about who does it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops.edit import Edit, along_classes


class Tail(NamedTuple):
    """A function of log p with a parameter, elementwise.

    Attributes:
        value: the function, in operations that autograd differentiates to any order.
        both: the value, and how much of cross-entropy's gradient it has: its derivative by −log p,
            a number where that is a constant.
    """

    value: Callable[[Tensor, Any], Tensor]
    both: Callable[[Tensor, Any], tuple[Tensor, Tensor | float]]

    def __call__(self, log_p: Tensor, parameter: Any) -> Tensor:
        """The value."""
        return self.value(log_p, parameter)


def _minus_log_p(log_p: Tensor, _: Any) -> Tensor:
    return -log_p


def _unchanged(log_p: Tensor, _: Any) -> tuple[Tensor, float]:
    return -log_p, 1.0


CROSS_ENTROPY = Tail(_minus_log_p, _unchanged)
"""−log p."""


class Work(NamedTuple):
    """The losses of positions, all but the logits.

    For class indices y without smoothing ``weight_y · s · tail(log p_y)``; else, for a distribution
    t, ``s · Σ_c weight_c · t'_c · tail(log p_c)`` with ``t' = (1−ε)·t + ε/C``.

    Attributes:
        target: class indices (N, d…) in int64, or probabilities (N, C, d…).
        ignore_index: positions with this index give 0 and a gradient of exactly 0.
        edit: what is done to the logits first.
        tail, parameter: the function of log p; the parameter is a number or one per class (C,).
        weight: (C,), or None for 1.
        sample_weight: s, (N, d…), or None for 1.
        smoothing: ε.
    """

    target: Tensor
    ignore_index: int
    edit: Edit
    tail: Tail
    parameter: float | Tensor | None = None
    weight: Tensor | None = None
    sample_weight: Tensor | None = None
    smoothing: float | Tensor = 0.0

    @property
    def of_indices(self) -> bool:
        """Whether the target is class indices."""
        return not self.target.is_floating_point()

    @property
    def all_classes(self) -> bool:
        """Whether log p of every class counts, not only that of the target."""
        smoothing = self.smoothing
        return isinstance(smoothing, Tensor) or smoothing > 0 or self.target.is_floating_point()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that takes part, but the logits."""
        each = (self.target, self.sample_weight, self.weight, self.parameter, *self.edit)
        return tuple(t for t in each if isinstance(t, Tensor))

    def ignored(self) -> Tensor:
        """Which positions count nowhere, (N, d…)."""
        return self.target == self.ignore_index

    def share(self, index: Tensor, ignored: Tensor, sample_weight: Tensor | None) -> Tensor | None:
        """What positions of these classes count: ``weight_y · s``, and 0 where ignored.

        None where that is 1, or 0 where ignored. The index is 0 where ignored.
        """
        share = sample_weight
        if self.weight is not None:
            own = select(self.weight, index)
            share = own if share is None else own * share
        return None if share is None else share.masked_fill(ignored, 0)

    def parameter_of(self, index: Tensor) -> float | Tensor | None:
        """The tail's parameter for these classes."""
        if isinstance(self.parameter, Tensor) and self.parameter.ndim > 0:
            return select(self.parameter, index)
        return self.parameter

    def class_parameter(self, like: Tensor) -> float | Tensor | None:
        """The tail's parameter as it meets log p of all classes (N, C, d…)."""
        if isinstance(self.parameter, Tensor) and self.parameter.ndim > 0:
            return along_classes(self.parameter, like)
        return self.parameter

    def as_rows(self) -> "Work":
        """The same for logits whose positions were flattened to rows."""
        if self.of_indices:
            target = self.target.flatten()
        else:
            target = self.target.movedim(1, -1).flatten(0, -2)
        share = None if self.sample_weight is None else self.sample_weight.flatten()
        return self._replace(target=target, sample_weight=share)


class Mean(NamedTuple):
    """What a sum of losses is divided by.

    Attributes:
        over: "share", the sum of what the positions count; "count", how many are not ignored; a
            0-d tensor; or None: the sum stays a sum.
        nothing: in the place of 0: infinity makes a mean over nothing 0, and NaN makes it NaN.
    """

    over: str | Tensor | None = None
    nothing: float = math.inf

    def divisor(self, share: Tensor | None, ignored: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The divisor, for positions that count ``share``; None if there is none."""
        if self.over is None:
            return None
        if isinstance(self.over, Tensor):
            found = self.over
        else:
            found = (~ignored).sum() if share is None or self.over == "count" else share.sum()
        found = found.to(dtype)
        return found.masked_fill(found == 0, self.nothing)


def select(vector: Tensor, index: Tensor) -> Tensor:
    """``vector[index]``, which refuses a negative class; indexing would count from the end."""
    return vector.index_select(0, index.flatten()).view(index.shape)


def scaled(factor: Tensor, losses: Tensor) -> Tensor:
    """``factor · losses`` where a factor of 0 gives 0, also for an infinite loss."""
    return (factor * losses).where(factor != 0, 0)
