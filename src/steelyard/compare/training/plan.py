"""What is asked: the options of a study with the user's network, and the draws they lead to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.stats import qmc

from steelyard.compare.given import check_share, check_whole, is_number, shown
from steelyard.compare.study import Range, StudyError
from steelyard.compare.training.methods import Method

_OWN_COLUMNS = 8  # for a loss's own hyper-parameters: a further loss leaves all draws as they are
WARM_UP = 0.05  # share of the steps in which the learning rate rises
DEFERRED_FROM = (4, 5)  # of the epochs: 80 %, as published
# AdamW's; whoever brings an optimiser brings its learning rates.
DEFAULT_SPACE: Mapping[str, Any] = {
    "learning_rate": (1e-4, 1e-2, 1e-3),
    "weight_decay": (1e-4, 1e-1, 1e-2),
}
# What heads alone are trained with, by AdamW on features of unit size.
HEAD_SPACE = (
    Range("learning_rate", 1e-3, 3e-2, 5e-3, "log"),
    Range("weight_decay", 1e-4, 1e-1, 1e-2, "log"),
    Range("label_smoothing", 0.0, 0.0, 0.0),
)
Number = float | tuple[float, float, float]


@dataclass(frozen=True)
class Plan:
    """Everything that decides a study's numbers, apart from what is the user's own.

    Attributes:
        losses: names of the candidates, simplest first.
        space: hyper-parameters that every candidate shares: (low, high, default), or a number
            that stays. "learning_rate" and "weight_decay" are the optimiser's,
            "label_smoothing" is the library's losses', others are the user's.
        seeds: how many times every chosen candidate is trained.
        draws: hyper-parameter draws that each candidate is tuned with.
        tune: "once", on the first seed, so that a candidate costs draws + seeds − 1 trainings;
            "every" tunes on each seed: draws × seeds.
        epochs: passes over the training rows.
        batch_size: rows per optimiser step, at most.
        micro_batch: rows per forward; None takes the whole step at once.
        select: the score by which a draw is chosen on the validation rows.
        keep: the network that counts: that of the "last" epoch, or of the "best" by `select` on
            the validation rows, of equals the latest; the same for every candidate.
        validation: share carved from the training rows; None: a Dataset of its own.
        test: share carved for each seed; None: a Dataset of its own.
        schedule: "cosine" (after a warm-up), "constant", or "own": the user's function.
        clip: largest norm of the gradient, or None.
        precision: "float32", or "bf16" for mixed precision.
        ignore_index: positions with this class count nowhere.
        first_seed: seeds are first_seed, first_seed + 1, …
        device: where to train.
    """

    losses: tuple[str, ...]
    space: tuple[Range, ...]
    seeds: int = 5
    draws: int = 4
    tune: Literal["once", "every"] = "once"
    epochs: int = 30
    batch_size: int = 128
    micro_batch: int | None = None
    select: str = "balanced_accuracy"
    keep: Literal["last", "best"] = "last"
    validation: float | None = 0.15
    test: float | None = None
    schedule: str = "cosine"
    clip: float | None = None
    precision: Literal["float32", "bf16"] = "float32"
    ignore_index: int = -100
    first_seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("seeds", "draws", "epochs", "batch_size", "micro_batch"):
            if name != "micro_batch" or self.micro_batch is not None:
                check_whole(name, getattr(self, name))
        check_whole("first_seed", self.first_seed, 0)
        if not isinstance(self.ignore_index, int):
            raise StudyError(
                f"ignore_index is {shown(self.ignore_index)}; expected a class index, as in -100"
            )
        for name in ("validation", "test"):
            if getattr(self, name) is not None:
                check_share(name, getattr(self, name))
        if (self.validation or 0) + (self.test or 0) >= 1:
            raise StudyError(
                f"validation {self.validation} and test {self.test} leave no rows to train on; "
                "their sum must be below 1"
            )
        if self.clip is not None and not (is_number(self.clip) and self.clip > 0):
            raise StudyError(f"clip is {shown(self.clip)}; it must be a number above 0")
        object.__setattr__(self, "device", str(self.device))  # a torch.device is no JSON
        for name, known in (
            ("tune", ("once", "every")),
            ("keep", ("last", "best")),
            ("precision", ("float32", "bf16")),
        ):
            if getattr(self, name) not in known:
                raise StudyError(f"{name} is {getattr(self, name)!r}; choose {' or '.join(known)}")

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def tuning_seeds(self) -> list[int]:
        """The seeds on which all draws are trained."""
        return self.seed_list if self.tune == "every" else self.seed_list[:1]

    @property
    def deferral_epoch(self) -> int:
        """The epoch from which deferred weights and sampling are in force."""
        part, whole = DEFERRED_FROM
        return part * self.epochs // whole

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return asdict(self) | {
            "losses": list(self.losses),
            "space": [asdict(item) for item in self.space],
        }

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of all options."""
        return [item.name for item in fields(cls)]


