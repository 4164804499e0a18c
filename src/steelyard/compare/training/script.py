"""`steelyard compare study.py`: runs a script, and has the last word on its study's options."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard._results import Results
from steelyard.compare.study import StudyError


@dataclass
class Told:
    """What the command line says of the studies that a script runs, and what they found.

    Attributes:
        options: by name; they replace those in the script.
        folder: where a study is kept that names no folder itself.
        begun: folders of the studies that began.
        found: results of those that ended, with their folders.
    """

    options: Mapping[str, Any]
    folder: Path
    begun: list[Path] = field(default_factory=list)
    found: list[tuple[Results, Path]] = field(default_factory=list)

    def replaced(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A study's options, as the command line wants them."""
        new = {**options, **self.options}
        if new.get("out") is None:
            new["out"] = self.folder
        place = Path(new["out"])
        if place.resolve() in [other.resolve() for other in self.begun]:
            raise StudyError(
                f"two studies of this script are to be kept in {place}: give each its own out="
            )
        self.begun.append(place)
        return new


_told: ContextVar[Told | None] = ContextVar("told", default=None)


def told() -> Told | None:
    """What the command line says; None where no command runs this script."""
    return _told.get()


def run_script(path: Path, told: Told) -> None:
    """Run a script as Python would, its studies' options replaced.

    Raises:
        StudyError: the file cannot be read, or runs no study; or what a study raises.
    """
    if not path.is_file():
        raise StudyError(f"there is no file {path}")
    with _as_python_would(path), _telling(told):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SyntaxError as error:
            raise StudyError(f"{path} is no Python script: {error}") from error
    if not told.begun:
        raise StudyError(
            f"{path} runs no study: it calls neither compare.networks nor compare.trainings"
        )


@contextmanager
def _telling(what: Told) -> Iterator[None]:
    token = _told.set(what)
    try:
        yield
    finally:
        _told.reset(token)


@contextmanager
def _as_python_would(path: Path) -> Iterator[None]:
    """The script's own folder first among those that modules come from."""
    arguments, places = sys.argv, sys.path
    sys.argv = [str(path)]
    sys.path = [str(path.resolve().parent), *places]
    try:
        yield
    finally:
        sys.argv, sys.path = arguments, places
