"""The training itself: one stack of trials, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steelyard.compare.tables.objective import Objective
from steelyard.compare.tables.sampler import Sampler
from steelyard.compare.tables.stack import Networks

_WARM_UP = 0.05  # share of the steps in which the learning rate rises; then a cosine to zero
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
Tick = Callable[[], None]


@dataclass(frozen=True)
class Rows:
    """Rows of S seeds on the training device: features (S, n, d) and labels (S, n)."""

    features: Tensor
    labels: Tensor

    @classmethod
    def stacked(
        cls,
        features: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        device: str,
        dtype: torch.dtype,
    ) -> Rows:
        """One part per seed, all of one shape."""
        x = torch.stack([torch.from_numpy(part) for part in features])
        y = torch.stack([torch.from_numpy(part) for part in labels])
        return cls(x.to(device=device, dtype=dtype), y.to(device))

    def batches(self, epoch: int, samplers: Sequence[Sampler], size: int) -> Iterator[Rows]:
        """One epoch as the sampler of each seed has it.

        The batches are of nearly equal size: a short last one would be a noisy step.
        """
        n = self.labels.shape[1]
        readings = [sampler(epoch) for sampler in samplers]
        rows = self._placed([reading.rows for reading in readings])
        others = [r.others for r in readings if r.others is not None]
        mixing = None
        if others:
            shares = np.stack([r.shares for r in readings if r.shares is not None])
            mixing = self._placed(others), torch.from_numpy(shares).to(self.features)
        features, labels = self.features.flatten(0, 1), self.labels.flatten()
        for part in torch.arange(n, device=rows.device).tensor_split(math.ceil(n / size)):
            read = features[rows[:, part]]
            if mixing is not None:
                read = read.lerp(features[mixing[0][:, part]], mixing[1][:, part, None])
            yield Rows(read, labels[rows[:, part]])

    def _placed(self, places: Sequence[np.ndarray]) -> Tensor:
        """Places in each seed's rows as places in those of all seeds, (S, n)."""
        offsets = self.labels.shape[1] * np.arange(len(places))[:, None]
        return torch.from_numpy(np.stack(places) + offsets).to(self.labels.device)


class AdamW:
    """`torch.optim.AdamW` with one learning rate and weight decay per trial."""

    def __init__(self, parameters: Sequence[Tensor], rate: Tensor, decay: Tensor) -> None:
        self.parameters = list(parameters)
        self.rate, self.decay = rate[..., None, None], decay[..., None, None]  # (S, T, 1, 1)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], factor: float) -> None:
        """One update, every learning rate multiplied by `factor`."""
        self.steps += 1
        beta1, beta2 = _BETAS
        bias1, bias2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        rate = self.rate * factor
        keep, stride = 1 - rate * self.decay, rate / bias1
        for parameter, gradient, first, second in zip(
            self.parameters, gradients, self.first, self.second, strict=True
        ):
            if gradient is None:
                continue
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            step = second.div(bias2).sqrt_().add_(_EPSILON)
            torch.div(first, step, out=step)
            parameter.mul_(keep).sub_(step.mul_(stride))


def rate_factor(step: int, steps: int) -> float:
    """The share of its learning rate that every trial uses at a step: warm-up, then a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass(frozen=True)
class Plan:
    """How long, and on what, a stack trains: `samplers` has one of each seed."""

    samplers: Sequence[Sampler]
    epochs: int
    batch_size: int


def train(
    networks: Networks,
    objective: Objective,
    rows: Rows,
    rate: Tensor,
    decay: Tensor,
    plan: Plan,
    after_epoch: Callable[[int, Tensor], None],
) -> None:
    """Train all networks in place.

    Args:
        networks: S × T of them.
        objective: their losses.
        rows: training rows of each seed.
        rate: (S, T) learning rates.
        decay: (S, T) weight decays.
        plan: samplers, epochs and batch size.
        after_epoch: called with the epoch and the mean training losses (S, T).
    """
    optimiser = AdamW(networks.tensors, rate, decay)
    per_epoch = math.ceil(rows.labels.shape[1] / plan.batch_size)
    steps = per_epoch * plan.epochs
    for epoch in range(plan.epochs):
        objective.set_epoch(epoch)
        total = torch.zeros_like(rate)
        for batch in rows.batches(epoch, plan.samplers, plan.batch_size):
            losses = objective(networks.logits(batch.features), batch.labels)
            # Trials share no parameter: the gradient of the sum is each one's own.
            gradients = torch.autograd.grad(losses.sum(), networks.tensors, allow_unused=True)
            optimiser.step(gradients, rate_factor(optimiser.steps, steps))
            total += losses.detach()
        after_epoch(epoch, total / per_epoch)
