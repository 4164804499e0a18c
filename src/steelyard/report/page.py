"""The page: pictures and tables put into the template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from steelyard import _units
from steelyard._files import write_atomically
from steelyard._results import read_results
from steelyard.report import classes, diagnosis, numbers, opening, outcomes, rankings, tables
from steelyard.report.reading import Reading
from steelyard.report.style import DARK, Picture


def write(results: Mapping[str, Any], path: Path) -> None:
    """Write the page in one step: a reader never meets half of it.

    Args:
        results: what `results.json` holds.
        path: where; an older page there is replaced.

    Raises:
        ValueError: these are no results, or damaged ones; the message names the place.
        OSError: the folder cannot be written, or the disk is full; an older page is untouched.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sklearn.datasets import load_wine
        >>> from steelyard import compare, report
        >>> study = compare.run(*load_wine(return_X_y=True), seeds=1, draws=1, epochs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report.write(study.results, Path(folder, "report.html"))
        ...     Path(folder, "report.html").exists()
        True
    """
    write_atomically(Path(path), render(results))


def render(results: Mapping[str, Any]) -> str:
    """The page as one HTML document that needs nothing else, network included.

    Args:
        results: what `results.json` holds.

    Raises:
        ValueError: these are no results, or damaged ones; the message names the place.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from steelyard import compare, report
        >>> study = compare.run(*load_wine(return_X_y=True), seeds=1, draws=1, epochs=1)
        >>> report.render(study.results)[:15]
        '<!DOCTYPE html>'
    """
    reading = Reading(read_results(results))
    template = _templates().get_template("page.html.jinja")
    plotly, script = get_plotlyjs(), _source("page.js")
    pictures = _pictures(reading)
    return template.render(
        reading=reading,
        results=results,
        opening=opening,
        classes=classes,
        tables=tables,
        numbers=numbers,
        units=_units,
        style=_source("page.css"),
        plotly=plotly,
        script=script,
        # The page runs these two scripts and no other, and asks nobody for anything: a name that
        # slipped through as markup could do nothing.
        allowed=" ".join(map(_digest, (plotly, script))),
        shown=_choices(reading, pictures),
        payload={"dark": DARK, "pictures": {name: _plain(p) for name, p in pictures.items()}},
    )


def _pictures(reading: Reading) -> dict[str, dict[str, list[Picture]]]:
    """The pictures of each part of the page by choice; choices without pictures are left out."""
    by_candidate: dict[str, Callable[[Reading, Any], list[Picture]]] = {
        "recall": outcomes.recall,
        "curves": diagnosis.curves,
        "rankings": rankings.rankings,
        "costs": rankings.costs,
        "calibration": diagnosis.calibration,
        "mistakes": outcomes.mistakes,
        "tuning": diagnosis.tuning,
    }
    made = {
        part: {entry["name"]: make(reading, entry) for entry in reading.finished}
        for part, make in by_candidate.items()
    }
    made["forest"] = {score: outcomes.forest(reading, score) for score in reading.compared}
    return {
        part: {choice: some for choice, some in choices.items() if some}
        for part, choices in made.items()
    }


def _choices(
    reading: Reading, pictures: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[tuple[str, str]]]:
    """Names and titles of what each part of the page lets its reader choose."""
    titles = {name: entry["title"] for name, entry in reading.by_name.items()}
    titles |= reading.score_titles
    return {part: [(name, titles[name]) for name in choices] for part, choices in pictures.items()}


def _plain(choices: Mapping[str, Sequence[Picture]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [picture._asdict() for picture in some] for name, some in choices.items()}


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("steelyard.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Five megabytes of names are of no use to a reader: numbers and pictures come compact.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """The name by which a content security policy allows an inline script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
