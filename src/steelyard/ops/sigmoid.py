"""The sigmoid family: each class of each position is a cell, there or not there by itself."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops import compat
from steelyard.ops.problem import Problem, along_classes, compute_dtype, weighted

_LOG2E = math.log2(math.e)


Spare = Iterator[Tensor]
"""Memory of the cells' shape, for ``out=next(spare, None)``: where it is used up, it is fresh."""


class Probability(NamedTuple):
    """−log p, −log(1 − p), 1 − p and p of a logit, each with all its digits.

    Powers of two and sigmoids are the fastest functions that torch has on the CPU; a logarithm
    costs as much as five multiplications, and a power more. Here is one, and m^γ is
    2^(γ log2 m), of a logarithm that is there.
    """

    nll: Tensor
    other: Tensor
    miss: Tensor
    right: Tensor

    @classmethod
    def of(cls, logit: Tensor, spare: Spare) -> "Probability":
        """Those of a finite logit."""
        small = torch.abs(logit, out=next(spare, None)).mul_(-_LOG2E).exp2_().log1p_()
        nll = torch.clamp(logit, max=0, out=next(spare, None))
        nll = torch.sub(small, nll, out=nll)
        other = torch.clamp(logit, min=0, out=next(spare, None)).add_(small)
        miss = torch.neg(logit, out=small).sigmoid_()
        return cls(nll, other, miss, torch.sigmoid(logit, out=next(spare, None)))

    def turned(self) -> "Probability":
        """Those of minus the logit."""
        return Probability(self.other, self.nll, self.right, self.miss)


class Penalty(NamedTuple):
    """What a cell costs by p, the probability of being right; elementwise.

    Attributes:
        value: ``value(log_p, parameter)``, in operations that autograd differentiates to any order.
        with_slope: ``with_slope(p, parameter, spare)``: the value, and its derivative by the logit
            that speaks for the wrong side. It changes nothing of p.
    """

    value: Callable[[Tensor, Any], Tensor]
    with_slope: Callable[[Probability, Any, Spare], tuple[Tensor, Tensor]]


class Side(NamedTuple):
    """What a cell costs as far as its class is there, or as far as it is not.

    With u the edited logit of a class that is there, and minus it of one that is not, the cost is
    ``factor · penalty(log σ(scale · u − margin))``.

    Attributes:
        penalty: of log p.
        parameter: the penalty's: a number, a tuple of numbers, or one number per class (C,).
        factor: a number, or one per class (C,).
        scale, margin: numbers.
    """

    penalty: Penalty
    parameter: Any = None
    factor: float | Tensor = 1.0
    scale: float = 1.0
    margin: float = 0.0

    def parameter_along(self, like: Tensor) -> Any:
        """The parameter as it meets log p (N, C, d…)."""
        vector = isinstance(self.parameter, Tensor) and self.parameter.ndim > 0
        return along_classes(self.parameter, like) if vector else self.parameter

    def factor_along(self, like: Tensor) -> float | Tensor:
        """The factor as it meets costs (N, C, d…)."""
        return along_classes(self.factor, like) if isinstance(self.factor, Tensor) else self.factor


class Rebalance(NamedTuple):
    """A weight per cell: ``floor + σ(steepness · (r − middle))``, r = share_c / Σ_j t_j share_j.

    Attributes:
        share: one number per class (C,), the inverse of how often it is there.
        floor, steepness, middle: numbers.
    """

    share: Tensor
    floor: float
    steepness: float
    middle: float

    def __call__(self, present: Tensor) -> Tensor:
        """The weight of every cell, for t (N, C, d…)."""
        share = along_classes(self.share, present)
        # Where no class is there r is infinite, and its σ is 1.
        r = share / (present * share).sum(1, keepdim=True)
        return self.floor + torch.sigmoid(self.steepness * (r - self.middle))


