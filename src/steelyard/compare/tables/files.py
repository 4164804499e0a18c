"""Files in, tables and arrays out. A path names one file: no character in it is a pattern."""

from __future__ import annotations

import csv
import hashlib
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from steelyard import _text
from steelyard.compare.study import StudyError

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]
_TEXT = (".csv", ".tsv")
_PACKED = (".gz", ".zst")  # polars unpacks them as it reads
_PARQUET = (".parquet", ".parq", ".pq")
_ARRAYS = (".npz",)
_KINDS = (*_TEXT, *(text + packed for text in _TEXT for packed in _PACKED), *_PARQUET, *_ARRAYS)
_READERS = ".csv, .tsv, .parquet or .npz"
_UNREADABLE = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    csv.Error,
    OSError,
    ValueError,
)
_HEADER_WITHIN = 100  # lines
# Where a comma is the decimal sign, semicolons separate, and points part thousands.
_COMMA_NUMBER = r"^\s*[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?([eE][+-]?\d+)?\s*$"


def existing(path: str | Path) -> Path:
    """The path, if a file of a known kind that holds something lies there.

    Raises:
        StudyError: there is no such file; the message says why.
    """
    path = Path(path)
    shown = shorten(str(path))
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # a NUL is a ValueError
        raise StudyError(f"there is no file {shown!r}") from error
    except OSError as error:
        raise StudyError(f"{shown!r} cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        raise StudyError(f"{shown!r} is a folder; name a {_READERS} file")
    if not stat.S_ISREG(found.st_mode):  # it is read more than once
        raise StudyError(f"{shown!r} is no file but a pipe or a device; name a {_READERS} file")
    if not path.name.lower().endswith(_KINDS):
        raise StudyError(f"{path.name!r} is of no known kind; name a {_READERS} file")
    if found.st_size == 0:
        raise StudyError(f"{path.name!r} is empty")
    return path


def is_arrays(path: Path) -> bool:
    """Whether it is an NPZ, by its name."""
    return path.name.lower().endswith(_ARRAYS)


def read_table(path: Path) -> pl.DataFrame:
    """The whole table."""
    try:
        if _is_parquet(path):
            frame = pl.read_parquet(path.absolute(), glob=False, hive_partitioning=False)
        else:
            frame = pl.read_csv(path.absolute(), infer_schema_length=None, **_csv_options(path))
            frame.columns = _column_names(path, frame.columns)
            if _separator(path) == ";":
                frame = _with_decimal_commas(frame)
    except _UNREADABLE as error:
        raise unreadable(path, error) from error
    if frame.is_empty():
        raise StudyError(f"{path.name!r} has column names but no rows")
    return frame


def scan_table(path: Path) -> pl.LazyFrame:
    """The table as a stream: it may be larger than memory."""
    try:
        if _is_parquet(path):
            lazy = pl.scan_parquet(path.absolute(), glob=False, hive_partitioning=False)
            lazy.collect_schema()
            return lazy
        lazy = pl.scan_csv(path.absolute(), infer_schema_length=10_000, **_csv_options(path))
        columns = lazy.collect_schema().names()
        return lazy.rename(dict(zip(columns, _column_names(path, columns), strict=True)))
    except _UNREADABLE as error:
        raise unreadable(path, error) from error


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an NPZ, by name."""
    expected = " and ".join(names)
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise StudyError(
                    f"{path.name!r} is a single array; expected an NPZ with {expected}, as "
                    "numpy.savez writes it"
                )
            if any(name not in arrays for name in names):
                held = shorten(", ".join(arrays.files)) or "nothing"
                raise StudyError(f"{path.name!r} holds {held}; expected {expected}")
            found = [arrays[name] for name in names]
    except Exception as error:
        # A damaged file fails in whatever way it likes: zip, zlib, NumPy, even memory.
        raise unreadable(path, error) from error
    for name, array in zip(names, found, strict=True):
        if not isinstance(array, np.ndarray):
            raise StudyError(f"{name} in {path.name!r} is no array; numpy.savez writes one")
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unreadable(path: Path, error: BaseException) -> StudyError:
    """The error to raise for one that a reader raised; a StudyError stays as it is."""
    if isinstance(error, StudyError):
        return error
    return StudyError(f"{path.name!r} could not be read: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened."""
    return shorten(_text.first_line(error), 300)


def shorten(text: str, most: int = 120) -> str:
    """The text, its middle left out where it is long."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(_PARQUET)


def _csv_options(path: Path) -> dict[str, Any]:
    return {
        "separator": _separator(path),
        "null_values": MISSING,
        "try_parse_dates": True,
        "glob": False,
    }


def _with_decimal_commas(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of texts such as 3,14 and 1.234,5 as numbers."""
    numbers = [
        text.str.strip_chars().str.replace_all(".", "", literal=True).str.replace(",", ".")
        for text in frame.select(cs.string())
        if text.str.contains(",", literal=True).any() and text.str.contains(_COMMA_NUMBER).all()
    ]
    return frame.with_columns(number.cast(pl.Float64) for number in numbers)


def _separator(path: Path) -> str:
    if path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".tsv"):
        return "\t"
    text = re.sub(r'"[^"]*"', "", "".join(_first_lines(path)))  # what is quoted separates nothing
    line = next(iter(text.splitlines()), "")
    return max(",;\t", key=line.count)


def _column_names(path: Path, found: list[str]) -> list[str]:
    """The names in the first line, where polars leaves doubled quotes and renames doubled names."""
    rows = csv.reader(_first_lines(path), delimiter=_separator(path))
    names = next((row for row in rows if row), [])
    if len(names) != len(found):
        return found
    names = [name or f"column {place}" for place, name in enumerate(names, 1)]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise StudyError(
            f"{path.name!r} has {times} columns called {shorten(name)!r}; rename all but one"
        )
    return names


def _first_lines(path: Path) -> list[str]:
    """Enough lines to hold the names, even after blank ones or with line breaks within."""
    rows = pl.read_csv(
        path.absolute(),  # which unpacks it, where it is packed
        has_header=False,
        separator="\x01",
        quote_char=None,
        n_rows=_HEADER_WITHIN,
        infer_schema=False,
        encoding="utf8-lossy",
        glob=False,
    ).rows()
    lines = ["".join(value or "" for value in row) for row in rows]
    if any("\0" in line or "\ufffd" in line for line in lines):
        raise StudyError(f"{path.name!r} is not UTF-8 text; save it as UTF-8")
    return [f"{line}\n" if line else "" for line in lines]
