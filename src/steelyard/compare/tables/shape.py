"""The shape of a table's network: how wide, how deep, and which numbers it embeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Network = Literal["small", "standard", "large"]

# The embedding of a number: waves of learnt frequencies, mixed into a few values
# (Gorishniy et al., On embeddings for numerical features in tabular deep learning, NeurIPS 2022,
# arXiv:2203.05556). The spread is that of the frequencies at the start.
WAVES, EMBEDDED, SPREAD = 24, 8, 0.3
MOST_EMBEDDED = 32  # numeric columns: where there are more, embeddings cost score and time


class Design(NamedTuple):
    """What a named network is made of, whatever the table."""

    hidden: int
    layers: int
    embeds: bool


NETWORKS: dict[Network, Design] = {
    "small": Design(64, 1, embeds=False),
    "standard": Design(256, 2, embeds=True),
    "large": Design(512, 3, embeds=True),
}


class Shape(NamedTuple):
    """The shape of one network.

    Attributes:
        features: d, the columns that it reads.
        numeric: m, how many of the first columns are embedded too; 0 for a plain network.
        hidden: h, the units of a hidden layer.
        layers: how many hidden layers there are.
        classes: C.
    """

    features: int
    numeric: int
    hidden: int
    layers: int
    classes: int

    @classmethod
    def of(
        cls, network: Network, hidden: int | None, features: int, numeric: int, classes: int
    ) -> Shape:
        """A named network on a table.

        Args:
            network: its name.
            hidden: units of a hidden layer, instead of the network's own.
            features: columns after encoding.
            numeric: how many of the first hold numbers.
            classes: how many.
        """
        design = NETWORKS[network]
        embedded = numeric if design.embeds and numeric <= MOST_EMBEDDED else 0
        return cls(features, embedded, hidden or design.hidden, design.layers, classes)

    @property
    def parameters(self) -> int:
        """How many numbers one network learns."""
        return sum(math.prod(size) for _, size, _ in self._tensors())

    @property
    def activations(self) -> int:
        """How many numbers one network keeps of one row while it trains."""
        d, m, h, layers, classes = self
        return d + m * (4 * WAVES + 2 * EMBEDDED) + 3 * layers * h + 12 * classes

    @property
    def in_words(self) -> str:
        """As a reader of results sees it."""
        layers = "one hidden layer" if self.layers == 1 else f"{self.layers} hidden layers"
        embedded = {0: "", 1: ", 1 number embedded"}.get(
            self.numeric, f", {self.numeric} numbers embedded"
        )
        return f"{layers} of {self.hidden:,}{embedded}"

    def trial_bytes(self, batch: int) -> int:
        """About how much memory the training of one network takes."""
        # Parameters, gradients, two moments and a scratch copy; values in float64 at worst.
        return 8 * (5 * self.parameters + batch * self.activations)

    def initial(self, seed: int) -> dict[str, Tensor]:
        """The parameters of one network, drawn as `nn.Linear` draws its own."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for name, size, fan_in in self._tensors():
            fresh = torch.empty(size, dtype=torch.float64)
            if name == "frequency":
                drawn[name] = fresh.normal_(0, SPREAD, generator=generator)
            else:
                bound = fan_in**-0.5
                drawn[name] = fresh.uniform_(-bound, bound, generator=generator)
        return drawn

    def _tensors(self) -> Iterator[tuple[str, tuple[int, int], int]]:
        """Every parameter: its name, its size, and how many values each unit sums."""
        d, m, h, layers, classes = self
        if m:
            yield "frequency", (m, WAVES), 1
            yield "embedding.weight", (m * EMBEDDED, 2 * WAVES), 2 * WAVES
            yield "embedding.bias", (m * EMBEDDED, 1), 2 * WAVES
            yield "layer1.embedded", (h, m * EMBEDDED), d + m * EMBEDDED
        for layer in range(1, layers + 1):
            reads, sums = (h, h) if layer > 1 else (d, d + m * EMBEDDED)
            yield f"layer{layer}.weight", (h, reads), sums
            yield f"layer{layer}.bias", (h, 1), sums
        yield "head.weight", (classes, h), h
        yield "head.bias", (classes, 1), h  # the cosine heads leave theirs alone
