"""What a study looks like in a terminal when it is done."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.table import Table

from steelyard import _units
from steelyard._results import Comparison, Interval, Results
from steelyard._text import printable
from steelyard.compare.progress import bare_table

_COLUMNS = ("balanced_accuracy", "macro_f1", "worst_class_recall")  # these fit 80 characters
_BINARY_COLUMNS = ("balanced_accuracy", "average_precision", "f1")
_MORE_COLUMNS = ("accuracy", "few_shot_recall", "calibration_error", "log_loss")
_COLUMN_WIDTH = 13
_WIDEST = 1000


def plain_console(**options: Any) -> Console:
    """A console that shows text as it is: names may look like markup or like emoji codes.

    In a notebook too: there rich would draw each line as HTML, past the file that it was given.
    """
    return Console(markup=False, emoji=False, highlight=False, force_jupyter=False, **options)


def print_results(results: Results, console: Console) -> None:
    """The table of losses × scores, the verdict, and the lines to paste."""
    table = score_table(results, console.width)
    _make_room(table, console)
    data, study = results["data"], results["study"]
    split = data["split"]
    train = data["train_counts"]
    columns = f", {data['columns']} columns" if data["columns"] else ""
    console.print(
        f"{printable(data['name'])}: {data['rows']:,} rows{columns}, "
        f"{len(data['classes'])} classes; training rows per class from {max(train):,} down to "
        f"{min(train):,}.",
    )
    for note in data["notes"]:
        console.print(printable(note))
    console.print(
        f"{split['train']:,} rows train, {split['validation']:,} choose among {study['draws']} "
        f"draw{'s' * (study['draws'] != 1)} per loss, {split['test']:,} test; {study['seeds']} "
        f"seed{'s' * (study['seeds'] != 1)}; mean ± standard deviation over seeds, "
        f"{'costs per row and all else ' * ('costs' in results)}in percent.",
    )
    if "shape" in study:  # of a table; a study of networks trains the reader's own
        console.print(
            f"Network: {study['network']}, {study['shape']}; {study['epochs']:,} epoch"
            f"{'s' * (study['epochs'] != 1)}, "
            f"{study['batch_size']:,} rows a step.",
        )
    console.print()
    console.print(table)
    console.print()
    for sentence in results["verdict"]["sentences"]:
        console.print(sentence)
    for line in _failures(results):
        console.print(line)
    if results["verdict"]["code"]:
        console.print()
        for line in results["verdict"]["code"].splitlines():
            console.print(f"    {line}", soft_wrap=True)


def _make_room(table: Table, console: Console) -> None:
    """A terminal has the width it has; a file or a pipe takes lines of any length."""
    if not console.is_terminal and "COLUMNS" not in os.environ:
        anywhere = console.options.update_width(_WIDEST)
        console.width = max(console.width, console.measure(table, options=anywhere).maximum)


def score_table(results: Results, width: int) -> Table:
    """Candidates × scores, with as many scores as fit."""
    select = results["study"]["select"]
    titles = {score["name"]: score["title"] for score in results["scores"]}
    shown = (*_BINARY_COLUMNS, *_COLUMNS) if "f1" in titles else _COLUMNS
    wanted = [
        name
        for name in dict.fromkeys((select, "mean_cost", *shown, *_MORE_COLUMNS))
        if name in titles
    ]
    columns = wanted[: len(_COLUMNS) + max(0, width - 80) // _COLUMN_WIDTH]
    judged = {c["candidate"]: c for c in results["comparisons"][select]}
    table = bare_table()
    table.add_column("loss", no_wrap=True)
    for name in columns:
        table.add_column(titles[name].replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("against\ncross-entropy", justify="right", no_wrap=True)
    for entry in results["candidates"]:
        marks = "bold" if entry["name"] == results["verdict"]["recommended"] else None
        cells = [_mean_and_spread(name, entry["scores"][name]) for name in columns]
        table.add_row(
            entry["title"], *cells, _against(select, judged.get(entry["name"])), style=marks
        )
    references = results.get("references")
    if references and references["entries"]:
        table.add_section()
        table.add_row("Not a network", style="dim")
        for beside in references["entries"]:
            cells = [_mean_and_spread(name, beside["scores"][name]) for name in columns]
            table.add_row(beside["title"], *cells)
    return table


def _mean_and_spread(name: str, score: Interval) -> str:
    if score["mean"] is None:
        return "–"
    mean = _units.shown(name, score["mean"])
    return mean if score["std"] is None else f"{mean} ±{_units.shown(name, score['std'])}"


def _against(name: str, comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    mean = comparison["difference"]["mean"]
    if mean is None:
        return "failed"
    word = {"better": "better", "worse": "worse", "no detectable difference": "unclear"}
    change = _units.shown(name, mean, change=True)
    return f"{word.get(comparison['judgement'], '')} {change:>5}".lstrip()


def _failures(results: Results) -> list[str]:
    count = len(results["failures"])
    if not count:
        return []
    names = sorted({failure["candidate"] for failure in results["failures"]})
    was = "trial was" if count == 1 else "trials were"
    return [f"{count} {was} left out because the training diverged: {', '.join(names)}."]
