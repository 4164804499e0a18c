"""What every study shows while it runs: a table, a bar, and how long the rest will take."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from steelyard._text import printable


class Pace:
    """Says how long the rest will take, at the pace of this run.

    Args:
        total: how much there is to do.
        before: how much an earlier run has done, which tells nothing about the pace.
    """

    def __init__(self, total: int, before: int = 0) -> None:
        self.total, self.before = total, before
        self._begun = time.monotonic()

    def left(self, done: float) -> str:
        """What to add to a line when so much is done; nothing where nothing is known."""
        fresh = done - self.before
        if fresh <= 0 or done >= self.total:
            return ""
        seconds = (time.monotonic() - self._begun) / fresh * (self.total - done)
        return f"about {clock(seconds)} left"


class LiveBar:
    """A bar on a terminal, with a table above it that fills up."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("training", total=None, left="")
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def note(self, sentence: str) -> None:
        """A sentence above the table, which stays."""
        self._live.console.print(printable(sentence), markup=False, highlight=False)

    def update(self, table: Table, pace: Pace, done: float) -> None:
        """Bring what is shown up to date."""
        self._bar.update(self._task, total=pace.total, completed=done, left=pace.left(done))
        self._live.update(Group(table, self._bar))


def bare_table() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)


def clock(seconds: float) -> str:
    """A time as a person would say it."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
