"""Labels of any container and type as class indices; names are numbered as they come."""

import math
from collections.abc import Callable, Sequence
from operator import index
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from steelyard.classes.sources import Piece


class LabelReader:
    """Turns pieces of labels into integer tensors.

    Class names are numbered in the order in which they are met: `names` gives that order.
    """

    def __init__(self, num_classes: int | None) -> None:
        self._num_classes = num_classes
        self._ids: dict[str, int] = {}
        self._read_names: bool | None = None  # None until the first label

    @property
    def names(self) -> tuple[str, ...]:
        """The names met so far; none where the labels are class indices."""
        return tuple(self._ids)

    def read(self, piece: Piece) -> Tensor:
        """The piece's labels as class indices: a tensor of the same shape, integer or bool.

        Raises:
            TypeError: Labels that are neither integers nor strings, or both.
            ValueError: A missing label, rows of unequal length, more names than classes.
        """
        labels = piece.labels
        if isinstance(labels, Tensor):
            return self._indices(labels, piece)
        if not hasattr(labels, "dtype"):
            if any(isinstance(row, list | tuple) for row in labels):
                return self._indices(_from_nested(labels, piece), piece)
            return self._each(labels, (len(labels),), piece)
        if labels.dtype.kind in "biuf":
            # A copy of a known type: torch warns of read-only arrays, and refuses negative
            # strides and foreign byte orders.
            plain = labels.astype("float64" if labels.dtype.kind == "f" else "int64")
            return self._indices(torch.from_numpy(plain), piece)
        if labels.dtype.kind in "OUT":
            return self._each(labels.reshape(-1).tolist(), tuple(labels.shape), piece)
        raise TypeError(_wrong_dtype(labels, piece))

    def _indices(self, labels: Tensor, piece: Piece) -> Tensor:
        if labels.numel() == 0:
            return labels.to(torch.int64)
        if labels.is_floating_point():
            _refuse_floats(labels, piece)
        if labels.is_complex():
            raise TypeError(_wrong_dtype(labels, piece))
        self._expect(names=False, at=piece.at((0,) * labels.dim()))
        return labels

    def _each(self, labels: Sequence[Any], shape: tuple[int, ...], piece: Piece) -> Tensor:
        """The same for Python objects in a flat sequence, which are to have this shape."""
        if not labels:
            return torch.empty(shape, dtype=torch.int64)

        def at(i: int) -> str:
            return piece.at(_unravel(i, shape))

        names = isinstance(labels[0], str)
        types = set(map(type, labels))
        if names and not all(issubclass(t, str) for t in types):
            i = next(i for i, label in enumerate(labels) if not isinstance(label, str))
            raise _unreadable(labels[i], at(i), among="names")
        if not names and not types <= {int, bool}:
            labels = [_index(label, i, at) for i, label in enumerate(labels)]
        self._expect(names=names, at=at(0))
        ids = self._numbered(labels, at) if names else labels
        try:
            return torch.tensor(ids, dtype=torch.int64).reshape(shape)
        except (RuntimeError, OverflowError, ValueError):
            i = next(i for i, n in enumerate(ids) if not -(2**63) <= n < 2**63)
            raise ValueError(f"label {ids[i]} at {at(i)} does not fit 64 bits") from None

    def _numbered(self, names: Sequence[str], at: Callable[[int], str]) -> list[int]:
        ids = [self._ids.setdefault(name, len(self._ids)) for name in names]
        if self._num_classes is not None and len(self._ids) > self._num_classes:
            i = next(i for i, n in enumerate(ids) if n >= self._num_classes)
            raise ValueError(
                f"label {names[i]!r} at {at(i)} is one name too many: num_classes="
                f"{self._num_classes}, and {', '.join(map(repr, self.names[: self._num_classes]))} "
                f"came before it"
            )
        return ids

    def _expect(self, *, names: bool, at: str) -> None:
        if self._read_names is None:
            self._read_names = names
        if self._read_names != names:
            now, before = ("names", "indices") if names else ("indices", "names")
            raise TypeError(
                f"the labels at {at} are class {now}, and those before it class {before}; expected "
                f"one kind throughout"
            )


def _index(label: Any, i: int, at: Callable[[int], str]) -> int:
    if str(getattr(label, "dtype", "")) in ("bool", "torch.bool"):
        return int(label)
    try:
        return index(label)
    except TypeError:
        raise _unreadable(label, at(i), among="indices") from None


def _unreadable(label: Any, at: str, among: Literal["names", "indices"]) -> Exception:
    """The error for a label that is none: missing, a float, or of another type."""
    number = None if isinstance(label, str) else _as_float(label)
    kind = type(label).__name__
    if kind in ("NoneType", "NAType", "NaTType") or (number is not None and math.isnan(number)):
        return ValueError(_missing(label, at))
    if isinstance(label, str) or among == "names":
        return TypeError(
            f"label {label!r} at {at} is of type {kind}, among class {among}; expected all "
            f"integers (class indices) or all strings (class names)"
        )
    if number is not None:
        return TypeError(_not_an_integer(number, at))
    return TypeError(
        f"label {label!r} at {at} is of type {kind}; expected an integer (class index) or "
        f"a string (class name)"
    )


def _as_float(label: Any) -> float | None:
    try:
        return float(label)
    except (TypeError, ValueError, RuntimeError):
        return None


def _refuse_floats(labels: Tensor, piece: Piece) -> NoReturn:
    """Name the most telling label: a missing one, else one with a fraction, else the first."""
    missing = labels.isnan()
    telling = missing if missing.any() else labels != labels.trunc()
    position = tuple(torch.unravel_index(telling.to(torch.uint8).argmax(), labels.shape))
    value, at = labels[position].item(), piece.at(tuple(map(int, position)))
    if missing.any():
        raise ValueError(_missing(value, at))
    raise TypeError(_not_an_integer(value, at))


def _missing(label: Any, at: str) -> str:
    return (
        f"the label at {at} is missing ({label}): drop such rows, or make them a class of their own"
    )


def _not_an_integer(label: float, at: str) -> str:
    return (
        f"label {label} at {at} is a floating-point number; expected class indices: convert with "
        f"target.long() (a tensor) or .astype('int64') (an array), probabilities with .argmax(1)"
    )


def _wrong_dtype(labels: Any, piece: Piece) -> str:
    return (
        f"the labels{f' in {piece.where}' if piece.where else ''} are of dtype {labels.dtype}; "
        f"expected integers (class indices) or strings (class names)"
    )


def _from_nested(labels: Sequence[Any], piece: Piece) -> Tensor:
    try:
        return torch.tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the nested list{f' in {piece.where}' if piece.where else ''} is no mask of class "
            f"indices: {error}"
        ) from error


def _unravel(i: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    position: list[int] = []
    for size in reversed(shape):
        i, rest = divmod(i, size)
        position.insert(0, rest)
    return tuple(position)
