"""What is to be done with a batch of logits, without a word about who does it."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class Problem:
    """The losses of a batch, all but its logits (N, C, d…). Each family of losses derives it.

    It does not change once it is made; declared frozen it would take three times as long to make,
    which small problems feel. Class vectors have shape (C,) and the dtype of the computation.

    Attributes:
        target: one class index or number per position (N, d…), or one per cell (N, C, d…).
        ignore_index: targets of this value count nowhere: loss 0, and a gradient of exactly 0.
        weight: class weights, or None for 1.
        sample_weight: s, one per position, or one per cell; None for 1.
        smoothing: ε, the share of the target that is spread over all classes.
        scale, bias, margin: the edited logits are ``scale · logits + bias − margin · target``.
        per_cell: whether each cell has a loss of its own, or each position has one.
    """

    target: Tensor
    ignore_index: float = -100
    weight: Tensor | None = None
    sample_weight: Tensor | None = None
    smoothing: float | Tensor = 0.0
    scale: Tensor | None = None
    bias: Tensor | None = None
    margin: Tensor | None = None

    per_cell: ClassVar[bool] = False

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The definition, in plain torch: any device, any dtype, any order of derivative.

        Every engine is tested against it, so it is written to be read.

        Args:
            logits: (N, C, d…), floating.

        Returns:
            The losses, in at least float32, and what each counts in a mean: 0 where ignored, and
            None where :meth:`count` can do without it.
        """
        raise NotImplementedError

    def count(self, over: str | None, share: Tensor | None = None) -> Tensor:
        """What a mean divides by: here, and nowhere else, it is worked out.

        Args:
            over: what the option ``mean_over`` says.
            share: as :meth:`losses` gives it; where it is None the targets tell.

        Returns:
            A 0-d tensor. Those of the parts of a batch sum to that of the whole.
        """
        raise NotImplementedError

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that takes part, but the logits."""
        each = [getattr(self, name) for name in self.__dataclass_fields__]
        return tuple([t for t in each if isinstance(t, Tensor)])

    def at(self, target: Tensor, sample_weight: Tensor | None) -> Self:
        """The same for other positions."""
        return replace(self, target=target, sample_weight=sample_weight)

    def as_rows(self, logits: Tensor) -> tuple[Tensor, Self]:
        """The same with every position a row: logits (N, C, d…) as (N·d…, C)."""

        def rows(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or tensor.ndim < logits.ndim:
                return None if tensor is None else tensor.flatten()
            return tensor.movedim(1, -1).flatten(0, -2)

        target, flat = rows(self.target), rows(logits)
        assert target is not None
        assert flat is not None
        return flat, self.at(target, rows(self.sample_weight))

    def flat(self, logits: Tensor) -> tuple[Tensor, Self]:
        """The same with one dimension of places: logits (N, C, d…) as (N, C, S), or (N, C).

        Views where the strides allow it, copies elsewhere.
        """
        if logits.ndim <= 3:
            return logits, self

        def flattened(tensor: Tensor) -> Tensor:
            return tensor.flatten(tensor.ndim - logits.ndim + 2)

        samples = self.sample_weight
        samples = None if samples is None else flattened(samples)
        return flattened(logits), self.at(flattened(self.target), samples)

    def edited(self, logits: Tensor, target: Tensor | None) -> Tensor:
        """The edited logits; ``target`` (N, C, d…) is read only where there is a margin."""
        return edited(logits, target, self.scale, self.bias, self.margin)


def edited(
    logits: Tensor,
    target: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    margin: Tensor | None,
) -> Tensor:
    """``scale · logits + bias − margin · target`` for logits (N, C, d…), and a target like them."""
    if scale is not None:
        logits = logits * along_classes(scale, logits)
    if bias is not None:
        logits = logits + along_classes(bias, logits)
    if margin is not None:
        assert target is not None
        logits = logits - along_classes(margin, logits) * target
    return logits


class Reduction(NamedTuple):
    """What becomes of the losses.

    Attributes:
        kind: "none", "sum" or "mean".
        over: what a mean divides by, for :meth:`Problem.count`; or a 0-d tensor, the divisor.
        nothing: what a divisor of 0 becomes: infinity makes a mean over nothing 0, NaN makes it
            NaN. Its gradient is 0 all the same.
    """

    kind: str = "mean"
    over: str | Tensor | None = None
    nothing: float = math.inf

    def divisor(self, problem: Problem, share: Tensor | None) -> Tensor | None:
        """What these positions add to the divisor, as it is; None where nothing is divided."""
        if self.kind != "mean":
            return None
        return self.over if isinstance(self.over, Tensor) else problem.count(self.over, share)

    def of_numbers(self, total: float, count: float) -> tuple[float, float | None]:
        """The sum or mean, and its divisor, from numbers that the host has.

        Args:
            total: the sum of the losses.
            count: the sum of the divisors of the parts; not looked at where one is given.
        """
        if self.kind != "mean":
            return total, None
        divisor = self.over.item() if isinstance(self.over, Tensor) else count
        if not divisor:
            return total / self.nothing, math.inf
        return total / divisor, divisor

    def __call__(
        self, losses: Tensor, problem: Problem, share: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The losses as they are, or their sum or mean; and the divisor of a mean."""
        if self.kind == "none":
            return losses, None
        return self.of_sums(losses.sum(), self.divisor(problem, share))

    def of_sums(self, total: Tensor, divisor: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The sum or mean, and its divisor, from those of the parts added up."""
        if divisor is None:
            return total, None
        divisor = divisor.to(total.dtype)
        none = divisor == 0
        divisor = divisor.masked_fill(none, math.inf)
        value = total / divisor
        if self.nothing != math.inf:
            value = value.masked_fill(none, self.nothing)
        return value, divisor


def along_classes(vector: Tensor, logits: Tensor) -> Tensor:
    """View a vector (C,) so that it broadcasts along dimension 1 of logits (N, C, d…)."""
    return vector if logits.ndim == 2 else vector.view(-1, *[1] * (logits.ndim - 2))


def compute_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of the arithmetic: float32 for half precisions, else the logits' own."""
    return torch.promote_types(logits.dtype, torch.float32)


def select(vector: Tensor, index: Tensor) -> Tensor:
    """``vector[index]``, which refuses a negative class; indexing would count from the end."""
    return vector.index_select(0, index.flatten()).view(index.shape)


def scaled(factor: Tensor, losses: Tensor) -> Tensor:
    """``factor · losses`` where a factor of 0 gives 0, also for an infinite loss."""
    return (factor * losses).where(factor != 0, 0)


def weighted(factor: Tensor, losses: Tensor) -> Tensor:
    """The same with the derivative by a factor of 0: the loss, where that is finite.

    For definitions. What differentiates by the logits alone has no use for the second test.
    """
    return factor * losses.where((factor != 0) | losses.isfinite(), 0)
