"""The arithmetic of a tile for class indices, in powers of two.

With ``exp2``, the fastest exponential that torch has:

    x = log2(e) · edited logits,   e = 2^x,   o = Σ_{c ≠ y} e_c,   log p_y = −ln(1 + o / e_y)

The gradient is ``share · slope · p_c`` for c ≠ y, and ``−share · slope · (1 − p_y)`` for the
target: e with −o in the target's place, times the factor ``share · slope / (o + e_y)``. The
target's own e is kept out of the sum so that a p_y near 1 loses no digit.

To subtract the largest logit first, as one usually does, costs as much as the rest. It is needed
only where the sums leave the range that a float32 carries with ease, which they show themselves:
such a tile is done again, with it.
"""

import math

import torch
from torch import Tensor

from steelyard.ops.cpu.walk import Arithmetic, Room
from steelyard.ops.problem import along_classes
from steelyard.ops.softmax import SoftmaxProblem

LOG2E = math.log2(math.e)

# The target's e and the sum lie within where no shift is needed: no e overflows, those that vanish
# are nothing beside the sum, and the odds keep their digits.
LOW, HIGH = 2.0**-60, 2.0**60


def losses(problem: SoftmaxProblem, logits: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """The losses and the shares of a tile's positions, and its gradient in the room."""
    e, factor = room.gradient, room.factor
    ignored = problem.target == problem.ignore_index
    index = problem.target.masked_fill(ignored, 0)
    share = problem.share(index, ignored)
    if share is None:
        share = ignored.logical_not().to(e.dtype)
    own = index.unsqueeze(1)
    others, total, log_p = _exponentials(problem, logits, own, ignored, share, room)
    parameter = problem.parameter_of(index)
    if factor is None:
        return problem.tail.value(log_p, parameter).mul_(share), share
    torch.div(share, total, out=factor)
    e.scatter_(1, own, others.neg_().unsqueeze(1))
    if problem.scale is not None:
        e.mul_(along_classes(problem.scale, e))
    del ignored, index, own, others, total  # much beside few classes, and the tail takes more
    value, slope = problem.tail.with_slope(log_p, parameter)
    factor.mul_(slope)
    return value.mul_(share), share


def _exponentials(
    problem: SoftmaxProblem,
    logits: Tensor,
    own: Tensor,
    ignored: Tensor,
    share: Tensor,
    room: Room,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill the gradient with e, 0 for the target; the sums without and with it, and its log p."""
    e = room.gradient
    edited(problem, LOG2E, logits, own, e)
    others, e_y = _sums(e, own)
    sound = _in_range(e_y, others)
    if not sound:
        # Whatever ignored positions hold; it may be all that was wrong, and no other may feel it.
        edited(problem, LOG2E, logits, own, e).masked_fill_(ignored.unsqueeze(1), 0)
        others, e_y = _sums(e, own)
        sound = _in_range(e_y, others)
    if sound:
        log_p = (others / e_y).log1p_().neg_()
        return others, e_y.add_(others), log_p
    x = edited(problem, 1.0, logits, own, e).masked_fill_(ignored.unsqueeze(1), 0)
    x.sub_(x.amax(1, keepdim=True))
    x_y = x.gather(1, own).squeeze(1)
    others, e_y = _sums(x.mul_(LOG2E), own)
    total = others + e_y
    # Where the target's e has lost digits, or is 0: a difference of x.
    log_p = (others / e_y).log1p_().neg_().where(e_y >= LOW, x_y - total.log())
    return others, total, log_p.masked_fill_(share == 0, 0)  # 0 · ∞ is to count as 0


def _in_range(e_y: Tensor, others: Tensor) -> bool:
    """Whether the numbers are sound; false for NaN, and for a target's logit that is infinite."""
    low, high = torch.aminmax(e_y)
    return low.item() >= LOW and high.item() < math.inf and others.amax().item() <= HIGH


def _sums(x: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Turn x into e, but 0 for the target class; the sum of these, and the target's e."""
    e = x.exp2_()
    e_y = e.gather(1, own)
    e.scatter_(1, own, torch.zeros_like(e_y))  # a number in its place takes three times as long
    return e.sum(1), e_y.squeeze(1)


def edited(
    problem: SoftmaxProblem, unit: float, logits: Tensor, own: Tensor | None, out: Tensor
) -> Tensor:
    """``unit`` times the edited logits, in ``out``.

    The target classes ``own`` are (n, 1) or (n, 1, s); None for a target of probabilities.
    """
    scale = unit if problem.scale is None else along_classes(problem.scale, out) * unit
    if logits.dtype == out.dtype:
        x = torch.mul(logits, scale, out=out)
    else:
        x = out.copy_(logits).mul_(scale)
    if problem.bias is not None:
        x.add_(along_classes(problem.bias, out), alpha=unit)
    if problem.margin is not None:
        if own is None:
            x.addcmul_(along_classes(problem.margin, x), problem.target, value=-unit)
        else:
            x.scatter_add_(1, own, problem.margin[own] * -unit)
    return x


ARITHMETIC = Arithmetic(losses)
