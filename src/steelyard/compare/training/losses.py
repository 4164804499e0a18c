"""The loss that a training calls: a mean that stays exact over micro-batches and ranks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import steelyard as sy
from steelyard.compare.candidates import build_loss
from steelyard.compare.study import StudyError
from steelyard.compare.training.batches import logits_of
from steelyard.compare.training.methods import Method
from steelyard.compare.training.ranks import Ranks
from steelyard.losses import SoftmaxLoss


class StepLoss:
    """A method's loss for one training: call it like a loss, once per micro-batch.

    It returns the mean of the micro-batch, times what makes the gradients of a whole step those
    of one mean, once `factor` has been applied to them. With one micro-batch and one process it
    is the plain mean, and nothing is left to apply.

    Args:
        method: whose loss.
        options: one draw.
        counts: (C,) training positions of each class.
        start: the epoch from which deferred weights count.
        ignore_index: positions with this class count nowhere.
        ranks: the processes that share a step.
        share: rows of a step on one rank, about: the unit of the masses.
    """

    def __init__(
        self,
        method: Method,
        options: Mapping[str, float],
        counts: np.ndarray,
        start: int,
        ignore_index: int,
        ranks: Ranks,
        share: int,
    ) -> None:
        self.name = method.name
        self.classes = len(counts)
        self.ignore_index = ignore_index
        self.ranks, self.share = ranks, share
        self._library: Any = None
        self._own: Any = None
        if method.candidate is not None:
            self._library = _with_ignored(
                build_loss(method.candidate, options, counts, start), ignore_index
            )
        else:
            # A copy: state that one training leaves behind must not reach the next.
            self._own = copy.deepcopy(method.loss)
        self.stand_in = False
        self.calls = 0
        self._epoch: Tensor | None = None  # (2,): sum and mass of this epoch
        self._first: Tensor | None = None  # mass of the step's first micro-batch
        self._mass: Tensor | None = None
        self._micro_batches = 0

    @property
    def module(self) -> nn.Module | None:
        """The loss itself, where it may have state."""
        loss = self._own if self._library is None else self._library
        return loss if isinstance(loss, nn.Module) else None

    def to(self, device: str) -> None:
        """Move what the loss holds."""
        if self.module is not None:
            self.module.to(device)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins: deferred weights wait for it."""
        loss = self._own if self._library is None else self._library
        if hasattr(loss, "set_epoch"):
            loss.set_epoch(epoch)
        self._epoch = None

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """The loss of a micro-batch, to walk back from.

        Args:
            output: logits (B, C, …), or a network's output that holds them.
            target: (B, …).
        """
        self.calls += 1
        logits = logits_of(output, target, self.classes)
        if self.stand_in:
            return 0.0 * logits.nan_to_num().sum()
        mean, mass = self._mean(logits, target)
        part = torch.stack([mean.detach() * mass, mass])
        self._epoch = part if self._epoch is None else self._epoch + part
        self._micro_batches += 1
        if self.ranks.number > 1:
            unit = mass.new_tensor(float(self.share))
        else:
            unit = mass if self._first is None else self._first
        self._first = unit
        self._mass = mass if self._mass is None else self._mass + mass
        if mass is unit:
            return mean
        return mean * (mass / unit.masked_fill(unit == 0, 1.0)).to(mean.dtype)

    def factor(self) -> Tensor | None:
        """What the gradients of a step are still to be multiplied by; None for 1.

        Every rank calls it once per step.
        """
        mass, unit, count = self._mass, self._first, self._micro_batches
        self._mass = self._first = None
        self._micro_batches = 0
        if self.ranks.number == 1:
            if count == 1 or mass is None or unit is None:
                return None
            unit = unit.masked_fill(unit == 0, 1.0)
            return torch.where(mass == 0, 0.0, unit / mass)
        if mass is None:
            mass = torch.zeros((), dtype=torch.float64)
        total = self.ranks.summed(mass.clone())
        # DDP averages over the ranks.
        return torch.where(total == 0, 0.0, self.ranks.number * self.share / total)

    def mean_of_epoch(self) -> float:
        """The mean over an epoch, on all ranks; NaN where a part was not finite."""
        part = torch.zeros(2) if self._epoch is None else self._epoch
        total, mass = self.ranks.summed(part.double().cpu()).tolist()
        return float(total / mass) if mass else float("nan")

    def _mean(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of a micro-batch and what it divided by."""
        if self._library is not None:
            with torch.no_grad():
                mass: Tensor = self._library.denominator(target)
            return self._library(logits, target), mass
        mass = (target != self.ignore_index).sum().double()
        if target.ndim > 1 and not mass:
            return 0.0 * logits.nan_to_num().sum(), mass  # a mean over nothing is NaN to most
        mean = self._own(logits, target)
        if not isinstance(mean, Tensor) or mean.numel() != 1 or not mean.requires_grad:
            raise StudyError(
                f"the loss {self.name!r} returned {_described(mean)}; expected a mean: one number, "
                "with a gradient"
            )
        return mean.reshape(()), mass


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        gradient = "" if value.requires_grad else " without a gradient"
        return f"a tensor of shape {tuple(value.shape)}{gradient}"
    return f"a {type(value).__name__}"


def _with_ignored(
    loss: SoftmaxLoss | sy.DeferredReweighting, ignore_index: int
) -> SoftmaxLoss | sy.DeferredReweighting:
    """The loss, told which class to leave out."""
    parts = [loss.unweighted, loss.weighted] if isinstance(loss, sy.DeferredReweighting) else [loss]
    for part in parts:
        assert isinstance(part, SoftmaxLoss)
        part.options = replace(part.options, ignore_index=ignore_index)
    return loss
