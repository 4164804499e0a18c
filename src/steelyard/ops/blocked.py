"""The CPU's engine: plain ATen calls on tiles that stay in the cache.

For class indices, per tile of positions and in powers of two (``exp2`` is the fastest exponential
that torch has):

    x = log2(e) · edit(logits),   e = 2^x,   o = Σ_{c ≠ y} e_c,   log p_y = −ln(1 + o / e_y)

and backward, for the gradient g of log p_y: −g · e_c / (o + e_y), and g · (1 − p_y) for the target.
One multiplication, and one addition per position, turn the e that forward kept into the gradient
where it lies, so forward and backward together allocate one tensor of the logits' size; without a
gradient, none. The target's own e is kept out of the sum so that a p_y near 1 loses no digit.

To subtract the largest logit first, as one usually does, costs as much as the rest. It is needed
only where the sums leave the range that a float32 carries with ease, which they show themselves:
such a tile is done again, with it.
"""

import math

import torch
from torch import Tensor

from steelyard.ops import distributions
from steelyard.ops.edit import Edit
from steelyard.ops.fused import Kept
from steelyard.ops.pages import empty_like
from steelyard.ops.tiles import Flat
from steelyard.ops.work import Work

LOG2E = math.log2(math.e)

# Sums that need no shift: no e overflows, and those that vanish are nothing beside the sum.
LOW, HIGH = 2.0**-60, 2.0**60

# With longer odds against the target its e has lost digits, or is 0: a difference of x, then.
LONGEST = 2.0**100


def forward(logits: Tensor, work: Work, keep: bool) -> tuple[Tensor, Kept]:
    """One loss per position (N, d…), and what :func:`backward` wants of it."""
    flat = Flat.of(logits, work)
    shape = logits.shape[:1] + logits.shape[2:]
    if work.all_classes:
        rows = distributions.forward(flat)
        return rows.view(shape), Kept(rows.new_empty(0))
    kept = Kept(flat.empty_positions())
    # In half precision e would be rounded once more than the gradient: done again instead.
    if keep and logits.dtype == flat.dtype:
        kept = kept._replace(e=empty_like(flat.logits), total=flat.empty_positions())
    index = _log_p(flat, kept)
    rows = work.tail.value(kept.log_p, work.parameter_of(index))
    if flat.share is not None:
        rows = rows * flat.share
    return rows.view(shape), kept


def backward(logits: Tensor, work: Work, kept: Kept, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…)."""
    flat = Flat.of(logits, work)
    if gradient.ndim:
        gradient = gradient.reshape(flat.target.shape[:1] + flat.logits.shape[2:])
    if work.all_classes:
        return distributions.backward(flat, gradient).view(logits.shape)
    # Every target is a class here or ignored, and what an ignored one's class is does not matter.
    index = flat.target.clamp(0, logits.shape[1] - 1)
    slope = work.tail.slope(kept.log_p, work.parameter_of(index)).mul_(gradient)
    if flat.share is not None:
        slope.mul_(flat.share)
    else:
        slope.masked_fill_(flat.ignored(), 0)
    return _gradient(flat, kept, slope, index).view(logits.shape)


def _log_p(flat: Flat, kept: Kept) -> Tensor:
    """Fill ``kept``, and return the classes of all positions (N, S), 0 where ignored."""
    ignored = flat.ignored()
    classes = flat.target.masked_fill(ignored, 0)
    scratch = flat.scratch() if kept.e is None else kept.e.new_empty(0)
    for logits, index, skip, share, log_p, e, total in flat.tiles(
        flat.logits, classes, ignored, flat.share, kept.log_p, kept.e, kept.total
    ):
        if e is None:
            e = scratch[: logits.numel()].view(logits.shape)
        _exponentials(flat.work.edit, logits, index, skip, share, e, total, log_p)
        log_p.masked_fill_(skip, 0)
    return classes


def _gradient(flat: Flat, kept: Kept, gradient: Tensor, classes: Tensor) -> Tensor:
    """The gradient (N, C, S) for that of log p, (N, S), which is 0 where ignored."""
    edit = flat.work.edit
    again = kept.e is None
    result = empty_like(flat.logits) if kept.e is None else kept.e
    scratch = flat.scratch() if result.dtype != flat.dtype else None
    ignored = flat.ignored() if again else None
    for logits, index, skip, g, log_p, out, total in flat.tiles(
        flat.logits, classes, ignored, gradient, kept.log_p, result, kept.total
    ):
        e = out if scratch is None else scratch[: logits.numel()].view(logits.shape)
        if again:
            total = _exponentials(edit, logits, index, skip, None, e, total, torch.empty_like(g))
        e.mul_(g.div(total).neg_().unsqueeze(1))
        e.scatter_add_(1, index.unsqueeze(1), (log_p.expm1().neg_().mul_(g)).unsqueeze(1))
        if edit.scale is not None:
            e.mul_(edit.scale.unsqueeze(1))
        if e is not out:
            out.copy_(e)
    return result


def _exponentials(
    edit: Edit,
    logits: Tensor,
    index: Tensor,
    ignored: Tensor,
    share: Tensor | None,
    e: Tensor,
    total: Tensor | None,
    log_p: Tensor,
) -> Tensor:
    """Fill ``e`` (n, C, s) and ``log_p`` (n, s) of one tile; the sums, in ``total`` if given."""
    own = index.unsqueeze(1)
    total = torch.empty_like(log_p) if total is None else total
    edited(edit, LOG2E, logits, own, e)
    if _without_shift(e, own, total, log_p):
        return total
    # Whatever ignored positions hold; it may be all that was wrong, and no other may feel it.
    edited(edit, LOG2E, logits, own, e).masked_fill_(ignored.unsqueeze(1), 0)
    if _without_shift(e, own, total, log_p):
        return total
    x = edited(edit, 1.0, logits, own, e).masked_fill_(ignored.unsqueeze(1), 0)
    x.sub_(x.amax(1, keepdim=True))
    x_y = x.gather(1, own).squeeze(1)
    odds = _sums(x.mul_(LOG2E), own, total)
    torch.where(odds <= LONGEST, odds.log1p().neg_(), x_y - total.log(), out=log_p)
    if share is not None:
        log_p.masked_fill_(share == 0, 0)  # 0 · ∞ is to count as 0
    return total


def _without_shift(x: Tensor, own: Tensor, total: Tensor, log_p: Tensor) -> bool:
    """Go from x on, and say whether the numbers are sound."""
    odds = _sums(x, own, total)
    torch.log1p(odds, out=log_p).neg_()
    low, high = torch.aminmax(total)
    # Each is false for NaN.
    return low.item() >= LOW and high.item() <= HIGH and odds.amax().item() <= LONGEST


def _sums(x: Tensor, own: Tensor, total: Tensor) -> Tensor:
    """Turn x into e, but 0 for the target class; the odds against that class, (n, s)."""
    e = x.exp2_()
    e_y = e.gather(1, own)
    e.scatter_add_(1, own, -e_y)
    e_y = e_y.squeeze(1)
    others = torch.sum(e, 1, out=total)
    odds = others / e_y
    total.add_(e_y)
    return odds


def edited(edit: Edit, unit: float, logits: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """``unit · edit(logits)`` of a tile (n, C, s) with the target classes ``index`` (n, 1, s)."""
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
