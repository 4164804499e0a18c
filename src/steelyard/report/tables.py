"""What the page says in words and tables: plain text, escaped where the template shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from steelyard import _units
from steelyard._results import Comparison, Tried, chosen_trial
from steelyard.report import numbers
from steelyard.report.reading import (
    Entry,
    Reading,
    done,
    option_names,
)

# What None means of an option, where nothing was chosen in its place.
_UNSET = {
    "clip": "none",
    "costs": "none",
    "positive": "none",
    "micro_batch": "whole steps",
    "validation": "a set of its own",
    "test": "a set of its own",
}
_MARKS = {"better": "▲", "worse": "▼", "no detectable difference": "=", "failed": "✕"}


class Cell(NamedTuple):
    """A number with its interval, and whether it is the best of its column."""

    value: str
    range: str = ""
    best: bool = False


class Judged(NamedTuple):
    """A candidate against cross-entropy, in words."""

    mark: str
    judgement: str
    difference: str
    range: str
    p: str
    p_holm: str
    detectable: str
    seeds: int


def capitalised(title: str) -> str:
    """A title at the beginning of a line; the rest keeps its letters, as F1 needs."""
    return title[:1].upper() + title[1:]


def columns(reading: Reading) -> list[tuple[str, str, str]]:
    """Name, title and unit of each score; those of repaired probabilities have their own table."""
    return [
        (name, title, _units.unit(name))
        for name, title in reading.score_titles.items()
        if _units.plain(name) == name
    ]


def less_is_better(reading: Reading) -> str:
    """The columns of which less is better, in words."""
    found = [title for name, title, _ in columns(reading) if _units.sign(name) < 0]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def scores(reading: Reading) -> list[tuple[Entry, list[Cell]]]:
    """Candidates in rank, each with a cell for every score."""
    best = {}
    for score in reading.results["scores"]:
        means = [e["scores"][score["name"]]["mean"] for e in reading.finished]
        known = [mean for mean in means if mean is not None]
        choose = max if score["higher_is_better"] else min
        # Where all are alike, as with a worst class that everyone misses, nobody is best.
        best[score["name"]] = (
            choose(known) if min(known, default=0) < max(known, default=0) else None
        )
    return [
        (entry, [_of_score(entry, name, best[name]) for name, _, _ in columns(reading)])
        for entry in reading.ranked
    ]


def references(reading: Reading) -> list[tuple[Tried, list[Cell], Judged | None]]:
    """What is no network: a cell for every score, and what may be said of it."""
    if "references" not in reading.results:
        return []
    rows = {row["candidate"]: row for row in reading.results["references"]["comparisons"]}
    return [
        (
            entry,
            [_of_score(entry, name) for name, _, _ in columns(reading)],
            _judged(reading.select, rows[entry["name"]]) if entry["name"] in rows else None,
        )
        for entry in reading.references
    ]


def opponent(reading: Reading) -> str | None:
    """The title of the candidate that references are compared with."""
    name = reading.results["references"]["against"] if "references" in reading.results else None
    return None if name is None else reading.title(name)


def _of_score(entry: Tried, name: str, best: float | None = None) -> Cell:
    score = entry["scores"][name]
    return Cell(
        numbers.score(name, score["mean"]),
        numbers.interval(name, score),
        best is not None and score["mean"] == best,
    )


class Repairs(NamedTuple):
    """The table of probabilities: headings with units, and candidates with their cells."""

    columns: list[tuple[str, str]]
    rows: list[tuple[Tried, list[Cell]]]


def repairs(reading: Reading) -> Repairs | None:
    """Scores of probabilities as trained and after each repair; None where none was tried."""
    bases = [name for name in reading.score_titles if f"{name}_tempered" in reading.score_titles]
    names = [name for base in bases for name in (base, f"{base}_corrected", f"{base}_tempered")]
    if not names:
        return None
    titles = [(capitalised(reading.score_titles[name]), _units.unit(name)) for name in names]
    rows: list[tuple[Tried, list[Cell]]] = [
        (entry, [_of_score(entry, name) for name in names])
        for entry in (*reading.finished, *reading.references)
    ]
    return Repairs(titles, rows)


def judged(reading: Reading, score: str) -> dict[str, Judged]:
    """By candidate, what may be said of it against cross-entropy on one score."""
    return {name: _judged(score, row) for name, row in reading.against_baseline(score).items()}


def _judged(score: str, row: Comparison) -> Judged:
    return Judged(
        _MARKS.get(row["judgement"], numbers.NOTHING),
        row["judgement"],
        numbers.score(score, row["difference"]["mean"], change=True),
        numbers.difference(score, row["difference"]),
        numbers.p_value(row["p"]),
        numbers.p_value(row["p_holm"]),
        numbers.score(score, row["detectable"]),
        row["seeds"],
    )


def pictured(reading: Reading) -> list[tuple[str, list[tuple[str, str]]]]:
    """Test images: a title, and pictures with what they show, cross-entropy's before the lead's."""
    panel = reading.results.get("panel")
    if not panel:
        return []
    entries = [e for e in (reading.baseline, reading.lead) if e is not None]
    compared = list(dict.fromkeys(entry["name"] for entry in entries))
    return [
        (
            f"Test image {image['row']}",
            [
                ("image", image["image"]),
                ("target", image["target"]),
                *(
                    (reading.title(name), image["predictions"][name])
                    for name in compared
                    if name in image["predictions"]
                ),
            ],
        )
        for image in panel["images"]
    ]


def legend(reading: Reading) -> list[tuple[str, str]]:
    """Classes and the colours that they have in the pictures."""
    panel = reading.results.get("panel")
    return list(zip(reading.classes, panel["colors"], strict=False)) if panel else []


def trainings(reading: Reading) -> list[tuple[str, str]]:
    """Candidates that trained a network, and what one training took."""
    each = reading.results["times"].get("trainings", {})
    return [(reading.title(name), f"{seconds:.3g} s") for name, seconds in each.items()]


def chosen(reading: Reading) -> list[tuple[Tried, list[tuple[str, str, str, str]]]]:
    """Of all: hyper-parameter, its published value, range tried, value chosen per seed."""
    table = []
    for entry in everyone(reading):
        trials = [t for cell in entry["seeds"] for t in cell["trials"]]
        picked = [chosen_trial(cell) for cell in done(entry)]
        rows = []
        for name in option_names(entry):
            tried = [t["options"][name] for t in trials]
            first = next((t["options"][name] for t in trials if t["draw"] == 0), None)
            rows.append(
                (
                    name,
                    numbers.option(first),
                    f"{numbers.option(min(tried))} to {numbers.option(max(tried))}",
                    ", ".join(numbers.option(t["options"][name]) for t in picked)
                    or numbers.NOTHING,
                )
            )
        if rows:
            table.append((entry, rows))
    return table


def everyone(reading: Reading) -> list[Tried]:
    """The candidates in rank, then the references."""
    return [*reading.ranked, *reading.references]


def trials(reading: Reading, entry: Tried) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the hyper-parameters, and one row for each of the trials."""
    names = option_names(entry)
    rows = [
        {
            "seed": cell["seed"],
            "draw": trial["draw"],
            "options": [numbers.option(trial["options"].get(name)) for name in names],
            "validation": numbers.score(reading.select, trial["validation"]),
            "train_loss": numbers.NOTHING
            if trial["train_loss"] is None
            else f"{trial['train_loss']:.4g}",
            "chosen": cell["status"] == "done" and trial["draw"] == cell["chosen"],
            "failed": trial["reason"] if trial["status"] == "failed" else None,
        }
        for cell in entry["seeds"]
        for trial in cell["trials"]
    ]
    return names, rows


def failures(reading: Reading) -> list[tuple[str, str, str, str]]:
    """Candidate, seed, draw and reason of whatever failed; whole seeds first."""
    seeds = [
        (entry["title"], str(cell["seed"]), "all", cell["reason"] or numbers.NOTHING)
        for entry in reading.results["candidates"]
        for cell in entry["seeds"]
        if cell["status"] != "done"
    ]
    single = [
        (reading.title(f["candidate"]), str(f["seed"]), str(f["draw"]), f["reason"])
        for f in reading.results["failures"]
    ]
    return [*seeds, *single]


def options(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what was set; None is mostly the study's own choice."""
    return [
        (name.replace("_", " "), _UNSET.get(name, "automatic") if value is None else shown)
        for name, value in values.items()
        for shown in [numbers.option(value)]
    ]


def ratio(reading: Reading) -> str:
    """Imbalance of the training rows, most frequent to rarest class that has any."""
    present = [n for n in reading.counts if n]
    return f"{max(present) / min(present):.3g}" if present else numbers.NOTHING
