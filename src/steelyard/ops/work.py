"""What one loss wants done, without a word about who does it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from steelyard.ops.edit import Edit, along_classes


class Tail(NamedTuple):
    """A function of log p with a parameter, elementwise, and its derivative by log p."""

    value: Callable[[Tensor, Any], Tensor]
    slope: Callable[[Tensor, Any], Tensor]

    def __call__(self, log_p: Tensor, parameter: Any) -> Tensor:
        """The value."""
        return self.value(log_p, parameter)


class Work(NamedTuple):
    """The losses of positions, all but the logits.

    For class indices y without smoothing ``share · tail(log p_y)``; else, for a distribution t,
    ``share · Σ_c weight_c · t'_c · tail(log p_c)`` with ``t' = (1−ε)·t + ε/C``.

    Attributes:
        target: class indices (N, d…) in int64, or probabilities (N, C, d…).
        ignore_index: positions with this index give 0 and a gradient of exactly 0.
        edit: what is done to the logits first.
        tail, parameter: the function of log p; the parameter is a number or one per class (C,).
        share: (N, d…), 0 where ignored; None for 1.
        weight: (C,), for all classes; None for 1, and where ``share`` has it already.
        smoothing: ε.
    """

    target: Tensor
    ignore_index: int
    edit: Edit
    tail: Tail
    parameter: float | Tensor | None = None
    share: Tensor | None = None
    weight: Tensor | None = None
    smoothing: float | Tensor = 0.0

    @property
    def of_indices(self) -> bool:
        """Whether the target is class indices."""
        return not self.target.is_floating_point()

    @property
    def all_classes(self) -> bool:
        """Whether log p of every class counts, not only that of the target."""
        smooths = isinstance(self.smoothing, Tensor) or self.smoothing > 0
        return smooths or self.target.is_floating_point()

    def ignored(self) -> Tensor:
        """Which positions count nowhere, (N, d…)."""
        return self.target == self.ignore_index

    def parameter_of(self, index: Tensor) -> float | Tensor | None:
        """The tail's parameter for these classes."""
        if isinstance(self.parameter, Tensor) and self.parameter.ndim > 0:
            return self.parameter[index]
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
        share = None if self.share is None else self.share.flatten()
        return self._replace(target=target, share=share)


def scaled(factor: Tensor, losses: Tensor) -> Tensor:
    """``factor · losses`` where a factor of 0 gives 0, also for an infinite loss."""
    return (factor * losses).where(factor != 0, 0)
