"""`steelyard report`: the page of a study, from its results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.cli.usage import Commands, UsageError


def add_to(commands: Commands) -> None:
    """Add `report` to the subcommands."""
    report = commands.add_parser(
        "report",
        help="write report.html again from results.json",
        description="Write report.html again from the results.json in a folder.",
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of a study")
    report.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    path = options.folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no {path}; `steelyard compare --out …` writes it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} could not be read: {error}") from error
    try:
        print(write_page(results, options.folder))
    except ValueError as error:
        raise UsageError(f"{path} does not hold the results of a study: {error}") from error


def write_page(results: Mapping[str, Any], folder: Path) -> Path:
    """Write report.html into a folder; its path."""
    from steelyard.report import write

    page = folder / "report.html"
    try:
        write(results, page)
    except OSError as error:
        raise UsageError(f"{page} could not be written: {error.strerror}") from error
    return page
