"""What a user gave, held against what an argument takes, before anything is read or trained."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from steelyard._text import printable
from steelyard.compare.study import StudyError

_LONGEST = 60  # characters of a value that a sentence shows


class Argument(NamedTuple):
    """What one argument takes: a question, and the words for what it asks."""

    fits: Callable[[Any], bool]
    expected: str


def check(given: Mapping[str, Any], known: Mapping[str, Argument]) -> None:
    """Hold what was given for arguments against what they take.

    Raises:
        StudyError: what was given and what was expected, of the first that does not fit.
    """
    for name, argument in known.items():
        if name in given and not argument.fits(given[name]):
            raise StudyError(f"{name} is {shown(given[name])}; expected {argument.expected}")


def check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise a StudyError for an option that nobody knows."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise StudyError(
                f"there is no option {name!r}.{hint} The options are: {', '.join(known)}"
            )


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise a StudyError unless a value is a whole number, at least so large."""
    if not is_whole(value, least):
        raise StudyError(f"{name} is {shown(value)}; it must be a whole number, at least {least}")


def check_share(name: str, value: Any) -> None:
    """Raise a StudyError unless a value is a share of the rows, and neither none nor all."""
    if not is_number(value) or not 0 < value < 1:
        raise StudyError(f"{name} is {shown(value)}; it is a share of the rows, as in 0.2")


def check_list(name: str, value: Any, example: str) -> None:
    """Raise a StudyError unless a value is a list of names, or None."""
    if value is not None and not is_several(value):
        raise StudyError(f"{name} is {shown(value)}; expected a list of names, as in [{example!r}]")


def is_several(value: Any) -> bool:
    """Whether it is some values in an order; a text and a dict are not."""
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping | nn.Module)


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether it is an int of at least so much."""
    return isinstance(value, int) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_text(value: Any) -> bool:
    """Whether it is a str, or None."""
    return value is None or isinstance(value, str)


def is_path(value: Any) -> bool:
    """Whether it names a file or a folder, or is None."""
    return value is None or isinstance(value, str | os.PathLike)


def takes(function: Any, number: int) -> bool:
    """Whether it can be called with so many arguments in order; True where nobody can tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built in, or no function at all
        return callable(function)
    try:
        signature.bind(*range(number))
    except TypeError:
        return False
    return True


def shown(value: Any) -> str:
    """A value as a sentence shows it: itself where that is short, else what it is."""
    if _is_plain(value):
        return _cut(repr(value))
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}{_parameters(value)}"
    if isinstance(value, list | tuple) and all(map(_is_plain, value)):
        return _cut(repr(value))
    kind = _with_article(type(value).__name__)
    if isinstance(value, Tensor | np.ndarray):
        return f"{kind} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping) and value:
        return f"{kind} with the keys {_listed(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"{kind} of {_listed(map(shown, value))}"
    return kind


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str | bytes | os.PathLike)


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _parameters(function: Any) -> str:
    """The names of what a function takes, in brackets."""
    try:
        return f"({', '.join(inspect.signature(function).parameters)})"
    except (TypeError, ValueError):  # built in
        return ""


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _listed(texts: Iterable[str]) -> str:
    some = list(texts)
    return ", ".join(some if len(some) <= 4 else [*some[:3], "…"])
