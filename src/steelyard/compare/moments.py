"""Dates and times as numbers that a network can read."""

from __future__ import annotations

from typing import Any

import polars as pl
from skrub import DatetimeEncoder


class MomentEncoder(DatetimeEncoder):  # type: ignore[misc]
    """Skrub's, with the seconds counted from the middle of the rows that it was fitted to.

    Skrub counts them from 1970 in float32, which knows today to two minutes only.
    """

    def fit_transform(self, column: pl.Series, y: None = None) -> Any:
        """See skrub."""
        self.middle = _seconds(column).median()
        return self._centred(column, super().fit_transform(column, y))

    def transform(self, column: pl.Series) -> Any:
        """See skrub."""
        return self._centred(column, super().transform(column))

    def _centred(self, column: pl.Series, encoded: pl.DataFrame) -> pl.DataFrame:
        seconds = _seconds(column) - (self.middle or 0.0)
        return encoded.with_columns(seconds.alias(f"{column.name}_total_seconds"))


def _seconds(column: pl.Series) -> pl.Series:
    return column.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
