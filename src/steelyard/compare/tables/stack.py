"""Many small networks as one: every parameter has the trials in front."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.compare.tables.shape import EMBEDDED, WAVES, Shape

_EVALUATED = 1 << 22  # hidden values held at once while evaluating: 16 MB in float32


@dataclass(frozen=True)
class Networks:
    """S × T networks of one shape; the last T − `linear` trials have cosine heads.

    Attributes:
        shape: of each.
        parameters: by name, each (S, T, …, …).
        linear: how many of the trials have a linear head.
    """

    shape: Shape
    parameters: dict[str, Tensor]
    linear: int

    @classmethod
    def initial(
        cls,
        seeds: list[int],
        trials: int,
        linear: int,
        shape: Shape,
        device: str,
        dtype: torch.dtype,
    ) -> Networks:
        """Fresh networks: those of one seed start alike, whatever their loss.

        They are drawn on the CPU, so that every device starts from the same numbers.

        Args:
            seeds: one per leading entry.
            trials: T.
            linear: how many of the trials have a linear head.
            shape: of each network.
            device: where they live.
            dtype: of the parameters.
        """
        one_each = [shape.initial(seed) for seed in seeds]
        stacked = {
            name: torch.stack([one[name] for one in one_each])
            .unsqueeze(1)
            .repeat(1, trials, 1, 1)
            .to(device=device, dtype=dtype)
            .requires_grad_()
            for name in one_each[0]
        }
        return cls(shape, stacked, linear)

    def select(self, seed: int, trials: list[int]) -> Networks:
        """Some trials of the seed at that position, in the order given (linear heads first)."""
        chosen = {
            name: tensor.detach()[seed : seed + 1, trials]
            for name, tensor in self.parameters.items()
        }
        return Networks(self.shape, chosen, sum(trial < self.linear for trial in trials))

    def finite(self) -> np.ndarray:
        """Which networks (S, T) hold finite numbers alone."""
        parts = [tensor.detach().isfinite().flatten(2).all(2) for tensor in self.tensors]
        return torch.stack(parts).all(0).cpu().numpy()

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters without their names."""
        return list(self.parameters.values())

    def logits(self, features: Tensor) -> Tensor:
        """Logits (S, T, C, B) of features (S, B, d).

        The rows come last: softmax over few classes vectorises along them, and all trials of a
        seed read their features in one matrix product.
        """
        named = self.parameters
        weight, bias = named["layer1.weight"], named["layer1.bias"]
        seeds, trials, width, _ = weight.shape
        hidden = torch.baddbmm(
            bias.view(seeds, trials * width, 1), weight.flatten(1, 2), features.mT
        ).view(seeds, trials, width, -1)  # (S, T, h, B)
        if self.shape.numeric:
            hidden = hidden + torch.matmul(named["layer1.embedded"], self._embedded(features))
        hidden = hidden.relu()
        for layer in range(2, self.shape.layers + 1):
            weight, bias = named[f"layer{layer}.weight"], named[f"layer{layer}.bias"]
            hidden = (torch.matmul(weight, hidden) + bias).relu()
        weight, bias = named["head.weight"], named["head.bias"]
        n, parts = self.linear, []
        if n:
            parts.append(torch.matmul(weight[:, :n], hidden[:, :n]) + bias[:, :n])
        if n < trials:
            classes = F.normalize(weight[:, n:], dim=3)
            parts.append(torch.matmul(classes, F.normalize(hidden[:, n:], dim=2)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _embedded(self, features: Tensor) -> Tensor:
        """The embedded numbers (S, T, m·e, B) of features (S, B, d)."""
        numbers = features[..., : self.shape.numeric].mT[:, None, :, None]  # (S, 1, m, 1, B)
        angle = self.parameters["frequency"].unsqueeze(4) * (2 * math.pi * numbers)
        waves = torch.cat([angle.sin(), angle.cos()], 3)  # (S, T, m, 2k, B)
        weight, bias = self.parameters["embedding.weight"], self.parameters["embedding.bias"]
        each = weight.view(*weight.shape[:2], -1, EMBEDDED, 2 * WAVES)
        mixed = torch.matmul(each, waves)  # (S, T, m, e, B)
        return (mixed.flatten(2, 3) + bias).relu()

    @torch.no_grad()
    def logits_in_chunks(self, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Row ranges and their logits (S, T, C, rows), few enough at a time to fit in memory."""
        trials = self.parameters["head.bias"].shape[1]
        rows = max(64, _EVALUATED // (trials * self.shape.activations))
        for start in range(0, features.shape[1], rows):
            part = slice(start, min(start + rows, features.shape[1]))
            yield part, self.logits(features[:, part])

    def all_logits(self, features: Tensor, scale: Tensor) -> Tensor:
        """Logits (S, T, B, C) of features (S, B, d), multiplied by a scale (S, T)."""
        parts = [logits for _, logits in self.logits_in_chunks(features)]
        return torch.cat(parts, 3).mT * scale[..., None, None]
