"""Tables and arrays in, labelled data and its splits out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import torch
from torch.utils.data import DataLoader, Dataset

from steelyard.compare.given import shown
from steelyard.compare.study import StudyError
from steelyard.compare.tables.files import (
    MISSING,
    existing,
    file_digest,
    first_line,
    is_arrays,
    read_arrays,
    read_table,
    scan_table,
    unreadable,
)
from steelyard.compare.tables.labels import encode, label_series, target_column

DIGITS_RATIO = 50.0
_ONCE = 10  # numbers that occur once: more are a quantity rather than classes
_EXACT = 2**53  # beyond it float64 skips whole numbers
# Every value of these is a float32 too; all others are kept in float64.
_NARROW = (pl.Float32, pl.Int8, pl.Int16, pl.UInt8, pl.UInt16)


@dataclass(frozen=True)
class Data:
    """Rows with a class each.

    Attributes:
        name: where the rows come from.
        numbers: (N, d) the numeric columns, in float32 where that changes no value and else in
            float64: epoch seconds differ only beyond the digits of float32. NaN is a missing value.
        rest: the other columns (text, categories, dates), or None.
        labels: (N,) int64, positions in `classes`.
        classes: names of the classes, in order.
        target: name of the column that held them.
        digest: SHA-256 of the source.
        notes: what was done to the table, one sentence each.
        tail_ratio: make the training split long-tailed with this imbalance ratio, and the
            validation and test splits balanced; None keeps the frequencies as they are.
    """

    name: str
    numbers: np.ndarray = field(repr=False)
    rest: pl.DataFrame | None = field(repr=False)
    labels: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    target: str
    digest: str
    notes: tuple[str, ...] = ()
    tail_ratio: float | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def columns(self) -> int:
        """Number of feature columns, before preparation."""
        rest = 0 if self.rest is None else self.rest.width
        return int(self.numbers.shape[1]) + rest

    def counts(self) -> np.ndarray:
        """(C,) rows per class."""
        return np.bincount(self.labels, minlength=len(self.classes))


def load_digits() -> Data:
    """The digits that ship with scikit-learn; training is made long-tailed, ratio 50."""
    from sklearn.datasets import load_digits as bundled

    pixels, labels = bundled(return_X_y=True)
    data = from_arrays(pixels, labels, name="digits (scikit-learn)", target="digit")
    note = (
        f"The training rows are made long-tailed (exponential profile, ratio {DIGITS_RATIO:g}); "
        "validation and test rows stay balanced."
    )
    return replace(data, notes=(*data.notes, note), tail_ratio=DIGITS_RATIO)


def load(path: str | Path, target: str | None = None) -> Data:
    """Read a CSV, TSV, Parquet or NPZ file.

    Args:
        path: the file; an NPZ holds arrays X (N, …) and y (N,).
        target: the column that holds the classes; of an NPZ, the array ("y").

    Raises:
        StudyError: the file cannot be read, or is no classification problem.
    """
    path = existing(path)
    if is_arrays(path):
        features, labels = read_arrays(path, "X", target or "y")
        data = from_arrays(features, labels, name=path.name, target=target or "y")
    else:
        frame = read_table(path)
        labels_column = target_column(frame.columns, target)
        data = from_frame(
            frame.drop(cs.by_name(labels_column)),
            frame.select(cs.by_name(labels_column)).to_series(),
            name=path.name,
            target=labels_column,
        )
    try:
        return replace(data, digest=file_digest(path))
    except OSError as error:
        raise unreadable(path, error) from error


def from_any(features: Any, labels: Any, name: str = "arrays") -> Data:
    """Data from what a notebook holds: NumPy, pandas, polars, tensors, lists."""
    _check_rows("features", features, "an array, a tensor or a DataFrame")
    _check_rows("labels", labels, "an array, a tensor or a column")
    target = str(getattr(labels, "name", None) or "y")
    if type(features).__module__.startswith("pandas"):
        try:
            features = pl.from_pandas(features)
        except Exception as error:  # pyarrow, pandas and polars each have errors of their own
            raise StudyError(f"X could not be read: {first_line(error)}") from error
    if isinstance(features, pl.DataFrame):
        if not isinstance(labels, pl.Series):
            labels = label_series(_array(labels, target), target)
        return from_frame(features, labels, name=name, target=target)
    return from_arrays(_array(features, "X"), _array(labels, target), name=name, target=target)


def from_arrays(features: np.ndarray, labels: np.ndarray, *, name: str, target: str) -> Data:
    """Data from an array of features (N, …) and one of labels (N,) or (N, 1)."""
    if not features.ndim or not labels.ndim or len(features) != len(labels):
        raise StudyError(
            f"X has shape {features.shape} and {target} has shape {labels.shape}; "
            "expected one label for each row of X"
        )
    if features.dtype.kind not in "biuf":
        raise StudyError(f"X holds {features.dtype} values; expected numbers (or pass a DataFrame)")
    codes, classes = encode(label_series(labels, target), target)
    digest = hashlib.sha256(np.ascontiguousarray(features).tobytes())
    digest.update(np.ascontiguousarray(codes).tobytes())
    numbers = _array_of_numbers(features.reshape(len(features), -1))
    return _checked(name, numbers, None, codes, classes, target, digest.hexdigest(), ())


def from_frame(features: pl.DataFrame, labels: pl.Series, *, name: str, target: str) -> Data:
    """Data from a table of features and a column of labels."""
    if features.height != len(labels):
        raise StudyError(
            f"X has {features.height} rows and {target} has {len(labels)}; "
            "expected one label for each row"
        )
    codes, classes = encode(labels, target)
    frame, notes = _usable(features)
    digest = hashlib.sha256(frame.hash_rows(seed=1).to_numpy().tobytes())
    digest.update(codes.tobytes())
    numbers = _columns_of_numbers(frame.select(cs.numeric()), frame.height)
    rest = frame.drop(cs.numeric())
    rest_or_none = rest if rest.width else None
    return _checked(name, numbers, rest_or_none, codes, classes, target, digest.hexdigest(), notes)


def count_column(path: str | Path, target: str | None) -> dict[str, int]:
    """Rows of each class, read as a stream: the file may be larger than memory."""
    path = existing(path)
    if is_arrays(path):
        target = target or "y"
        (labels,) = read_arrays(path, target)
        lazy = label_series(labels, target).to_frame().lazy()
    else:
        lazy = scan_table(path)
        target = target_column(lazy.collect_schema().names(), target)
    try:
        column = lazy.select(cs.by_name(target)).rename({target: "label"})  # "*" is a name too
        table = column.group_by("label").len(name="rows").collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StudyError(f"column {target!r} could not be read: {first_line(error)}") from error
    codes, classes = encode(table["label"], target, rows=table["rows"])
    rows = np.zeros(len(classes), dtype=np.int64)
    np.add.at(rows, codes, table["rows"].to_numpy())
    return dict(zip(classes, rows.tolist(), strict=True))


def _array_of_numbers(features: np.ndarray) -> np.ndarray:
    """Numbers (N, d), in float32 where that changes no value."""
    if features.dtype.kind in "iu" and features.size and _beyond(features.min(), features.max()):
        return _columns_of_numbers(pl.from_numpy(features, orient="row"), len(features))
    narrow = np.can_cast(features.dtype, np.float32)
    return np.ascontiguousarray(features, dtype=np.float32 if narrow else np.float64)


def _columns_of_numbers(frame: pl.DataFrame, rows: int) -> np.ndarray:
    """Numeric columns as numbers (N, d), in float32 where that changes no value."""
    if not frame.width:
        return np.empty((rows, 0), dtype=np.float32)
    narrow = all(kind in _NARROW for kind in frame.dtypes)
    columns = [_without_offset(column) for column in frame]
    return pl.DataFrame(columns).cast(pl.Float32 if narrow else pl.Float64).to_numpy()


def _without_offset(column: pl.Series) -> pl.Series:
    """Whole numbers too large for float64, such as epoch nanoseconds, counted from the least."""
    low, high = (column.min(), column.max()) if column.dtype.is_integer() else (None, None)
    if low is None or not _beyond(low, high):
        return column
    return column.cast(pl.Int128) - pl.Series([low], dtype=pl.Int128)


def _beyond(low: Any, high: Any) -> bool:
    return max(-int(low), int(high)) > _EXACT


def _usable(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The table with only numbers, text, categories and dates in it, and what was left out."""
    notes = []
    opaque = frame.select(cs.nested() | cs.binary() | cs.object())
    if opaque.width:
        names = ", ".join(opaque.columns)
        notes.append(f"Columns that hold lists, bytes or objects were left out: {names}.")
    frame = frame.drop(cs.nested() | cs.binary() | cs.object())
    silent = [column.name for column in frame if column.n_unique() <= 1]
    if silent:
        names = ", ".join(silent[:5])
        names += f" and {len(silent) - 5:,} more" if len(silent) > 5 else ""
        notes.append(f"Columns of one value or none tell nothing: {names}.")
    counting = [repr(column.name) for column in frame if _counts_rows(column)]
    if counting:
        notes.append(
            f"The column {counting[0]} counts the rows. If they lie in an order of the classes, it "
            "gives the class away: take it out."
        )
    # By place: polars takes a name such as "^y$" for a pattern, and the encoders choke on a NUL.
    frame.columns = [str(place) for place in range(frame.width)]
    frame = frame.with_columns(
        pl.col(pl.Boolean).cast(pl.UInt8),
        pl.col(pl.Decimal).cast(pl.Float64),
        pl.col(pl.Duration, pl.Time).to_physical(),
    )
    return frame.with_columns(map(_numbers_in_text, frame.select(pl.col(pl.String)))), tuple(notes)


