"""Labels in, positions of classes out."""

from __future__ import annotations

import difflib

import numpy as np
import polars as pl

from steelyard.compare.study import StudyError
from steelyard.compare.tables.files import first_line, shorten

_WHOLE = 2.0**53  # beyond it float64 skips whole numbers, so two classes may be one number


def target_column(columns: list[str], target: str | None) -> str:
    """The column that holds the classes.

    Raises:
        StudyError: it was not named, or there is none of that name.
    """
    shown = ", ".join(map(shorten, columns[:12])) + (", …" if len(columns) > 12 else "")
    if target is None:
        raise StudyError(f"say which column holds the classes: --target COLUMN (one of: {shown})")
    if target not in columns:
        near = difflib.get_close_matches(target, columns, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StudyError(f"there is no column {shorten(target)!r} (columns: {shown}){hint}")
    return target


def label_series(labels: np.ndarray, target: str) -> pl.Series:
    """An array of labels, (N,) or (N, 1), as a column.

    Raises:
        StudyError: its shape or its values are not those of labels.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise StudyError(f"{target} has shape {labels.shape}; expected one label per row, (N,)")
    if labels.dtype.kind in "cV":
        raise not_classes(target, f"{labels.dtype} values")
    if labels.dtype.kind in "mM":  # NumPy has units of time that polars has not
        labels = labels.astype(str)
    if labels.dtype == np.longdouble:
        labels = labels.astype(np.float64)
    try:
        return pl.Series(target, labels)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise not_classes(target, f"values of many kinds ({first_line(error)})") from error


def encode(
    labels: pl.Series, target: str, rows: pl.Series | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as positions (N,) int64 in the sorted classes, and the classes' names.

    Args:
        labels: (N,) numbers, text, categories, dates or truth values.
        target: name of their column, for the messages.
        rows: how many rows each label stands for; None is one.

    Raises:
        StudyError: a label is missing or is no class, or there is but one class.
    """
    labels = labels.alias("label")  # polars takes a name such as "^y$" for a pattern
    _check_none_missing(labels, target, rows)
    labels = _comparable(labels, target)
    classes = labels.unique().sort()
    if len(classes) < 2:
        only = f"only the class {shorten(str(classes[0]))!r}" if len(classes) else "no rows"
        raise StudyError(f"{target!r} holds {only}; a comparison needs two classes or more")
    order = pl.DataFrame({"label": classes, "code": np.arange(len(classes))})
    codes = labels.to_frame().join(order, on="label", how="left", maintain_order="left")
    return codes["code"].to_numpy().astype(np.int64), tuple(str(c) for c in classes)


def not_classes(target: str, what: str) -> StudyError:
    """The error for a column of something else."""
    return StudyError(
        f"{target!r} holds {what}, not classes; cut them into classes first, or name another column"
    )


def _check_none_missing(labels: pl.Series, target: str, rows: pl.Series | None) -> None:
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


def _comparable(labels: pl.Series, target: str) -> pl.Series:
    """Whole numbers, dates or text: what has an order and a name."""
    if labels.dtype.is_float():
        return _whole(labels, target)
    if labels.dtype.is_integer() or labels.dtype.is_temporal():
        return labels
    if labels.dtype.is_nested():
        raise not_classes(target, "lists or records")
    if labels.dtype == pl.Object:
        return pl.Series("label", [str(label) for label in labels])
    try:
        return labels.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise not_classes(target, f"{labels.dtype} values that are no text") from error


def _whole(labels: pl.Series, target: str) -> pl.Series:
    whole = (labels % 1 == 0) & (labels.abs() <= _WHOLE)  # infinite % 1 is NaN
    if not whole.all():
        raise not_classes(target, f"numbers such as {labels.filter(~whole)[0]:g}")
    return labels.cast(pl.Int64)
