"""Targets of several labels, 0 and 1 for each class, counted exactly."""

import math
from typing import Any

import torch
from torch import Tensor

from steelyard.classes.counts import ClassCounts
from steelyard.classes.sources import Piece, Watch, pieces


def count_cells(source: Any, num_classes: int | None, missing: float, watch: Watch) -> ClassCounts:
    """Count how often each class is there, and out of how often it was said; see `count_classes`.

    Raises:
        TypeError: Labels that are not numbers.
        ValueError: No labels, another number of classes, or a label that is not 0, 1 or missing.
    """
    names = None
    if hasattr(source, "columns") and hasattr(source, "to_numpy"):
        names, source = [str(name) for name in source.columns], source.to_numpy()
    counts: Tensor | None = None
    total: Tensor | None = None
    for piece in pieces(source, watch):
        target = _target(piece, num_classes)
        there, known = target == 1, ~target.isnan() if math.isnan(missing) else target != missing
        wrong = known & (target != 0) & ~there
        if wrong.any():
            where = tuple(wrong.nonzero()[0].tolist())
            place = where[1:] if piece.one_sample else where
            value = target[where].item()
            given = 'float("nan")' if math.isnan(value) else f"{value:g}"
            hint = "class indices are counted without multi_label=True"
            if not value > 0:
                hint = f"if it marks missing labels, give ignore_index={given}, to the loss too"
            raise ValueError(
                f"label {value:g} at {piece.at(place)} is not 0, 1 or missing "
                f"(ignore_index={missing}); {hint}"
            )
        cells = [0, *range(2, target.dim())]  # all but the classes
        found = torch.stack([there.sum(cells), known.sum(cells)]).cpu()
        if counts is not None and len(found[0]) != len(counts):
            raise ValueError(
                f"the labels{f' in {piece.where}' if piece.where else ''} are of {len(found[0])} "
                f"classes, and those before of {len(counts)}: give one number for each class"
            )
        counts = found[0] if counts is None else counts + found[0]
        total = found[1] if total is None else total + found[1]
    if counts is None:
        if num_classes is None:
            raise ValueError(
                "no labels to count; for counts of zero, say how many classes there are: "
                "num_classes="
            )
        counts = total = torch.zeros(num_classes, dtype=torch.int64)
    return ClassCounts(counts, names=names, total=total)


def _target(piece: Piece, num_classes: int | None) -> Tensor:
    """A piece's labels as (N, C, …)."""
    labels = piece.labels
    if hasattr(labels, "astype") and labels.dtype.kind in "biuf":
        # A copy of a known type, as for class indices: PyTorch takes no other array without a word.
        labels = labels.astype("float64" if labels.dtype.kind == "f" else "int64")
    try:
        target = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"the labels{f' in {piece.where}' if piece.where else ''} cannot be read as numbers, 0 "
            f"or 1 for each class: {error}"
        ) from error
    if piece.one_sample:
        target = target.unsqueeze(0)
    if target.dim() < 2:
        raise ValueError(
            f"the labels{f' in {piece.where}' if piece.where else ''} have shape "
            f"{tuple(target.shape)}; of several labels expected (N, C), 0 or 1 for each class"
        )
    if num_classes is not None and target.shape[1] != num_classes:
        raise ValueError(
            f"the labels{f' in {piece.where}' if piece.where else ''} are of {target.shape[1]} "
            f"classes, expected num_classes={num_classes}"
        )
    return target if target.dtype.is_signed else target.long()
