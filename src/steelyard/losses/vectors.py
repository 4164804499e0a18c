"""Per-class numbers in every container that users hold them in."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import TypeAliasType  # which torch brings: signatures show its name

from steelyard.classes import ClassCounts


class Array(Protocol):
    """A NumPy array, or a column of a data frame."""

    def tolist(self) -> Any:
        """The numbers as a list."""


PerClass = TypeAliasType("PerClass", Tensor | Sequence[float] | Mapping[int, float] | Array)
"""One number per class: tensor, NumPy array, list, tuple, or dict {class: number}."""


class ClassVector(NamedTuple):
    """One number per class, and whether classes beyond the last one count as 1."""

    values: Tensor
    others_are_one: bool = False


def readable(tensor: Tensor) -> bool:
    """Whether looking at the values costs nothing: not on an accelerator, not while tracing."""
    return (
        tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def read_class_vector(
    name: str, given: float | PerClass, *, or_number: bool = False
) -> ClassVector:
    """Read one number per class, or one number () for all of them where that will do.

    float32 and float64 tensors stay what they are; everything else becomes float64, so that a
    list of decimal numbers is as exact for float64 logits as it can be.

    Raises:
        TypeError: not a container of numbers.
        ValueError: not one-dimensional, or values that are NaN, infinite or negative.
    """
    if isinstance(given, Mapping):
        vector = ClassVector(_spread(name, given), others_are_one=True)
    elif or_number and isinstance(given, int | float):
        vector = ClassVector(torch.tensor(given, dtype=torch.float64))
    else:
        vector = ClassVector(_to_tensor(name, given))
    values = vector.values
    if or_number and values.shape == (1,) and not vector.others_are_one:
        values = values.reshape(())  # as PyTorch broadcasts it
        vector = ClassVector(values)
    if values.ndim != 1 and not (or_number and values.ndim == 0):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected one number per class, shape (C,)"
            + ("; weights of positions or cells are sample_weight" if or_number else "")
        )
    if readable(values):
        _check_values(name, values)
    return vector


def fit(
    name: str, vector: Tensor, num_classes: int, like: Tensor, *, others_are_one: bool = False
) -> Tensor:
    """Bring a vector to C numbers, on the device of ``like`` and in its dtype.

    Raises:
        ValueError: the vector has another length.
    """
    length = vector.shape[0] if vector.ndim else num_classes
    if others_are_one and length < num_classes:
        vector = F.pad(vector, (0, num_classes - length), value=1.0)
    elif others_are_one and length > num_classes:
        raise ValueError(
            f"{name} names class {length - 1}, but logits have C = {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )
    elif length != num_classes:
        raise ValueError(
            f"{name} has {length} values, but logits have C = {num_classes} classes "
            "(dimension 1, or the only one): give one value per class"
        )
    # From pageable memory a non-blocking copy is staged first: safe, and the host does not wait.
    return vector.to(like.device, like.dtype, non_blocking=True)


def _to_tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, ClassCounts):
        raise TypeError(
            f"{name} is given as ClassCounts, which are not weights, but what weights are made "
            "of: class_weights(counts) makes them"
        )
    if isinstance(given, Tensor):
        if given.is_complex():
            raise TypeError(f"{name} is complex: expected real numbers, one per class")
        if given.dtype in (torch.float32, torch.float64):
            return given
        return given.to(torch.float32 if given.is_floating_point() else torch.float64)
    try:
        if isinstance(given, set | frozenset):
            raise TypeError  # it has no order
        # tolist() is what NumPy arrays and data-frame columns share; it loses no digit.
        numbers = given.tolist() if hasattr(given, "tolist") else list(given)
        return torch.tensor(numbers, dtype=torch.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}={given!r} cannot be read as one number per class: give a tensor, an array, "
            "a list, or a dict {class: number}"
        ) from None


def _spread(name: str, given: Mapping[int, float]) -> Tensor:
    """{class: number} as a vector up to the largest class named, the others 1."""
    for key in given:
        if isinstance(key, bool) or not hasattr(key, "__index__") or key < 0:
            raise TypeError(
                f"{name} has the key {key!r}: the keys of a dict are class indices 0, 1, 2, …"
            )
    values = [1.0] * (max(given, default=-1) + 1)
    for key, number in given.items():
        if not hasattr(number, "__float__"):
            raise TypeError(f"{name} of class {key} is {number!r}: expected a number")
        values[key] = float(number)
    return torch.tensor(values, dtype=torch.float64)


def _check_values(name: str, values: Tensor) -> None:
    if values.numel() == 0:
        return
    low, high = (float(bound) for bound in torch.aminmax(values.detach()))
    if low >= 0 and high < math.inf:  # a NaN makes both bounds NaN
        return
    if values.ndim == 0:
        raise ValueError(f"{name} is {float(values)!r}: expected a finite number ≥ 0")
    wrong = int((~((values >= 0) & (values < math.inf))).nonzero()[0])
    raise ValueError(
        f"{name} of class {wrong} is {float(values[wrong])!r}: expected finite numbers ≥ 0"
    )
