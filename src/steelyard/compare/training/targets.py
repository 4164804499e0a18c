"""The targets of a Dataset: what kind they are, and how often each row holds each class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from steelyard.compare.study import StudyError
from steelyard.compare.training.batches import target_of
from steelyard.compare.training.loading import sample

Kind = Literal["classes", "masks", "tokens"]
_KINDS: dict[int, Kind] = {0: "classes", 1: "tokens", 2: "masks"}
_ATTRIBUTES = ("targets", "labels")  # torchvision's names, and what most others call them
_PROBED = 3  # rows whose attribute is held against the sample itself


@dataclass(frozen=True)
class Targets:
    """What the rows of a Dataset hold of each class.

    Attributes:
        kind: one class per row, a mask (H, W) or a sequence (T).
        held: (N, C) sparse int64: positions of each class in each row.
    """

    kind: Kind
    held: sparse.csr_array

    def __len__(self) -> int:
        return int(self.held.shape[0])

    @property
    def classes(self) -> int:
        """C."""
        return int(self.held.shape[1])

    @property
    def labels(self) -> np.ndarray:
        """(N,) the class of each row; −1 where its only class is ignored."""
        if self.kind != "classes":
            raise ValueError(f"{self.kind} have no single class per row")
        labels = np.full(len(self), -1, dtype=np.int64)
        labels[np.repeat(np.arange(len(self)), np.diff(self.held.indptr))] = self.held.indices
        return labels

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(C,) positions of each class in some rows, or in all."""
        held = self.held if rows is None else self.held[rows]
        return np.asarray(held.sum(axis=0)).ravel().astype(np.int64)

    def widened(self, classes: int) -> Targets:
        """The same with more classes."""
        held = self.held.copy()
        held.resize(len(self), classes)
        return Targets(self.kind, held)


def read_targets(dataset: Any, name: str, ignore_index: int, classes: int | None) -> Targets:
    """Read every row's target once.

    What a Dataset keeps as `.targets` or `.labels` is used where it agrees with the samples;
    else every sample is loaded.

    Args:
        dataset: map-style.
        name: what the user called it.
        ignore_index: positions with this class count nowhere.
        classes: C; None: the largest class + 1.

    Raises:
        StudyError: no rows, targets that are no class indices, or classes out of range.
    """
    rows = len(dataset)
    if not rows:
        raise StudyError(f"{name} has no rows")
    first = _target(dataset, name, 0)
    if first.ndim not in _KINDS:
        raise StudyError(
            f"{name}: a target has shape {tuple(first.shape)}; expected one class, a mask (H, W) "
            "or a sequence (T)"
        )
    kind = _KINDS[first.ndim]
    known = _at_hand(dataset) if kind == "classes" else None
    if known is not None and not _agrees(known, dataset, name):
        known = None
    each = known if known is not None else _walk(dataset, name, kind)
    return Targets(kind, _held(each, rows, name, ignore_index, classes))


def class_names(dataset: Any, classes: int) -> tuple[str, ...]:
    """The names that a Dataset knows its classes by, or their numbers."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and len(names) == classes:
        return tuple(map(str, names))
    return tuple(map(str, range(classes)))


def _at_hand(dataset: Any) -> np.ndarray | None:
    """The labels (N,) that a Dataset keeps beside its samples, or None."""
    if isinstance(dataset, Subset):
        base = _at_hand(dataset.dataset)
        return None if base is None else base[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_at_hand(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]
    found: Any = None
    if isinstance(dataset, TensorDataset):
        found = dataset.tensors[-1]
    elif getattr(dataset, "target_transform", None) is None:
        found = next((getattr(dataset, name, None) for name in _ATTRIBUTES), None)
    if found is None or callable(found):
        return None
    try:
        labels = np.asarray(found)
    except (TypeError, ValueError):
        return None
    usable = labels.ndim == 1 and labels.dtype.kind in "iub" and len(labels) == len(dataset)
    return labels.astype(np.int64) if usable else None


def _agrees(labels: np.ndarray, dataset: Any, name: str) -> bool:
    rows = np.unique(np.linspace(0, len(labels) - 1, _PROBED).astype(int))
    return all(int(_target(dataset, name, int(i))) == labels[i] for i in rows)


def _walk(dataset: Any, name: str, kind: Kind) -> Iterator[Tensor]:
    for i in range(len(dataset)):
        target = _target(dataset, name, i)
        if _KINDS.get(target.ndim) != kind:
            raise StudyError(
                f"{name}: the target of row {i} has shape {tuple(target.shape)}, and that of row 0 "
                f"is one of the {kind}: all must be of one kind"
            )
        yield target


def _target(dataset: Any, name: str, row: int) -> Tensor:
    """The target of one row."""
    found = sample(dataset, row, name)
    try:
        target = target_of(found)
    except StudyError as error:
        raise StudyError(f"{name}: {error}") from None
    try:
        tensor = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"{name}: the target of row {row} is a {type(target).__name__}; expected class indices"
        ) from error
    if tensor.is_floating_point() or tensor.is_complex():
        raise StudyError(
            f"{name}: the target of row {row} is {tensor.dtype}; expected class indices, as "
            "target.long() gives them"
        )
    return tensor


def _held(
    each: Any, rows: int, name: str, ignore_index: int, classes: int | None
) -> sparse.csr_array:
    found, counts, ends = [], [], [0]
    for target in each:
        values, number = np.unique(np.asarray(target), return_counts=True)
        kept = values != ignore_index
        found.append(values[kept])
        counts.append(number[kept])
        ends.append(ends[-1] + int(kept.sum()))
    column = np.concatenate(found).astype(np.int64)
    if not len(column):
        raise StudyError(f"{name}: every target is the ignored class {ignore_index}")
    width = int(column.max()) + 1 if classes is None else classes
    outside = (column < 0) | (column >= width)
    if outside.any():
        place = int(outside.argmax())
        row = int(np.searchsorted(ends, place, side="right")) - 1
        raise StudyError(
            f"{name}: row {row} has class {column[place]}; expected 0 to {width - 1}, or "
            f"ignore_index={ignore_index}"
        )
    held = np.concatenate(counts).astype(np.int64)
    return sparse.csr_array((held, column, np.array(ends)), shape=(rows, width))
