"""The CPU's engine: plain ATen calls on tiles that stay in the cache.

A tile of logits becomes its losses and, but for one factor per position, its gradient, in memory of
the logits' size where backward finds it; without a gradient the tile's own memory is all there is.
Whatever else is per position lives no longer than its tile.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from steelyard.ops.cpu import distributions, ranks, sigmoid, smoothed, softmax
from steelyard.ops.cpu.pages import empty_like
from steelyard.ops.cpu.walk import Arithmetic, walk
from steelyard.ops.problem import Problem, Reduction, compute_dtype
from steelyard.ops.sigmoid import CellProblem, RankProblem
from steelyard.ops.softmax import SoftmaxProblem


def _of_softmax(problem: SoftmaxProblem) -> Arithmetic:
    if not problem.all_classes:
        return softmax.ARITHMETIC
    return smoothed.ARITHMETIC if smoothed.suits(problem) else distributions.ARITHMETIC


# A family enters here, with the arithmetic of a tile.
FAMILIES: dict[type[Problem], Callable[[Any], Arithmetic]] = {
    SoftmaxProblem: _of_softmax,
    CellProblem: lambda _: sigmoid.ARITHMETIC,
    RankProblem: lambda _: ranks.ARITHMETIC,
}

# The gradient of the losses, and the factor per position with which it is still to be multiplied.
Kept = tuple[Tensor, Tensor | None]


def obstacle(problem: Problem) -> str | None:
    """Why this problem cannot be done in tiles, if so."""
    if type(problem) in FAMILIES:
        return None
    return f"it has no arithmetic for a {type(problem).__name__}"


def forward(
    logits: Tensor, problem: Problem, reduction: Reduction, differentiate: bool
) -> tuple[Tensor, float | None, Kept | None]:
    """The losses, reduced; the divisor of a mean; and what backward wants."""
    shape = logits.shape if problem.per_cell else logits.shape[:1] + logits.shape[2:]
    logits, problem = problem.flat(logits)
    arithmetic = FAMILIES[type(problem)](problem)
    dtype = compute_dtype(logits)
    positions = logits.shape[:1] + logits.shape[2:]
    gradient = factor = kept = None
    # In half precision the gradient would be rounded once more: done again instead.
    if differentiate and logits.dtype == dtype:
        gradient = empty_like(logits)
        factor = logits.new_empty(positions) if arithmetic.factor else None
        kept = gradient, factor
    wanted = gradient is not None
    if reduction.kind == "none":
        losses = logits.new_empty(logits.shape if problem.per_cell else positions, dtype=dtype)
        for part, at, room, out in walk(
            arithmetic, logits, problem, gradient, factor, losses, wanted=wanted
        ):
            out.copy_(arithmetic.losses(at, part, room)[0])
        return losses.view(shape), None, kept
    total = count = 0.0
    for part, at, room in walk(arithmetic, logits, problem, gradient, factor, wanted=wanted):
        losses, share = arithmetic.losses(at, part, room)
        total += losses.sum().item()
        if reduction.kind == "mean" and not isinstance(reduction.over, Tensor):
            count += at.count(reduction.over, share).item()
    value, divisor = reduction.of_numbers(total, count)
    return logits.new_full((), value, dtype=dtype), divisor, kept


def backward(logits: Tensor, problem: Problem, kept: Kept | None, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or of their shape."""
    shape = logits.shape
    logits, problem = problem.flat(logits)
    if gradient.ndim:
        places = logits.shape if problem.per_cell else logits.shape[:1] + logits.shape[2:]
        gradient = gradient.reshape(places)
    if kept is not None:
        return _times(*kept, gradient).view(shape)
    arithmetic = FAMILIES[type(problem)](problem)
    result = empty_like(logits)
    parts = (gradient,) if gradient.ndim else ()
    for part, at, room, out, *upstream in walk(
        arithmetic, logits, problem, None, None, result, *parts, wanted=True
    ):
        arithmetic.losses(at, part, room)
        out.copy_(_times(room.gradient, room.factor, *(upstream or [gradient])))
    return result.view(shape)


def _times(gradient: Tensor, factor: Tensor | None, upstream: Tensor) -> Tensor:
    """``gradient · factor · upstream``, in the place of the gradient."""
    if factor is not None:
        return gradient.mul_(factor.mul_(upstream).unsqueeze(1))
    if upstream.ndim == gradient.ndim - 1:
        upstream = upstream.unsqueeze(1)
    return gradient.mul_(upstream)
