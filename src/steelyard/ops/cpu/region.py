"""Sums over regions on the CPU: one read of the logits, tile by tile, and no one-hot target.

A tile of logits becomes p, which is kept in the memory that will be the gradient's, and its sums.
With g the derivative of the loss by p,

    ∂/∂z_j = p_j · (g_j − Σ_c p_c g_c)   softmax        ∂/∂z = p · (1 − p) · g   sigmoid

For the softmax and class indices y, which most masks are, P is the product of a matrix and a
vector, and the other sums are of one number per pixel, which goes to its class. With a, b and l the
derivatives by I, P and L, G = Σ_c p_c b_c + p_y a_y and k = s · l_y

    ∂/∂z_j = p_j · (s · (b_j + [j = y] · a_y − G) + k) − [j = y] · k

Everything else takes the targets of all classes, of one tile at a time.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.ops import compat
from steelyard.ops.cpu.pages import empty_like, scratch
from steelyard.ops.cpu.softmax import HIGH, LOG2E, LOW
from steelyard.ops.problem import compute_dtype
from steelyard.ops.region import Overlap, Slopes

# Elements of a tile: so many that its calls and the waking of threads are little, so few that it
# stays in the cache with what is computed from it.
TILE = 2**19

_AS_IT_IS = nullcontext()


class Tile(NamedTuple):
    """Some pixels of some images.

    Attributes:
        at: which, as :func:`_part` takes it.
        items: which of the sums they add to.
        logits: (n, C, s).
        target: (n, s) or (n, C, s).
        sample_weight: (n, 1, s) or (n, C, s), or None.
        p: of the logits' shape, for p, and then for the gradient.
        rooms: as many of the logits' shape as :func:`_rooms` says, to compute in.
    """

    at: tuple[int, int, int, int]
    items: slice
    logits: Tensor
    target: Tensor
    sample_weight: Tensor | None
    p: Tensor
    rooms: list[Tensor]


def forward(
    logits: Tensor, overlap: Overlap, *, differentiate: bool
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """I, P, L and the masses of the targets, (N, C) or (1, C); and p, which backward wants."""
    dtype = compute_dtype(logits)
    n, classes, _ = logits.shape
    # In half precision p would be rounded once more: done again instead.
    kept = empty_like(logits) if differentiate and logits.dtype == dtype else None
    # Many small numbers are added up here: in float64 none is lost, and there are few sums.
    totals = logits.new_zeros(6, 1 if overlap.batch else n, classes, dtype=torch.float64)
    of_tile = _sums_by_index if is_plain(overlap) else _sums_of_cells
    with _in_full():
        for tile in _tiles(logits, overlap, kept):
            found = torch.stack(of_tile(tile, overlap))
            totals[:, tile.items] += found.sum(1, keepdim=True) if overlap.batch else found
    return tuple(totals.to(dtype)), kept


def backward(logits: Tensor, overlap: Overlap, kept: Tensor | None, slopes: Slopes) -> Tensor:
    """The gradient by the logits."""
    plain = is_plain(overlap)
    of_tile = _sums_by_index if plain else _sums_of_cells
    gradient = _gradient_by_index if plain else _gradient_of_cells
    result = empty_like(logits) if kept is None else kept
    with _in_full():
        for tile in _tiles(logits, overlap, kept):
            if kept is None:
                of_tile(tile, overlap)
            at = tile.items
            logs = None if slopes.logs is None else slopes.logs[at]
            gradient(tile, overlap, Slopes(slopes.both[at], slopes.predicted[at], logs))
            if kept is None:
                _part(result, *tile.at).copy_(tile.p)
    return result


def _in_full() -> AbstractContextManager[object]:
    """Autocast, where it is on, would do the products of matrices in half precision."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else _AS_IT_IS


def obstacle(overlap: Overlap) -> str | None:
    """Why the sums cannot be done here, if so."""
    if overlap.logs and not is_plain(overlap):
        return "it sums log p for class indices without smoothing alone"
    return None


