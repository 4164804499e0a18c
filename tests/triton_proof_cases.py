"""Kernels that are made wrong on purpose, through Triton: run by test_triton.py."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from triton_place import DEVICE, on_the_cpu, quietly

import steelyard as sy
from steelyard.ops.cuda import costs, kernels, launch, proof

__all__ = ["on_the_cpu"]  # a fixture

pytestmark = quietly

# A slip of each kind, and what it makes wrong.
SLIPS = {
    "the last class is left out": ("there = c < C\n", "there = c < C - 1\n", "log p"),
    "the target's own logit is in the sum over the others": (
        'z = tl.where(lanes[None, :] == y[:, None], float("-inf"), z)',
        "z = z + 0.0",
        "log p",
    ),
    "what is ignored is read": ("wanted = y != ignore_index", "wanted = y == y", "log p"),
    "the other base": ("tl.exp(z - norm[:, None])", "tl.exp2(z - norm[:, None])", "gradient"),
    "the sign of the target": ("own = g * -_expm1", "own = g * _expm1", "gradient"),
    "the sign of the tail's slope": ("-counts * slope", "counts * slope", "slope"),
    "a scale that is forgotten": (
        "by_logit *= tl.load(scale",
        "by_logit += 0 * tl.load(scale",
        "gradient",
    ),
}


@pytest.fixture(autouse=True)
def untried() -> Iterator[None]:
    proof.forget()
    yield
    proof.forget()


def step() -> Any:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(70, 10, generator=generator).to(DEVICE).requires_grad_()
    target = torch.randint(0, 10, (70,), generator=generator).to(DEVICE)
    loss = sy.VSLoss(class_counts=list(range(5, 15)), engine="triton")
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_caught_and_replaced(
    slip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = step()
    proof.forget()
    before, after, what = SLIPS[slip]
    source = Path(kernels.__file__).read_text()
    assert before in source
    wrong = tmp_path / "wrong_kernels.py"
    wrong.write_text(source.replace(before, after))
    spec = importlib.util.spec_from_file_location("wrong_kernels", wrong)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(launch, "forward_kernel", module.forward_kernel)
    monkeypatch.setattr(launch, "backward_kernel", module.backward_kernel)
    monkeypatch.setattr(costs, "tail_kernel", module.tail_kernel)
    with pytest.warns(RuntimeWarning, match=f"at first use .*{what} was off by") as caught:
        found = step()
    assert len([w for w in caught if "steelyard" in str(w.message)]) == 1
    torch.testing.assert_close(found, right)
    with pytest.raises(RuntimeError, match="cannot do this: at first use"):
        step()