def _counts_rows(column: pl.Series) -> bool:
    """Whether each value is one more than the last."""
    if not column.dtype.is_integer() or len(column) < 2 or column.has_nulls():
        return False
    return bool((column.cast(pl.Int128).diff().drop_nulls() == 1).all())


def _numbers_in_text(column: pl.Series) -> pl.Series:
    """Text that is a number wherever it is not missing, as numbers; other text as it is."""
    text = column.str.strip_chars()
    missing = text.is_null() | text.is_in(MISSING)
    for kind in (pl.Int128, pl.Float64):
        numbers = text.cast(kind, strict=False)
        if (numbers.is_not_null() | missing).all():
            return numbers
    return column


def _checked(
    name: str,
    numbers: np.ndarray,
    rest: pl.DataFrame | None,
    codes: np.ndarray,
    classes: tuple[str, ...],
    target: str,
    digest: str,
    notes: tuple[str, ...],
) -> Data:
    counts = np.bincount(codes, minlength=len(classes))
    single = [classes[c] for c in np.flatnonzero(counts == 1)]
    if len(single) > _ONCE and all(name.lstrip("-").isdigit() for name in classes):
        raise StudyError(
            f"{target!r} holds {len(classes):,} different numbers in {len(codes):,} rows, and "
            f"{len(single):,} of them once: a quantity, it seems, and not classes; cut it into a "
            "few classes first, or name another column"
        )
    if single:
        shown = ", ".join(repr(c) for c in single[:3]) + (", …" if len(single) > 3 else "")
        few = f"class {shown} has" if len(single) == 1 else f"{len(single)} classes ({shown}) have"
        each = "one row" if len(single) == 1 else "one row each"
        raise StudyError(
            f"{few} {each} in {target!r}; a class needs two rows, one to train and one to test: "
            "drop it, merge it, or find more rows"
        )
    if not numbers.shape[1] and rest is None:
        raise StudyError(f"{name} has no column to learn {target!r} from")
    infinite = np.isinf(numbers)
    if infinite.any():
        numbers = np.where(infinite, np.float32(np.nan), numbers)
        notes = (*notes, f"{int(infinite.sum()):,} infinite values were taken as missing.")
    pairs = [classes[c] for c in np.flatnonzero(counts == 2)]
    if pairs:
        notes = (
            *notes,
            f"{_listed(pairs)} with two rows: one trains, one tests, none is left to choose by.",
        )
    return Data(name, numbers, rest, codes, classes, target, digest, notes)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"Class {shown}" if len(names) == 1 else f"{len(names)} classes ({shown})"


def _check_rows(what: str, value: Any, expected: str) -> None:
    """Raise a StudyError unless a value may hold an entry for each row."""
    lazy = isinstance(value, Dataset | DataLoader | pl.LazyFrame)
    if isinstance(value, str | bytes | Mapping) or lazy or not hasattr(value, "__len__"):
        hint = ""
        if isinstance(value, Dataset | DataLoader):
            hint = "; a Dataset is for compare.networks"
        elif isinstance(value, str) and what == "features":
            hint = ", as polars.read_csv reads it; the command `steelyard compare` takes files"
        raise StudyError(
            f"{what} is {shown(value)}; expected {expected} with one entry for each row{hint}"
        )


def _array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:  # NumPy has none
            values = values.float()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of unequal length, sparse tensors
        raise StudyError(f"{name} is no array of numbers: {first_line(error)}") from error
