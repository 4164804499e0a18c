"""What a study looks like in a terminal: while it runs, and when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.console import Group as Stacked
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from steelyard._text import printable
from steelyard.compare.candidates import candidate
from steelyard.compare.group import Cell, Group
from steelyard.compare.scores import TITLES
from steelyard.compare.study import Study

_COLUMNS = ("balanced_accuracy", "macro_f1", "worst_class_recall")  # these fit 80 characters
_MORE_COLUMNS = ("accuracy", "few_shot_recall", "calibration_error", "log_loss")
_COLUMN_WIDTH = 13


class Progressing:
    """Counts what is done, in trials, and says how long the rest will take."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.cells: dict[tuple[int, str], Cell] = {}
        self.total = study.seeds * len(study.losses)
        self._begun = time.monotonic()
        self._before = 0
        self._under_way: dict[Group, float] = {}

    def begin(self, groups: Sequence[Group], cells: Sequence[Cell]) -> None:  # noqa: ARG002
        """See `Watcher`."""
        self._begun = time.monotonic()
        self._add(cells)
        self._before = len(cells)
        self.show()

    def tick(self, group: Group, share: float) -> None:
        """See `Watcher`."""
        new = [cell for cell in group.cells if cell not in self.cells]
        self._under_way[group] = share * len(new)
        self.show()

    def finished(self, group: Group, cells: Sequence[Cell]) -> None:
        """See `Watcher`."""
        self._under_way.pop(group, None)
        self._add(cells)
        self.show()

    def note(self, sentence: str) -> None:
        """See `Watcher`."""

    def _add(self, cells: Sequence[Cell]) -> None:
        # By seed and candidate: a group of which a part was finished before is trained whole.
        self.cells |= {(cell["seed"], cell["candidate"]): cell for cell in cells}

    def show(self) -> None:
        """Bring what is shown up to date."""

    @property
    def done(self) -> float:
        """Finished cells, those under way by their share."""
        return len(self.cells) + sum(self._under_way.values())

    def remaining(self) -> float | None:
        """Seconds left at the pace of this run; what an earlier run did tells nothing."""
        fresh = self.done - self._before
        if fresh <= 0 or self.done >= self.total:
            return None
        return (time.monotonic() - self._begun) / fresh * (self.total - self.done)


class PlainLines(Progressing):
    """One line for each finished group: for logs and pipes."""

    def __init__(self, study: Study, stream: TextIO) -> None:
        super().__init__(study)
        self.stream = stream

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def begin(self, groups: Sequence[Group], cells: Sequence[Cell]) -> None:
        """See `Watcher`."""
        super().begin(groups, cells)
        if cells and groups:
            self._print(f"resuming: {len(cells)} of {self.total} were finished before")

    def finished(self, group: Group, cells: Sequence[Cell]) -> None:
        """See `Watcher`."""
        super().finished(group, cells)
        first, last = group.seeds[0], group.seeds[-1]
        seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
        left = self.remaining()
        rest = f", about {_clock(left)} left" if left else ""
        self._print(
            f"{seeds}: {len(group.candidates)} candidates done "
            f"({len(self.cells)} of {self.total}{rest})"
        )

    def note(self, sentence: str) -> None:
        """See `Watcher`."""
        self._print(printable(sentence))

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class LiveTable(Progressing):
    """A table that fills up, and a bar, on a terminal."""

    def __init__(self, study: Study, console: Console) -> None:
        super().__init__(study)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("training", total=self.total, left="")
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        self.show()
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
        self._live.console.print(printable(sentence))

    def show(self) -> None:
        """See `Progressing`."""
        left = self.remaining()
        text = "" if left is None else f"about {_clock(left)} left"
        self._bar.update(self._task, completed=self.done, left=text)
        self._live.update(Stacked(self._table(), self._bar))

    def _table(self) -> Table:
        table = _bare_table()
        table.add_column("loss")
        table.add_column("seeds", justify="right")
        table.add_column(f"mean {TITLES[self.study.select]}", justify="right")
        for name in self.study.losses:
            done = [cell for cell in self.cells.values() if cell["candidate"] == name]
            scores = [c["scores"][self.study.select] for c in done if c["status"] == "done"]
            mean = f"{100 * sum(scores) / len(scores):.1f}" if scores else "–"
            table.add_row(candidate(name).title, f"{len(done)}/{self.study.seeds}", mean)
        return table


def plain_console(**options: Any) -> Console:
    """A console that shows text as it is: names may look like markup or like emoji codes."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """The table of losses × scores, the verdict, and the lines to paste."""
    data, study = results["data"], results["study"]
    split = data["split"]
    train = data["train_counts"]
    console.print(
        f"{printable(data['name'])}: {data['rows']:,} rows, {data['columns']} columns, "
        f"{len(data['classes'])} classes; training rows per class from {max(train):,} down to "
        f"{min(train):,}.",
    )
    for note in data["notes"]:
        console.print(printable(note))
    console.print(
        f"{split['train']:,} rows train, {split['validation']:,} choose among {study['draws']} "
        f"draws per loss, {split['test']:,} test; {study['seeds']} seeds; mean ± standard "
        "deviation over seeds, in percent.",
    )
    console.print()
    console.print(score_table(results, console.width))
    console.print()
    for sentence in results["verdict"]["sentences"]:
        console.print(sentence)
    for line in _failures(results):
        console.print(line)
    if results["verdict"]["code"]:
        console.print()
        for line in results["verdict"]["code"].splitlines():
            console.print(f"    {line}", soft_wrap=True)


def score_table(results: Mapping[str, Any], width: int) -> Table:
    """Candidates × scores, with as many scores as fit."""
    select = results["study"]["select"]
    wanted = dict.fromkeys((select, *_COLUMNS, *_MORE_COLUMNS))
    columns = list(wanted)[: len(_COLUMNS) + max(0, width - 80) // _COLUMN_WIDTH]
    judged = {c["candidate"]: c for c in results["comparisons"][select]}
    table = _bare_table()
    table.add_column("loss", no_wrap=True)
    for name in columns:
        table.add_column(TITLES[name].replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("against\ncross-entropy", justify="right", no_wrap=True)
    for entry in results["candidates"]:
        marks = "bold" if entry["name"] == results["verdict"]["recommended"] else None
        cells = [_mean_and_spread(name, entry["scores"][name]) for name in columns]
        table.add_row(entry["title"], *cells, _against(judged.get(entry["name"])), style=marks)
    return table


def _bare_table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)


def _mean_and_spread(name: str, score: Mapping[str, Any]) -> str:
    if score["mean"] is None:
        return "–"
    factor = 1 if name == "log_loss" else 100
    digits = 2 if name == "log_loss" else 1
    mean = f"{factor * score['mean']:.{digits}f}"
    return mean if score["std"] is None else f"{mean} ±{factor * score['std']:.{digits}f}"


def _against(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return ""
    mean = comparison["difference"]["mean"]
    if mean is None:
        return "failed"
    word = {"better": "better", "worse": "worse", "no detectable difference": "unclear"}
    return f"{word.get(comparison['judgement'], '')} {100 * mean:+5.1f}".lstrip()


def _failures(results: Mapping[str, Any]) -> list[str]:
    count = len(results["failures"])
    if not count:
        return []
    names = sorted({failure["candidate"] for failure in results["failures"]})
    was = "trial was" if count == 1 else "trials were"
    return [f"{count} {was} left out because the training diverged: {', '.join(names)}."]


def _clock(seconds: float) -> str:
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
