"""Per-class numbers in every container that users hold them in."""

import reprlib
from collections.abc import Mapping, Sequence
from numbers import Number
from operator import index
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import TypeAliasType  # which torch brings: signatures show its name

from steelyard.classes import ClassCounts
from steelyard.classes.numbers import LARGEST_CLASS
from steelyard.ops import compat

# Beyond it a number is infinite where it meets the logits.
LARGEST = torch.finfo(torch.float32).max


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
    """Whether looking at the values costs nothing, and there are some."""
    return tensor.device.type == "cpu" and has_values(tensor)


def has_values(tensor: Tensor) -> bool:
    """Whether there are values to look at: not while something traces, batches or fakes them."""
    return (
        not torch.compiler.is_compiling()
        and compat.is_plain(tensor)
        and not (tensor.is_meta or compat.is_watched() or compat.is_traced())
    )


def check_values(name: str, values: Tensor, of: str = "") -> None:
    """Raise a ValueError unless all values are ≥ 0 and finite in float32.

    Args:
        name: of the argument, for the error.
        values: of any shape.
        of: what the values are of, "class" or nothing.
    """
    if values.numel() == 0 or not readable(values):
        return
    if values.dtype.is_complex:
        raise TypeError(f"{name} is complex: expected real numbers ≥ 0")
    seen = values.detach()
    if seen.dtype.itemsize == 1 or seen.dtype in (torch.uint16, torch.uint32, torch.uint64):
        seen = seen.double()  # aminmax takes few of the small and unsigned types
    low, high = (float(bound) for bound in torch.aminmax(seen))
    if low >= 0 and high <= LARGEST:  # a NaN makes both bounds NaN
        return
    where = (~((seen >= 0) & (seen <= LARGEST))).nonzero()[0].tolist()
    place = name
    if not of:
        place = f"{name}{where}"
    elif where:
        place = f"{name} of {of} {where[0]}"
    expected = "finite numbers" if where or not of else "a finite number"
    wrong = seen[tuple(where)].item()
    beyond = f", at most {LARGEST:.1e}" if LARGEST < wrong < float("inf") else ""
    raise ValueError(f"{place} is {wrong!r}: expected {expected} ≥ 0{beyond}")


def moved(name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor where the logits are, in this dtype.

    Raises:
        ValueError: it is on the meta device, and the logits are not.
    """
    if tensor.is_meta and device.type != "meta":
        raise ValueError(
            f"{name} is on the meta device, which holds no numbers, and is wanted on {device}: "
            "build it outside torch.device('meta')"
        )
    # From pageable memory a non-blocking copy is staged first: safe, and the host does not wait.
    return tensor.to(device, dtype, non_blocking=True)


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
    else:
        numbers = [given] if or_number and isinstance(given, Number) else given
        vector = ClassVector(_to_tensor(name, numbers))
    values = vector.values
    if or_number and values.shape == (1,) and not vector.others_are_one:
        values = values.reshape(())  # as PyTorch broadcasts it
        vector = ClassVector(values)
    if values.ndim != 1 and not (or_number and values.ndim == 0):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected one number per class, shape (C,)"
            + ("; weights of positions or cells are sample_weight" if or_number else "")
        )
    check_values(name, values, of="class")
    return vector


def fit(
    name: str, vector: Tensor, num_classes: int, like: Tensor, *, others_are_one: bool = False
) -> Tensor:
    """Bring a vector to C numbers, on the device of ``like`` and in its dtype.

    Raises:
        ValueError: the vector has another length, or no numbers.
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
            + ("; labels are counted by count_classes" if name == "class_counts" else "")
        )
    return moved(name, vector, like.device, like.dtype)


def _to_tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, ClassCounts):
        raise TypeError(
            f"{name} is given as ClassCounts, which are not weights, but what weights are made "
            "of: class_weights(counts) makes them"
        )
    if isinstance(given, Tensor):
        if given.is_complex():
            raise TypeError(f"{name} is complex: expected real numbers, one per class")
        dense: Tensor = given if given.layout is torch.strided else given.to_dense()
        if dense.dtype in (torch.float32, torch.float64):
            return dense
        return dense.to(torch.float32 if dense.is_floating_point() else torch.float64)
    try:
        if isinstance(given, set | frozenset | bytes):
            raise TypeError  # sets have no order, and bytes are text
        if torch.compiler.is_compiling() and type(given).__module__ == "numpy":
            return torch.as_tensor(given).to(torch.float64)  # Dynamo reads no list of floats
        # tolist() is what NumPy arrays and data-frame columns share; it loses no digit.
        numbers = given.tolist() if hasattr(given, "tolist") else list(given)
        return torch.tensor(numbers, dtype=torch.float64, device="cpu")
    except OverflowError:
        raise ValueError(
            f"{name}={reprlib.repr(given)} has a number that floats do not hold: expected finite "
            f"numbers ≥ 0, at most {LARGEST:.1e}"
        ) from None
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}={reprlib.repr(given)} cannot be read as one number per class: give a tensor, "
            "an array, a list, or a dict {class: number}"
        ) from None


def _spread(name: str, given: Mapping[int, float]) -> Tensor:
    """{class: number} as a vector up to the largest class named, the others 1."""
    classes = [_class_index(name, key) for key in given]
    if len(set(classes)) < len(classes):
        raise ValueError(f"{name} has two numbers for one class: {reprlib.repr(given)}")
    values = [1.0] * (max(classes, default=-1) + 1)
    for c, number in zip(classes, given.values(), strict=True):
        try:
            if not hasattr(number, "__float__"):
                raise TypeError  # a string, which float() would read
            values[c] = float(number)
        except (TypeError, ValueError):
            raise TypeError(f"{name} of class {c} is {number!r}: expected a number") from None
        except OverflowError:
            raise ValueError(
                f"{name} of class {c} is {reprlib.repr(number)}: expected finite numbers ≥ 0, at "
                f"most {LARGEST:.1e}"
            ) from None
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _class_index(name: str, key: Any) -> int:
    if isinstance(key, bool) or not hasattr(key, "__index__") or key < 0:
        raise TypeError(
            f"{name} has the key {key!r}: the keys of a dict are class indices 0, 1, 2, …"
            + (
                "; by names give a list in the order of the classes, [numbers[name] for name in "
                "class_counts.names]"
                if isinstance(key, str)
                else ""
            )
        )
    if key >= LARGEST_CLASS:
        raise ValueError(f"{name} has the key {key!r}, which is too large to be a class index")
    return index(key)
