"""The arithmetic of a tile for targets that spread over classes: smoothing, and probabilities.

The tail of every class counts, ``Σ_c q_c · tail(log p_c)`` with ``q = weight · t'``. With
``d = q · slope`` and ``D = Σ_c d_c`` its gradient is ``p_c · D − d_c``.
"""

import math

import torch
from torch import Tensor

from steelyard.ops.cpu.softmax import HIGH, LOG2E, LOW, edited
from steelyard.ops.cpu.walk import Arithmetic, Room
from steelyard.ops.problem import along_classes, scaled, select
from steelyard.ops.softmax import CROSS_ENTROPY, SoftmaxProblem


def losses(problem: SoftmaxProblem, logits: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """The losses and the shares of a tile's positions, and its gradient in the room."""
    e, samples, index = room.gradient, problem.sample_weight, None
    counts = e.new_ones(e.shape[:1] + e.shape[2:]) if samples is None else samples
    share = counts
    if problem.of_indices:
        ignored = problem.target == problem.ignore_index
        index = problem.target.masked_fill(ignored, 0)
        counts = counts.masked_fill(ignored, 0)
        weighted = problem.share(index, ignored)
        share = counts if weighted is None else weighted
    x = room.scratch[0]
    total = _exponentials(problem, logits, index, x, room)
    # Rounded, it may lie above 0, where no tail is at home.
    log_p = x.sub_(total.log().unsqueeze(1)).clamp_(max=0)
    q = _distribution(problem, index, room.scratch[1])
    slope: Tensor | float = 1.0
    if problem.tail == CROSS_ENTROPY:
        value = log_p.neg_()
    elif room.factor is None:
        value = problem.tail.value(log_p, problem.class_parameter(log_p))
    else:
        value, slope = problem.tail.with_slope(log_p, problem.class_parameter(log_p))
    if room.factor is not None:
        d = slope.mul_(q) if isinstance(slope, Tensor) else q
        e.mul_(d.sum(1).div_(total).unsqueeze(1)).sub_(d)
        if problem.scale is not None:
            e.mul_(along_classes(problem.scale, e))
        room.factor.copy_(counts)
    each = value.mul_(q).sum(1)
    if not math.isfinite(each.sum().item()):  # 0 · ∞ is to count as 0
        value.masked_fill_(q == 0, 0)
        each = value.sum(1)
        if index is not None and problem.smoothing == 1:  # PyTorch's 0 of the target's own is NaN
            each += 0 * value.gather(1, index.unsqueeze(1)).squeeze(1)
    return scaled(counts, each), share


def _exponentials(
    problem: SoftmaxProblem, logits: Tensor, index: Tensor | None, x: Tensor, room: Room
) -> Tensor:
    """Make ``x`` the edited logits, shifted where need be, the gradient e, exponentials; Σ e."""
    e = room.gradient
    own = None if index is None else index.unsqueeze(1)
    edited(problem, 1.0, logits, own, x)
    total = _sums(x, e)
    if not _in_range(total):
        edited(problem, 1.0, logits, own, x)
        if index is not None:  # whatever ignored positions hold; it may be all that was wrong
            x.masked_fill_((problem.target == problem.ignore_index).unsqueeze(1), 0)
        total = _sums(x, e)
    if not _in_range(total):
        x.sub_(x.amax(1, keepdim=True))
        total = _sums(x, e)
    return total


def _sums(x: Tensor, e: Tensor) -> Tensor:
    """Make ``e`` the exponentials of x, and sum them."""
    return torch.mul(x, LOG2E, out=e).exp2_().sum(1)


def _in_range(total: Tensor) -> bool:
    """Whether the sums are sound; false for NaN."""
    low, high = torch.aminmax(total)
    return low.item() >= LOW and high.item() <= HIGH


def _distribution(problem: SoftmaxProblem, index: Tensor | None, q: Tensor) -> Tensor:
    """``weight_c · t'_c`` of a tile, in q."""
    smoothing, weight = float(problem.smoothing), problem.weight
    spread = smoothing / q.shape[1]
    if index is None:
        torch.mul(problem.target, 1 - smoothing, out=q).add_(spread)
        return q if weight is None else q.mul_(along_classes(weight, q))
    own = torch.full_like(index, 1 - smoothing, dtype=q.dtype)
    if weight is None:
        q.fill_(spread)
    else:
        q.copy_(along_classes(weight * spread, q))
        own.mul_(select(weight, index))
    return q.scatter_add_(1, index.unsqueeze(1), own.unsqueeze(1))


# It has many passes: on less than this one thread is half as fast.
ARITHMETIC = Arithmetic(losses, scratch=2, smallest=2**16)
