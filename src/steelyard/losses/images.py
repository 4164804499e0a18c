"""What a region loss is given, checked, as images (N, C, S)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from steelyard import ops
from steelyard.losses.contract import (
    check_is_tensor,
    check_logits,
    check_same_device,
    check_sample_weight,
)
from steelyard.losses.options import CHOICES, CallOptions, LossOptions, Options
from steelyard.losses.positions import (
    check_no_ignored_probabilities,
    check_shapes,
    refuse_on_device,
    refuse_out_of_range,
)
from steelyard.losses.vectors import moved, readable


class RegionLossOptions(LossOptions, total=False):
    """The keywords of every region loss, for type checkers."""

    activation: Literal["softmax", "sigmoid"]
    per: Literal["image", "batch"]
    absent: Literal["skip", "count"]


class RegionCallOptions(RegionLossOptions, CallOptions, total=False):
    """The keywords of every functional region loss."""

    totals: Tensor | None


@dataclass(frozen=True, slots=True)
class RegionOptions(Options):
    """The options of a region loss that are not tensors, checked."""

    activation: str = "softmax"
    per: str = "image"
    absent: str = "skip"

    choices: ClassVar[Any] = {
        **CHOICES,
        "activation": ("softmax", "sigmoid"),
        "per": ("image", "batch"),
        "absent": ("skip", "count"),
    }

    def _check_ignore_index(self) -> None:
        if self.activation == "softmax":
            super(RegionOptions, self)._check_ignore_index()
        elif not isinstance(self.ignore_index, int | float):
            raise TypeError(
                f"ignore_index={self.ignore_index!r} is not a number: give the target of pixels "
                "to ignore, by default -100"
            )


class Images(NamedTuple):
    """Logits (N, C, S) of images, and what is to be summed over them.

    ``lacking`` is the dimension that the user's logits had not: 0 without a batch, 1 without
    classes.
    """

    logits: Tensor
    overlap: ops.Overlap
    lacking: int | None = None


def look(
    options: RegionOptions,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    *,
    squared: bool = False,
) -> Images:
    """Check what a call was given, and bring it to images (N, C, S)."""
    sigmoid, lacking = options.activation == "sigmoid", None
    check_logits(logits)
    if sigmoid:
        check_cells(logits, target, options.ignore_index)
    else:
        check_shapes(logits, target)
    check_same_device(logits, target)
    if logits.ndim == 1:
        lacking = 1 if sigmoid else 0
        logits, target = logits.unsqueeze(lacking), target.unsqueeze(lacking)
    shape, dtype = logits.shape, ops.compute_dtype(logits)
    of_indices, complete = target.shape != shape, False
    if of_indices:
        target = target.long()
        complete = check_indices(target, shape[1], options.ignore_index)
    elif not sigmoid:
        check_no_ignored_probabilities(options)
    if sample_weight is not None:
        of_cells = sigmoid and getattr(sample_weight, "ndim", 0) == len(shape)
        positions = shape if of_cells else shape[:1] + shape[2:]
        sample_weight = check_sample_weight(sample_weight, positions)
        sample_weight = moved("sample_weight", sample_weight, logits.device, dtype)
        sample_weight = sample_weight.flatten(2) if of_cells else _flat(sample_weight, 1)
    overlap = ops.Overlap(
        target=_flat(target, 1 if of_indices else 2),
        ignore_index=options.ignore_index,
        sigmoid=sigmoid,
        sample_weight=sample_weight,
        smoothing=options.label_smoothing,
        squared=squared,
        batch=options.per == "batch",
        complete=complete,
    )
    return Images(_flat(logits, 2), overlap, lacking)


def _flat(tensor: Tensor, start: int) -> Tensor:
    """All dimensions from ``start`` on as one, a dimension of 1 if there are none."""
    return tensor.unsqueeze(start) if tensor.ndim == start else tensor.flatten(start)


def check_classes(logits: Tensor, options: RegionOptions) -> None:
    """Raise for the softmax of one class."""
    check_logits(logits)
    if options.activation == "softmax" and logits.shape[min(1, logits.ndim - 1)] == 1:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} have one class, and the softmax of one is 1 "
            "everywhere: use activation='sigmoid'"
        )


def check_cells(logits: Tensor, target: Any, ignore_index: float) -> None:
    """Raise unless a target fits logits of which every class stands by itself."""
    check_is_tensor(target)
    if target.is_complex():
        raise TypeError(f"target is {target.dtype}, expected 0 and 1, or numbers between them")
    integers = not target.is_floating_point() and target.dtype is not torch.bool
    positions, hint = logits.shape[:1] + logits.shape[2:], ""
    if target.shape == logits.shape:
        if integers and readable(target):
            wrong = (target != ignore_index) & ((target < 0) | (target > 1))
            if wrong.any():
                where = wrong.nonzero()[0].tolist()
                raise ValueError(
                    f"target{where} is {int(target[tuple(where)])}: a target of the logits' shape "
                    f"is 0 or 1 for each class, or ignore_index={ignore_index}"
                )
        return
    if target.shape == positions:
        if logits.shape[1] == 1:
            hint = ": use target.unsqueeze(1)"
        elif integers:
            return  # class indices
        else:
            hint = ": class indices are integers, use target.long()"
    raise ValueError(
        f"target has shape {tuple(target.shape)} and logits {tuple(logits.shape)}: with "
        "activation='sigmoid' expected a target of the logits' shape, or class indices of shape "
        f"{tuple(positions)}{hint}"
    )


def check_indices(target: Tensor, num_classes: int, ignore_index: int) -> bool:
    """Raise for a class outside [0, C); whether it is known that none is to be ignored."""
    refuse_on_device(target, num_classes, ignore_index)
    if not readable(target) or not target.numel():
        return False
    low, high = (int(bound) for bound in torch.aminmax(target))
    if low < 0 or high >= num_classes:
        wrong = (target != ignore_index) & ((target < 0) | (target >= num_classes))
        if wrong.any():
            refuse_out_of_range(target, num_classes, ignore_index, IndexError("target"))
    return not low <= ignore_index <= high


def shape_of_logits(
    options: RegionOptions, target: Tensor, num_classes: int | None, *, at_least: bool
) -> torch.Size:
    """The shape of the logits that go with a target, which has ``num_classes``, or as many more."""
    check_is_tensor(target)
    of_indices = not target.is_floating_point() and target.dtype is not torch.bool
    if options.activation == "sigmoid":
        if of_indices and not (target.ndim == 1 or target.shape[1] == 1):
            raise ValueError(
                f"a target of integers, shape {tuple(target.shape)}, may be class indices, or 0 "
                "and 1 for each class: here give what is 0 and 1 as target.bool() or "
                "target.float(), class indices as F.one_hot(target, C).movedim(-1, 1).bool()"
            )
        return target.shape
    if not of_indices:
        return target.shape
    if num_classes is None or at_least:
        if options.absent == "count":
            raise ValueError(
                "absent='count' counts every class, and class indices do not tell how many there "
                "are: give the loss weight=torch.ones(C)"
            )
        # Classes beyond the largest are absent; a dict may name some of them.
        valid = target[target != options.ignore_index]
        largest = int(valid.max()) + 1 if valid.numel() else 0
        num_classes = max(largest, num_classes or 2)
    return torch.Size([*target.shape[:1], num_classes, *target.shape[1:]])
