"""What each mistake costs: a matrix as a user gives it, made to fit the classes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from steelyard.compare.given import shown
from steelyard.compare.study import StudyError, class_of

Matrix = tuple[tuple[float, ...], ...]
_AS_IN = 'as in {"fraud": {"honest": 100}, "honest": {"fraud": 5}}'


def read_costs(text: str) -> Any:
    """What ``--costs`` names: JSON itself, or a JSON or CSV file.

    A CSV file has the decisions in its first line and the true classes in its first column.

    Raises:
        StudyError: it cannot be read.
    """
    if text.lstrip()[:1] in ("{", "["):
        return _parsed("costs", text)
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise StudyError(f"costs in {path} could not be read: {reason}") from error
    if path.suffix.lower() != ".csv":
        return _parsed(f"costs in {path}", content)
    head, *rows = list(csv.reader(content.splitlines())) or [[]]
    return {row[0]: dict(zip(head[1:], map(_number, row[1:]), strict=False)) for row in rows if row}


def _parsed(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudyError(
            f"{what} are no JSON: {error}; expected the cost of deciding for each class where "
            f"another is true, {_AS_IN}"
        ) from error


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def plain_costs(costs: Any) -> Any:
    """Costs as plain values: rows by name, or a list of rows."""
    if isinstance(costs, Mapping):
        return {
            str(true): {str(name): cost for name, cost in row.items()}
            if isinstance(row, Mapping)
            else row
            for true, row in costs.items()
        }
    try:
        return torch.as_tensor(costs, dtype=torch.float64).tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"costs are {shown(costs)}, which is no matrix of numbers; expected a row for "
            f"each true class and a column for each decision, or rows by name, {_AS_IN}"
        ) from error


def fitted_costs(costs: Any, classes: Sequence[str]) -> Matrix:
    """The matrix in the order of the classes.

    Args:
        costs: as `plain_costs` gives them. Rows by name may leave out what is right, which then
            costs nothing.
        classes: their names.

    Raises:
        StudyError: a class that is not there or has no cost, a number that is none, a right
            decision that costs more than a mistake, or costs that decide nothing.
    """
    matrix = _by_name(costs, classes) if isinstance(costs, Mapping) else _in_order(costs, classes)
    for true, row in zip(classes, matrix, strict=True):
        for name, cost in zip(classes, row, strict=True):
            if not isinstance(cost, int | float) or not math.isfinite(cost):
                raise StudyError(
                    f"deciding {name!r} where {true!r} is true costs {cost!r}; expected a finite "
                    "number"
                )
    for c, (true, row) in enumerate(zip(classes, matrix, strict=True)):
        least = min(range(len(row)), key=row.__getitem__)
        if row[c] > row[least]:
            raise StudyError(
                f"deciding {true!r} where it is true costs {row[c]:g}, and deciding "
                f"{classes[least]!r} there only {row[least]:g}; rows are the true classes and "
                "columns the decisions, and what is right is to cost least in its row"
            )
    if all(len(set(row)) == 1 for row in matrix):
        raise StudyError("every decision costs the same; expected mistakes to cost more")
    return tuple(tuple(float(cost) for cost in row) for row in matrix)


def _by_name(costs: Mapping[str, Any], classes: Sequence[str]) -> list[list[Any]]:
    known = set(classes)
    for true, row in costs.items():
        if not isinstance(row, Mapping):
            raise StudyError(f"costs of {true!r} are {row!r}; expected decisions by name, {_AS_IN}")
    costs = _known({true: _known(row, classes) for true, row in costs.items()}, classes)
    for true, row in costs.items():
        if unknown := [name for name in (true, *row) if name not in known]:
            raise StudyError(
                f"costs name {unknown[0]!r}, which is no class; the classes are "
                f"{', '.join(map(repr, classes))}"
            )
    for true in classes:
        for name in classes:
            if name != true and name not in costs.get(true, {}):
                raise StudyError(
                    f"costs lack what it costs to decide {name!r} where {true!r} is true"
                )
    return [[costs.get(true, {}).get(name, 0.0) for name in classes] for true in classes]


def _known(given: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The same under the names that the classes have; what is no class keeps its own."""
    found = {}
    for name, value in given.items():
        known = class_of(name, classes)
        found[name if known is None or known in given else known] = value
    return found


def _in_order(costs: Any, classes: Sequence[str]) -> list[list[Any]]:
    shape = tuple(torch.tensor(costs).shape)
    if shape != (len(classes), len(classes)):
        raise StudyError(
            f"costs have shape {shape}, and there are {len(classes)} classes "
            f"({', '.join(classes)}); expected a row for each true class and a column for each "
            "decision, in that order"
        )
    return [list(row) for row in costs]
