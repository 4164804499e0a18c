"""Numbers that a file may hold, and checks of what it held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Maybe = Number | None  # None: not defined for these data


def same_length(what: str, values: Sequence[Any], length: int) -> None:
    if len(values) != length:
        raise ValueError(f"{what} differ in length")


def same_length_of_all(what: str, lists: Sequence[Sequence[Any]]) -> None:
    for values in lists:
        same_length(what, values, len(lists[0]))


def checked(adapter: TypeAdapter[Any], found: Any) -> Any:
    try:
        adapter.validate_python(found, strict=True)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from error
    return found  # not a copy: entries that nobody declared are kept


def _sentence(error: ValidationError) -> str:
    first, *more = error.errors(include_url=False, include_input=False)
    place = ""
    for part in first["loc"]:
        if part not in ("done", "failed"):  # tags of the two kinds of cell
            place += f"[{part}]" if isinstance(part, int) else f".{part}"
    text = {"missing": "is missing"}.get(first["type"], first["msg"])
    text = text.removeprefix("Value error, ").replace("Input should be", "should be")
    rest = f" (and {len(more)} more)" if more else ""
    return f"{place.lstrip('.')} {text}{rest}".lstrip()
