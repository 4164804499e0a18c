"""Tables and arrays in, labelled data and its splits out."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from steelyard.compare.study import StudyError

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]
DIGITS_RATIO = 50.0
_READERS = ".csv, .tsv, .parquet or .npz"


@dataclass(frozen=True)
class Data:
    """Rows with a class each.

    Attributes:
        name: where the rows come from.
        numbers: (N, d) float32, the numeric columns; NaN is a missing value.
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
    path = _existing(path)
    if path.suffix == ".npz":
        features, labels = _read_npz(path, target or "y")
        data = from_arrays(features, labels, name=path.name, target=target or "y")
    else:
        frame = _read_table(path)
        labels_column = _target_column(frame.columns, target)
        data = from_frame(
            frame.drop(labels_column), frame[labels_column], name=path.name, target=labels_column
        )
    return replace(data, digest=_file_digest(path))


def from_any(features: Any, labels: Any, name: str = "arrays") -> Data:
    """Data from what a notebook holds: NumPy, pandas, polars, tensors, lists."""
    target = getattr(labels, "name", None) or "y"
    if type(features).__module__.startswith("pandas"):
        features = pl.from_pandas(features)
    if isinstance(features, pl.DataFrame):
        series = labels if isinstance(labels, pl.Series) else pl.Series(str(target), _array(labels))
        return from_frame(features, series, name=name, target=str(target))
    return from_arrays(_array(features), _array(labels), name=name, target=str(target))


def from_arrays(features: np.ndarray, labels: np.ndarray, *, name: str, target: str) -> Data:
    """Data from an array of features (N, …) and one of labels (N,)."""
    if len(features) != len(labels) or labels.ndim != 1:
        raise StudyError(
            f"X has shape {features.shape} and {target} has shape {labels.shape}; "
            "expected one label for each row of X"
        )
    if features.dtype.kind not in "biuf":
        raise StudyError(f"X holds {features.dtype} values; expected numbers (or pass a DataFrame)")
    codes, classes = _encode(pl.Series(target, labels), target)
    numbers = np.ascontiguousarray(features.reshape(len(features), -1), dtype=np.float32)
    digest = hashlib.sha256(np.ascontiguousarray(features).tobytes())
    digest.update(np.ascontiguousarray(codes).tobytes())
    return _checked(name, numbers, None, codes, classes, target, digest.hexdigest(), ())


def from_frame(features: pl.DataFrame, labels: pl.Series, *, name: str, target: str) -> Data:
    """Data from a table of features and a column of labels."""
    if features.height != len(labels):
        raise StudyError(
            f"X has {features.height} rows and {target} has {len(labels)}; "
            "expected one label for each row"
        )
    codes, classes = _encode(labels, target)
    frame, notes = _usable(features)
    digest = hashlib.sha256(frame.hash_rows(seed=1).to_numpy().tobytes())
    digest.update(codes.tobytes())
    numeric = [column for column, kind in frame.schema.items() if kind.is_numeric()]
    numbers = frame.select(pl.col(numeric).cast(pl.Float32)).to_numpy()
    if not numeric:
        numbers = np.empty((frame.height, 0), dtype=np.float32)
    rest = frame.drop(numeric)
    rest_or_none = rest if rest.width else None
    return _checked(name, numbers, rest_or_none, codes, classes, target, digest.hexdigest(), notes)


def count_column(path: str | Path, target: str | None) -> dict[str, int]:
    """Rows of each class, read as a stream: the file may be larger than memory."""
    path = _existing(path)
    if path.suffix == ".npz":
        _, labels = _read_npz(path, target or "y")
        column = pl.Series(target or "y", labels)
        return _tally(column.to_frame().lazy(), column.name)
    lazy = _scan_table(path)
    return _tally(lazy, _target_column(lazy.collect_schema().names(), target))


def _tally(lazy: pl.LazyFrame, target: str) -> dict[str, int]:
    try:
        table = lazy.group_by(target).len(name="__rows__").collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise StudyError(f"column {target!r} could not be read: {_first_line(error)}") from error
    codes, classes = _encode(table[target], target, rows=table["__rows__"])
    rows = np.zeros(len(classes), dtype=np.int64)
    rows[codes] = table["__rows__"].to_numpy()
    return dict(zip(classes, rows.tolist(), strict=True))


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise StudyError(f"there is no file {str(path)!r}")
    if path.is_dir():
        raise StudyError(f"{str(path)!r} is a folder; name a {_READERS} file")
    if path.suffix not in (".csv", ".tsv", ".parquet", ".npz"):
        raise StudyError(f"{path.name!r} is of no known kind; name a {_READERS} file")
    if path.stat().st_size == 0:
        raise StudyError(f"{path.name!r} is empty")
    return path


