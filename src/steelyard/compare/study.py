"""What every study is made of: candidates and the hyper-parameters that they may draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steelyard import _results

Scale = Literal["linear", "log", "complement", "half", "whole", "switch"]
SELECTABLE = (
    "balanced_accuracy",
    "macro_f1",
    "accuracy",
    "worst_class_recall",
    "geometric_mean",
)
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
            1); "half" is zero for half of the draws and linear for the rest; "whole" is logarithmic
            too, in whole numbers; "switch" is one end or the other.
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
        if self.scale == "whole":
            return float(round(math.exp(_between(math.log(self.low), math.log(self.high), u))))
        if self.scale == "switch":
            return self.high if u >= 0.5 else self.low
        if self.scale == "complement":
            rest = math.exp(_between(math.log1p(-self.low), math.log1p(-self.high), u))
            return round(1 - _round(rest), 12)
        if self.scale == "half":
            return _round(self.high * max(0.0, 2 * u - 1))
        return _round(_between(self.low, self.high, u))

    def to_dict(self) -> _results.Range:
        """As results hold it."""
        return {
            "name": self.name,
            "low": self.low,
            "high": self.high,
            "default": self.default,
            "scale": self.scale,
        }


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
        sampling: which rows an epoch reads: "plain" is each of them once; "balanced" draws every
            class as often as any other; "smote" does too, and where a class has fewer rows than
            the largest it reads points between a row and one of its nearest of that class.
        deferred: what it does about imbalance sets in late in training: the sampling, or else class
            weights (effective number of samples).
        post_hoc: no training at all: the logits of the cross-entropy model are moved, by
            −τ·log prior.
        tuned: post hoc too, by the biases that score best on the validation rows.
        by_costs: post hoc too, by the least expected cost.
    """

    name: str
    title: str
    loss: str
    space: tuple[Range, ...] = ()
    counts: bool = False
    head: Literal["linear", "cosine"] = "linear"
    sampling: Literal["plain", "balanced", "smote"] = "plain"
    deferred: bool = False
    post_hoc: bool = False
    tuned: bool = False
    by_costs: bool = False

    @property
    def reweighted(self) -> bool:
        """Whether class weights set in late."""
        return self.deferred and self.sampling == "plain"

    @property
    def weighted(self) -> bool:
        """Whether class weights are drawn for this candidate."""
        return any(item.name == "power" for item in self.space)


def class_of(name: str, classes: Sequence[str]) -> str | None:
    """The class that a user names, who may write True for true; None where that is none or two."""
    if name in classes:
        return name
    near = [known for known in classes if known.casefold() == name.casefold()]
    return near[0] if len(near) == 1 else None


def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * u


def _round(value: float) -> float:
    return float(f"{value:.3g}")
