"""Losses with their gradient written out, for a compiler to fuse.

What a position needs for its gradient is an *output* of forward, so it is computed once per
position. Inlined into backward, as the derivative of the definition is, tail and weights would be
computed once per class. A family whose definition fuses well by itself needs no entry here.

A cell's gradient is computed again in backward, from its logit alone; by autograd it would keep, or
compute, every step of the definition, at four times the time.

For class indices, let x be the edited logits and m the largest of them. Per position

    e_c = exp(x_c − m),   o = Σ_{c ≠ y} e_c,   log p_y = −log1p(o / e_y)

and with f = share · slope / (o + e_y) the gradient by x is f · e_c, but −f · o for the target.

For a distribution, with q_c = weight_c · t'_c, the loss is s · Σ_c q_c · tail(log p_c), and its
gradient by x is s · (p_c · Σ q · slope − q_c · slope_c).
"""

import math
from typing import Any

import torch
from torch import Tensor

from steelyard.ops import compat
from steelyard.ops.problem import (
    Problem,
    Reduction,
    along_classes,
    compute_dtype,
    edited,
    scaled,
    select,
)
from steelyard.ops.sigmoid import CellProblem, both_sides, largest_logit
from steelyard.ops.softmax import SoftmaxProblem


def obstacle(problem: object) -> str | None:
    """Why there is no gradient to write out, if so."""
    # Of problems whose cells belong together the plain formula is all there is.
    if isinstance(problem, SoftmaxProblem) or type(problem) is CellProblem:
        return None
    return "the call is part of a graph that is being compiled, where the plain formula fuses"


def losses(logits: Tensor, problem: Problem, reduction: Reduction) -> Tensor:
    """The losses, reduced."""
    if isinstance(problem, CellProblem):
        return reduction(_Cells.apply(logits, problem), problem, problem.kept())[0]  # type: ignore[no-untyped-call]
    assert isinstance(problem, SoftmaxProblem)
    if not problem.of_indices:
        rows = _Distributions.apply(logits, problem)  # type: ignore[no-untyped-call]
        return reduction(rows, problem, problem.sample_weight)[0]
    ignored = assert_classes(problem, logits.shape[1])
    node = _Distributions if problem.all_classes else _Indices
    rows = node.apply(logits, problem)  # type: ignore[no-untyped-call]
    share = problem.share(problem.target.masked_fill(ignored, 0), ignored)
    return reduction(rows, problem, share)[0]


def assert_classes(problem: SoftmaxProblem, classes: int) -> Tensor:
    """Refuse an index that is no class, when the graph runs; which positions are ignored.

    Compiled code would read outside of its memory, or count from the end.
    """
    target = problem.target
    ignored = target == problem.ignore_index
    compat.assert_async(
        (((target >= 0) & (target < classes)) | ignored).all(),
        f"a target is outside [0, {classes}) and is not ignore_index={problem.ignore_index}; the "
        "same call outside of torch.compile names it",
    )
    return ignored


