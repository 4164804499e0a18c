"""A small part of the random calls: ``python -m tests.fuzz`` makes many."""

from dataclasses import replace

import pytest
import torch
from fuzz import Call, difference, differences

import steelyard as sy


@pytest.mark.parametrize("part", range(4))
def test_no_call_differs(part: int) -> None:
    numbers = range(part * 100, part * 100 + 100)
    wrong = [
        f"{number}: {text}\n{call.text}"
        for number, _, call, text in differences(0, numbers, compiled=200)
        if text is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_a_difference_is_seen() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 0])

    def run(z: torch.Tensor) -> torch.Tensor:
        return sy.cross_entropy_loss(z, target)

    call = Call("", run, run, logits, size=10.0)
    assert difference(call) is None
    off = replace(call, run=lambda z: run(z) * (1 + 1e-9))
    assert "the value at [] is" in str(difference(off))
    bent = replace(call, run=lambda z: run(z) + 1e-9 * (z - z.detach()).sum())
    assert "the gradient at [0, 0] is" in str(difference(bent))
    wide = replace(call, run=lambda z: run(z).double(), logits=logits.float())
    assert "torch.float64(), expected torch.float32()" in str(difference(wide))


@pytest.mark.parametrize("engine", ["auto", "reference", "blocked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_gradient_stays_small_where_every_class_has_a_share(
    engine: str, dtype: torch.dtype, classes: int
) -> None:
    """Rounded, log p came out above 0, and m^γ / m with it as large as the numbers go."""
    logits = torch.full((1000, classes), -60.0, dtype=dtype)
    logits[:, 0] = torch.linspace(0, 20, 1000)
    logits.requires_grad_()
    target = torch.zeros(1000, classes, dtype=dtype)
    target[:, 0] = 1
    for t, smoothing in ((target, 0.0), (torch.zeros(1000, dtype=torch.long), 0.1)):
        loss = sy.FocalLoss(gamma=0.05, reduction="none", label_smoothing=smoothing, engine=engine)
        value = loss(logits, t)
        assert (value >= 0).all()
        assert torch.autograd.grad(value.sum(), logits)[0].abs().max() < 1
