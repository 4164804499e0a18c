"""What `results.json` and the store of a study hold: declared once, checked when it is read.

`steelyard.compare.results` says what each entry means. A file may have been cut, edited or written
by another program, so whoever reads one asks `read_results` or `read_cell`: what they return can be
used without another look, and what is wrong is named with its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

SCHEMA: Literal[1] = 1
BASELINE = "cross-entropy"

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Picture = Annotated[str, Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/=]+$")]
Maybe = Number | None  # None: not defined for these data


class Interval(TypedDict):
    """A mean over seeds, its standard deviation, and the ends of its 95 % interval."""

    mean: Maybe
    std: Maybe
    low: Maybe
    high: Maybe


class Score(Interval):
    """The same of one score, and its value on each seed."""

    values: list[Maybe]


class Trial(TypedDict):
    """One draw of the hyper-parameters."""

    draw: Count
    options: dict[str, Number]
    status: Literal["done", "failed"]
    reason: str | None
    validation: Maybe
    train_loss: Maybe


class Reliability(TypedDict):
    """Rows, mean confidence and accuracy of each bin of confidence."""

    count: list[Count]
    confidence: list[Maybe]
    accuracy: list[Maybe]


class Curve(TypedDict):
    """A training, epoch by epoch."""

    epoch: list[Count]
    train_loss: list[Maybe]
    validation: list[Maybe] | None


class Ranking(TypedDict):
    """Points of the precision-recall curve and of the ROC curve; `decision` is of two classes."""

    recall: list[Maybe]
    precision: list[Maybe]
    alarms: list[Maybe]  # share of the other rows that pass too
    found: list[Maybe]
    decision: NotRequired[dict[str, Maybe]]  # recall, precision and alarms


class CostCurve(TypedDict):
    """Mean cost by the threshold for the probability of the positive class."""

    threshold: list[Number]
    cost: list[Maybe]


class FailedCell(TypedDict):
    """A candidate on a seed where every draw failed."""

    seed: int
    candidate: str
    trials: list[Trial]
    status: Literal["failed"]
    reason: str


class Judged(TypedDict):
    """What one network's test rows say of it; recall and precision per class."""

    scores: dict[str, Maybe]
    recall: list[Maybe]
    precision: list[Maybe]
    confusion: list[list[Count]]
    reliability: Reliability
    iou: NotRequired[list[Maybe]]  # of masks and sequences
    dice: NotRequired[list[Maybe]]
    ranking: NotRequired[Ranking]
    cost_curve: NotRequired[CostCurve]
    temperature: NotRequired[Number]


class DoneCell(Judged):
    """A candidate on a seed: its trials, and the chosen one's scores on the test rows."""

    seed: int
    candidate: str
    trials: list[Trial]
    status: Literal["done"]
    reason: None
    chosen: Count
    curve: Curve


def _cell_agrees(cell: DoneCell) -> DoneCell:
    classes, bins, curve = len(cell["recall"]), cell["reliability"], cell["curve"]
    _same_length("precision and recall", cell["precision"], classes)
    if cell["confusion"]:  # of very many classes it is left out
        _same_length("confusion and recall", cell["confusion"], classes)
    for row in cell["confusion"]:
        _same_length("a row of confusion and recall", row, classes)
    _same_length("reliability.confidence and .count", bins["confidence"], len(bins["count"]))
    _same_length("reliability.accuracy and .count", bins["accuracy"], len(bins["count"]))
    _same_length("curve.train_loss and .epoch", curve["train_loss"], len(curve["epoch"]))
    if curve["validation"] is not None:
        _same_length("curve.validation and .epoch", curve["validation"], len(curve["epoch"]))
    if "ranking" in cell:
        lists = [cell["ranking"][key] for key in ("recall", "precision", "alarms", "found")]
        _same_length_of_all("the parts of ranking", lists)
    if "cost_curve" in cell:
        points = cell["cost_curve"]
        _same_length("the parts of cost_curve", points["cost"], len(points["threshold"]))
    chosen = [trial for trial in cell["trials"] if trial["draw"] == cell["chosen"]]
    if len(chosen) != 1 or chosen[0]["validation"] is None:
        raise ValueError(f"chosen is {cell['chosen']}, which is no draw that was validated")
    return cell


def chosen_trial(cell: DoneCell) -> Trial:
    """The trial whose draw was chosen on the validation rows."""
    return next(trial for trial in cell["trials"] if trial["draw"] == cell["chosen"])


Cell = DoneCell | FailedCell
_Cell = Annotated[
    Annotated[DoneCell, AfterValidator(_cell_agrees)] | FailedCell, Field(discriminator="status")
]


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
    seeds: list[_Cell]


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
        _same_length(f"scores.{name}.values and seeds", score["values"], len(cells))
        if without := [cell["seed"] for cell in done if name not in cell["scores"]]:
            raise ValueError(f"seed {without[0]} has no {name}")
    _same_length("recall and classes", entry["recall"], len(done[0]["recall"]) if done else 0)
    for cell in done:
        if cell["candidate"] != entry["name"]:
            raise ValueError(f"seed {cell['seed']} belongs to {cell['candidate']!r}")
        _same_length("recall on two seeds", cell["recall"], len(entry["recall"]))
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
    _same_length("data.counts and data.classes", data["counts"], classes)
    _same_length("data.train_counts and data.classes", data["train_counts"], classes)
    if "costs" in results:
        _same_length_of_all("costs and data.classes", [data["classes"], *results["costs"]])
        _same_length("costs and data.classes", results["costs"], classes)
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
            _same_length(f"recall of {entry['name']} and data.classes", entry["recall"], classes)
    _same_length_of_all("seeds of two candidates", [entry["seeds"] for entry in tried])
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


def _same_length(what: str, values: Sequence[Any], length: int) -> None:
    if len(values) != length:
        raise ValueError(f"{what} differ in length")


def _same_length_of_all(what: str, lists: Sequence[Sequence[Any]]) -> None:
    for values in lists:
        _same_length(what, values, len(lists[0]))


@cache
def _adapters() -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    return TypeAdapter(Annotated[Results, AfterValidator(_results_agree)]), TypeAdapter(_Cell)


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
    return cast("Results", _checked(_adapters()[0], found))


def read_cell(found: Any) -> Cell:
    """A cell as the store held it, checked.

    Raises:
        ValueError: what is wrong, and at which place.
    """
    return cast("Cell", _checked(_adapters()[1], found))


def _checked(adapter: TypeAdapter[Any], found: Any) -> Any:
    try:
        adapter.validate_python(found, strict=True)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from error
    return found  # not a copy: entries that nobody declared are kept


def _sentence(error: ValidationError) -> str:
    first, *more = error.errors(include_url=False, include_input=False)
    place = ""
    for part in first["loc"]:
        if part not in ("done", "failed"):  # tags of the two kinds of cell
            place += f"[{part}]" if isinstance(part, int) else f".{part}"
    text = {"missing": "is missing"}.get(first["type"], first["msg"])
    text = text.removeprefix("Value error, ").replace("Input should be", "should be")
    rest = f" (and {len(more)} more)" if more else ""
    return f"{place.lstrip('.')} {text}{rest}".lstrip()
