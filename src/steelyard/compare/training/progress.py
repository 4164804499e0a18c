"""How a study with the user's own network looks while it runs: a live table, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.console import Group as Stacked
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from steelyard.compare.training.judging import titles
from steelyard.compare.training.methods import trained
from steelyard.compare.training.plan import Plan, Run
from steelyard.compare.training.problem import Problem
from steelyard.compare.training.work import Outcome


class Counting:
    """Counts trainings, and says how long the rest will take."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem, self.plan = problem, plan
        self.title = titles(problem.kind).get(plan.select, plan.select)
        self.total = 0
        self.outcomes: list[Outcome] = []
        self._before = 0
        self._begun = time.monotonic()
        self._under_way: dict[str, float] = {}

    def begin(self, trainings: int, outcomes: Sequence[Outcome]) -> None:
        """See `Watcher`."""
        self.total, self.outcomes = trainings, list(outcomes)
        self._before, self._begun = len(outcomes), time.monotonic()
        self.show()

    def tick(self, run: Run, share: float) -> None:
        """See `Watcher`."""
        self._under_way[run.key] = share
        self.show()

    def finished(self, outcome: Outcome) -> None:
        """See `Watcher`."""
        self._under_way.pop(outcome.run.key, None)
        self.outcomes.append(outcome)
        self.show()

    def show(self) -> None:
        """Bring what is shown up to date."""

    @property
    def done(self) -> float:
        """Finished trainings, those under way by their share."""
        return len(self.outcomes) + sum(self._under_way.values())

    def remaining(self) -> str:
        """How long the rest will take at the pace of this run, or nothing."""
        fresh = self.done - self._before
        if fresh <= 0 or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - self._begun) / fresh * (self.total - self.done)
        return f"about {duration(seconds)} left"


class PlainLines(Counting):
    """One line for each finished training: for logs and pipes."""

    def __init__(self, problem: Problem, plan: Plan, stream: TextIO) -> None:
        super().__init__(problem, plan)
        self.stream = stream

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def note(self, sentence: str) -> None:
        """See `Watcher`."""
        print(sentence, file=self.stream, flush=True)

    def begin(self, trainings: int, outcomes: Sequence[Outcome]) -> None:
        """See `Watcher`."""
        super().begin(trainings, outcomes)
        if outcomes and len(outcomes) < trainings:
            self.note(f"resuming: {len(outcomes)} of {trainings} trainings were finished before")

    def finished(self, outcome: Outcome) -> None:
        """See `Watcher`."""
        super().finished(outcome)
        run = outcome.run
        found = (
            f"{100 * outcome.score:.1f} % {self.title} on validation"
            if outcome.score is not None
            else outcome.reason
        )
        rest = "".join(f", {part}" for part in [self.remaining()] if part)
        self.note(
            f"{run.method}, seed {run.seed}, draw {run.draw}: {found} "
            f"({len(self.outcomes)} of {self.total}{rest})"
        )


class LiveTable(Counting):
    """A table that fills up, and a bar, on a terminal."""

    def __init__(self, problem: Problem, plan: Plan, console: Console) -> None:
        super().__init__(problem, plan)
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

    def __enter__(self) -> LiveTable:
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
        """See `Watcher`."""
        self._live.console.print(sentence, markup=False, highlight=False)

    def show(self) -> None:
        """See `Counting`."""
        self._bar.update(self._task, total=self.total, completed=self.done, left=self.remaining())
        self._live.update(Stacked(self._table(), self._bar))

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("loss")
        table.add_column("trainings", justify="right")
        table.add_column(f"best validation {self.title}", justify="right")
        for method in trained(self.problem.methods):
            own = [o for o in self.outcomes if o.run.method == method.name]
            scores = [o.score for o in own if o.score is not None]
            best = f"{100 * max(scores):.1f}" if scores else "–"
            table.add_row(method.title, str(len(own)), best)
        return table


def watcher(problem: Problem, plan: Plan, stream: TextIO) -> AbstractContextManager[Any]:
    """What suits the stream."""
    console = Console(file=stream)
    if console.is_terminal:
        return LiveTable(problem, plan, console)
    return PlainLines(problem, plan, stream)


def duration(seconds: float) -> str:
    """A time as a person would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