@dataclass(frozen=True)
class Run:
    """One training: a method, a seed, and one draw of the hyper-parameters."""

    method: str
    seed: int
    draw: int
    options: Mapping[str, float]
    on: int | None = None  # the draw of cross-entropy whose body a head alone was trained on

    @property
    def key(self) -> str:
        """A name for files."""
        body = "" if self.on is None else f"-on-{self.on}"
        return f"{self.seed}-{self.draw}-{self.method}{body}"


def read_space(space: Mapping[str, Number] | None, own_optimizer: bool) -> tuple[Range, ...]:
    """The shared hyper-parameters that a user wrote down.

    Raises:
        StudyError: no learning rate for the user's own optimiser, or a range that is none.
    """
    if space is None and own_optimizer:
        raise StudyError(
            "an optimizer of your own needs its learning rates: "
            "space={'learning_rate': (low, high, default)}"
        )
    given = dict(DEFAULT_SPACE if space is None else space)
    if "learning_rate" not in given:
        raise StudyError("space has no 'learning_rate': give (low, high, default)")
    given.setdefault("weight_decay", 0.0)
    given.setdefault("label_smoothing", 0.0)
    return tuple(_range(name, value) for name, value in given.items())


def _range(name: str, value: Any) -> Range:
    if isinstance(value, int | float):
        value = (value, value, value)
    try:
        low, high, default = map(float, value)
    except (TypeError, ValueError):
        raise StudyError(
            f"space[{name!r}] is {value!r}; expected (low, high, default), or one number"
        ) from None
    if not low <= default <= high or not all(map(math.isfinite, (low, high))):
        raise StudyError(
            f"space[{name!r}] is ({low:g}, {high:g}, {default:g}); expected low ≤ default ≤ high"
        )
    if low < 0 and name in DEFAULT_SPACE:
        raise StudyError(f"space[{name!r}] begins at {low:g}; expected 0 or more")
    return Range(name, low, high, default, "log" if 0 < low < high else "linear")


def draw_options(plan: Plan, method: Method, seed: int) -> list[dict[str, float]]:
    """The options of every draw of one method.

    They are the points of a scrambled Halton sequence and follow from the seed alone: every
    process derives the same ones. Shared hyper-parameters come first, so that draw k has one
    learning rate whatever the method. Draw 0 is the defaults.
    """
    points = _points(len(plan.space) + _OWN_COLUMNS, seed, max(plan.draws - 1, 1))
    shared = HEAD_SPACE if method.rider == "head-only" else plan.space
    space = (*shared, *method.space)
    return [_at(space, None if k == 0 else points[k - 1]) for k in range(plan.draws)]


@cache
def _points(columns: int, seed: int, number: int) -> np.ndarray:
    points: np.ndarray = qmc.Halton(columns, rng=np.random.default_rng([seed, 1])).random(number)
    return points


def _at(space: Sequence[Range], point: np.ndarray | None) -> dict[str, float]:
    if point is None:
        return {item.name: item.default for item in space}
    return {
        item.name: item.default if item.low == item.high else item.at(float(point[j]))
        for j, item in enumerate(space)
    }


def cosine(step: int, steps: int) -> float:
    """The share of its learning rate that a step uses: a warm-up, then a cosine to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def constant(step: int, steps: int) -> float:  # noqa: ARG001 - the signature of a schedule
    """All of the learning rate at every step."""
    return 1.0


SCHEDULES = {"cosine": cosine, "constant": constant}
