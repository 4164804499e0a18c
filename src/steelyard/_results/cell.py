"""A cell: one candidate on one seed, with its trials and what its test rows say."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict

from steelyard._results.numbers import (
    Count,
    Maybe,
    Number,
    checked,
    same_length,
    same_length_of_all,
)


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
    positive_reliability: NotRequired[Reliability]  # of two classes, by p of the positive one
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
    classes, curve = len(cell["recall"]), cell["curve"]
    same_length("precision and recall", cell["precision"], classes)
    if cell["confusion"]:  # of very many classes it is left out
        same_length("confusion and recall", cell["confusion"], classes)
    for row in cell["confusion"]:
        same_length("a row of confusion and recall", row, classes)
    kept = {"reliability": cell["reliability"]}
    if "positive_reliability" in cell:
        kept["positive_reliability"] = cell["positive_reliability"]
    for name, bins in kept.items():
        same_length(f"{name}.confidence and .count", bins["confidence"], len(bins["count"]))
        same_length(f"{name}.accuracy and .count", bins["accuracy"], len(bins["count"]))
    same_length("curve.train_loss and .epoch", curve["train_loss"], len(curve["epoch"]))
    if curve["validation"] is not None:
        same_length("curve.validation and .epoch", curve["validation"], len(curve["epoch"]))
    if "ranking" in cell:
        lists = [cell["ranking"][key] for key in ("recall", "precision", "alarms", "found")]
        same_length_of_all("the parts of ranking", lists)
    if "cost_curve" in cell:
        points = cell["cost_curve"]
        same_length("the parts of cost_curve", points["cost"], len(points["threshold"]))
    chosen = [trial for trial in cell["trials"] if trial["draw"] == cell["chosen"]]
    if len(chosen) != 1 or chosen[0]["validation"] is None:
        raise ValueError(f"chosen is {cell['chosen']}, which is no draw that was validated")
    return cell


def chosen_trial(cell: DoneCell) -> Trial:
    """The trial whose draw was chosen on the validation rows."""
    return next(trial for trial in cell["trials"] if trial["draw"] == cell["chosen"])


Cell = DoneCell | FailedCell
CheckedCell = Annotated[
    Annotated[DoneCell, AfterValidator(_cell_agrees)] | FailedCell, Field(discriminator="status")
]


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(CheckedCell)


def read_cell(found: Any) -> Cell:
    """A cell as the store held it, checked.

    Raises:
        ValueError: what is wrong, and at which place.
    """
    return cast("Cell", checked(_adapter(), found))
