"""Finished trainings on disk: each with its predictions, all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NamedTuple

from steelyard.compare.store import FILE, Store
from steelyard.compare.study import StudyError
from steelyard.compare.training.evaluation import Predictions
from steelyard.compare.training.plan import Run
from steelyard.compare.training.work import Outcome

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trial (
    key TEXT PRIMARY KEY, record TEXT NOT NULL, validation BLOB, test BLOB
);
"""
Part = Literal["validation", "test"]


class Kept(NamedTuple):
    """What one training said of the rows that chose and judged it."""

    candidate: str
    seed: int
    draw: int
    validation: Predictions
    test: Predictions | None  # of chosen draws alone


def predictions(folder: str | Path) -> Iterator[Kept]:
    """The predictions that a study of your own network kept, training by training.

    For thresholds, costs and scores that are thought of later.

    Args:
        folder: the study's ``out``.

    Yields:
        For each training ``candidate``, ``seed``, ``draw``, ``validation`` and ``test``, which is
        None for draws that were not chosen. Both have ``logits`` (N, C), in the order of the rows;
        of masks and sequences ``confusion`` (N, C, C).

    Raises:
        StudyError: there is no study, or it cannot be read.

    Example:
        >>> import tempfile
        >>> from steelyard import compare
        >>> from torch.utils.data import TensorDataset
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]).repeat(10)
        >>> data = TensorDataset(torch.nn.functional.one_hot(labels, 4).float(), labels)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = compare.networks(
        ...         lambda: torch.nn.Linear(4, 3), train=data, losses=["focal"],
        ...         epochs=1, draws=1, seeds=1, progress=False, out=folder)
        ...     for kept in compare.predictions(folder):
        ...         print(kept.candidate, kept.test.logits.shape)
        cross-entropy (16, 3)
        focal (16, 3)
        weighted-cross-entropy (16, 3)
    """
    place = Path(folder)
    if not (place / FILE).is_file():
        raise StudyError(f"{place} holds no study: there is no {FILE}")
    with TrialStore(place) as store:
        for outcome in store.outcomes():
            if outcome.status == "done":
                run = outcome.run
                yield Kept(
                    run.method,
                    run.seed,
                    run.draw,
                    store.predictions(run, "validation"),
                    store.predictions(run, "test") if store.has_test(run) else None,
                )


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

    def has_test(self, run: Run) -> bool:
        """Whether the test predictions of a training are kept."""
        with self._explained():
            query = "SELECT test IS NOT NULL FROM trial WHERE key = ?"
            (kept,) = self._database.execute(query, (run.key,)).fetchone()
        return bool(kept)

    def forget_tests(self, chosen: set[str]) -> None:
        """Drop the test predictions of all but some trainings: nobody is to look at them."""
        with self._explained(), self._database:
            rows = self._database.execute("SELECT key FROM trial WHERE test IS NOT NULL").fetchall()
            others = [(key,) for (key,) in rows if key not in chosen]
            self._database.executemany("UPDATE trial SET test = NULL WHERE key = ?", others)
