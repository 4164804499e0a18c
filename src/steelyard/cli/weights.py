"""`steelyard weights`: the counts of a file, and the weights of every scheme."""

from __future__ import annotations

import argparse
from pathlib import Path

from steelyard.cli.usage import Commands, UsageError


def add_to(commands: Commands) -> None:
    """Add `weights` to the subcommands."""
    weights = commands.add_parser(
        "weights",
        help="count the classes of a file and print the weights of every scheme",
        description="Count the classes of a file, however large, and print the weights of every "
        "scheme with the line of Python to paste.",
    )
    weights.add_argument("data", type=Path, metavar="DATA", help="CSV, TSV, Parquet or NPZ")
    weights.add_argument("--target", metavar="COLUMN", help="the column that holds the classes")
    weights.add_argument("--json", action="store_true", help="print counts and weights as JSON")
    weights.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from steelyard.compare.study import StudyError
    from steelyard.compare.tables.weights import print_weights

    try:
        print_weights(options.data, options.target, as_json=options.json)
    except StudyError as error:
        raise UsageError(str(error)) from error