@dataclass(slots=True, kw_only=True, eq=False)
class CellProblem(Problem):
    """Losses of the sigmoid family, one per cell.

    ``s · w_c · [pw_c · t' · positive + (1 − t') · negative]`` with ``t' = (1−ε)·t + ε/2``.

    Attributes:
        target: (N, C, d…), t in [0, 1] of any dtype.
        ignore_index: may be NaN.
        positive, negative: the two sides of a cell.
        weight, pos_weight: (C,) or (), or None for 1.
        sample_weight: s, (N, 1, d…) or (N, C, d…), or None for 1.
        rebalance: one more weight, from the target; or None.
    """

    positive: Side
    negative: Side
    pos_weight: Tensor | None = None
    rebalance: Rebalance | None = None

    per_cell: ClassVar[bool] = True

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that takes part, but the logits."""
        each: list[Any] = [self.target, self.weight, self.pos_weight, self.sample_weight, self.bias]
        each += [self.positive.parameter, self.negative.parameter]
        each += [self.positive.factor, self.negative.factor]
        each += [None if self.rebalance is None else self.rebalance.share]
        return tuple([t for t in each if isinstance(t, Tensor)])

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The definition; see :meth:`Problem.losses`. What each counts is 1, or 0 if ignored."""
        kept = self.kept()
        edited, share, weight = self._parts(logits, kept)
        positive = share
        if self.pos_weight is not None:
            positive = along_classes(self.pos_weight, logits) * share
        costs = _as_far_as(positive, self.positive, edited)
        costs = costs + _as_far_as(1 - share, self.negative, -edited)
        if weight is not None:
            costs = weighted(weight, costs)
        return costs.where(kept, 0), kept

    def count(self, over: str | None, share: Tensor | None = None) -> Tensor:
        """What a mean divides by; see :meth:`Problem.count`.

        Args:
            over: None, the number of cells that count; "position", that of positions with such a
                cell; "weight", the sum of the weights applied; "positive", Σ s·t.
            share: which cells count (N, C, d…), or () for all or none.
        """
        kept = self.kept() if share is None else share
        if over is None:
            return kept.sum() if kept.ndim else kept * self.target.numel()
        kept = kept.expand(self.target.shape)
        if over == "position":
            return kept.any(1).sum()
        present = self.present(kept)
        if over == "positive":
            each, weight = present, self.sample_weight
        else:
            each, weight = torch.ones_like(present), self.cell_weight(present)
            if self.pos_weight is not None:
                each = 1 + (along_classes(self.pos_weight, present) - 1) * present
        return (each if weight is None else weight * each).where(kept, 0).sum()

    def kept(self) -> Tensor:
        """Which cells count (N, C, d…); or (), where the dtype of the target tells of all."""
        if self.ignore_index < 0 and not self.target.dtype.is_signed:
            return torch.ones((), dtype=torch.bool, device=self.target.device)
        if math.isnan(self.ignore_index):
            return self.target == self.target
        return self.target != self.ignore_index

    def present(self, kept: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """T in this dtype, or in one that holds it; and 0 where it does not count."""
        if dtype is None:
            floating = self.target.is_floating_point()
            dtype = compute_dtype(self.target) if floating else compat.widest(self.target.device)
        return self.target.to(dtype).where(kept, 0)

    def cell_weight(self, present: Tensor) -> Tensor | None:
        """The weight of every cell but for ``pos_weight``; broadcasts to (N, C, d…)."""
        found = self.sample_weight
        if self.weight is not None:
            weight = along_classes(self.weight, present)
            found = weight if found is None else found * weight
        if self.rebalance is not None:
            weight = self.rebalance(present)
            found = weight if found is None else found * weight
        return found

    def counted(
        self, present: Tensor, ignored: Tensor | None, spare: Spare
    ) -> tuple[Tensor, Tensor]:
        """What each side of every cell counts, weights and all; 0 where ignored.

        Args:
            present: t in the dtype of the computation, 0 where ignored; what is ignored may change.
            ignored: which cells do not count, or None for none.
            spare: for the results.
        """
        there, weight = present, self.cell_weight(present)
        if isinstance(self.smoothing, Tensor) or self.smoothing:
            there = torch.mul(present, 1 - self.smoothing, out=next(spare, None))
            there.add_(self.smoothing / 2)
        absent = torch.sub(1, there, out=next(spare, None))
        positive = None if self.pos_weight is None else along_classes(self.pos_weight, present)
        factor = _product(positive, self.positive.factor_along(present), weight)
        if factor is not None:
            there = torch.mul(there, factor, out=next(spare, None))
        factor = _product(self.negative.factor_along(present), weight)
        if factor is not None:
            absent.mul_(factor)
        if ignored is not None:
            there, absent = there.masked_fill_(ignored, 0), absent.masked_fill_(ignored, 0)
        return there, absent

    def _parts(self, logits: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Edited logits, t' and the weight of every cell."""
        dtype = compute_dtype(logits)
        # Before anything else touches them: a NaN that is only multiplied by 0 later stays a NaN.
        edited = self.edited(logits.to(dtype).where(kept, 0), None)
        present = self.present(kept, dtype)
        share = (1 - self.smoothing) * present + self.smoothing / 2
        return edited, share, self.cell_weight(present)


def _as_far_as(share: Tensor, side: Side, u: Tensor) -> Tensor:
    """``share`` of what a side costs, where none of an infinite cost is 0."""
    cost = side.penalty.value(F.logsigmoid(side.scale * u - side.margin), side.parameter_along(u))
    share = share * side.factor_along(u)
    return share * cost.masked_fill((share == 0) & cost.isinf(), 0)  # the share keeps a derivative


def _product(*factors: float | Tensor | None) -> float | Tensor | None:
    """The product of what is not 1, small ones first; None where all is."""
    found: float | Tensor | None = None
    for factor in factors:
        if isinstance(factor, Tensor) or factor not in (None, 1):
            found = factor if found is None else found * factor
    return found


def both_sides(
    problem: CellProblem,
    z: Tensor,
    there: Tensor,
    absent: Tensor,
    out: Tensor | None = None,
    memory: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """The losses of cells and their derivative by the edited logits, written out.

    Args:
        problem: for the two sides.
        z: edited logits, finite.
        there: what the side of a class that is there counts, as :meth:`CellProblem.counted` has it.
        absent: what the other side counts.
        out: for the derivative.
        memory: for the losses and all that leads to them; what it does not hold is fresh.
    """
    positive, negative = problem.positive, problem.negative
    losses, memory = next(iter(memory), None), memory[1:]
    spare = iter(memory)
    p = Probability.of(_logit(z, positive.scale, positive.margin, spare), spare)
    left = tuple(spare)
    value, slope = positive.penalty.with_slope(p, positive.parameter_along(z), iter(left))
    losses = torch.mul(there, value, out=losses)
    gradient = torch.mul(there, slope, out=out).mul_(-positive.scale)
    if (positive.scale, positive.margin) == (negative.scale, negative.margin) == (1, 0):
        p = p.turned()
    else:
        spare = iter(memory)
        p = Probability.of(_logit(z, -negative.scale, negative.margin, spare), spare)
        left = tuple(spare)
    value, slope = negative.penalty.with_slope(p, negative.parameter_along(z), iter(left))
    losses.addcmul_(absent, value)
    return losses, gradient.addcmul_(absent, slope, value=negative.scale)


def _logit(z: Tensor, scale: float, margin: float, spare: Spare) -> Tensor:
    """The logit of being right on this side."""
    if scale == 1 and margin == 0:
        return z
    return torch.mul(z, scale, out=next(spare, None)).sub_(margin)


def largest_logit(dtype: torch.dtype) -> float:
    """What stands for an infinite logit where 0 times its cost is to be 0."""
    return torch.finfo(dtype).max / 2**10


@dataclass(slots=True, kw_only=True, eq=False)
class RankProblem(CellProblem):
    """``log(1 + Σ_c w_c (1 − t'_c) e^z_c) + log(1 + Σ_c w_c pw_c t'_c e^−z_c)``, times s.

    One loss per position; the sides of the cells have no part in it.
    """

    per_cell: ClassVar[bool] = False

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The definition; see :meth:`CellProblem.losses`."""
        kept = self.kept()
        z, share, _ = self._parts(logits, kept)
        weight = z.new_ones(()) if self.weight is None else along_classes(self.weight, z)
        positive = weight
        if self.pos_weight is not None:
            positive = weight * along_classes(self.pos_weight, z)
        rows = _log_one_plus(z, weight * (1 - share), kept)
        rows = rows + _log_one_plus(-z, positive * share, kept)
        if self.sample_weight is not None:
            rows = weighted(self.sample_weight.squeeze(1), rows)
        return rows, kept


def _log_one_plus(u: Tensor, factor: Tensor, kept: Tensor) -> Tensor:
    """``log(1 + Σ_c factor_c e^u_c)``, (N, d…), without what has no part or a factor of 0."""
    counts = kept & (factor > 0)
    exponents = (u + factor.where(counts, 1).log()).where(counts, -math.inf)
    # Not −∞, of which alone logsumexp has no gradient; 1 is added last, or a small sum is lost.
    log_sum = exponents.clamp(min=torch.finfo(u.dtype).min).logsumexp(1)
    return torch.logaddexp(log_sum, torch.zeros_like(log_sum))
