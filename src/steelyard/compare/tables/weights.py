"""`steelyard weights`: the classes of a file, counted as a stream, and every scheme's weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.table import Table

import steelyard as sy
from steelyard._text import printable
from steelyard.classes.weights import Scheme
from steelyard.compare.console import plain_console
from steelyard.compare.tables.data import count_column

SCHEMES: tuple[Scheme, ...] = ("balanced", "inverse", "sqrt", "effective", "enet")
_LISTED = 40


def weigh(counts: dict[str, int]) -> dict[str, list[float]]:
    """The weights of every scheme that needs no parameter and no support, in class order."""
    order = list(counts.values())
    return {
        scheme: sy.class_weights(order, scheme, dtype=torch.float64).tolist() for scheme in SCHEMES
    }


def print_weights(path: Path, target: str | None, *, as_json: bool) -> None:
    """Print counts and weights of the classes in a file.

    Args:
        path: CSV, TSV, Parquet or NPZ; it may be larger than memory.
        target: the column that holds the classes.
        as_json: print one JSON object instead of a table.

    Raises:
        StudyError: the file cannot be read, or its column holds no classes.
    """
    counts = count_column(path, target)
    weights = weigh(counts)
    if as_json:
        print(json.dumps({"classes": list(counts), "counts": list(counts.values()), **weights}))
        return
    console = plain_console()
    rows, largest = sum(counts.values()), max(counts.values())
    console.print(
        f"{printable(path.name)}: {rows:,} rows, {len(counts)} classes, the largest "
        f"{largest / min(counts.values()):.3g} times the smallest.\n",
    )
    console.print(_table(counts, weights, rows))
    if len(counts) > _LISTED:
        console.print(f"… and {len(counts) - _LISTED} more classes; --json has them all.")
    in_order = len(counts) <= _LISTED
    order = ", classes in this order" if in_order else ""
    console.print(f"\nTo use the balanced ones{order}:\n")
    # Not by the console, which would break the lines that are to be pasted.
    if in_order:
        chosen = ", ".join(f"{w:.6g}" for w in weights["balanced"])
        print(f"    loss = sy.CrossEntropyLoss(weight=[{chosen}])")
    else:
        print("    class_counts = sy.count_classes(train_labels)")
        print('    weight = sy.class_weights(class_counts, "balanced")')
        print("    loss = sy.CrossEntropyLoss(weight=weight)")


def _table(counts: dict[str, int], weights: dict[str, list[float]], rows: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("class")
    for heading in ("rows", "share", *SCHEMES):
        table.add_column(heading, justify="right")
    for place, (name, n) in enumerate(list(counts.items())[:_LISTED]):
        numbers = (f"{weights[scheme][place]:.4g}" for scheme in SCHEMES)
        table.add_row(printable(name), f"{n:,}", f"{100 * n / rows:.2f} %", *numbers)
    return table
