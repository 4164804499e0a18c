"""Rows of a table as features that a network can read."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from skrub import DatetimeEncoder, SquashingScaler, StringEncoder, TableVectorizer

from steelyard.compare.study import StudyError

_FAR = 2.0**60  # so many times the spread is as far as any further


class Encoder:
    """Fitted by its first call, which must be the training rows; then it only transforms."""

    def __init__(self, seed: int) -> None:
        self.table = TableVectorizer(
            high_cardinality=StringEncoder(random_state=seed), datetime=MomentEncoder()
        )
        self.matrix = make_pipeline(
            _Centre(),
            SimpleImputer(strategy="median", add_indicator=True),
            VarianceThreshold(),
            SquashingScaler(),  # outliers are squashed: no single column can swamp the network
        )
        self.fitted = False
        self.numeric = 0

    def __call__(self, numbers: np.ndarray, rest: pl.DataFrame | None) -> np.ndarray:
        """Features (n, d) float32 of numeric columns (n, …) and of the others.

        Numbers with more than two values in the training rows come first; `numeric` counts them.
        Neither flags nor the components of a text are numbers whose neighbours differ in meaning.
        """
        step = "transform" if self.fitted else "fit_transform"
        with warnings.catch_warnings():
            # Unknown categories become zeros and empty columns vanish: what we want.
            warnings.simplefilter("ignore")
            text = np.zeros(numbers.shape[1], dtype=bool)
            if rest is not None:
                encoded = getattr(self.table, step)(rest)
                if encoded.width:  # every column may have been empty
                    numbers = np.hstack([numbers, encoded.to_numpy().astype(np.float64)])
                    text = np.append(text, np.isin(encoded.columns, self._components()))
            matrix = self._vary(step, numbers)
        if not self.fitted:
            # Constant columns are gone: whoever has neither end between its ends has two values.
            low, high = matrix.min(0), matrix.max(0)
            others = ((matrix == low) | (matrix == high)).all(0) | self._kept(text)
            self.order = np.argsort(others, kind="stable")
            self.numeric = int((~others).sum())
        self.fitted = True
        return np.ascontiguousarray(matrix[:, self.order], dtype=np.float32)

    def _components(self) -> list[str]:
        """Names of the encoded columns that are components of texts."""
        texts = self.table.kind_to_columns_["high_cardinality"]
        return [name for text in texts for name in self.table.input_to_outputs_[text]]

    def _kept(self, columns: np.ndarray) -> np.ndarray:
        """A mark of each column before the pipeline as a mark of each after it."""
        _, imputer, threshold, _ = self.matrix.named_steps.values()
        there = columns[~np.isnan(imputer.statistics_)]
        missing = np.zeros(len(threshold.variances_) - len(there), dtype=bool)
        kept: np.ndarray = np.append(there, missing)[threshold.get_support()]
        return kept

    def _vary(self, step: str, numbers: np.ndarray) -> np.ndarray:
        try:
            matrix: np.ndarray = getattr(self.matrix, step)(numbers)
        except ValueError as error:
            if "threshold" not in str(error) and "feature" not in str(error):
                raise
            raise StudyError(
                "every feature is constant or empty in the training rows: "
                "there is nothing to learn from"
            ) from error
        return matrix


class _Centre:
    """Subtracts the median and multiplies by a power of two, so that values are near 1.

    Both steps are exact or nearly so. What follows reads differences smaller than 1e-15 as none,
    and squares, so it would lose values that are all tiny and overflow on those that are huge.
    """

    def fit(self, numbers: np.ndarray, labels: None = None) -> _Centre:  # noqa: ARG002
        """See scikit-learn."""
        halves = numbers / 2  # the difference of two halves cannot overflow
        self.middle = np.nan_to_num(np.nanmedian(halves, axis=0))
        halves = halves - self.middle
        low, high = np.nanpercentile(halves, [25, 75], axis=0)
        spread = np.where(high > low, high - low, np.nanmax(halves, 0) - np.nanmin(halves, 0))
        self.exponent = np.frexp(np.where(spread > 0, spread, 1))[1]
        return self

    def transform(self, numbers: np.ndarray) -> np.ndarray:
        """See scikit-learn."""
        scaled: np.ndarray = np.ldexp(numbers / 2 - self.middle, -self.exponent)
        return scaled.clip(-_FAR, _FAR)

    def fit_transform(self, numbers: np.ndarray, labels: None = None) -> np.ndarray:  # noqa: ARG002
        """See scikit-learn."""
        return self.fit(numbers).transform(numbers)


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
