"""What the study of a table looks like in a terminal while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table

from steelyard._results import Cell
from steelyard._text import printable
from steelyard._units import shown
from steelyard.compare.progress import LiveBar, Pace, bare_table
from steelyard.compare.tables.groups import Group
from steelyard.compare.tables.references import title_of
from steelyard.compare.tables.study import Study


class Counting:
    """Counts finished cells, and those under way by their share."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.cells: dict[tuple[int, str], Cell] = {}
        self.pace = Pace(study.seeds * len(study.names))
        self._under_way: dict[Group, float] = {}

    def note(self, sentence: str) -> None:
        """See `Watcher`."""

    def begin(self, groups: Sequence[Group], cells: Sequence[Cell]) -> None:  # noqa: ARG002
        """See `Watcher`."""
        self._add(cells)
        self.pace = Pace(self.pace.total, len(cells))
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

    def _add(self, cells: Sequence[Cell]) -> None:
        # By seed and candidate: a group of which a part was finished before is trained whole.
        self.cells |= {(cell["seed"], cell["candidate"]): cell for cell in cells}

    def show(self) -> None:
        """Bring what is shown up to date."""

    @property
    def done(self) -> float:
        """How many cells are finished."""
        return len(self.cells) + sum(self._under_way.values())


class PlainLines(Counting):
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
            self._print(f"resuming: {len(cells)} of {self.pace.total} were finished before")

    def finished(self, group: Group, cells: Sequence[Cell]) -> None:
        """See `Watcher`."""
        super().finished(group, cells)
        first, last = group.seeds[0], group.seeds[-1]
        seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
        left = self.pace.left(self.done)
        rest = f", {left}" if left else ""
        what = f"{len(group.candidates)} candidates"
        if group.reference:
            what = title_of(group.candidates[0])
        self._print(f"{seeds}: {what} done ({len(self.cells)} of {self.pace.total}{rest})")

    def note(self, sentence: str) -> None:
        """See `Watcher`."""
        self._print(printable(sentence))

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class LiveTable(LiveBar, Counting):
    """A table that fills up, and a bar, on a terminal."""

    def __init__(self, study: Study, console: Console) -> None:
        Counting.__init__(self, study)
        LiveBar.__init__(self, console)

    def show(self) -> None:
        """See `Counting`."""
        self.update(self._table(), self.pace, self.done)

    def _table(self) -> Table:
        table = bare_table()
        table.add_column("loss")
        table.add_column("seeds", justify="right")
        title = self.study.select_title
        table.add_column(title if title.startswith("mean ") else f"mean {title}", justify="right")
        for name in self.study.names:
            done = [cell for cell in self.cells.values() if cell["candidate"] == name]
            found = [c["scores"][self.study.select] for c in done if c["status"] == "done"]
            scores = [score for score in found if score is not None]
            mean = shown(self.study.select, sum(scores) / len(scores)) if scores else "–"
            table.add_row(title_of(name), f"{len(done)}/{self.study.seeds}", mean)
        return table
