"""What is finished is on disk: one SQLite file that survives `kill -9`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from steelyard.compare.study import StudyError

FILE = "study.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cell (
    seed INTEGER NOT NULL, candidate TEXT NOT NULL, payload TEXT NOT NULL,
    PRIMARY KEY (seed, candidate)
);
CREATE TABLE IF NOT EXISTS took (id INTEGER PRIMARY KEY, seconds REAL NOT NULL);
"""


class Store:
    """The finished cells of one study; a cell is one candidate with all its draws on one seed.

    Args:
        folder: where the file lies; created when missing. None keeps the study in memory.

    Raises:
        StudyError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        with self._explained():
            if folder is not None and folder.is_file():
                raise StudyError(f"{folder} is a file; name a folder for --out")
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / FILE if folder else ":memory:")
            # FULL: a committed group is on the disk itself, not only in the system's cache.
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def claim(self, identity: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Make this the store of that study, or check that it already is.

        Args:
            identity: what decides the results; must equal what is stored.
            chosen: what was left to this machine, such as the size of a group.

        Returns:
            What was chosen when the study began: a resumed study repeats an uninterrupted one.

        Raises:
            StudyError: the folder holds another study; the message names the differences.
        """
        with self._explained(), self._database:
            row = self._database.execute("SELECT value FROM study").fetchone()
            if row is None:
                text = json.dumps({"identity": identity, "chosen": chosen})
                self._database.execute("INSERT INTO study VALUES (1, ?)", (text,))
                return dict(chosen)
        before = json.loads(row[0])
        if changes := list(_differences(before["identity"], identity)):
            raise StudyError(
                f"{self.folder} holds another study ({'; '.join(changes)}); choose another --out, "
                "or repeat the command it was made with to resume it"
            )
        return dict(before["chosen"])

    def add(self, cells: Iterable[Mapping[str, Any]], seconds: float) -> None:
        """Write a finished group in one transaction: all of it or nothing."""
        rows = [(cell["seed"], cell["candidate"], json.dumps(cell)) for cell in cells]
        with self._explained(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO cell VALUES (?, ?, ?)", rows)
            self._database.execute("INSERT INTO took (seconds) VALUES (?)", (seconds,))

    def cells(self) -> dict[tuple[int, str], dict[str, Any]]:
        """Every finished cell by seed and candidate."""
        with self._explained():
            rows = self._database.execute(
                "SELECT seed, candidate, payload FROM cell ORDER BY seed, candidate"
            ).fetchall()
        return {(seed, name): json.loads(payload) for seed, name, payload in rows}

    def seconds(self) -> float:
        """Time spent on finished groups, in seconds, over all sessions."""
        with self._explained():
            row = self._database.execute("SELECT COALESCE(SUM(seconds), 0) FROM took").fetchone()
        return float(row[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StudyError(
                f"the study in {self.folder} could not be written or read ({error}); what was "
                "finished before is safe, and the same command resumes it"
            ) from error
        except OSError as error:
            raise StudyError(f"{self.folder} cannot be used: {error.strerror}") from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if old != new:
            yield f"{key} was {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
