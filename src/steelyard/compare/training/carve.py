"""Rows set apart for choosing or judging: stratified by class, and whole groups at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steelyard.compare.study import StudyError
from steelyard.compare.training.targets import Targets


def carve(
    targets: Targets,
    rows: np.ndarray,
    groups: np.ndarray | None,
    share: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Part some rows into those that stay and those set apart.

    One class per row and no groups: each class gives its share, at least one row, and keeps at
    least one. Otherwise whole groups (or masks, or sequences) go over one by one, those with the
    rarest classes first, as long as that brings every class nearer to its share.

    Args:
        targets: of the whole Dataset.
        rows: the rows to part.
        groups: (N,) the group of each row of the Dataset, or None.
        share: of each class, in (0, 1).
        rng: decides which.

    Returns:
        Rows that stay and rows set apart, each sorted.

    Raises:
        StudyError: nothing can be set apart without taking every row of all classes.
    """
    if groups is None and targets.kind == "classes":
        apart = _by_class(targets.labels, rows, share, rng)
    else:
        names = rows if groups is None else groups[rows]
        apart = _by_group(targets, rows, names, share, rng)
    stay = np.setdiff1d(rows, apart, assume_unique=True)
    if not len(apart) or not len(stay):
        what = "rows" if groups is None else "groups"
        raise StudyError(
            f"no {share:.0%} of the {what} can be set apart: there are {len(np.unique(rows))} "
            f"rows in {len(np.unique(rows if groups is None else groups[rows]))} {what}"
        )
    return np.sort(stay), np.sort(apart)


def _by_class(
    labels: np.ndarray, rows: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    apart = [rows[:0]]
    of_rows = labels[rows]
    for c in np.unique(of_rows[of_rows >= 0]):
        members = rng.permutation(rows[of_rows == c])
        apart.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    return np.concatenate(apart)


def _by_group(
    targets: Targets,
    rows: np.ndarray,
    names: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Greedy: a group goes over if the squared distance to the wanted shares then shrinks."""
    _, number = np.unique(names, return_inverse=True)
    order = np.argsort(number, kind="stable")
    members = np.split(rows[order], np.cumsum(np.bincount(number))[:-1])
    total = targets.counts(rows).astype(np.float64)
    scale = np.where(total > 0, 1 / np.maximum(total, 1), 0.0)
    held = [_held_by(targets, group) for group in members]
    # The share of its class that a group holds, at most: rare classes are placed while there is
    # still a choice.
    weight = np.array([(counts * scale[found]).max(initial=0.0) for found, counts in held])
    shuffled = rng.permutation(len(members))
    missing = share * (total > 0)  # of each class, as a share of it
    left = total.copy()
    apart = []
    for g in shuffled[np.argsort(-weight[shuffled], kind="stable")]:
        found, counts = held[g]
        given = counts * scale[found]
        nearer = ((missing[found] - given) ** 2).sum() < (missing[found] ** 2).sum()
        if nearer and (left[found] > counts).all():
            missing[found] -= given
            left[found] -= counts
            apart.append(members[g])
    return np.concatenate(apart) if apart else rows[:0]


def _held_by(targets: Targets, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes that occur in some rows, and how often."""
    part = targets.held[rows]
    found, inverse = np.unique(part.indices, return_inverse=True)
    return found, np.bincount(inverse, weights=part.data, minlength=len(found))


def checked_groups(
    groups: Sequence[Any] | np.ndarray | None, rows: int, name: str = "groups"
) -> np.ndarray | None:
    """Groups as numbers (N,), in the order in which they are met.

    Raises:
        StudyError: another number of groups than rows.
    """
    if groups is None:
        return None
    values = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(values) != rows:
        of = "test" if name == "test_groups" else "train"
        raise StudyError(
            f"{name} has {len(values)} entries and {of} has {rows} rows; expected one for each row"
        )
    number: dict[Any, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in values], dtype=np.int64)
