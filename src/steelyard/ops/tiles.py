"""Logits of any number of dimensions as (N, C, S), cut into tiles that fit the cache."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops.edit import compute_dtype
from steelyard.ops.work import Work

# Elements of a tile: so many that waking the threads is nothing, so few that they stay in cache;
# fewer where the tile lies in memory of its own, which is not to count beside the logits.
TILE, SCRATCH = 2**21, 2**19


class Flat(NamedTuple):
    """Logits (N, C, S), with S = 1 for plain rows, and what belongs to their positions.

    Attributes:
        logits: (N, C, S).
        target: class indices (N, S), or probabilities (N, C, S).
        share: (N, S), or None.
        work: where they come from.
        dtype: of the arithmetic.
    """

    logits: Tensor
    target: Tensor
    share: Tensor | None
    work: Work
    dtype: torch.dtype

    @classmethod
    def of(cls, logits: Tensor, work: Work) -> "Flat":
        """Views where the strides allow it, copies elsewhere."""
        target, share = work.target, work.share
        if logits.ndim == 2:
            logits, target = logits.unsqueeze(2), target.unsqueeze(-1)
            share = None if share is None else share.unsqueeze(1)
        else:
            logits, target = logits.flatten(2), target.flatten(target.ndim - logits.ndim + 2)
            share = None if share is None else share.flatten(1)
        return cls(logits, target, share, work, compute_dtype(logits))

    def empty_positions(self) -> Tensor:
        """Room for one number per position, (N, S)."""
        n, _, s = self.logits.shape
        return self.logits.new_empty((n, s), dtype=self.dtype)

    def ignored(self) -> Tensor:
        """Which positions count nowhere, (N, S)."""
        return self.target == self.work.ignore_index

    def tiles(self, size: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Cut tensors (N, …, S) alike along N and S; None stays None."""
        n, classes, s = self.logits.shape
        positions = max(1, size // classes)
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
        """Room for one tile of ``SCRATCH`` logits, flat."""
        n, classes, s = self.logits.shape
        size = min(n * s, max(1, SCRATCH // classes)) * classes
        return self.logits.new_empty(size, dtype=self.dtype)
