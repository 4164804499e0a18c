"""A study: its data, its candidates with all their cells, and what it allows one to say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict

from steelyard._results.cell import CheckedCell, DoneCell
from steelyard._results.numbers import (
    Count,
    Maybe,
    Number,
    checked,
    same_length,
    same_length_of_all,
)

SCHEMA: Literal[1] = 1
BASELINE = "cross-entropy"

Picture = Annotated[str, Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/=]+$")]


class Interval(TypedDict):
    """A mean over seeds, its standard deviation, and the ends of its 95 % interval."""

    mean: Maybe
    std: Maybe
    low: Maybe
    high: Maybe


class Score(Interval):
    """The same of one score, and its value on each seed."""

    values: list[Maybe]


class Range(TypedDict):
    """A hyper-parameter that a candidate draws."""

    name: str
    low: Number
    high: Number
    default: Number
    scale: Literal["linear", "log", "complement", "half", "whole", "switch"]


class Tried(TypedDict):
    """What was tuned and judged, with all its seeds."""

    name: str
    title: str
    space: list[Range]
    scores: dict[str, Score]
    recall: list[Interval]
    code: str | None
    seeds: list[CheckedCell]


class Candidate(Tried):
    """A candidate: a way to train the network, and to decide."""

    loss: str
    head: str
    deferred: bool
    post_hoc: bool
    rider: NotRequired[str | None]
    sampling: NotRequired[str]
    iou: NotRequired[list[Interval]]
    dice: NotRequired[list[Interval]]


class Reference(Tried):
    """What the owner of the data would take instead of the network."""

    model: str


def _tried_agrees(entry: Tried) -> Tried:
    cells = entry["seeds"]
    done = [cell for cell in cells if cell["status"] == "done"]
    for name, score in entry["scores"].items():
        same_length(f"scores.{name}.values and seeds", score["values"], len(cells))
        if without := [cell["seed"] for cell in done if name not in cell["scores"]]:
            raise ValueError(f"seed {without[0]} has no {name}")
    same_length("recall and classes", entry["recall"], len(done[0]["recall"]) if done else 0)
    for cell in done:
        if cell["candidate"] != entry["name"]:
            raise ValueError(f"seed {cell['seed']} belongs to {cell['candidate']!r}")
        same_length("recall on two seeds", cell["recall"], len(entry["recall"]))
        for what, size in _sizes(cell).items():
            if size != _sizes(done[0])[what]:
                raise ValueError(f"{what} of two seeds differ in length")
    names = {tuple(sorted(trial["options"])) for cell in cells for trial in cell["trials"]}
    if len(names) > 1:
        raise ValueError("its trials have different options")
    if names and (lost := {item["name"] for item in entry["space"]} - set(*names)):
        raise ValueError(f"no trial has the option {min(lost)!r}")
    return entry


def _sizes(cell: DoneCell) -> dict[str, int | None]:
    """Lengths that all seeds of a candidate share."""
    curve = cell["curve"]
    return {
        "reliability": len(cell["reliability"]["count"]),
        "positive_reliability": len(cell["positive_reliability"]["count"])
        if "positive_reliability" in cell
        else None,
        "curve": len(curve["epoch"]),
        "curve.validation": None if curve["validation"] is None else len(curve["validation"]),
    }


class Comparison(TypedDict):
    """A candidate against cross-entropy."""

    candidate: str
    seeds: Count
    difference: Interval
    p: Maybe
    p_holm: Maybe
    detectable: Maybe
    judgement: Literal["better", "worse", "no detectable difference", "too few seeds", "failed"]


class References(TypedDict):
    """The references, and on the selecting score each of them against one candidate."""

    against: str | None
    entries: list[Annotated[Reference, AfterValidator(_tried_agrees)]]
    comparisons: list[Comparison]


class Verdict(TypedDict):
    """What the study allows one to say."""

    score: str
    sentences: list[str]
    best: str | None
    tied: list[str]
    recommended: str | None
    code: str | None


class Failure(TypedDict):
    """A trial that failed."""

    candidate: str
    seed: int
    draw: Count
    reason: str


class Split(TypedDict):
    """Rows of each split."""

    train: Count
    validation: Count
    test: Count


class DataFacts(TypedDict):
    """What the data are."""

    name: str
    target: str
    sha256: str
    rows: Count
    columns: Count
    classes: list[str]
    counts: list[Count]
    train_counts: list[Count]
    split: Split
    notes: list[str]
    targets: NotRequired[Literal["classes", "masks", "tokens"]]
    unit: NotRequired[str]
    units: NotRequired[dict[str, Count]]
    test: NotRequired[Literal["fixed", "carved"]]


class ScoreName(TypedDict):
    """A score that the results hold."""

    name: str
    title: str
    higher_is_better: bool


def _plain(value: Any) -> Any:
    """One value of an option, or a list of names."""
    names = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if not names and not isinstance(value, str | int | float | None):
        raise ValueError("Input should be a number, a text or a list of texts")
    return value


_Plain = Annotated[Any, AfterValidator(_plain)]


def _study_agrees(study: dict[str, Any]) -> dict[str, Any]:
    for name, kind in (("seeds", int), ("draws", int), ("select", str)):
        if type(study.get(name)) is not kind:
            raise ValueError(f"{name} is {study.get(name)!r}, expected {_KINDS[kind]}")
    return study


_KINDS = {int: "a whole number", str: "a text"}


class PanelImage(TypedDict):
    """A test image, its target and each candidate's prediction, as pictures in data URIs."""

    row: Count
    image: Picture
    target: Picture
    predictions: dict[str, Picture]


