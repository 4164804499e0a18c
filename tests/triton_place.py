"""Where the CUDA engine's tests run: on a GPU, or on the CPU through Triton's interpreter."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from steelyard.ops import dispatch

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = "cpu" if INTERPRETED else "cuda"
# To the nearest, but the interpreter cuts bfloat16 off.
ROUNDING = {
    torch.float32: 0.0,
    torch.bfloat16: 2.0**-7 if INTERPRETED else 2.0**-8,
    torch.float16: 2.0**-11,
}

# The interpreter computes with NumPy, which speaks of every NaN.
# NumPy under the interpreter: NaN that a test, or the proof at first use, holds on purpose.
quietly = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
on_gpu = pytest.mark.skipif(INTERPRETED, reason="needs a GPU")


@pytest.fixture
def clean() -> None:
    """For a test whose fresh memory nobody poisons: torch.compile would trace that."""


@pytest.fixture(autouse=True)
def poison(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN, so that what a kernel leaves out is seen."""

    def poisoned(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def fresh(*args: Any, **kwargs: Any) -> Tensor:
            result = function(*args, **kwargs)
            return result.fill_(math.nan) if result.is_floating_point() else result

        return fresh

    if "clean" not in request.fixturenames:
        monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
        monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine be chosen where the interpreter works."""
    if INTERPRETED:
        monkeypatch.setitem(dispatch._DEVICES, "triton", "cpu")
        monkeypatch.setattr(dispatch, "_looked_up", lambda device: None)
