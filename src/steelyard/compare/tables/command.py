"""`steelyard compare` of a table: options in, a table and files out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from steelyard._results import Results
from steelyard._text import printable
from steelyard.compare.candidates import ALWAYS, BY_COSTS, CANDIDATES, DEFAULT, candidate, choose
from steelyard.compare.console import plain_console, print_results
from steelyard.compare.costs import read_costs
from steelyard.compare.machine import check_backend
from steelyard.compare.store import FILE
from steelyard.compare.study import Candidate
from steelyard.compare.tables.data import load, load_digits
from steelyard.compare.tables.draws import SHARED
from steelyard.compare.tables.progress import LiveTable, PlainLines
from steelyard.compare.tables.references import choose_references
from steelyard.compare.tables.runner import run_study
from steelyard.compare.tables.study import Study

RESULTS = Path("steelyard-results")


def run_command(options: argparse.Namespace) -> tuple[Results, Path]:
    """Run the study that the command line asks for.

    Returns:
        The results, and the folder where they belong.

    Raises:
        StudyError: it cannot be run.
    """
    given = {k: v for k, v in vars(options).items() if k in Study.option_names()}
    given["costs"] = None if options.costs is None else read_costs(options.costs)
    given["losses"] = choose(options.losses, costs=given["costs"] is not None)
    given["references"] = choose_references(None if options.references else ())
    study = Study(**given)
    check_backend(options.workers, options.backend, options.address)
    data = load_digits() if options.data is None else load(options.data, options.target)
    data = replace(data, name=printable(data.name))
    folder = options.out or default_folder(options.data)
    try:
        with _watcher(study) as watcher:
            results = run_study(
                data,
                study,
                folder,
                watcher=watcher,
                workers=options.workers,
                backend=options.backend,
                address=options.address,
            )
    except KeyboardInterrupt:
        say_how_to_resume(folder)
        raise
    return results, folder


def listing() -> str:
    """Every candidate: its name, the loss it trains, and what it may tune."""
    groups = {
        "In every study": ALWAYS,
        "In a study without --loss": [name for name in DEFAULT if name not in ALWAYS],
        "In a study with --costs": [BY_COSTS],
        "By --loss NAME": [
            item.name for item in CANDIDATES if item.name not in (*DEFAULT, BY_COSTS)
        ],
    }
    lines = ["A candidate is a way to train and to decide, not only a loss."]
    for heading, names in groups.items():
        lines += ["", f"{heading}:"]
        for item in map(candidate, names):
            tuned = ", ".join(f"{r.name} {r.low:g} to {r.high:g}" for r in item.space)
            lines.append(f"  {item.name:26}{_in_words(item)}{tuned and f'; tunes {tuned}'}")
    shared = ", ".join(f"{r.name} {r.low:g} to {r.high:g}" for r in SHARED)
    return "\n".join([*lines, "", f"All tune {shared}."])


def _in_words(item: Candidate) -> str:
    parts = [item.loss]
    if item.weighted:
        parts.append("with class_weights")
    if item.head != "linear":
        parts.append(f"on a {item.head} head")
    if item.sampling == "smote":
        parts.append("on classes drawn evenly, and points between rows of rare ones")
    if item.sampling == "balanced":
        parts.append("on classes drawn evenly" + ", late in training" * item.deferred)
    if item.reweighted:
        parts.append("with weights that set in late")
    if item.post_hoc:
        moved = "decide by the costs" if item.by_costs else "adjust_logits"
        moved = "tune_biases on the validation rows" if item.tuned else moved
        parts.append(f"and {moved} at prediction")
    return " ".join(parts)


def default_folder(data: Path | None) -> Path:
    """Where the study of a file is kept: each file has a folder of its own."""
    name = "digits" if data is None else printable(data.stem).strip(". ")
    return RESULTS / (name or "data")


def show(results: Results, *, as_json: bool) -> None:
    """Print the results: tables and the verdict, or everything as JSON."""
    if as_json:
        print(json.dumps(results, indent=1, allow_nan=False))
    else:
        print_results(results, plain_console())


def _watcher(study: Study) -> AbstractContextManager[Any]:
    console = plain_console(stderr=True)
    return LiveTable(study, console) if console.is_terminal else PlainLines(study, sys.stderr)


def say_how_to_resume(folder: Path) -> None:
    """Tell on the error stream what an interrupted study can go on from."""
    command = shlex.join(["steelyard", *sys.argv[1:]])
    kept = (folder / FILE).exists()
    state = f"What is finished is kept in {folder}; resume with" if kept else "Start again with"
    print(f"\nInterrupted. {state}:\n    {command}", file=sys.stderr)
