"""What is the user's own: network, loop, data, losses. It travels to whoever trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from steelyard.compare.given import shown
from steelyard.compare.study import StudyError
from steelyard.compare.training.batches import call
from steelyard.compare.training.carve import carve
from steelyard.compare.training.loading import Loader
from steelyard.compare.training.methods import Method
from steelyard.compare.training.plan import Plan
from steelyard.compare.training.streams import stream
from steelyard.compare.training.targets import Targets
from steelyard.compare.training.trial import Trial

Train = Callable[[Trial], nn.Module]
Optimizer = Callable[[Any, float, float], torch.optim.Optimizer]


@dataclass(frozen=True)
class Part:
    """A Dataset with its targets, under the name that the user gave it."""

    name: str
    dataset: Any = field(repr=False)
    targets: Targets = field(repr=False)


@dataclass(frozen=True)
class Split:
    """Row numbers: of the training data, and of the Datasets that are read for the other two."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Problem:
    """Everything of the user's that a training needs.

    Attributes:
        train: trains one trial and returns its network.
        methods: the candidates, simplest first.
        training: the rows to learn from, and to carve others from.
        validating: where validation rows are read from.
        testing: where test rows are read from.
        schedule: (step, steps) → share of the learning rate.
        groups: (N,) the group of each row of `training`, or None.
        test_groups: (M,) the group of each row of a fixed test set, or None.
        head: the network's last layer, or None.
        collate: makes a batch of samples, or None.
        loaders: processes that load samples.
    """

    train: Train
    methods: tuple[Method, ...]
    training: Part
    validating: Part
    testing: Part
    schedule: Callable[[int, int], float]
    groups: np.ndarray | None = None
    test_groups: np.ndarray | None = None
    head: str | None = None
    collate: Callable[[list[Any]], Any] | None = None
    loaders: int = 0

    @property
    def kind(self) -> str:
        """What the targets are: "classes", "masks" or "tokens"."""
        return self.training.targets.kind

    @property
    def classes(self) -> int:
        """C."""
        return self.training.targets.classes

    def method(self, name: str) -> Method:
        """The candidate of that name."""
        return next(method for method in self.methods if method.name == name)

    def split(self, plan: Plan, seed: int) -> Split:
        """The rows of one seed, a function of the seed alone.

        Test rows are carved first, then validation rows from what is left to learn from: never
        from the test rows.
        """
        rows = _counted(self.training)
        rng = np.random.default_rng(stream(seed, "split"))
        test, validation = _counted(self.testing), _counted(self.validating)
        targets = self.training.targets
        share = plan.validation
        if plan.test is not None:
            rows, test = carve(targets, rows, self.groups, plan.test, rng)
            share = None if share is None else share / (1 - plan.test)
        if share is not None:
            rows, validation = carve(targets, rows, self.groups, share, rng)
        return Split(rows, validation, test)

    def loader(self, part: Part, seed: int, pin: bool = False) -> Loader:
        """A loader of one of the parts."""
        return Loader(part.dataset, seed, part.name, self.collate, self.loaders, pin)

    def labels(self, part: Part, rows: np.ndarray) -> np.ndarray | None:
        """Classes of some rows, where a row has one."""
        return part.targets.labels[rows] if part.targets.kind == "classes" else None


def _counted(part: Part) -> np.ndarray:
    """The rows that hold a class which counts."""
    return np.flatnonzero(np.diff(part.targets.held.indptr))


@dataclass(frozen=True)
class PlainLoop:
    """The training loop of `networks`: what a user would write with the four hooks.

    Attributes:
        network: makes a fresh network.
        optimizer: (parameters, learning rate, weight decay) → optimiser.
    """

    network: Callable[[], nn.Module]
    optimizer: Optimizer

    def __call__(self, trial: Trial) -> nn.Module:
        """Train one trial."""
        network = self.network()
        if not isinstance(network, nn.Module):
            raise StudyError(
                f"network() returned {shown(network)}; expected a new network, an nn.Module"
            )
        network = trial.prepare(network)
        optimizer = self.optimizer(network.parameters(), trial.learning_rate, trial.weight_decay)
        if not hasattr(optimizer, "param_groups"):
            raise StudyError(
                f"optimizer(…) returned {shown(optimizer)}; expected a torch.optim.Optimizer"
            )
        for epoch in trial.epochs(network, optimizer):
            for inputs, target in trial.batches(epoch):
                loss = trial.loss(call(network, inputs), target)
                loss.backward()  # type: ignore[no-untyped-call]
                trial.step(optimizer)
        return network


def adamw(parameters: Any, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of those who bring none."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