class Panel(TypedDict):
    """A few test images of a study of masks, and the colour of each class."""

    colors: list[Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]]
    images: list[PanelImage]


class Times(TypedDict):
    """What differs between two runs of one study."""

    seconds: Annotated[Number, Field(ge=0)]
    trainings: NotRequired[dict[str, Number]]


class Results(TypedDict):
    """A whole study."""

    schema: Literal[1]
    kind: NotRequired[Literal["networks"]]  # tables where it is missing
    study: Annotated[dict[str, _Plain], AfterValidator(_study_agrees)]
    data: DataFacts
    environment: dict[str, _Plain]
    scores: list[ScoreName]
    candidates: list[Annotated[Candidate, AfterValidator(_tried_agrees)]]
    comparisons: dict[str, list[Comparison]]
    references: NotRequired[References]
    verdict: Verdict
    failures: list[Failure]
    costs: NotRequired[list[list[Number]]]  # row: the true class; column: the decision
    times: Times
    panel: NotRequired[Panel | None]


def _results_agree(results: Results) -> Results:
    data, entries, verdict = results["data"], results["candidates"], results["verdict"]
    classes = len(data["classes"])
    same_length("data.counts and data.classes", data["counts"], classes)
    same_length("data.train_counts and data.classes", data["train_counts"], classes)
    if "costs" in results:
        same_length_of_all("costs and data.classes", [data["classes"], *results["costs"]])
        same_length("costs and data.classes", results["costs"], classes)
    if not classes:
        raise ValueError("data.classes is empty")
    names = {entry["name"] for entry in entries}
    if len(names) != len(entries):
        raise ValueError("two candidates have one name")
    scores = {score["name"] for score in results["scores"]}
    if results["study"]["select"] not in scores:
        raise ValueError(f"scores lacks study.select, {results['study']['select']!r}")
    nothing: References = {"against": None, "entries": [], "comparisons": []}
    beside = results.get("references", nothing)
    tried: list[Tried] = [*entries, *beside["entries"]]
    for entry in tried:
        if lost := scores - set(entry["scores"]):
            raise ValueError(f"candidate {entry['name']} has no {min(lost)}")
        if entry["recall"]:
            same_length(f"recall of {entry['name']} and data.classes", entry["recall"], classes)
    same_length_of_all("seeds of two candidates", [entry["seeds"] for entry in tried])
    known = {entry["name"] for entry in beside["entries"]}
    if unknown := {row["candidate"] for row in beside["comparisons"]} - known:
        raise ValueError(f"references lacks {min(unknown)!r}, which its comparisons name")
    named = [verdict["best"], verdict["recommended"], *verdict["tied"], beside["against"]]
    named += [failure["candidate"] for failure in results["failures"]]
    for score, rows in results["comparisons"].items():
        named += [row["candidate"] for row in rows]
        if rows and score in scores:
            named.append(BASELINE)
    if unknown := {name for name in named if name is not None} - names:
        raise ValueError(
            f"candidates lacks {min(unknown)!r}, which verdict, comparisons or failures names"
        )
    return results


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Results, AfterValidator(_results_agree)])


def read_results(found: Any) -> Results:
    """Results as a file held them, checked.

    Raises:
        ValueError: what is wrong, and at which place.
    """
    schema = found.get("schema") if isinstance(found, Mapping) else None
    if schema is None:
        raise ValueError("these are not the results of a study: they name no schema")
    if schema != SCHEMA:
        raise ValueError(
            f"the results have schema {schema!r}, and this Steelyard reads schema {SCHEMA}; "
            "show them with the version that wrote them, or run the study again"
        )
    return cast("Results", checked(_adapter(), found))
