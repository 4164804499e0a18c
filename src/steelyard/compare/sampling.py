"""Which rows an epoch reads where it is not each of them once."""

from __future__ import annotations

import numpy as np


def evenly(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many places as there are rows, drawn so that every class is as frequent as any other.

    Args:
        labels: (n,) the classes of the rows; those without a row are drawn by nobody.
        rng: draws them.

    Returns:
        (n,) places in `labels`, some of them several times.
    """
    order = np.argsort(labels, kind="stable")
    _, first, size = np.unique(labels[order], return_index=True, return_counts=True)
    drawn = rng.integers(len(size), size=len(labels))
    place = first[drawn] + (rng.random(len(labels)) * size[drawn]).astype(np.int64)
    found: np.ndarray = order[place]
    return found
