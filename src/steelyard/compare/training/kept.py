"""Finished trainings on disk: each with its predictions, all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from steelyard.compare.store import Store
from steelyard.compare.training.evaluation import Predictions
from steelyard.compare.training.plan import Run
from steelyard.compare.training.work import Outcome

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trial (
    key TEXT PRIMARY KEY, record TEXT NOT NULL, validation BLOB, test BLOB
);
"""
Part = Literal["validation", "test"]


class TrialStore(Store):
    """The store of a study whose unit is one training.

    Predictions stay on disk until they are asked for.

    Args:
        folder: as for `Store`.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__(folder)
        with self._explained():
            self._database.executescript(_SCHEMA)

    def __enter__(self) -> TrialStore:
        return self

    def keep(self, outcome: Outcome) -> None:
        """Write a finished training, its heads and all predictions in one transaction."""
        rows = []
        for one in (*outcome.heads, outcome):
            record = asdict(replace(one, heads=()))
            validation, test = record.pop("validation"), record.pop("test")
            del record["heads"]
            rows.append((one.run.key, json.dumps(record), validation, test))
        with self._explained(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO trial VALUES (?, ?, ?, ?)", rows)
            self._database.execute("INSERT INTO took (seconds) VALUES (?)", (outcome.seconds,))

    def outcomes(self) -> Iterator[Outcome]:
        """Every finished training, without its predictions."""
        with self._explained():
            rows = self._database.execute("SELECT record FROM trial ORDER BY key").fetchall()
        for (text,) in rows:
            record = json.loads(text)
            run = Run(**record.pop("run"))
            yield Outcome(run=run, **record | {"curve": tuple(record["curve"])})

    def predictions(self, run: Run, part: Part) -> Predictions:
        """What a finished training said of validation or test rows."""
        with self._explained():
            (data,) = self._database.execute(
                f"SELECT {part} FROM trial WHERE key = ?", (run.key,)
            ).fetchone()
        return Predictions.unpacked(data)

    def forget_tests(self, chosen: set[str]) -> None:
        """Drop the test predictions of all but some trainings: nobody is to look at them."""
        with self._explained(), self._database:
            rows = self._database.execute("SELECT key FROM trial WHERE test IS NOT NULL").fetchall()
            others = [(key,) for (key,) in rows if key not in chosen]
            self._database.executemany("UPDATE trial SET test = NULL WHERE key = ?", others)
