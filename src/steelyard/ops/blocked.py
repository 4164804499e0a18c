"""The CPU's engine: plain ATen calls on tiles that stay in the cache.

A tile of logits becomes its losses and, but for one factor per position, its gradient, in memory of
the logits' size where backward finds it; without a gradient the tile's own memory is all there is.
Whatever else is per position lives no longer than its tile. :mod:`steelyard.ops.indices` has a
tile's arithmetic for class indices, :mod:`steelyard.ops.distributions` for targets that spread over
classes.
"""

from typing import NamedTuple

from torch import Tensor

from steelyard.ops import distributions, indices
from steelyard.ops.fused import Found, counted, found
from steelyard.ops.pages import empty_like
from steelyard.ops.tiles import Flat
from steelyard.ops.work import Mean, Work


class Kept(NamedTuple):
    """The gradient of the losses, in two parts."""

    e: Tensor  # of the logits' shape
    factor: Tensor  # one per position, by which e is to be multiplied


def forward(logits: Tensor, work: Work, mean: Mean | None, differentiate: bool) -> Found:
    """The losses (N, d…) of positions, or their mean."""
    flat = Flat.of(logits, work)
    kept = None
    # In half precision e would be rounded once more than the gradient: done again instead.
    if differentiate and logits.dtype == flat.dtype:
        kept = Kept(empty_like(flat.logits), flat.per_position())
    e, factor = kept or (None, None)
    arithmetic = distributions.losses if work.all_classes else indices.losses
    if mean is None:
        rows = flat.per_position()
        for tile, out in flat.tiles(e, factor, rows, differentiate=False):
            out.copy_(arithmetic(work, tile)[0])
        return Found(rows.view(logits.shape[:1] + logits.shape[2:]), None, kept)
    total = divisor = 0.0
    for (tile,) in flat.tiles(e, factor, differentiate=False):
        loss, share = arithmetic(work, tile)
        total += loss.sum().item()
        divisor += counted(mean, share, tile.target, work)
    return found(mean, total, divisor, logits, kept)


def backward(logits: Tensor, work: Work, kept: Kept | None, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…)."""
    flat = Flat.of(logits, work)
    gradient = gradient.reshape(flat.positions) if gradient.ndim else gradient
    if kept is not None:
        return _times(*kept, gradient).view(logits.shape)
    arithmetic = distributions.losses if work.all_classes else indices.losses
    result = empty_like(flat.logits)
    gradient = gradient.expand(flat.positions)
    for tile, out, g in flat.tiles(None, None, result, gradient, differentiate=True):
        arithmetic(work, tile)
        out.copy_(_times(tile.e, tile.factor, g))
    return result.view(logits.shape)


def _times(e: Tensor, factor: Tensor, gradient: Tensor) -> Tensor:
    """``e · factor · gradient``, in the place of e."""
    return e.mul_(factor.mul_(gradient).unsqueeze(1))
