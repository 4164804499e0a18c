"""Logits of any number of dimensions as (N, C) or (N, C, S), cut into tiles that fit the cache."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops.edit import compute_dtype
from steelyard.ops.work import Work


class Tile(NamedTuple):
    """A tile of logits, what belongs to its positions, and the places for what is found.

    Attributes:
        logits: (n, C) or (n, C, s).
        target: class indices (n,) or (n, s), or probabilities of the logits' shape.
        sample_weight: (n,) or (n, s), or None.
        e: of the logits' shape: the engine's to write.
        factor: (n,) or (n, s): times e it is to be the gradient; None where none is asked for.
        room: for two tensors of the logits' shape, where all classes count. What is allocated anew
            for every tile may cost more in page faults than its numbers.
    """

    logits: Tensor
    target: Tensor
    sample_weight: Tensor | None
    e: Tensor
    factor: Tensor | None
    room: tuple[Tensor, ...]


# Elements of a tile: so many that waking the threads is nothing, so few that they stay in cache,
# and a part of the logits, so that what a tile takes for itself is little beside them.
LARGEST, SMALLEST = 2**21, 2**14
SMALLEST_OF_ALL_CLASSES = 2**16  # which have many passes: one thread is half as fast
# Where the tile has a place in the gradient, that is some numbers per position, which are much
# beside few classes. Logits that the cache holds are one tile: there memory is cheap, calls not.
IN_CACHE, NUMBERS = 2**20, 256
# Elsewhere it is all of it.
OF_ITS_OWN = 64


class Flat(NamedTuple):
    """Logits (N, C) or (N, C, S), and what belongs to their positions, (N,) or (N, S).

    Attributes:
        logits: (N, C) or (N, C, S).
        target: class indices (N,) or (N, S), or probabilities of the logits' shape.
        sample_weight: (N,) or (N, S), or None.
        dtype: of the arithmetic.
        all_classes: whether the tail of every class counts.
    """

    logits: Tensor
    target: Tensor
    sample_weight: Tensor | None
    dtype: torch.dtype
    all_classes: bool

    @classmethod
    def of(cls, logits: Tensor, work: Work) -> "Flat":
        """Views where the strides allow it, copies elsewhere."""
        target, sample_weight = work.target, work.sample_weight
        if logits.ndim > 2:
            target = target.flatten(target.ndim - logits.ndim + 2)
            sample_weight = None if sample_weight is None else sample_weight.flatten(1)
            logits = logits.flatten(2)
        return cls(logits, target, sample_weight, compute_dtype(logits), work.all_classes)

    @property
    def positions(self) -> torch.Size:
        """The shape of one number per position."""
        return self.logits.shape[:1] + self.logits.shape[2:]

    def per_position(self) -> Tensor:
        """Room for one number per position."""
        return self.logits.new_empty(self.positions, dtype=self.dtype)

    def tiles(
        self, e: Tensor | None, factor: Tensor | None, *others: Tensor, differentiate: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Tiles with their part of the ``others``, which are (N, …, S) too.

        Tiles write ``e`` and ``factor`` into those given; else into memory that the next reuses.
        """
        size = self._tile_size(in_place=e is not None and not self.all_classes)
        own, room = int(e is None), 2 * self.all_classes
        scratch = self.logits.new_empty((own + room, size), dtype=self.dtype)
        for logits, target, sample_weight, e_, factor_, *rest in self._cut(
            size, self.logits, self.target, self.sample_weight, e, factor, *others
        ):
            places = [each[: logits.numel()].view(logits.shape) for each in scratch]
            if e_ is None:
                e_ = places.pop()
            if factor_ is None and differentiate:
                factor_ = scratch.new_empty(logits.shape[:1] + logits.shape[2:])
            yield Tile(logits, target, sample_weight, e_, factor_, tuple(places)), *rest

    def _tile_size(self, in_place: bool) -> int:
        classes, logits = self.logits.shape[1], self.logits.numel()
        if not in_place:
            least = SMALLEST_OF_ALL_CLASSES if self.all_classes else SMALLEST
            size = max(least, min(logits // OF_ITS_OWN, LARGEST // 4))
        elif logits <= IN_CACHE:
            size = logits
        else:
            size = min(logits * classes // NUMBERS, LARGEST)
        return min(logits, max(1, size // classes) * classes)

    def _cut(self, size: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Parts of ``size`` logits of tensors (N, …, S); None stays None."""
        n, classes, *spatial = self.logits.shape
        s = spatial[0] if spatial else 1
        positions = size // classes
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
