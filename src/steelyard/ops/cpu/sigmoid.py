"""The arithmetic of a tile of cells: one logarithm each, and no power.

Powers of two and sigmoids are the fastest functions that torch has; a logarithm costs as much as
twenty multiplications, a power more. With z the edited logit

    l = log1p(2^(−|z| log2 e)),   −log p = l + max(−z, 0),   −log(1 − p) = l + max(z, 0),

p = σ(z) and 1 − p = σ(−z), each with all its digits, and m^γ is 2^(γ log2 m), of a logarithm that
is there. Both sides of a cell follow from these.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.ops.cpu.walk import Arithmetic, Room
from steelyard.ops.problem import along_classes
from steelyard.ops.sigmoid import CellProblem, Side

LOG2E = math.log2(math.e)


def losses(problem: CellProblem, logits: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """A tile's losses, which of its cells count, and its gradient in the room."""
    ignored = _ignored(problem)
    kept = torch.ones((), dtype=torch.bool) if ignored is None else ~ignored
    there, absent = _shares(problem, ignored, logits, room.gradient.dtype)
    z = logits
    if problem.bias is not None:
        z = torch.add(logits, along_classes(problem.bias, logits), out=room.scratch[0])
    elif ignored is not None or logits.dtype != room.gradient.dtype:
        z = room.scratch[0].copy_(logits)
    if ignored is not None:
        z.masked_fill_(ignored, 0)
    value = _both_sides(problem, z, there, absent, room)
    if not math.isfinite(value.sum().item()):
        # Logits may be infinite, of which 0 times the cost is to be 0: finite ones that give as
        # much, and what costs as much as these costs infinity.
        infinite, largest = z.isinf(), torch.finfo(z.dtype).max / 2**10
        value = _both_sides(problem, z.clamp(-largest, largest), there, absent, room)
        value.masked_fill_(infinite & (value > math.sqrt(largest)), math.inf)
    return value, kept


def _ignored(problem: CellProblem) -> Tensor | None:
    """Which cells do not count; None for none, as the largest and the least target tell."""
    target, ignore_index = problem.target, problem.ignore_index
    if not target.dtype.is_signed and ignore_index < 0:
        return None
    if target.numel():
        low, high = (bound.item() for bound in torch.aminmax(target))
        if low <= high and not low <= ignore_index <= high:  # false for a target that is NaN
            return None
    return ~problem.kept()


def _shares(
    problem: CellProblem, ignored: Tensor | None, logits: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What each side of every cell counts, weights and all; 0 where ignored."""
    present = problem.target.to(dtype)
    if ignored is not None:
        present = present.masked_fill(ignored, 0)
    weight = problem.cell_weight(present)
    there = present
    if problem.smoothing:
        there = present * (1 - problem.smoothing) + problem.smoothing / 2
    absent = 1 - there
    for factor in (problem.pos_weight, problem.positive.factor):
        if isinstance(factor, Tensor):
            factor = along_classes(factor, logits)
        if factor is not None and not (isinstance(factor, float) and factor == 1):
            there = there * factor
    if isinstance(problem.negative.factor, Tensor) or problem.negative.factor != 1:
        absent.mul_(problem.negative.factor_along(logits))
    if weight is not None:
        there, absent = there * weight, absent.mul_(weight)
    if ignored is not None and (problem.smoothing or there is not present):
        there = there.masked_fill(ignored, 0)
    return there, absent if ignored is None else absent.masked_fill_(ignored, 0)


class _Sigmoid(NamedTuple):
    """log p and p of a logit, and of its negation."""

    nll: Tensor
    other: Tensor
    miss: Tensor
    right: Tensor

    @classmethod
    def of(cls, u: Tensor) -> "_Sigmoid":
        small = u.abs().mul_(-LOG2E).exp2_().log1p_()
        nll = small - u.clamp(max=0)
        return cls(nll, small.add_(u.clamp(min=0)), torch.sigmoid(-u), torch.sigmoid(u))

    def turned(self) -> "_Sigmoid":
        return _Sigmoid(self.other, self.nll, self.right, self.miss)


def _both_sides(
    problem: CellProblem, z: Tensor, there: Tensor, absent: Tensor, room: Room
) -> Tensor:
    """The losses of edited logits, and the gradient in the room."""
    positive, negative = problem.positive, problem.negative
    seen = _Sigmoid.of(_logit(positive, z))
    value, slope = positive.penalty.with_slope(*seen, positive.parameter_along(z))
    plain = (positive.scale, positive.margin) == (negative.scale, negative.margin) == (1, 0)
    unseen = seen.turned() if plain else _Sigmoid.of(_logit(negative, z.neg()))
    cost, steep = negative.penalty.with_slope(*unseen, negative.parameter_along(z))
    torch.mul(absent, steep, out=room.gradient)
    if negative.scale != 1:
        room.gradient.mul_(negative.scale)
    room.gradient.addcmul_(there, slope, value=-positive.scale)
    return (there * value).addcmul_(absent, cost)


def _logit(side: Side, u: Tensor) -> Tensor:
    """The logit of being right on this side."""
    if side.scale == 1 and side.margin == 0:
        return u
    return u * side.scale - side.margin


# Some ten numbers per cell are alive at once, and all are to stay in the cache.
ARITHMETIC = Arithmetic(losses, factor=False, scratch=1, smallest=2**16, largest=2**16)
