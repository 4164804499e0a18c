"""The primitive on the CPU: plain ATen calls on tiles that stay in the cache.

Per tile of positions, in powers of two (``exp2`` is the fastest exponential that torch has):

    x = log2(e) · edit(logits),   e = 2^x,   s = Σ_c e_c,   log p_y = ln(e_y / s)

and backward, for the gradient g of log p_y: g · (onehot_y − e / s). One multiplication, and one
addition per position, turn the e that forward kept into the gradient where it lies, so forward and
backward together allocate one tensor of the logits' size; without a gradient, none.

To subtract the largest logit first, as one usually does, costs as much as the rest. It is needed
only where s leaves the range that a float32 carries with ease, and s itself shows that: such a
tile is done again, with it.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops import reference
from steelyard.ops.edit import Edit, compute_dtype
from steelyard.ops.pages import empty_like

LOG2E = math.log2(math.e)

# Elements of a tile: so many that waking the threads is nothing, so few that they stay in cache.
TILE = 2**20

# Sums that need no shift: no e overflows, and those that vanish are nothing beside s.
LOW, HIGH = 2.0**-60, 2.0**60

# A smaller p has lost digits: its logarithm is taken as a difference.
TINY = 2.0**-100


def row_logprob(logits: Tensor, target: Tensor, edit: Edit, ignore_index: int) -> Tensor:
    """:func:`steelyard.ops.reference.row_logprob`, for tensors on the CPU."""
    if logits.requires_grad and torch.is_grad_enabled():
        return _RowLogprob.apply(logits, target, edit, ignore_index)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(_Job.of(logits, target, edit, ignore_index), None, None).view(target.shape)


class _RowLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, edit: Edit, ignore_index: int) -> Tensor:
        job = _Job.of(logits, target, edit, ignore_index)
        ctx.kept = ctx.total = None
        # In half precision e would be rounded once more than the gradient: done again instead.
        if logits.dtype == job.dtype:
            ctx.kept = empty_like(job.logits)
            ctx.total = job.logits.new_empty(job.target.shape)
        ctx.save_for_backward(logits, target)
        ctx.edit, ctx.ignore_index = edit, ignore_index
        return _forward(job, ctx.kept, ctx.total).view(target.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        logits, target = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the reference has derivatives of every order
            log_p = reference.row_logprob(logits, target, ctx.edit, ctx.ignore_index)
            (result,) = torch.autograd.grad(log_p, logits, gradient, create_graph=True)
            return result, None, None, None
        # Let go of e: autograd clones a gradient that something else holds. Backward a second
        # time does it again.
        kept, ctx.kept = ctx.kept, None
        job = _Job.of(logits, target, ctx.edit, ctx.ignore_index)
        gradient = gradient.reshape(job.target.shape)
        return _backward(job, gradient, kept, ctx.total).view(logits.shape), None, None, None


class _Job(NamedTuple):
    """One call, flat: logits (N, C, S), with S = 1 for plain rows, and target (N, S)."""

    logits: Tensor
    target: Tensor
    edit: Edit
    ignore_index: int
    dtype: torch.dtype

    @classmethod
    def of(cls, logits: Tensor, target: Tensor, edit: Edit, ignore_index: int) -> "_Job":
        return cls(
            logits.unsqueeze(2) if logits.ndim == 2 else logits.flatten(2),
            target.unsqueeze(1) if target.ndim == 1 else target.flatten(1),
            edit,
            ignore_index,
            compute_dtype(logits),
        )

    def tiles(self, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Cut tensors (N, …, S) alike along N and S; None stays None."""
        n, classes, s = self.logits.shape
        positions = max(1, TILE // classes)
        if n * s <= positions:
            if n * s:
                yield tensors
            return
        rows, columns = max(1, positions // s), min(s, positions)
        for i in range(0, n, rows):
            for j in range(0, s, columns):
                yield tuple(
                    None if t is None else t[i : i + rows, ..., j : j + columns] for t in tensors
                )

    def scratch(self) -> Tensor:
        """Room for one tile."""
        n, classes, s = self.logits.shape
        return self.logits.new_empty(min(n * s, max(1, TILE // classes)) * classes, dtype=self.dtype)


def _forward(job: _Job, kept: Tensor | None, totals: Tensor | None) -> Tensor:
    """log p_y (N, S), leaving e in ``kept`` and s in ``totals`` where these are given."""
    result = job.logits.new_empty(job.target.shape, dtype=job.dtype)
    scratch = job.scratch() if kept is None else None
    for logits, target, log_p, e, total in job.tiles(
        job.logits, job.target, result, kept, totals
    ):
        if e is None:
            e = scratch[: logits.numel()].view(logits.shape)
        ignored = target == job.ignore_index
        x_y, s = _exponentials(job, logits, target, ignored, e, total)
        _log_ratio(x_y, s, log_p).masked_fill_(ignored, 0)
    return result


def _backward(job: _Job, gradient: Tensor, kept: Tensor | None, totals: Tensor | None) -> Tensor:
    """The gradient (N, C, S) for that of log p_y (N, S)."""
    result = empty_like(job.logits) if kept is None else kept
    scratch = job.scratch() if result.dtype != job.dtype else None
    for logits, target, g, out, s in job.tiles(job.logits, job.target, gradient, result, totals):
        e = out if scratch is None else scratch[: logits.numel()].view(logits.shape)
        ignored = target == job.ignore_index
        if kept is None:
            _, s = _exponentials(job, logits, target, ignored, e, None)
        g = g.masked_fill(ignored, 0).unsqueeze(1)
        e.mul_(g.div(s.unsqueeze(1)).neg_())
        e.scatter_add_(1, target.masked_fill(ignored, 0).unsqueeze(1), g)
        if job.edit.scale is not None:
            e.mul_(job.edit.scale.unsqueeze(1))
        if e is not out:
            out.copy_(e)
    return result


def _exponentials(
    job: _Job, logits: Tensor, target: Tensor, ignored: Tensor, e: Tensor, total: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Fill ``e`` (n, C, s) of one tile, and return x_y and s, (n, s)."""
    index = target.masked_fill(ignored, 0).unsqueeze(1)
    x = _edited(job.edit, LOG2E, logits, index, e)
    x_y = x.gather(1, index).squeeze(1)
    s = torch.sum(x.exp2_(), 1, out=total) if total is not None else x.exp2_().sum(1)
    low, high = torch.aminmax(s)
    if low.item() >= LOW and high.item() <= HIGH:  # false for NaN
        return x_y, s
    x = _edited(job.edit, 1.0, logits, index, e)
    # Whatever ignored positions hold: times a gradient of 0, NaN would still be NaN.
    x.masked_fill_(ignored.unsqueeze(1), 0)
    x.sub_(x.amax(1, keepdim=True)).mul_(LOG2E)
    x_y = x.gather(1, index).squeeze(1)
    return x_y, torch.sum(x.exp2_(), 1, out=s)


def _edited(edit: Edit, unit: float, logits: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """``unit · edit(logits)`` of a tile (n, C, s) with target classes ``index`` (n, 1, s)."""
    scale = unit if edit.scale is None else edit.scale.unsqueeze(1) * unit
    if logits.dtype == out.dtype:
        x = torch.mul(logits, scale, out=out)
    else:
        x = out.copy_(logits).mul_(scale)
    if edit.bias is not None:
        x.add_(edit.bias.unsqueeze(1), alpha=unit)
    if edit.margin is not None:
        x.scatter_add_(1, index, edit.margin[index] * -unit)
    return x


def _log_ratio(x_y: Tensor, s: Tensor, out: Tensor) -> Tensor:
    """ln(2^x_y / s), in ``out``."""
    p = x_y.exp2().div_(s)
    torch.log(p, out=out).clamp_(max=0)  # 2^x_y may be one digit more than its e in s
    if not p.amin().item() >= TINY:
        exact = x_y.sub(s.log2()).mul_(1 / LOG2E)
        torch.where(p >= TINY, out, exact, out=out)
    return out
