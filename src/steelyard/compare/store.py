"""What is finished is on disk: one SQLite file that survives `kill -9`."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from steelyard._results import Cell, read_cell
from steelyard.compare.study import StudyError

FILE = "study.sqlite"
_OUT = " (--out, in Python out=)"  # the option that names the folder
_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cell (
    seed INTEGER NOT NULL, candidate TEXT NOT NULL, payload TEXT NOT NULL, sha256 TEXT NOT NULL,
    PRIMARY KEY (seed, candidate)
);
CREATE TABLE IF NOT EXISTS took (id INTEGER PRIMARY KEY, seconds REAL NOT NULL);
"""


class Store:
    """The finished cells of one study; a cell is one candidate with all its draws on one seed.

    Args:
        folder: where the file lies; created when missing. None keeps the study in memory.

    Attributes:
        damaged: one sentence for each cell that `cells` found and could not read.

    Raises:
        StudyError: the folder cannot be used.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        with self._explained():
            if folder is not None and folder.is_file():
                raise StudyError(f"{folder} is a file; name a folder{_OUT}")
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / FILE if folder else ":memory:")
            # FULL: a committed group is on the disk itself, not only in the system's cache.
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            # A damaged text is met where it is read, not as an error of the database.
            self._database.text_factory = lambda raw: raw.decode(errors="replace")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def claim(
        self,
        identity: Mapping[str, Any],
        chosen: Mapping[str, int],
        shown: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Make this the store of that study, or check that it already is.

        Args:
            identity: what decides the results; must equal what is stored.
            chosen: what was left to this machine, such as the size of a group.
            shown: what names the values of `identity` for a person, as a file's name does.

        Returns:
            What was chosen when the study began: a resumed study repeats an uninterrupted one.

        Raises:
            StudyError: the folder holds another study; the message names the differences.
        """
        claim = {"identity": dict(identity), "chosen": dict(chosen), "shown": dict(shown or {})}
        with self._explained(), self._database:
            row = self._database.execute("SELECT value FROM study").fetchone()
            if row is None:
                text = json.dumps(claim)
                self._database.execute("INSERT INTO study VALUES (1, ?)", (text,))
                return dict(chosen)
        before = self._claimed(row[0], claim)
        if changes := list(_differences(before, claim)):
            raise StudyError(
                f"{self.folder} holds another study ({'; '.join(changes)}); choose another folder"
                f"{_OUT}, or ask for the same study again to resume it"
            )
        return dict(before["chosen"])

    def _claimed(self, text: Any, claim: Mapping[str, Any]) -> dict[str, Any]:
        """What the study's row holds, which has the shape of a claim."""
        try:
            before = json.loads(text)
            kinds = {key: type(value) for key, value in before.items()}
            if kinds != dict.fromkeys(claim, dict):
                raise ValueError(f"it holds {', '.join(kinds) or 'nothing'}")
            for name in claim["chosen"]:
                if type(before["chosen"][name]) is not int or before["chosen"][name] < 1:
                    raise ValueError(f"chosen.{name} is {before['chosen'][name]!r}")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise StudyError(
                f"{self._file} is damaged: the row of table study cannot be read ({error!r}); "
                f"choose another folder{_OUT}, or remove the file to begin anew"
            ) from error
        return dict(before)

    def check_writable(self) -> None:
        """Raise a StudyError where nothing can be added, before anything is trained for it."""
        with self._explained(), self._database:
            self._database.execute("DELETE FROM took WHERE 0")  # writes nothing, but may it?

    def add(self, cells: Iterable[Cell], seconds: float) -> None:
        """Write a finished group in one transaction: all of it or nothing."""
        rows = [
            (cell["seed"], cell["candidate"], text, _digest(text))
            for cell in cells
            for text in [json.dumps(_finite(cell))]
        ]
        with self._explained(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?)", rows)
            self._database.execute("INSERT INTO took (seconds) VALUES (?)", (seconds,))

    def cells(self) -> dict[tuple[int, str], Cell]:
        """Every finished cell by seed and candidate; what cannot be read is told in `damaged`."""
        with self._explained():
            rows = self._database.execute(
                "SELECT seed, candidate, payload, sha256 FROM cell ORDER BY seed, candidate"
            ).fetchall()
        found: dict[tuple[int, str], Cell] = {}
        self.damaged = []
        for seed, name, payload, digest in rows:
            try:
                if _digest(payload) != digest:
                    raise ValueError("it is not what was written")
                cell = read_cell(json.loads(payload))
                if (cell["seed"], cell["candidate"]) != (seed, name):
                    raise ValueError(f"it is of seed {cell['seed']}, {cell['candidate']!r}")
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                self.damaged.append(f"seed {seed}, {name} in {self._file} is damaged: {error}")
            else:
                found[seed, name] = cell
        return found

    def seconds(self) -> float:
        """Time spent on finished groups, in seconds, over all sessions."""
        with self._explained():
            rows = self._database.execute("SELECT seconds FROM took").fetchall()
        return math.fsum(t for (t,) in rows if isinstance(t, float) and 0 <= t < _CENTURY)

    @property
    def _file(self) -> str:
        return str(self.folder / FILE) if self.folder else "memory"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StudyError(self._explain(error)) from error
        except OSError as error:
            raise StudyError(f"{self.folder} cannot be used: {error.strerror}") from error

    def _explain(self, error: sqlite3.Error) -> str:
        name = getattr(error, "sqlite_errorname", "")
        for beginning, advice in _ADVICE.items():
            if name.startswith(beginning):
                return f"{self._file} could not be written or read ({error}); {advice}"
        return (
            f"{self._file} is damaged, or no study of this Steelyard ({error}); choose another "
            f"folder{_OUT}, or remove the file to begin anew"
        )


_CENTURY = 3e9  # seconds: more is damage
_SAFE = "what was finished before is safe, and the same study resumes it"
_ADVICE = {  # by the beginning of SQLite's name for an error
    "SQLITE_FULL": _SAFE,
    "SQLITE_IOERR": "once the disk answers again, the same study resumes what was finished",
    "SQLITE_NOMEM": _SAFE,
    "SQLITE_BUSY": "another process works on this study: wait for it",
    "SQLITE_LOCKED": "another process works on this study: wait for it",
    "SQLITE_READONLY": "what was finished before is there: copy the folder to where it can be "
    f"written, and name that{_OUT}",
    "SQLITE_CANTOPEN": f"make the folder readable and writable, or choose another{_OUT}",
}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(value: Any) -> Any:
    """JSON has no NaN: a loss that was not finite for an epoch is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What changed between two claims, each value by the name that a person knows it by."""
    old, new = before["identity"], now["identity"]
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key) != new.get(key):
            was, is_ = (_named(claim, key) for claim in (before, now))
            yield f"{key} was {was}, now {is_}"


def _named(claim: Mapping[str, Any], key: str) -> str:
    value, name = claim["identity"].get(key), claim["shown"].get(key)
    return _shown(value) if name is None else f"{name} ({_shown(value)})"


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
