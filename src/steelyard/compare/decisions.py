"""What a candidate makes of a network's logits: probabilities, an order, and a decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.decide import decide
from steelyard.losses import adjust_logits

Costs = Sequence[Sequence[float]]  # (C, C): row the true class, column the decision


class Decided(NamedTuple):
    """What a candidate says of n rows.

    Attributes:
        logits: (n, C), whose softmax are its probabilities and whose order is its ranking.
        decision: (n,) classes; None takes the largest logits.
    """

    logits: Tensor
    decision: Tensor | None = None

    @property
    def classes(self) -> Tensor:
        """(n,) what is decided."""
        return self.logits.argmax(1) if self.decision is None else self.decision


Rule = Callable[[Tensor], Decided]


def adjusted(counts: Any, tau: float) -> Rule:
    """Post-hoc adjustment for training rows (C,) of each class."""
    return partial(_adjusted, counts=counts, tau=tau)


def biased(biases: Tensor) -> Rule:
    """A tuned decision with biases (C,)."""
    return partial(_biased, biases=biases)


def cheapest(temperature: float, costs: Costs) -> Rule:
    """The decision with the least expected cost, from probabilities at that temperature."""
    return partial(_cheapest, temperature=temperature, costs=costs)


def _adjusted(logits: Tensor, *, counts: Any, tau: float) -> Decided:
    return Decided(adjust_logits(logits, counts, tau=tau))


def _biased(logits: Tensor, *, biases: Tensor) -> Decided:
    return Decided(logits + biases.to(logits.device))


def _cheapest(logits: Tensor, *, temperature: float, costs: Costs) -> Decided:
    probabilities = (logits / temperature).softmax(1)
    return Decided(logits, decide(probabilities, torch.tensor(costs, dtype=torch.float64)))
