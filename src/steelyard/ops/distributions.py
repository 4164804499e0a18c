"""The arithmetic of a tile for targets that spread over classes: smoothing, and probabilities.

The tail of every class counts, ``Σ_c q_c · tail(log p_c)`` with ``q = weight · t'``. With h, the
tail's derivative by −log p, ``d = q · h`` and ``D = Σ_c d_c``, its gradient is ``p_c · D − d_c``.
"""

import math

import torch
from torch import Tensor

from steelyard.ops.edit import along_classes
from steelyard.ops.indices import HIGH, LOG2E, LOW, edited
from steelyard.ops.tiles import Tile
from steelyard.ops.work import CROSS_ENTROPY, Work, scaled, select


def losses(work: Work, tile: Tile) -> tuple[Tensor, Tensor]:
    """The losses and the shares of a tile's positions; what they need is left in the tile."""
    e, samples, index = tile.e, tile.sample_weight, None
    counts = e.new_ones(e.shape[:1] + e.shape[2:]) if samples is None else samples
    share = counts
    if work.of_indices:
        ignored = tile.target == work.ignore_index
        index = tile.target.masked_fill(ignored, 0)
        counts = counts.masked_fill(ignored, 0)
        weighted = work.share(index, ignored, samples)
        share = counts if weighted is None else weighted
    log_p, total = _log_p(work, tile, index)
    q = _distribution(work, tile, index)
    pull: Tensor | float = 1.0
    if work.tail == CROSS_ENTROPY:
        value = log_p.neg_()
    elif tile.factor is None:
        value = work.tail.value(log_p, work.class_parameter(log_p))
    else:
        value, pull = work.tail.both(log_p, work.class_parameter(log_p))
    if tile.factor is not None:
        d = pull.mul_(q) if isinstance(pull, Tensor) else q
        e.mul_(d.sum(1).div_(total).unsqueeze(1)).sub_(d)
        if work.edit.scale is not None:
            e.mul_(along_classes(work.edit.scale, e))
        tile.factor.copy_(counts)
    found = value.mul_(q).sum(1)
    if not math.isfinite(found.sum().item()):  # 0 · ∞ is to count as 0
        value.masked_fill_(q == 0, 0)
        found = value.sum(1)
        if index is not None and work.smoothing == 1:  # PyTorch's 0 of the target's own is NaN
            found += 0 * value.gather(1, index.unsqueeze(1)).squeeze(1)
    return scaled(counts, found), share


def _log_p(work: Work, tile: Tile, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log p of all classes, and the sums of ``e``, which is left in the tile."""
    x = _edited(work, tile, index)
    total = _sums(x, tile.e)
    if not _in_range(total):
        _edited(work, tile, index)
        if index is not None:  # whatever ignored positions hold; it may be all that was wrong
            x.masked_fill_((tile.target == work.ignore_index).unsqueeze(1), 0)
        total = _sums(x, tile.e)
    if not _in_range(total):
        x.sub_(x.amax(1, keepdim=True))
        total = _sums(x, tile.e)
    return x.sub_(total.log().unsqueeze(1)), total


def _sums(x: Tensor, e: Tensor) -> Tensor:
    """Make ``e`` the exponentials of x, and sum them."""
    return torch.mul(x, LOG2E, out=e).exp2_().sum(1)


def _in_range(total: Tensor) -> bool:
    """Whether the sums are sound; false for NaN."""
    low, high = torch.aminmax(total)
    return low.item() >= LOW and high.item() <= HIGH


def _edited(work: Work, tile: Tile, index: Tensor | None) -> Tensor:
    """The edited logits of a tile, in its room."""
    edit, x = work.edit, tile.room[0]
    if index is not None:
        return edited(edit, 1.0, tile.logits, index.unsqueeze(1), x)
    edited(edit._replace(margin=None), 1.0, tile.logits, tile.target, x)
    if edit.margin is not None:
        x.addcmul_(along_classes(edit.margin, x), tile.target, value=-1)
    return x


def _distribution(work: Work, tile: Tile, index: Tensor | None) -> Tensor:
    """``weight_c · t'_c`` of a tile, in its room."""
    q, smoothing = tile.room[1], float(work.smoothing)
    spread = smoothing / q.shape[1]
    if index is None:
        torch.mul(tile.target, 1 - smoothing, out=q).add_(spread)
        return q if work.weight is None else q.mul_(along_classes(work.weight, q))
    own = torch.full_like(index, 1 - smoothing, dtype=q.dtype)
    if work.weight is None:
        q.fill_(spread)
    else:
        q.copy_(along_classes(work.weight * spread, q))
        own.mul_(select(work.weight, index))
    return q.scatter_add_(1, index.unsqueeze(1), own.unsqueeze(1))
