"""The walk over tiles: logits are cut into parts that stay in the cache, one after another."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from steelyard.ops.problem import Problem, compute_dtype


class Room(NamedTuple):
    """Where a tile's arithmetic writes, all in the dtype of the computation.

    Attributes:
        gradient: of the tile's shape: the derivative of each loss by the logits, but for the
            factor. Where it is not ``wanted`` it is there to compute in.
        factor: one number per position, times which ``gradient`` is the gradient; None where it is
            not wanted, or the family has none.
        scratch: more tensors of the tile's shape. What is allocated anew for every tile may cost
            more in page faults than its numbers.
        wanted: whether the gradient is.
    """

    gradient: Tensor
    factor: Tensor | None
    scratch: tuple[Tensor, ...]
    wanted: bool


class Arithmetic(NamedTuple):
    """How a family computes a tile.

    Attributes:
        losses: ``losses(problem, logits, room)`` for a tile's logits (n, C) or (n, C, s) and the
            problem of these: its losses and what each counts, as :meth:`Problem.losses` has them,
            and the gradient in the room.
        factor: whether the gradient has a factor per position.
        scratch: how many more tensors of the tile's shape it wants.
        smallest, largest: the size of a tile that has a place of its own.
    """

    losses: Callable[[Any, Tensor, Room], tuple[Tensor, Tensor | None]]
    factor: bool = True
    scratch: int = 0
    smallest: int = 2**14
    largest: int = 2**19


# Elements of a tile: so many that waking the threads is nothing, so few that they stay in cache,
# and a part of the logits, so that what a tile takes for itself is little beside them.
LARGEST = 2**21
# Where the tile has a place in the gradient, that is some numbers per position, which are much
# beside few classes. Logits that the cache holds are one tile: there memory is cheap, calls not.
IN_CACHE, NUMBERS = 2**20, 128
# Elsewhere it is all of it.
OF_ITS_OWN = 64


def walk(
    arithmetic: Arithmetic,
    logits: Tensor,
    problem: Problem,
    gradient: Tensor | None,
    factor: Tensor | None,
    *others: Tensor,
    wanted: bool,
) -> Iterator[tuple[Any, ...]]:
    """The tiles of flat logits: logits, problem, room, and the parts of the ``others``.

    Args:
        arithmetic: for the room that it wants.
        logits: (N, C) or (N, C, S).
        problem: theirs.
        gradient: where tiles are to write it, or None: into memory that the next tile reuses.
        factor: the same for the factor.
        *others: cut along, (N, …) or (N, …, S).
        wanted: whether tiles are to write a gradient at all.
    """
    size = _tile_size(arithmetic, logits, in_place=gradient is not None and not arithmetic.scratch)
    own = int(gradient is None)
    memory = logits.new_empty((own + arithmetic.scratch, size), dtype=compute_dtype(logits))
    for part, target, samples, gradient_, factor_, *rest in _cut(
        size, logits, problem.target, problem.sample_weight, gradient, factor, *others
    ):
        scratch = [each[: part.numel()].view(part.shape) for each in memory]
        if gradient_ is None:
            gradient_ = scratch.pop()
        if factor_ is None and wanted and arithmetic.factor:
            factor_ = memory.new_empty(part.shape[:1] + part.shape[2:])
        room = Room(gradient_, factor_, tuple(scratch), wanted)
        yield part, problem.at(target, samples), room, *rest


def _tile_size(arithmetic: Arithmetic, logits: Tensor, *, in_place: bool) -> int:
    classes, size = logits.shape[1], logits.numel()
    if not in_place:
        most = max(arithmetic.smallest, min(size // OF_ITS_OWN, arithmetic.largest))
    elif size <= IN_CACHE:
        most = size
    else:
        most = min(size * classes // NUMBERS, LARGEST)
    return min(size, max(1, most // classes) * classes)


def _cut(size: int, logits: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Parts of ``size`` logits (N, C) or (N, C, S), and of others (N, …, S); None stays None."""
    n, classes, *spatial = logits.shape
    s = spatial[0] if spatial else 1
    positions = size // classes
    tensors = (logits, *others)
    if n * s <= positions:
        if n * s:
            yield tensors
        return
    rows, columns = max(1, positions // s), min(s, positions)
    for i in range(0, n, rows):
        part = [None if t is None else t[i : i + rows] for t in tensors]
        if columns == s:
            yield tuple(part)
            continue
        for j in range(0, s, columns):
            yield tuple(None if t is None else t[..., j : j + columns] for t in part)
