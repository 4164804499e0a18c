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
    """

    logits: Tensor
    target: Tensor
    sample_weight: Tensor | None
    e: Tensor
    factor: Tensor | None


class Size(NamedTuple):
    """How many logits a tile has: a part of all of them, within bounds."""

    part: int
    least: int
    most: int


# So many that waking the threads is nothing, so few that they stay in the cache, and what a tile
# takes for itself is little beside the logits; less of memory that is the tile's own.
IN_PLACE = Size(16, 2**15, 2**21)
OF_ITS_OWN = Size(64, 2**14, 2**19)


class Flat(NamedTuple):
    """Logits (N, C) or (N, C, S), and what belongs to their positions, (N,) or (N, S).

    Attributes:
        logits: (N, C) or (N, C, S).
        target: class indices (N,) or (N, S), or probabilities of the logits' shape.
        sample_weight: (N,) or (N, S), or None.
        dtype: of the arithmetic.
    """

    logits: Tensor
    target: Tensor
    sample_weight: Tensor | None
    dtype: torch.dtype

    @classmethod
    def of(cls, logits: Tensor, work: Work) -> "Flat":
        """Views where the strides allow it, copies elsewhere."""
        target, sample_weight, dtype = work.target, work.sample_weight, compute_dtype(logits)
        if logits.ndim == 2:
            return cls(logits, target, sample_weight, dtype)
        sample_weight = None if sample_weight is None else sample_weight.flatten(1)
        target = target.flatten(target.ndim - logits.ndim + 2)
        return cls(logits.flatten(2), target, sample_weight, dtype)

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
        scratch = None
        size = self._tile_size(IN_PLACE if e is not None else OF_ITS_OWN)
        if e is None:
            scratch = self.logits.new_empty(size, dtype=self.dtype)
        for logits, target, sample_weight, e_, factor_, *rest in self._cut(
            size, self.logits, self.target, self.sample_weight, e, factor, *others
        ):
            if scratch is not None:
                e_ = scratch[: logits.numel()].view(logits.shape)
                if differentiate:
                    factor_ = scratch.new_empty(logits.shape[:1] + logits.shape[2:])
            yield Tile(logits, target, sample_weight, e_, factor_), *rest

    def _tile_size(self, size: Size) -> int:
        classes, logits = self.logits.shape[1], self.logits.numel()
        wanted = max(size.least, min(logits // size.part, size.most))
        return min(logits, max(1, wanted // classes) * classes)

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
