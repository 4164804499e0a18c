"""The arithmetic of a tile of ZLPR: two sums of exponentials per position, and their logarithms.

With A = Σ_c absent_c e^z_c and B = Σ_c there_c e^−z_c a position costs ``log(1 + A) + log(1 + B)``,
and its gradient is ``absent_c e^z_c / (1 + A) − there_c e^−z_c / (1 + B)``. No shift is needed but
where a sum leaves the range of its dtype, which it shows itself: the definition does such a tile.
"""

import math

import torch
from torch import Tensor

from steelyard.ops.cpu.sigmoid import Cells
from steelyard.ops.cpu.walk import Arithmetic, Room
from steelyard.ops.problem import scaled
from steelyard.ops.sigmoid import RankProblem

_LOG2E = math.log2(math.e)


def losses(problem: RankProblem, logits: Tensor, room: Room) -> tuple[Tensor, Tensor | None]:
    """A tile's losses, which of its cells count, and its gradient in the room."""
    samples = problem.sample_weight  # of positions, not of cells: they count in the end
    z, there, absent, kept, spare = Cells.of(problem.at(problem.target, None), logits, room)
    x = torch.mul(z, _LOG2E, out=next(iter(spare), None))
    gradient = torch.exp2(x, out=room.gradient).mul_(absent)
    missed = x.neg_().exp2_().mul_(there)
    above, below = gradient.sum(1), missed.sum(1)
    value = above.log1p() + below.log1p()
    if not math.isfinite(value.sum().item()):
        return _by_definition(problem, logits, room)
    if room.wanted:
        gradient.div_(above.add_(1).unsqueeze(1)).sub_(missed.div_(below.add_(1).unsqueeze(1)))
        if samples is not None:
            gradient.mul_(samples)
    return (value if samples is None else scaled(samples.squeeze(1), value)), kept


def _by_definition(
    problem: RankProblem, logits: Tensor, room: Room
) -> tuple[Tensor, Tensor | None]:
    """The same, of any logits."""
    with torch.set_grad_enabled(room.wanted):
        leaf = logits.detach().requires_grad_(room.wanted)
        rows, kept = problem.losses(leaf)
        if room.wanted:
            room.gradient.copy_(torch.autograd.grad(rows.sum(), leaf)[0])
    return rows.detach(), kept


# Six numbers per cell are alive at once, for all but rare problems.
ARITHMETIC = Arithmetic(losses, factor=False, scratch=6, smallest=2**17, largest=2**17)
