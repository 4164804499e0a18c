"""How a study with the user's own network looks while it runs: a live table, or plain lines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from steelyard.compare.progress import LiveBar, Pace, bare_table
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
        self.pace = Pace(0)
        self.outcomes: list[Outcome] = []
        self._under_way: dict[str, float] = {}

    def begin(self, trainings: int, outcomes: Sequence[Outcome]) -> None:
        """See `Watcher`."""
        self.pace, self.outcomes = Pace(trainings, len(outcomes)), list(outcomes)
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
        rest = "".join(f", {part}" for part in [self.pace.left(self.done)] if part)
        self.note(
            f"{run.method}, seed {run.seed}, draw {run.draw}: {found} "
            f"({len(self.outcomes)} of {self.pace.total}{rest})"
        )


class LiveTable(LiveBar, Counting):
    """A table that fills up, and a bar, on a terminal."""

    def __init__(self, problem: Problem, plan: Plan, console: Console) -> None:
        Counting.__init__(self, problem, plan)
        LiveBar.__init__(self, console)

    def show(self) -> None:
        """See `Counting`."""
        self.update(self._table(), self.pace, self.done)

    def _table(self) -> Table:
        table = bare_table()
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
