"""What one epoch of one seed reads: every row once, classes evenly, or rows between rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors

from steelyard.compare.sampling import evenly
from steelyard.compare.study import Candidate
from steelyard.compare.tables.prepare import Part

_NEIGHBOURS = 5  # as published: Chawla et al., SMOTE, JAIR 16, 2002


class Reading(NamedTuple):
    """The rows of an epoch in order.

    Attributes:
        rows: (n,) their places.
        others: (n,) places of rows of the same class, or None where nothing is mixed.
        shares: (n,) how far from the first towards the other, in [0, 1).
    """

    rows: np.ndarray
    others: np.ndarray | None = None
    shares: np.ndarray | None = None


@dataclass(frozen=True)
class Sampler:
    """The rows of each epoch of one seed, a function of seed and epoch alone.

    Attributes:
        seed: of the study.
        part: the training rows.
        kind: how the candidates draw their batches.
        start: the epoch from which a deferred candidate samples; before it reads all rows.
    """

    seed: int
    part: Part
    kind: Candidate
    start: int = 0

    def __call__(self, epoch: int) -> Reading:
        """What that epoch reads: as many rows as there are."""
        labels, kind = self.part.labels, self.kind
        if kind.sampling == "plain" or (kind.deferred and epoch < self.start):
            return Reading(np.random.default_rng([self.seed, 2, epoch]).permutation(len(labels)))
        rng = np.random.default_rng([self.seed, 3, epoch])
        rows = evenly(labels, rng)
        if kind.sampling == "balanced":
            return Reading(rows)
        # Filled up to the largest class, a class would hold so many rows of its own.
        counts = np.bincount(labels)
        made = rng.random(len(rows)) >= counts[labels[rows]] / counts.max()
        nearest, number = self._neighbours
        which = (rng.random(len(rows)) * number[rows]).astype(np.int64)
        return Reading(rows, nearest[rows, which], made * rng.random(len(rows)))

    @cached_property
    def _neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each row the nearest of its class (n, k), and how many it has; none is itself."""
        labels, features = self.part.labels, self.part.features
        nearest = np.repeat(np.arange(len(labels))[:, None], _NEIGHBOURS, 1)
        number = np.ones(len(labels), dtype=np.int64)
        for c in np.unique(labels):
            rows = np.flatnonzero(labels == c)
            k = min(_NEIGHBOURS, len(rows) - 1)
            if k:
                found = NearestNeighbors(n_neighbors=k).fit(features[rows])
                nearest[rows, :k] = rows[found.kneighbors(return_distance=False)]
                number[rows] = k
        return nearest, number
