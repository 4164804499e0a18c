"""What is asked of a table: the options of a study, and its trials."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

from steelyard.compare.candidates import BY_COSTS
from steelyard.compare.costs import fitted_costs, plain_costs
from steelyard.compare.given import check_share, check_whole, is_number, shown
from steelyard.compare.scores import Scoring
from steelyard.compare.study import StudyError, class_of
from steelyard.compare.tables.shape import NETWORKS, Network, Shape

_LARGEST = 10**12
_MOST_TRAININGS = 10**6
_STEPS = 1500  # of a training: more rows mean larger batches, then fewer epochs
_FEWEST_EPOCHS, _MOST_EPOCHS = 5, 60


class Budget(NamedTuple):
    """How long a network trains: passes over the rows, and rows per step."""

    epochs: int
    batch_size: int

    @property
    def deferral_epoch(self) -> int:
        """The epoch from which deferred weights count: 80 % of the way, as published."""
        return (4 * self.epochs) // 5


@dataclass(frozen=True)
class Study:
    """Everything that decides a study's numbers, apart from the data.

    Attributes:
        losses: names of the candidates, simplest first.
        references: names of what is tuned and judged beside them and is no network.
        seeds: how many times the data is split and every candidate trained.
        draws: hyper-parameter draws that each candidate gets for each seed.
        epochs: passes over the training rows; None takes what comes to about 1,500 steps, within
            5 … 60.
        network: "small" (one hidden layer of 64), "standard" (two of 256, and numbers embedded) or
            "large" (three of 512, likewise).
        hidden: units of a hidden layer; None leaves them to the network.
        batch_size: rows per step; None takes about a 32nd of the rows, within 32 … 512.
        select: the score by which a draw is chosen on the validation rows.
        positive: of two classes, the name of the one that is looked for; None takes the rarer.
        at: the precision at which recall is read, and the recall at which precision is.
        costs: of each decision, by the class that is true: {true: {decided: cost}}, or a matrix
            with the true classes as rows, both in the order of the classes. Kept as JSON.
        validation: share of each class's rows used for choosing.
        test: share of each class's rows that the chosen draw is judged on, once.
        first_seed: seeds are first_seed, first_seed + 1, …
        device: where to train.
        dtype: "float32" or "float64".
        group: how many trials train as one stack; None lets the machine's memory decide.
    """

    losses: tuple[str, ...]
    references: tuple[str, ...] = ()
    seeds: int = 5
    draws: int = 8
    epochs: int | None = None
    network: Network = "standard"
    hidden: int | None = None
    batch_size: int | None = None
    select: str = "balanced_accuracy"
    positive: str | None = None
    at: float = 0.9
    costs: Any = None
    validation: float = 0.2
    test: float = 0.2
    first_seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    group: int | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "draws"):
            _check_number(name, getattr(self, name))
        for name in ("epochs", "hidden", "batch_size", "group"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name))
        for name in ("validation", "test"):
            check_share(name, getattr(self, name))
        if self.network not in list(NETWORKS):  # what cannot be hashed is no name either
            raise StudyError(
                f"network is {shown(self.network)}; choose from: {', '.join(NETWORKS)}"
            )
        if not is_number(self.at) or not 0 < self.at <= 1:
            raise StudyError(f"at is {shown(self.at)}; it is a precision or a recall, as in 0.9")
        object.__setattr__(self, "device", str(self.device))  # a torch.device is no JSON
        if self.costs is not None and not isinstance(self.costs, str):
            object.__setattr__(self, "costs", json.dumps(plain_costs(self.costs)))
        if self.costs is None and (self.select == "mean_cost" or BY_COSTS in self.losses):
            asks = BY_COSTS if BY_COSTS in self.losses else "select='mean_cost'"
            raise StudyError(
                f"{asks} needs to know what mistakes cost; give costs, or --costs FILE"
            )
        known = self._scoring(2).selectable
        if self.select not in known:
            raise StudyError(f"select is {shown(self.select)}; choose from: {', '.join(known)}")
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
        check_whole("first_seed", self.first_seed, 0)
        if self.dtype not in ("float32", "float64"):
            raise StudyError(f"dtype is {self.dtype!r}; choose 'float32' or 'float64'")

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the candidates, then of the references."""
        return (*self.losses, *self.references)

    def budget(self, rows: int) -> Budget:
        """How long a network trains on so many rows.

        :meta private:
        """
        size = self.batch_size or min(512, max(32, 2 ** round(math.log2(max(rows, 1) / 32))))
        fitting = _STEPS // math.ceil(rows / size)
        return Budget(self.epochs or min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, fitting)), size)

    def shape(self, features: int, numeric: int, classes: int) -> Shape:
        """The network on a table.

        Args:
            features: columns after encoding.
            numeric: how many of the first hold numbers.
            classes: how many.

        :meta private:
        """
        return Shape.of(self.network, self.hidden, features, numeric, classes)

    def scoring(self, classes: Sequence[str], counts: Sequence[int]) -> Scoring:
        """How these data are scored.

        Args:
            classes: their names.
            counts: rows of each.

        Raises:
            StudyError: a positive class that is not there, costs that do not fit the classes, or a
                score of two classes for more.

        :meta private:
        """
        if self.positive is not None and len(classes) != 2:
            raise StudyError(
                f"positive is {self.positive!r}, and there are {len(classes)} classes; "
                "only of two one can be the positive one"
            )
        looked_for = None if self.positive is None else class_of(str(self.positive), classes)
        if self.positive is not None and looked_for is None:
            raise StudyError(
                f"positive is {self.positive!r}; choose from: {', '.join(map(repr, classes))}"
            )
        rarer = int(counts[1] <= counts[0]) if len(classes) == 2 else 0
        positive = rarer if looked_for is None else list(classes).index(looked_for)
        costs = None if self.costs is None else fitted_costs(json.loads(self.costs), classes)
        scoring = Scoring(len(classes), positive, self.at, costs)
        if self.select not in scoring.selectable:
            raise StudyError(
                f"select is {self.select!r}, which is for two classes, and there are "
                f"{len(classes)}; choose from: {', '.join(scoring.selectable)}"
            )
        return scoring

    @property
    def select_title(self) -> str:
        """The heading of the score that decides."""
        return self._scoring(2).titles[self.select]

    def _scoring(self, classes: int) -> Scoring:
        """What is known of the scores before the data are."""
        return Scoring(classes, at=self.at, costs=None if self.costs is None else ())

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        names = {"losses": list(self.losses), "references": list(self.references)}
        return asdict(self) | names

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


def _check_number(name: str, value: int) -> None:
    check_whole(name, value)
    if value > _LARGEST:
        raise StudyError(f"{name} is above {_LARGEST:,}, which no machine can do")
