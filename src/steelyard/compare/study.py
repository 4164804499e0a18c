"""What is asked: a study, its candidates and the hyper-parameters that they may draw."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Scale = Literal["linear", "log", "complement", "half"]
SELECTABLE = (
    "balanced_accuracy",
    "macro_f1",
    "accuracy",
    "worst_class_recall",
    "geometric_mean",
)
_LARGEST = 10**12
_MOST_TRAININGS = 10**6
MINIMUM_SEEDS = 5  # below this no verdict is given: shared rule of every table and sentence


class StudyError(ValueError):
    """What was asked for cannot be done; the message says why and how to mend it."""


@dataclass(frozen=True)
class Range:
    """One hyper-parameter that a study may draw.

    Attributes:
        name: the keyword that it sets.
        low: smallest value.
        high: largest value.
        default: the value of draw 0, so that a budget of one draw is the published recipe.
        scale: "linear"; "log"; "complement" is logarithmic in one minus the value (for β near
            1); "half" is zero for half of the draws and linear for the rest.
    """

    name: str
    low: float
    high: float
    default: float
    scale: Scale = "linear"

    def at(self, u: float) -> float:
        """The value at `u` in [0, 1), rounded to three digits so that it can be pasted."""
        if self.scale == "log":
            return _round(math.exp(_between(math.log(self.low), math.log(self.high), u)))
        if self.scale == "complement":
            rest = math.exp(_between(math.log1p(-self.low), math.log1p(-self.high), u))
            return round(1 - _round(rest), 12)
        if self.scale == "half":
            return _round(self.high * max(0.0, 2 * u - 1))
        return _round(_between(self.low, self.high, u))


@dataclass(frozen=True)
class Candidate:
    """One way to train: a loss, its own hyper-parameters, and the head it needs.

    Attributes:
        name: as the command line spells it.
        title: as tables show it.
        loss: name of the class in `steelyard`.
        space: the loss's own hyper-parameters; "power" sets class weights ∝ n_c^−power.
        counts: the loss is given the training split's class counts.
        head: "linear", or "cosine" for the normalised head that LDAM expects.
        deferred: class weights (effective number of samples) set in late in training.
        post_hoc: no training at all: τ·log prior is subtracted from the cross-entropy
            model's logits.
    """

    name: str
    title: str
    loss: str
    space: tuple[Range, ...] = ()
    counts: bool = False
    head: Literal["linear", "cosine"] = "linear"
    deferred: bool = False
    post_hoc: bool = False

    @property
    def weighted(self) -> bool:
        """Whether class weights are drawn for this candidate."""
        return any(item.name == "power" for item in self.space)


@dataclass(frozen=True)
class Study:
    """Everything that decides a study's numbers, apart from the data.

    Attributes:
        losses: names of the candidates, simplest first.
        seeds: how many times the data is split and every candidate trained.
        draws: hyper-parameter draws that each candidate gets for each seed.
        epochs: passes over the training rows.
        hidden: units of the one hidden layer.
        batch_size: rows per step; None takes about sixteen steps per epoch, within 32 … 4096.
        select: the score by which a draw is chosen on the validation rows.
        validation: share of each class's rows used for choosing.
        test: share of each class's rows that the chosen draw is judged on, once.
        first_seed: seeds are first_seed, first_seed + 1, …
        device: where to train.
        dtype: "float32" or "float64".
        group: how many trials train as one stack; None lets the machine's memory decide.
    """

    losses: tuple[str, ...]
    seeds: int = 5
    draws: int = 8
    epochs: int = 60
    hidden: int = 64
    batch_size: int | None = None
    select: str = "balanced_accuracy"
    validation: float = 0.2
    test: float = 0.2
    first_seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    group: int | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "draws", "epochs", "hidden"):
            _require_positive(name, getattr(self, name))
        for name in ("batch_size", "group"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise StudyError(f"{name} is {share}; it is a share of the rows, as in 0.2")
        if self.select not in SELECTABLE:
            raise StudyError(f"select is {self.select!r}; choose from: {', '.join(SELECTABLE)}")
        if self.validation + self.test >= 1:
            raise StudyError(
                f"validation {self.validation} and test {self.test} leave no rows to train on; "
                "their sum must be below 1"
            )
        trainings = self.seeds * self.draws * len(self.losses)
        if trainings > _MOST_TRAININGS:
            raise StudyError(
                f"{self.seeds:,} seeds of {self.draws:,} draws are {trainings:,} trainings; "
                f"at most {_MOST_TRAININGS:,} are one study"
            )
        if self.first_seed < 0:
            raise StudyError(f"first_seed is {self.first_seed}; it must be 0 or more")
        if self.dtype not in ("float32", "float64"):
            raise StudyError(f"dtype is {self.dtype!r}; choose 'float32' or 'float64'")

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def deferral_epoch(self) -> int:
        """The epoch from which deferred weights count: 80 % of the way, as published."""
        return (4 * self.epochs) // 5

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self) | {"losses": list(self.losses)}

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of all options."""
        return [item.name for item in fields(cls)]


@dataclass(frozen=True)
class Trial:
    """One training: a candidate, a seed, and one draw of the hyper-parameters."""

    candidate: str
    seed: int
    draw: int
    options: dict[str, float]


def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * u


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise StudyError(f"{name} is {value}; it must be at least 1")
    if value > _LARGEST:
        raise StudyError(f"{name} is above {_LARGEST:,}, which no machine can do")