def is_plain(overlap: Overlap) -> bool:
    """Whether the class of each pixel is all that the softmax has to meet."""
    smoothed = isinstance(overlap.smoothing, Tensor) or overlap.smoothing > 0
    return overlap.of_indices and not (overlap.sigmoid or overlap.squared or smoothed)


def _tiles(logits: Tensor, overlap: Overlap, kept: Tensor | None) -> Iterator[Tile]:
    """Cut images into tiles, with room that the next tile uses again."""
    n, classes, size = logits.shape
    if not n * size:
        return
    most = max(1, TILE // classes)
    rows, columns = min(n, max(1, most // size)), min(size, most)
    number = _rooms(logits, overlap) + (kept is None)
    memory = scratch(number, classes * rows * columns, compute_dtype(logits))
    weights = overlap.sample_weight
    weights = weights.unsqueeze(1) if weights is not None and weights.ndim == 2 else weights
    for i, j in itertools.product(range(0, n, rows), range(0, size, columns)):
        at = i, min(rows, n - i), j, min(columns, size - j)
        items = slice(0, 1) if overlap.batch else slice(i, i + rows)
        part = _part(logits, *at)
        rooms = [_laid_out(each, part) for each in memory]
        p = rooms.pop() if kept is None else _part(kept, *at)
        s = None if weights is None else _part(weights, *at)
        yield Tile(at, items, part, _part(overlap.target, *at), s, p, rooms)


def _part(tensor: Tensor, image: int, images: int, pixel: int, pixels: int) -> Tensor:
    """So many pixels of so many images, from one on."""
    if images < tensor.shape[0]:
        tensor = tensor.narrow(0, image, images)
    return tensor if pixels == tensor.shape[-1] else tensor.narrow(-1, pixel, pixels)


def _rooms(logits: Tensor, overlap: Overlap) -> int:
    """How many a tile computes in: two where the targets are not read as they are."""
    if is_plain(overlap):
        return 1
    read = overlap.target.dtype == compute_dtype(logits) and not overlap.smoothing
    return 1 if overlap.sigmoid and read else 2


def _laid_out(memory: Tensor, like: Tensor) -> Tensor:
    """Memory in the shape of a tile, with the classes innermost where the tile has them so."""
    n, classes, size = like.shape
    flat = memory[: like.numel()]
    if like.stride(1) == 1 and classes > 1:
        return flat.view(n, size, classes).transpose(1, 2)
    return flat.view(n, classes, size)


def _sums_by_index(tile: Tile, overlap: Overlap) -> tuple[Tensor, ...]:
    """I, P, L and the masses (n, C) of a tile; p is left in it."""
    p, classes = tile.p, tile.p.shape[1]
    ignored, own, s = _pixels(tile, overlap)
    x, total = _softmax(tile, ignored)
    predicted = p.sum(2) if s is None else (p @ s.transpose(1, 2)).squeeze(2)
    # One bin for each class of each image.
    bins = (own + classes * torch.arange(len(p)).view(-1, 1, 1)).flatten()

    def by_class(each: Tensor | None) -> Tensor:
        numbers = None if each is None else each.double().flatten()
        return torch.bincount(bins, numbers, len(p) * classes).view(-1, classes)

    own_p = p.gather(1, own)
    both, own_mass = by_class(own_p if s is None else own_p.mul_(s)), by_class(s)
    logs = own_mass
    if overlap.logs:
        nll = total.log_().sub_(x.gather(1, own))
        logs = by_class(nll if s is None else nll.mul_(s).masked_fill_(s == 0, 0))
    whole = own_mass.sum(1, keepdim=True).expand_as(own_mass)
    return both, predicted, logs, own_mass, own_mass, whole


def _gradient_by_index(tile: Tile, overlap: Overlap, slopes: Slopes) -> None:
    """Put the gradient in the place of p."""
    p = tile.p
    _, own, s = _pixels(tile, overlap)
    a, b = slopes.both.unsqueeze(2), slopes.predicted.unsqueeze(2)
    mean = b.transpose(1, 2) @ p  # first: it reads p in order, and brings it into the cache
    own_p, own_slope = p.gather(1, own), _of_class(a, own)
    mean.addcmul_(own_p, own_slope)  # G
    own_slope.add_(_of_class(b, own)).sub_(mean)
    factor = mean.neg_()
    if s is not None:
        own_slope.mul_(s)
        factor.mul_(s)
    if slopes.logs is not None:
        k = _of_class(slopes.logs.unsqueeze(2), own)
        k = k if s is None else k.mul_(s)
        factor.add_(k)
        own_slope.add_(k)
    own_p.mul_(own_slope)
    if slopes.logs is not None:
        own_p.sub_(k)
    room = tile.rooms[0]
    p.mul_(torch.add(factor, b, out=room) if s is None else torch.addcmul(factor, b, s, out=room))
    p.scatter_(1, own, own_p)


def _pixels(tile: Tile, overlap: Overlap) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """What is ignored, the class, or 0 there, and the weight, or 0 there: (n, 1, s) each.

    The first is None where nothing is, the last where all pixels weigh 1.
    """
    target = tile.target.unsqueeze(1)
    if overlap.complete:
        return None, target, tile.sample_weight
    ignored = target == overlap.ignore_index
    own = target.masked_fill(ignored, 0)
    if tile.sample_weight is None:
        return ignored, own, ignored.logical_not().to(tile.p.dtype)
    return ignored, own, tile.sample_weight.masked_fill(ignored, 0)


def _of_class(vectors: Tensor, own: Tensor) -> Tensor:
    """The number of each pixel's class, (n, 1, s), of vectors (n, C, 1) or (1, C, 1)."""
    if len(vectors) == 1:
        return vectors.view(-1).index_select(0, own.flatten()).view(own.shape)
    return vectors.expand(-1, -1, own.shape[2]).gather(1, own)


def _softmax(tile: Tile, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Fill p; the logits x that it is of, and Σ exp x over the classes, (n, 1, s).

    To subtract the largest logit first costs as much as the rest. It is needed only where the sums
    leave the range that a float32 carries with ease, which they show themselves.
    """
    x, p = tile.logits, tile.p
    total = _exponentials(x, p)
    if not _in_range(total) and ignored is not None:
        # Whatever ignored pixels hold; it may be all that was wrong, and no other may feel it.
        x = x.masked_fill(ignored, 0)
        total = _exponentials(x, p)
    if not _in_range(total):
        x = x.to(p.dtype)
        x = x - x.amax(1, keepdim=True)
        total = _exponentials(x, p)
    p.mul_(total.reciprocal())
    return x, total


def _exponentials(x: Tensor, out: Tensor) -> Tensor:
    """Write exp x, and sum it over the classes."""
    if x.dtype == out.dtype:
        torch.mul(x, LOG2E, out=out)
    else:
        out.copy_(x).mul_(LOG2E)
    return out.exp2_().sum(1, keepdim=True)


def _in_range(total: Tensor) -> bool:
    """Whether sums of exponentials are such that no shift is needed; false for NaN."""
    low, high = torch.aminmax(total)
    return low.item() >= LOW and high.item() <= HIGH


def _sums_of_cells(tile: Tile, overlap: Overlap) -> tuple[Tensor, ...]:
    """I, P and the masses (n, C) of a tile; p is left in it, 0 where ignored."""
    p, s, room = tile.p, tile.sample_weight, tile.rooms[0]
    t, ignored = _targets(tile, overlap)
    if not overlap.sigmoid:
        _softmax(tile, ignored)
    elif tile.logits.dtype == p.dtype:
        torch.sigmoid(tile.logits, out=p)
    else:
        p.copy_(tile.logits).sigmoid_()
    if ignored is not None:
        p.masked_fill_(ignored, 0)

    def summed(cells: Tensor) -> Tensor:
        return (cells if s is None else torch.mul(cells, s, out=room)).sum(2)

    own = square = summed(t)
    if overlap.squared and not overlap.of_indices:
        square = summed(torch.mul(t, t, out=room))
    if s is None:
        whole = torch.full_like(own, t.shape[2])
        whole = whole if ignored is None else whole.sub_(ignored.sum(2))
    else:
        whole = (s if ignored is None else s.masked_fill(ignored, 0)).expand_as(t).sum(2)
    predicted = summed(torch.mul(p, p, out=room) if overlap.squared else p)
    t = _smoothed(t, tile, overlap)
    both = summed((torch.mul if overlap.squared else torch.minimum)(p, t, out=room))
    return both, predicted, own, own, square, whole


def _gradient_of_cells(tile: Tile, overlap: Overlap, slopes: Slopes) -> None:
    """Put the gradient in the place of p."""
    p, s, room = tile.p, tile.sample_weight, tile.rooms[0]
    a, b = slopes.both.unsqueeze(2), slopes.predicted.unsqueeze(2)
    t = _smoothed(_targets(tile, overlap, again=True)[0], tile, overlap)
    if overlap.squared:
        g = torch.mul(t, a, out=room).addcmul_(p, 2 * b)
    elif not (tile.target.is_floating_point() or overlap.smoothing):
        g = _line(t, a, b, out=room)  # of 0 and 1: where p is t, p · (1 − p) is 0
    else:  # a where p is below t, half of it at t
        g = torch.sub(t, p, out=room).sign_()
        g = _line(g, a / 2, b + a / 2, out=room)
    if s is not None:
        g.mul_(s)
    if overlap.sigmoid:
        compat.sigmoid_backward_(g, p)
    else:
        product = torch.mul(p, g, out=tile.rooms[1])
        torch.addcmul(product, p, product.sum(1, keepdim=True), value=-1, out=p)


def _line(x: Tensor, slope: Tensor, start: Tensor, *, out: Tensor) -> Tensor:
    """``start + slope · x``: in one pass where there is one number of each, not one per class."""
    if slope.numel() == 1:
        return torch.add(start, x, alpha=slope.item(), out=out)
    return torch.mul(x, slope, out=out).add_(start)


def _targets(tile: Tile, overlap: Overlap, *, again: bool = False) -> tuple[Tensor, Tensor | None]:
    """The targets of all classes (n, C, s), 0 where ignored, and what is, if anything is.

    Again, once p is 0 where ignored, which is as good as a target of 0: unless that is NaN.
    """
    target, room = tile.target, tile.rooms[-1]
    if overlap.of_indices:
        ignored, own, _ = _pixels(tile, overlap)
        counts = 1.0 if ignored is None else ignored.logical_not().to(room.dtype)
        return room.zero_().scatter_(1, own, counts), ignored
    missing, value = None, overlap.ignore_index
    if overlap.sigmoid and not (again and value == value):
        # The least tells in one quick pass that nothing is missing: it is larger, and no NaN.
        least = target.amin().item()
        if not (least > value or least == least != value != value):
            missing = overlap.ignored_in(target)
    if target.dtype is torch.bool:
        target = target.view(torch.uint8)  # copied six times as quickly
    target = target if target.dtype == room.dtype else room.copy_(target)
    return (target if missing is None else target.masked_fill(missing, 0)), missing


def _smoothed(t: Tensor, tile: Tile, overlap: Overlap) -> Tensor:
    """The smoothed targets, where there are to be any."""
    if not overlap.smoothing:
        return t
    keep, spread = overlap.shares(t.shape[1])
    return torch.mul(t, keep, out=tile.rooms[1]).add_(spread)
