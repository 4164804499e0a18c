"""Logits and targets to try a loss on, its gradient, and the memory it takes."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
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


def least_peak(call: Callable[[], object], forget: Callable[[], object]) -> int:
    """By how many bytes the process grows during a call, as the kernel saw it.

    The least of five: what else the process keeps for later may grow just then.
    """
    status, found = Path("/proc/self/status"), []

    def read(key: str) -> int:
        return int(next(x for x in status.read_text().splitlines() if x.startswith(key)).split()[1])

    for _ in range(5):
        call()
        forget()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide what the call takes
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pytest.skip("the high-water mark of memory cannot be reset here")
        before = read("VmRSS")
        call()
        found.append(1024 * max(0, read("VmHWM") - before))
    assert sum(found) > 0, "nothing was measured"
    return min(found)
