"""Logits and targets to try a loss on, and its gradient."""

from collections.abc import Callable

import torch
from table import C
from torch import Tensor


def make(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits (N, C, d…) and class indices (N, d…) for positions of this shape."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(shape[0], C, *shape[1:], generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(0, C, shape, generator=generator)


def grad_of(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    leaf = logits.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]
