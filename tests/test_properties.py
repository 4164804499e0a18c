"""Any shape, any options: every loss is its naive formula, and PyTorch's where that exists."""

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from table import TABLE, C, Row, naive_loss
from torch import Tensor

import steelyard as sy

rows = st.sampled_from(TABLE)
shapes = st.lists(st.integers(0, 4), min_size=0, max_size=4).map(tuple)
numbers = st.floats(0, 10, allow_nan=False, width=32)
options = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.lists(numbers, min_size=C, max_size=C).map(
            lambda w: torch.tensor(w, dtype=torch.float64)
        ),
        "ignore_index": st.sampled_from([-100, -1, 0, 3, 255]),
        "label_smoothing": st.floats(0, 1),
        "reduction": st.sampled_from(["mean", "sum", "none"]),
        "mean_over": st.sampled_from([None, "weight", "count"]),
    },
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, target and sample weights for positions of any shape, empty ones too."""
    shape = draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    full = (*shape[:1], C, *shape[1:])
    logits = draw(st.sampled_from([0.1, 3.0, 100.0])) * torch.randn(
        full, generator=generator, dtype=torch.float64
    )
    if draw(st.booleans()):
        target = torch.randint(0, C, shape, generator=generator)
    else:
        target = torch.rand(full, generator=generator, dtype=torch.float64)
        target = target / target.sum(min(1, len(full) - 1), keepdim=True)
    samples = None
    if draw(st.booleans()):
        samples = torch.rand(shape, generator=generator).round(decimals=1)
    return logits, target, samples


def usable(target: Tensor, chosen: dict[str, Any]) -> bool:
    return not (target.is_floating_point() and chosen.get("ignore_index", -100) >= 0)


@given(rows, problems(), options)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_loss_is_its_formula(
    row: Row, problem: tuple[Tensor, Tensor, Tensor | None], chosen: dict[str, Any]
) -> None:
    logits, target, samples = problem
    if not usable(target, chosen):
        return
    loss = row.build(**chosen)(logits, target, sample_weight=samples)
    naive = naive_loss(row, logits, target, sample_weight=samples, **chosen)
    assert loss.shape == naive.shape
    # The naive 1 − p cancels where p is nearly 1: absolute, a few units of float64.
    torch.testing.assert_close(loss, naive, rtol=1e-9, atol=1e-9)


@given(problems(), options)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_cross_entropy_is_pytorchs(
    problem: tuple[Tensor, Tensor, Tensor | None], chosen: dict[str, Any]
) -> None:
    logits, target, _ = problem
    chosen = {k: v for k, v in chosen.items() if k != "mean_over"}
    if not usable(target, chosen):
        return
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = sy.cross_entropy_loss(ours, target, **chosen, empty="nan")
    torch_loss = F.cross_entropy(theirs, target, **chosen)
    torch.testing.assert_close(loss, torch_loss, rtol=1e-12, atol=1e-12, equal_nan=True)
    if torch_loss.isfinite().all():
        loss.sum().backward()
        torch_loss.sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
