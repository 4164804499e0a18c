"""What the table test asks of a family of losses, so that it can hold every loss to the contract.

A family brings its targets, its options, the contract as a naive loop in float64, and PyTorch's own
loss at the limit. Nothing here is shared with the library.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

C = 5
WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.0, 5.0], dtype=torch.float64)


class Batch(NamedTuple):
    """Logits, and a target of each form that the family takes."""

    logits: Tensor
    targets: dict[str, Tensor]


class Family:
    """One family. ``shape`` is that of positions: () for a single one, (N,), (N, d…)."""

    engines: Sequence[str]
    forms: Sequence[str]  # of targets; the first has what is ignored, the last may take a gradient
    shapes: dict[str, tuple[int, ...]]  # the first may be that of a single position
    gammas: Sequence[float] = (0, 0.1, 0.5, 1, 2, 5)
    mean_overs: Sequence[str | None]

    @property
    def denominators(self) -> Sequence[str | None]:
        """Those of ``mean_overs`` whose denominators the target alone tells."""
        return self.mean_overs

    def make(
        self, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> Batch:
        """Logits and targets."""
        raise NotImplementedError

    def ignoring(self, form: str) -> dict[str, Any]:
        """The option that leaves out a part of the targets of this form, {} where it is one
        that is always in force."""
        raise NotImplementedError

    def ignored(self, target: Tensor, logits: Tensor) -> Tensor:
        """Which logits do not count under :meth:`ignoring`, of the logits' shape."""
        raise NotImplementedError

    def options(self, form: str) -> Iterator[dict[str, Any]]:
        """Every combination of options."""
        raise NotImplementedError

    def samples(self, row: Any, logits: Tensor) -> list[Tensor | None]:
        """Sample weights."""
        raise NotImplementedError

    def naive(self, row: Any, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        """The contract for one loss, in float64."""
        raise NotImplementedError

    def torchs(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor | None:
        """What PyTorch gives where a loss is at its limit; None for options that it lacks."""
        raise NotImplementedError

    def alike(self, batch: Batch) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        """Options, and two targets of which they make the same loss."""
        raise NotImplementedError

    def permuted(self, target: Tensor, order: Tensor) -> Tensor:
        """The target when the new class i is the old class order[i]."""
        raise NotImplementedError

    def saturated(self, dtype: torch.dtype, size: float) -> Batch:
        """Logits of ±size with every class of target."""
        raise NotImplementedError

    def masked_out(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Logits of −∞ for class C − 1, which is never there, with targets and options."""
        raise NotImplementedError

    def nothing(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Logits, targets and options of which nothing counts."""
        raise NotImplementedError

    def integers(self) -> Sequence[torch.dtype]:
        """The dtypes that a hard target may have, with the same result."""
        raise NotImplementedError

    def wrong_targets(self, hard: Tensor) -> Iterator[tuple[Tensor, type[Exception], str]]:
        """Targets (4, 3) positions that are refused, the error and its text."""
        raise NotImplementedError


def uniform(shape: Sequence[int], seed: int, low: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (1 - low) * torch.rand(tuple(shape), generator=generator, dtype=torch.float64)


def random_logits(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    """(N, C, d…) for positions (N, d…); (C,) for a single one."""
    generator = torch.Generator().manual_seed(seed)
    full = (*shape[:1], C, *shape[1:])
    return (2 * torch.randn(full, generator=generator, dtype=torch.float64)).to(dtype)
