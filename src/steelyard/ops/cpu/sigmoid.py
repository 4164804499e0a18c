"""The arithmetic of a tile of cells.

:func:`steelyard.ops.sigmoid.both_sides` has it; here is what only an engine can do that may look at
numbers: to find out that no cell is ignored and no logit infinite, as nearly always, and be quick.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.ops.cpu.walk import Arithmetic, Room
from steelyard.ops.problem import along_classes
from steelyard.ops.sigmoid import CellProblem, both_sides, largest_logit


class Cells(NamedTuple):
    """A tile's cells, ready for the arithmetic.

    Attributes:
        z: edited logits, 0 where ignored.
        there, absent: what each side of a cell counts, as :meth:`CellProblem.counted` has it.
        kept: which cells count, or () for all.
        spare: what is left of the room.
    """

    z: Tensor
    there: Tensor
    absent: Tensor
    kept: Tensor
    spare: tuple[Tensor, ...]

    @classmethod
    def of(cls, problem: CellProblem, logits: Tensor, room: Room) -> "Cells":
        """Those of a problem."""
        gradient, spare = room.gradient, iter(room.scratch)
        ignored = _ignored(problem)
        kept = torch.ones((), dtype=torch.bool) if ignored is None else ~ignored
        present, z = problem.target, logits
        if problem.bias is not None:
            z = torch.add(logits, along_classes(problem.bias, logits), out=next(spare))
        elif ignored is not None or logits.dtype != gradient.dtype:
            z = next(spare).copy_(logits)
        if ignored is not None or present.dtype != gradient.dtype:
            present = next(spare).copy_(present)
        if ignored is not None:
            z.masked_fill_(ignored, 0)
            present.masked_fill_(ignored, 0)
        there, absent = problem.counted(present, ignored, spare)
        return cls(z, there, absent, kept, tuple(spare))


def losses(problem: CellProblem, logits: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """A tile's losses, which of its cells count, and its gradient in the room."""
    z, there, absent, kept, memory = Cells.of(problem, logits, room)
    gradient = room.gradient
    value = both_sides(problem, z, there, absent, gradient, memory)[0]
    if not math.isfinite(value.sum().item()):
        # Logits may be infinite, of which 0 times the cost is to be 0: finite ones that give as
        # much, and what costs as much as these costs infinity.
        infinite, largest = z.isinf(), largest_logit(z.dtype)
        value = both_sides(problem, z.clamp(-largest, largest), there, absent, gradient, memory)[0]
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


# Nine numbers per cell are alive at once, for all but rare problems: what those take more is fresh.
ARITHMETIC = Arithmetic(losses, factor=False, scratch=9, smallest=2**17, largest=2**17)