def _scan_table(path: Path) -> pl.LazyFrame:
    try:
        if path.suffix == ".parquet":
            lazy = pl.scan_parquet(path)
        else:
            lazy = pl.scan_csv(
                path,
                separator=_separator(path),
                null_values=MISSING,
                infer_schema_length=10_000,
                try_parse_dates=True,
            )
        lazy.collect_schema()
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path.name!r} could not be read: {_first_line(error)}") from error
    return lazy


def _read_table(path: Path) -> pl.DataFrame:
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            frame = pl.read_csv(
                path,
                separator=_separator(path),
                null_values=MISSING,
                infer_schema_length=None,
                try_parse_dates=True,
            )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path.name!r} could not be read: {_first_line(error)}") from error
    if frame.is_empty():
        raise StudyError(f"{path.name!r} has column names but no rows")
    return frame


def _separator(path: Path) -> str:
    if path.suffix == ".tsv":
        return "\t"
    with path.open("rb") as file:
        header = file.readline()
    return ";" if header.count(b";") > header.count(b",") else ","


def _read_npz(path: Path, target: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in ("X", target) if key not in arrays]
            if missing:
                raise StudyError(
                    f"{path.name!r} holds {', '.join(arrays.files) or 'nothing'}; expected X and "
                    f"{target}"
                )
            return arrays["X"], arrays[target]
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"{path.name!r} could not be read: {_first_line(error)}") from error


def _target_column(columns: list[str], target: str | None) -> str:
    shown = ", ".join(columns[:12]) + (", …" if len(columns) > 12 else "")
    if target is None:
        raise StudyError(f"say which column holds the classes: --target COLUMN (one of: {shown})")
    if target not in columns:
        near = difflib.get_close_matches(target, columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StudyError(f"there is no column {target!r} (columns: {shown}){hint}")
    return target


def _encode(
    labels: pl.Series, target: str, rows: pl.Series | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as positions (N,) int64 in the sorted classes, and the classes' names."""
    missing = labels.is_null()
    if labels.dtype.is_float():
        missing = missing | labels.is_nan().fill_null(True)
    if missing.any():
        number = int(missing.sum() if rows is None else rows.filter(missing).sum())
        place = int(missing.to_numpy().argmax())
        where = "" if rows is not None else f", the first in row {place + 1}"
        plural = "label is" if number == 1 else "labels are"
        raise StudyError(
            f"{number:,} {plural} missing in {target!r}{where}; drop those rows or fill them in"
        )
    if labels.dtype.is_float():
        labels = _whole(labels, target)
    elif not (labels.dtype.is_integer() or labels.dtype.is_temporal()):
        labels = labels.cast(pl.String)
    classes = labels.unique().sort()
    if len(classes) < 2:
        only = f"only the class {classes[0]!r}" if len(classes) else "no rows"
        raise StudyError(f"{target!r} holds {only}; a comparison needs two classes or more")
    order = pl.DataFrame({"label": classes, "code": np.arange(len(classes))})
    codes = labels.to_frame("label").join(order, on="label", how="left", maintain_order="left")
    return codes["code"].to_numpy().astype(np.int64), tuple(str(c) for c in classes)


def _whole(labels: pl.Series, target: str) -> pl.Series:
    fractional = labels.filter((labels % 1 != 0) | labels.is_infinite())
    if len(fractional):
        raise StudyError(
            f"{target!r} holds numbers such as {fractional[0]:g}, not classes; "
            "cut them into classes first, or name another column"
        )
    return labels.cast(pl.Int64)


def _usable(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The table with only numbers, text, categories and dates in it, and what was left out."""
    notes = []
    nested = [c for c, kind in frame.schema.items() if kind.is_nested() or kind == pl.Object]
    if nested:
        notes.append(f"Columns that hold lists or objects were left out: {', '.join(nested)}.")
    frame = frame.drop(nested).with_columns(
        pl.col(pl.Boolean).cast(pl.UInt8),
        pl.col(pl.Decimal).cast(pl.Float64),
        pl.col(pl.Duration).dt.total_seconds(),
        pl.col(pl.Time).cast(pl.Int64),
    )
    return frame, tuple(notes)


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


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
