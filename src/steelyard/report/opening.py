"""The top of the page: the verdict in words, and the numbers that speak for it."""

from __future__ import annotations

from typing import NamedTuple

from steelyard import _units
from steelyard._results import BASELINE, Comparison
from steelyard.report import numbers
from steelyard.report.reading import Entry, Reading


class Fact(NamedTuple):
    """One number of the verdict."""

    label: str
    value: str
    note: str = ""


def headline(reading: Reading) -> str:
    """The verdict in a few words."""
    verdict = reading.results["verdict"]
    if verdict["recommended"] is not None:
        return f"Use {_decapitalised(reading.title(verdict['recommended']))}"
    return "Nothing finished" if verdict["best"] is None else "No verdict yet"


def facts(reading: Reading) -> list[Fact]:
    """What speaks for the verdict: the candidate beside cross-entropy."""
    baseline, other = reading.baseline, _rival(reading)
    score = reading.select
    found = [
        Fact(
            entry["title"],
            _with_unit(score, entry["scores"][score]["mean"]),
            _named_interval(numbers.interval(score, entry["scores"][score])),
        )
        for entry in (baseline, other)
        if entry is not None
    ]
    if baseline is None or other is None:
        return found
    row = reading.against_baseline(score).get(other["name"])
    if row is not None and row["difference"]["mean"] is not None:
        found.append(
            Fact(
                "Difference",
                f"{numbers.score(score, row['difference']['mean'], change=True)} "
                f"{_units.step(score)}".strip(),
                _of_difference(score, row),
            )
        )
    rarest = reading.rarest
    before, after = (entry["recall"][rarest]["mean"] for entry in (baseline, other))
    rows = reading.counts[rarest]
    found.append(
        Fact(
            "Recall of the rarest class",
            f"{numbers.percent(before, 0)} → {numbers.percent(after, 0)} %",
            f"{reading.classes[rarest]}: {numbers.whole(rows)} training row{'s' * (rows != 1)}",
        )
    )
    return found


def _rival(reading: Reading) -> Entry | None:
    """Whom the facts set beside cross-entropy: the recommended, else the best, if another."""
    verdict = reading.results["verdict"]
    for name in (verdict["recommended"], verdict["best"]):
        if name is not None and name != BASELINE:
            return reading.by_name[name]
    return None


def _with_unit(score: str, mean: float | None) -> str:
    unit = f" {_units.unit(score)}" if _units.step(score) else ""
    return numbers.score(score, mean) + unit * (mean is not None)


def _of_difference(score: str, row: Comparison) -> str:
    """Its interval, and that it proves nothing where it only looks as if it did."""
    interval = _named_interval(numbers.difference(score, row["difference"]))
    if row["judgement"] == "no detectable difference" and _clear(score, row):
        return f"{interval}; not detectable after Holm’s correction"
    return interval or row["judgement"]


def _named_interval(text: str) -> str:
    return f"95 % interval {text}" if text else ""


def sentences(reading: Reading) -> list[str]:
    """The verdict's sentences, but for one that only repeats the headline."""
    verdict = reading.results["verdict"]
    name = verdict["recommended"]
    headline = None if name is None else f"Use {reading.title(name)}."
    return [sentence for sentence in verdict["sentences"] if sentence != headline]


def caution(reading: Reading) -> str | None:
    """What to bear in mind where cross-entropy is recommended though others look better."""
    if reading.results["verdict"]["recommended"] != BASELINE:
        return None
    rows = reading.against_baseline(reading.select).values()
    above = sum(
        row["judgement"] == "no detectable difference" and _clear(reading.select, row)
        for row in rows
    )
    if not above:
        return None
    return (
        f"Not settled: intervals of {above} of {len(rows)} candidates lie "
        f"{'above' if _units.sign(reading.select) > 0 else 'below'} cross-entropy, "
        "until they are corrected for trying so many. More seeds may tell."
    )


def _clear(score: str, row: Comparison) -> bool:
    """Whether the whole interval is better than cross-entropy."""
    ends = (row["difference"]["low"], row["difference"]["high"])
    return all(_units.sign(score) * (end or 0) > 0 for end in ends)


def _decapitalised(title: str) -> str:
    """A title inside a sentence; acronyms keep their capitals."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]
