"""Validation rows, by which biases and temperatures are chosen: checked, and those that count."""

from typing import Any

import torch
from torch import Tensor

from steelyard._given import INDICES_OF_NAMES, expected_tensor
from steelyard.losses.contract import described


def check_tensor(name: str, given: Any, of_names: str = INDICES_OF_NAMES) -> None:
    """Raise unless a tensor was given."""
    if not isinstance(given, Tensor):
        verb = "are" if name.endswith("s") else "is"
        expected = expected_tensor(given, of_names)
        raise TypeError(f"{name} {verb} {described(given)}; expected {expected}")


def check_floating(name: str, given: Any) -> None:
    """Raise unless a tensor of floating numbers was given."""
    check_tensor(name, given)
    if not given.is_floating_point():
        raise TypeError(f"{name} are {given.dtype}; expected a floating dtype")


def rows_that_count(
    logits: Tensor, labels: Tensor, ignore_index: int, of_cells: str
) -> tuple[Tensor, Tensor]:
    """What counts, checked: float64 (M, C) and int64 (M,), on the CPU.

    Args:
        logits: (N, C) or (N, C, d1, …).
        labels: class indices (N,) or (N, d1, …).
        ignore_index: rows of this label do not count.
        of_cells: who does the same for one logit, and for several labels.
    """
    check_floating("logits", logits)
    check_tensor("labels", labels)
    classes = logits.shape[1:2]
    cells = logits.ndim == 1 or classes == (1,) or labels.shape == logits.shape
    if cells or not classes or labels.shape != logits.shape[:1] + logits.shape[2:]:
        hint = f"; of one logit for two classes, and of several labels, {of_cells}" * cells
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; expected "
            f"(N, C) and (N,), or (N, C, d1, …) and (N, d1, …){hint}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels are {labels.dtype}; expected class indices: labels.long()")
    rows = logits.detach().cpu().double().movedim(1, -1).flatten(0, -2)
    target = labels.detach().cpu().long().flatten()
    rows, target = rows[target != ignore_index], target[target != ignore_index]
    if not rows.numel():
        raise ValueError(
            "there are no rows to choose by: give validation rows that are not all ignored"
        )
    if rows.isnan().any() or (rows == torch.inf).any() or (rows == -torch.inf).all(1).any():
        raise ValueError(
            "logits hold NaN, +inf or a row of −inf alone, and no decision follows: leave those out"
        )
    outside = (target < 0) | (target >= rows.shape[1])
    if outside.any():
        label = int(target[outside][0])
        hint = f": rows without a label are left out by ignore_index={label}" * (label < 0)
        raise IndexError(
            f"label {label} is outside 0..{rows.shape[1] - 1}; the logits have {rows.shape[1]} "
            f"classes{hint}"
        )
    return rows, target
