"""Heads alone: the body of a trained network stays, its features are kept, new heads learn.

All losses and draws learn side by side, from the same features in the same batches: seconds
where the network took hours.

Reference:
    Kang et al., Decoupling representation and classifier, ICLR 2020, arXiv:1910.09217.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.compare.candidates import build_loss
from steelyard.compare.training.loading import Steps, balanced, shuffled
from steelyard.compare.training.methods import Method
from steelyard.compare.training.plan import cosine
from steelyard.compare.training.streams import stream
from steelyard.heads import CosineLinear

EPOCHS = 30
BATCH_SIZE = 256


@dataclass(frozen=True)
class Features:
    """Rows as the last layer reads them: features (N, d) and, of training rows, labels (N,)."""

    rows: Tensor
    labels: np.ndarray


class Head:
    """One head with its loss and optimiser."""

    def __init__(
        self, method: Method, options: Mapping[str, float], sizes: tuple[int, int], seed: int
    ) -> None:
        self.method, self.options = method, options
        torch.manual_seed(seed)  # all start alike
        kind = CosineLinear if method.head == "cosine" else nn.Linear
        self.layer: nn.Module = kind(*sizes)
        self.optimizer = torch.optim.AdamW(
            self.layer.parameters(),
            lr=options["learning_rate"],
            weight_decay=options["weight_decay"],
        )
        self.last_loss = math.nan

    def build_loss(self, counts: np.ndarray) -> None:
        """Take the loss that these training rows call for."""
        assert self.method.candidate is not None
        self.loss = build_loss(self.method.candidate, self.options, counts, 0)

    def step(self, rows: Tensor, labels: Tensor, share: float) -> None:
        """One optimiser step, with a share of the learning rate."""
        loss = self.loss(self.layer(rows), labels)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.options["learning_rate"]
        self.optimizer.step()
        self.last_loss = float(loss.detach())

    @torch.no_grad()
    def logits(self, rows: Tensor) -> np.ndarray:
        """What it says of rows."""
        scale = self.options.get("scale", 1.0) if self.method.head == "cosine" else 1.0
        said: np.ndarray = (scale * self.layer(rows)).float().numpy()
        return said


def train_heads(
    wanted: Sequence[tuple[Method, Mapping[str, float]]],
    train: Features,
    counts: np.ndarray,
    seed: int,
) -> list[Head]:
    """Train one head for each method and draw.

    Args:
        wanted: methods and their options.
        train: features are scaled to unit mean square by whoever gives them.
        counts: (C,) training rows per class.
        seed: decides initial weights and order.
    """
    sizes = (train.rows.shape[1], len(counts))
    heads = [Head(m, options, sizes, stream(seed, "head only")) for m, options in wanted]
    for head in heads:
        head.build_loss(counts)
    labels = torch.from_numpy(train.labels)
    per_epoch = Steps(BATCH_SIZE).number(len(labels))
    for step, (plain, even) in enumerate(_batches(train.labels, seed)):
        share = cosine(step, per_epoch * EPOCHS)
        for head in heads:
            rows = even if head.method.sampling == "balanced" else plain
            head.step(train.rows[rows], labels[rows], share)
    return heads


def _batches(labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of every step: as they come, and with every class as often."""
    rows = np.arange(len(labels))
    steps = Steps(BATCH_SIZE)
    for epoch in range(EPOCHS):
        orders = (shuffled(rows, seed, epoch), balanced(rows, labels, seed, epoch))
        for pair in zip(*map(steps.pieces, orders), strict=True):
            yield pair[0].rows, pair[1].rows


def unit_scale(rows: Tensor) -> float:
    """What brings features to unit mean square, so that one learning rate suits all networks."""
    return float(rows.square().mean().sqrt().clamp_min(1e-12)) ** -1