class _Cells(torch.autograd.Function):
    """Cells, whose gradient is computed again: from it nothing but the logits is to be kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, problem: CellProblem) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.problem = problem
        return _value_and_gradient(logits, problem)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        by_z = _value_and_gradient(logits, ctx.problem)[1]
        return (by_z * gradient).to(logits.dtype), None


def _value_and_gradient(logits: Tensor, problem: CellProblem) -> tuple[Tensor, Tensor]:
    dtype, kept = compute_dtype(logits), problem.kept()
    ignored = kept.logical_not() if kept.ndim else None
    z = logits.to(dtype) if ignored is None else logits.to(dtype).masked_fill(ignored, 0)
    z, largest = problem.edited(z, None), largest_logit(dtype)
    present = problem.target.to(dtype)
    present = present if ignored is None else present.masked_fill(ignored, 0)
    there, absent = problem.counted(present, ignored, iter(()))
    value, gradient = both_sides(problem, z.clamp(-largest, largest), there, absent)
    return value.masked_fill(z.isinf() & (value > largest**0.5), math.inf), gradient


class _Indices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, problem: SoftmaxProblem) -> Tensor:
        ignored = problem.target == problem.ignore_index
        index = problem.target.masked_fill(ignored, 0)
        share = problem.share(index, ignored)
        x_y = _own_logit(logits, problem, index)
        largest = _edited(logits, problem).amax(1)
        if problem.margin is not None:  # the target's own is in it without its margin
            largest = torch.maximum(largest, x_y)
        own = index.int()
        e = (_edited(logits, problem) - largest.unsqueeze(1)).exp()
        others = e.masked_fill(_is_class(logits, own), 0).sum(1)
        apart = x_y - largest
        own_e = apart.exp()
        total, odds = others + own_e, others / own_e
        # Where the target's e has lost digits, a difference of x; 2^60 is written out because
        # Dynamo would make a tensor of a number with a name.
        log_p = torch.where(odds <= 2.0**60, -odds.log1p(), apart - total.log())
        log_p = log_p.masked_fill(ignored, 0)
        rows, slope = problem.tail.with_slope(log_p, problem.parameter_of(index))
        factor = slope / total
        if share is not None:
            rows, factor = scaled(share, rows), share * factor
        nothing = ignored | (factor == 0)
        ctx.save_for_backward(logits, own.masked_fill(nothing, -1), largest, factor, others)
        ctx.problem = problem
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, own, largest, factor, others = ctx.saved_tensors
        problem = ctx.problem
        e = (_edited(logits, problem) - largest.unsqueeze(1)).exp()
        signed = torch.where(_is_class(logits, own), -others.unsqueeze(1), e)
        by_x = signed * (factor * gradient).unsqueeze(1)
        return _by_logits(by_x, own < 0, logits, problem), None


class _Distributions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, problem: SoftmaxProblem) -> Tensor:
        x = _edited(logits, problem)
        largest = x.amax(1)
        log_sum = (x - largest.unsqueeze(1)).exp().sum(1).log()
        share = torch.ones_like(log_sum)
        if problem.sample_weight is not None:
            share = problem.sample_weight
        if problem.of_indices:
            share = share.masked_fill(problem.target == problem.ignore_index, 0)
        log_p = x - largest.unsqueeze(1) - log_sum.unsqueeze(1)
        value, slope = problem.tail.with_slope(log_p, problem.class_parameter(log_p))
        q = _distribution(problem, log_p)
        rows = scaled(q, value).sum(1)
        if problem.of_indices and problem.smoothing == 1:  # PyTorch's 0 of the target's own is NaN
            ignored = problem.target == problem.ignore_index
            index = problem.target.masked_fill(ignored, 0).unsqueeze(1)
            rows = rows + 0 * value.gather(1, index).squeeze(1)
        ctx.save_for_backward(logits, largest, log_sum, (q * slope).sum(1), share)
        ctx.problem = problem
        return scaled(share, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, largest, log_sum, slopes, share = ctx.saved_tensors
        problem = ctx.problem
        log_p = _edited(logits, problem) - largest.unsqueeze(1) - log_sum.unsqueeze(1)
        _, slope = problem.tail.with_slope(log_p, problem.class_parameter(log_p))
        by_x = log_p.exp() * slopes.unsqueeze(1) - _distribution(problem, log_p) * slope
        by_x = by_x * (share * gradient).unsqueeze(1)
        return _by_logits(by_x, share == 0, logits, problem), None


def _by_logits(by_x: Tensor, nothing: Tensor, logits: Tensor, problem: SoftmaxProblem) -> Tensor:
    """The gradient by the logits, for that by the edited ones; 0 at positions that are nothing."""
    if problem.scale is not None:
        by_x = by_x * along_classes(problem.scale, logits)
    # After all else: what an ignored position holds may be NaN.
    return by_x.masked_fill(nothing.unsqueeze(1), 0).to(logits.dtype)


def _own_logit(logits: Tensor, problem: SoftmaxProblem, index: Tensor) -> Tensor:
    """The edited logit of each position's class (N, d…)."""
    x = logits.gather(1, index.unsqueeze(1)).squeeze(1).to(compute_dtype(logits))
    if problem.scale is not None:
        x = x * select(problem.scale, index)
    if problem.bias is not None:
        x = x + select(problem.bias, index)
    return x if problem.margin is None else x - select(problem.margin, index)


def _edited(logits: Tensor, problem: SoftmaxProblem) -> Tensor:
    """The edited logits (N, C, d…); for class indices alone without the margin, the target's."""
    wide = logits.to(compute_dtype(logits))
    if not problem.all_classes:
        return edited(wide, None, problem.scale, problem.bias, None)
    if problem.margin is None or not problem.of_indices:
        return problem.edited(wide, problem.target)
    return problem.edited(wide, _is_class(wide, problem.target.int()).to(wide.dtype))


def _distribution(problem: SoftmaxProblem, like: Tensor) -> Tensor:
    """q, (N, C, d…)."""
    spread = problem.smoothing / like.shape[1]
    if problem.of_indices:
        one_hot = _is_class(like, problem.target.int()).to(like.dtype)
        q = one_hot * (1 - problem.smoothing) + spread
    else:
        q = (1 - problem.smoothing) * problem.target + spread
    return q if problem.weight is None else along_classes(problem.weight, like) * q


def _is_class(logits: Tensor, own: Tensor) -> Tensor:
    """Whether a class is the target's, (N, C, d…)."""
    return along_classes(_classes(logits.shape[1], logits.device), logits) == own.unsqueeze(1)


@torch.library.custom_op("steelyard::classes", mutates_args=())
def _classes(count: int, device: torch.device) -> Tensor:
    """The numbers of all classes, for Inductor to load: it makes those of an arange anew each time.

    In int32, of which a vector register holds as many as of float32.
    """
    return torch.arange(count, dtype=torch.int32, device=device)


@_classes.register_fake
def _(count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.int32, device=device)
