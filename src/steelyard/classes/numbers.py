"""Whole numbers, one per class, in any container and of any type that holds them."""

from collections.abc import Iterable, Mapping
from numbers import Number
from operator import index
from typing import Any

import torch
from torch import Tensor

# A larger class index is taken for a mistake: every class up to it would take memory.
LARGEST_CLASS = 1 << 24
_MOST = 2**63 - 1  # what a tensor of int64 holds


def whole_numbers(values: Tensor | Iterable[int], what: str) -> tuple[int, ...]:
    """Read one whole number ≥ 0 per class, exactly.

    Args:
        values: a tensor, an array, a list or any other ordered iterable; of integers of any
            type, or of numbers without a fraction.
        what: the name of the argument, for errors.

    Raises:
        TypeError: no such container, or something in it that is not a number.
        ValueError: not one-dimensional, empty, or a number that is negative, fractional, infinite
            or missing, or that 64 bits do not hold.
    """
    given = _listed(values, what)
    if not given:
        raise ValueError(f"{what} has shape (0,); expected one number per class, shape (C,)")
    # What most callers give, told at once; torch.compile follows it too.
    plain = set(map(type, given)) <= {int}
    numbers = given if plain else [_whole(value, c, what) for c, value in enumerate(given)]
    if min(numbers) < 0:
        c = numbers.index(min(numbers))
        raise _not_whole(given[c], c, what)
    if max(numbers) > _MOST:
        c = numbers.index(max(numbers))
        raise ValueError(f"{what}: class {c} has {given[c]}, more than 64 bits hold ({_MOST})")
    return tuple(numbers)


def kind_of(value: object) -> str:
    """The type of a value with its article, for errors: "a list", "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' or name == 'ndarray' else 'a'} {name}"


def _listed(values: Any, what: str) -> list[Any]:
    if isinstance(values, str | bytes | Mapping | set | frozenset) or not isinstance(
        values, Tensor | Iterable
    ):
        raise TypeError(
            f"{what} is {kind_of(values)}; expected a tensor, array or list with one whole number "
            f"per class"
        )
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"{what} has shape {tuple(shape)}; expected one number per class, shape (C,)"
        )
    if isinstance(values, Tensor):
        values = _readable(values, what)
    listed: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return listed


def _readable(values: Tensor, what: str) -> Tensor:
    if values.dtype == torch.bool or values.is_complex():
        raise TypeError(f"{what} is {values.dtype}; expected whole numbers, one per class")
    values = values.detach()
    if torch.compiler.is_compiling() or values.is_meta or type(values) is not Tensor:
        raise TypeError(
            f"{what} is a tensor whose numbers cannot be read here (on the meta device, or while "
            f"torch.compile or torch.export traces); give a list, or ClassCounts made before"
        )
    return values.to_dense() if values.layout is not torch.strided else values


def _whole(value: Any, c: int, what: str) -> int:
    """One number, exact: index() reads integers of every library, int() the other numbers."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Number):
        raise TypeError(
            f"{what}: class {c} has {value!r}, {kind_of(value)}; expected one whole number per "
            f"class"
        )
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):  # complex; NaN; infinity
        number = None
    if number is None or number != value:
        raise _not_whole(value, c, what)
    return int(number)


def _not_whole(value: object, c: int, what: str) -> ValueError:
    return ValueError(
        f"{what}: class {c} has {value}; expected whole numbers ≥ 0: how often each class occurs, "
        f"not its share"
    )
