"""Many small networks as one: every parameter has the trials in front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_EVALUATED = 1 << 22  # hidden values held at once while evaluating: 16 MB in float32


class Parameters(NamedTuple):
    """The networks of S seeds × T trials; d features, h hidden units, C classes."""

    hidden_weight: Tensor  # (S, T, h, d)
    hidden_bias: Tensor  # (S, T, h, 1)
    head_weight: Tensor  # (S, T, C, h)
    head_bias: Tensor  # (S, T, C, 1); the cosine heads leave theirs alone


@dataclass(frozen=True)
class Networks:
    """S × T networks with one hidden layer; the last T − `linear` trials have cosine heads."""

    parameters: Parameters
    linear: int

    @classmethod
    def initial(
        cls,
        seeds: list[int],
        trials: int,
        linear: int,
        sizes: tuple[int, int, int],
        device: str,
        dtype: torch.dtype,
    ) -> Networks:
        """Fresh networks: those of one seed start alike, whatever their loss.

        They are drawn as `nn.Linear` draws its own, on the CPU, so that every device starts
        from the same numbers.

        Args:
            seeds: one per leading entry.
            trials: T.
            linear: how many of the trials have a linear head.
            sizes: d, h, C.
            device: where they live.
            dtype: of the parameters.
        """
        one_each = [_initial(seed, *sizes) for seed in seeds]
        stacked = (
            torch.stack(tensors)
            .unsqueeze(1)
            .repeat(1, trials, 1, 1)
            .to(device=device, dtype=dtype)
            .requires_grad_()
            for tensors in zip(*one_each, strict=True)
        )
        return cls(Parameters(*stacked), linear)

    def select(self, seed: int, trials: list[int]) -> Networks:
        """Some trials of the seed at that position, in the order given (linear heads first)."""
        chosen = (tensor.detach()[seed : seed + 1, trials] for tensor in self.parameters)
        return Networks(Parameters(*chosen), sum(trial < self.linear for trial in trials))

    def finite(self) -> np.ndarray:
        """Which networks (S, T) hold finite numbers alone."""
        parts = [tensor.detach().isfinite().flatten(2).all(2) for tensor in self.parameters]
        return torch.stack(parts).all(0).cpu().numpy()

    def logits(self, features: Tensor) -> Tensor:
        """Logits (S, T, C, B) of features (S, B, d).

        The rows come last: softmax over few classes vectorises along them, and all trials of a
        seed read their features in one matrix product.
        """
        weight, bias, head_weight, head_bias = self.parameters
        seeds, trials, width, _ = weight.shape
        hidden = torch.baddbmm(
            bias.view(seeds, trials * width, 1), weight.flatten(1, 2), features.mT
        )
        hidden = hidden.relu().view(seeds, trials, width, -1)  # (S, T, h, B)
        n = self.linear
        parts = []
        if n:
            parts.append(torch.matmul(head_weight[:, :n], hidden[:, :n]) + head_bias[:, :n])
        if n < trials:
            classes = F.normalize(head_weight[:, n:], dim=3)
            parts.append(torch.matmul(classes, F.normalize(hidden[:, n:], dim=2)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    @torch.no_grad()
    def logits_in_chunks(self, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Row ranges and their logits (S, T, C, rows), few enough at a time to fit in memory."""
        _, trials, width, _ = self.parameters.hidden_weight.shape
        rows = max(64, _EVALUATED // (trials * width))
        for start in range(0, features.shape[1], rows):
            part = slice(start, min(start + rows, features.shape[1]))
            yield part, self.logits(features[:, part])


def trial_bytes(*, features: int, hidden: int, classes: int, batch: int) -> int:
    """About how much memory the training of one network takes."""
    weights = hidden * (features + classes + 2)
    activations = batch * (3 * hidden + 12 * classes)
    # Parameters, gradients, two moments and a scratch copy; values in float64 at worst.
    return 8 * (5 * weights + activations)


def _initial(seed: int, d: int, h: int, c: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, fan_in: int) -> Tensor:
        bound = fan_in**-0.5
        return torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)

    return (
        uniform(h, d, fan_in=d),
        uniform(h, 1, fan_in=d),
        uniform(c, h, fan_in=h),
        uniform(c, 1, fan_in=h),
    )
