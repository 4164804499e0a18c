"""`steelyard compare`: options in, a table and files out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from steelyard.compare.api import write_results
from steelyard.compare.candidates import choose
from steelyard.compare.console import LiveTable, PlainLines, print_results
from steelyard.compare.data import load, load_digits
from steelyard.compare.runner import check_backend, run_study
from steelyard.compare.store import FILE
from steelyard.compare.study import Study


def run_command(options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Run the study that the command line asks for, and write its results.

    Returns:
        The results, and the path of their file.

    Raises:
        StudyError: it cannot be run.
    """
    given = {k: v for k, v in vars(options).items() if k in Study.option_names()}
    study = Study(**given | {"losses": choose(options.losses)})
    check_backend(options.workers, options.backend, options.address)
    data = load_digits() if options.data is None else load(options.data, options.target)
    try:
        with _watcher(study) as watcher:
            results = run_study(
                data,
                study,
                options.out,
                watcher=watcher,
                workers=options.workers,
                backend=options.backend,
                address=options.address,
            )
    except KeyboardInterrupt:
        _say_how_to_resume(options.out)
        raise
    return results, write_results(results, options.out)


def show(results: dict[str, Any], *, as_json: bool) -> None:
    """Print the results: tables and the verdict, or everything as JSON."""
    if as_json:
        json.dump(results, sys.stdout, indent=1, allow_nan=False, ensure_ascii=False)
        print()
    else:
        print_results(results, Console())


def _watcher(study: Study) -> AbstractContextManager[Any]:
    console = Console(stderr=True)
    return LiveTable(study, console) if console.is_terminal else PlainLines(study, sys.stderr)


def _say_how_to_resume(folder: Path) -> None:
    command = shlex.join(["steelyard", *sys.argv[1:]])
    kept = (folder / FILE).exists()
    state = f"What is finished is kept in {folder}; resume with" if kept else "Start again with"
    print(f"\nInterrupted. {state}:\n    {command}", file=sys.stderr)
