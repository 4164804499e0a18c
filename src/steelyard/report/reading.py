"""What the page asks of the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from steelyard import _units
from steelyard._results import (
    BASELINE,
    Candidate,
    Comparison,
    DoneCell,
    Reference,
    Reliability,
    Results,
    Tried,
)

Entry = Candidate


@dataclass(frozen=True)
class Reading:
    """Results, with the questions that more than one part of the page asks of them.

    Attributes:
        results: what `results.json` holds.
    """

    results: Results

    @property
    def own(self) -> bool:
        """Whether the network is the user's own."""
        return self.results.get("kind") == "networks"

    @property
    def unit(self) -> str:
        """What is tested, in the plural."""
        return str(self.results["data"].get("unit", "rows"))

    @property
    def select(self) -> str:
        """Name of the score that decides."""
        return str(self.results["study"]["select"])

    @cached_property
    def score_titles(self) -> dict[str, str]:
        """Titles of the scores by name, the deciding one first."""
        titles = {score["name"]: score["title"] for score in self.results["scores"]}
        return {self.select: titles.get(self.select, self.select)} | titles

    @property
    def select_title(self) -> str:
        """Title of the score that decides."""
        return self.score_titles[self.select]

    @property
    def compared(self) -> list[str]:
        """The scores on which candidates were set against cross-entropy, the deciding one first."""
        return [name for name in self.score_titles if self.results["comparisons"].get(name)]

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        """The candidates by name."""
        return {entry["name"]: entry for entry in self.results["candidates"]}

    def title(self, name: str) -> str:
        """A candidate's title."""
        return str(self.by_name[name]["title"])

    @cached_property
    def ranked(self) -> list[Entry]:
        """The candidates, the best mean of the deciding score first, the unfinished last."""

        def key(entry: Entry) -> float:
            mean = entry["scores"][self.select]["mean"]
            return float("inf") if mean is None else -_units.sign(self.select) * mean

        return sorted(self.results["candidates"], key=key)

    @property
    def references(self) -> list[Reference]:
        """What was tuned and judged beside the candidates and is no network."""
        return self.results["references"]["entries"] if "references" in self.results else []

    @cached_property
    def finished(self) -> list[Entry]:
        """The candidates that finished a seed, in rank."""
        return [entry for entry in self.ranked if done(entry)]

    @property
    def baseline(self) -> Entry | None:
        """Plain cross-entropy, if it finished a seed."""
        return next((entry for entry in self.finished if entry["name"] == BASELINE), None)

    @property
    def lead(self) -> Entry | None:
        """The candidate that pictures show first.

        The recommended one; where that is cross-entropy itself, or nothing is recommended, the
        best mean among the others.
        """
        recommended = self.results["verdict"]["recommended"]
        others = [entry for entry in self.finished if entry["name"] != BASELINE]
        chosen = [entry for entry in others if entry["name"] == recommended]
        return next(iter(chosen or others or self.finished), None)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.results["data"]["classes"])

    @cached_property
    def counts(self) -> list[int]:
        """Training rows of each class."""
        return list(self.results["data"]["train_counts"])

    @cached_property
    def by_frequency(self) -> list[int]:
        """Places of the classes, the most frequent first."""
        return sorted(range(len(self.classes)), key=lambda c: (-self.counts[c], c))

    @property
    def positive(self) -> int:
        """Of two classes, the place of the one that is looked for."""
        named = self.results["study"].get("positive")
        counts = self.results["data"]["counts"]
        return self.classes.index(named) if named is not None else int(counts[1] <= counts[0])

    @property
    def by_class(self) -> bool:
        """Whether calibration is shown by the probability of the positive of two classes."""
        return bool(self.lead and positive_reliability(self.lead))

    @property
    def rarest(self) -> int:
        """Place of the rarest class."""
        return self.by_frequency[-1]

    def against_baseline(self, score: str) -> dict[str, Comparison]:
        """The comparisons on one score by candidate; empty where there are none."""
        rows = self.results["comparisons"].get(score, ())
        return {row["candidate"]: row for row in rows}


def done(entry: Tried) -> list[DoneCell]:
    """The cells of the seeds that a candidate finished."""
    return [cell for cell in entry["seeds"] if cell["status"] == "done"]


def option_names(entry: Tried) -> list[str]:
    """Names of the hyper-parameters that were drawn."""
    return list(
        dict.fromkeys(
            name for cell in entry["seeds"] for t in cell["trials"] for name in t["options"]
        )
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def confusion(entry: Entry) -> list[list[int]]:
    """Test rows of all seeds, true class by predicted class; rows are true classes."""
    matrices = [cell["confusion"] for cell in done(entry)]
    return [
        [sum(column) for column in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)
    ]


def reliability(entry: Entry) -> list[dict[str, float]]:
    """Bins of confidence over the test rows of all seeds, the empty ones left out."""
    return _pooled([cell["reliability"] for cell in done(entry)])


def positive_reliability(entry: Entry) -> list[dict[str, float]]:
    """The same by the probability of the positive of two classes; empty where it was not kept."""
    cells = done(entry)
    if not all("positive_reliability" in cell for cell in cells):
        return []
    return _pooled([cell["positive_reliability"] for cell in cells])


def _pooled(cells: Sequence[Reliability]) -> list[dict[str, float]]:
    bins = []
    for b in range(len(cells[0]["count"]) if cells else 0):
        rows = sum(cell["count"][b] for cell in cells)
        if rows:
            pooled = {
                key: sum(cell["count"][b] * (cell[key][b] or 0.0) for cell in cells) / rows
                for key in ("confidence", "accuracy")
            }
            bins.append({"rows": rows, **pooled})
    return bins
