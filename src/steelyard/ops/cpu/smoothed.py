"""The arithmetic of a tile for cross-entropy with label smoothing, in half the passes of others.

With x the edited logits, v = weight · ε/C and u = (1−ε) · weight_y, the loss is linear in log p, so
no class needs a log p of its own:

    ℓ = (u + Σ_c v_c) · log Σ_c e^{x_c} − u · x_y − Σ_c v_c x_c

and its gradient is ``p_c · (u + Σ v) − v_c``, less u for the target. Logits that leave the range of
exponentials without a shift go the way of :mod:`steelyard.ops.cpu.distributions`.
"""

import math

import torch
from torch import Tensor

from steelyard.ops.cpu import distributions
from steelyard.ops.cpu.softmax import HIGH, LOG2E, LOW, edited
from steelyard.ops.cpu.walk import Arithmetic, Room
from steelyard.ops.problem import along_classes, scaled, select
from steelyard.ops.softmax import CROSS_ENTROPY, SoftmaxProblem


def suits(problem: SoftmaxProblem) -> bool:
    """Whether it is cross-entropy of class indices."""
    return problem.of_indices and problem.tail == CROSS_ENTROPY


def losses(problem: SoftmaxProblem, logits: Tensor, room: Room) -> tuple[Tensor, Tensor]:
    """The losses and the shares of a tile's positions, and its gradient in the room."""
    e, weight, smoothing = room.gradient, problem.weight, float(problem.smoothing)
    ignored = problem.target == problem.ignore_index
    index = problem.target.masked_fill(ignored, 0)
    spread = smoothing / e.shape[1]
    v = None if weight is None else weight * spread
    u = e.new_full(index.shape, 1 - smoothing)
    if weight is not None:
        u.mul_(select(weight, index))
    whole = u + (smoothing if v is None else v.sum())
    x = edited(problem, LOG2E, logits, index.unsqueeze(1), e)
    value, total = _losses(x, index, u, v, spread, whole)
    if not _sound(value, total):
        # Whatever ignored positions hold; it may be all that was wrong, and no other may feel it.
        x = edited(problem, LOG2E, logits, index.unsqueeze(1), e)
        x.masked_fill_(ignored.unsqueeze(1), 0)
        value, total = _losses(x, index, u, v, spread, whole)
    if not _sound(value, total):
        many = range(distributions.ARITHMETIC.scratch)
        scratch = tuple(torch.empty_like(e) for _ in many)
        return distributions.losses(problem, logits, room._replace(scratch=scratch))
    counts = ignored.logical_not().to(e.dtype)
    if problem.sample_weight is not None:
        counts.mul_(problem.sample_weight)
    share = counts if weight is None else counts * select(weight, index)
    if room.factor is not None:
        e.mul_(whole.div_(total).unsqueeze(1)).sub_(spread if v is None else along_classes(v, e))
        e.scatter_add_(1, index.unsqueeze(1), u.neg_().unsqueeze(1))
        if problem.scale is not None:
            e.mul_(along_classes(problem.scale, e))
        room.factor.copy_(counts)
    return scaled(counts, value), share


def _losses(
    x: Tensor, index: Tensor, u: Tensor, v: Tensor | None, spread: float, whole: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses before they are counted, and the sums of the exponentials, which take x's place."""
    x_y = x.gather(1, index.unsqueeze(1)).squeeze(1)
    others = x.sum(1).mul_(spread) if v is None else torch.einsum("nc...,c->n...", x, v)
    total = x.exp2_().sum(1)
    return whole * total.log() - (u * x_y).add_(others).div_(LOG2E), total


def _sound(value: Tensor, total: Tensor) -> bool:
    """Whether the numbers are; false for NaN."""
    low, high = torch.aminmax(total)
    return low.item() >= LOW and high.item() <= HIGH and math.isfinite(value.sum().item())


ARITHMETIC = Arithmetic(losses, smallest=2**16)
