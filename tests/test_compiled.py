"""What the table leaves out: Inductor itself, in a user's graph."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import steelyard as sy

GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0, 3.0, 1.5]
COUNTS = [900, 300, 90, 20, 4, 70, 8]
WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.0, 5.0, 1.0, 0.5])
C = len(WEIGHT)

# Of torch itself, when Inductor is imported and when Dynamo meets an autograd.Function.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """One thread, and nothing compiled yet."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch.set_num_threads(threads)


def problem(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits (N, C, d…), and class indices of which some are 1."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator)
    target = torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)
    return logits.to(dtype).requires_grad_(), target


def exactly(
    logits: Tensor, target: Tensor, losses: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Value and gradient in float64 of a weighted mean that ignores class 1.

    ``losses`` has rows of logits and their classes, and gives one loss for each.
    """
    z = logits.detach().double().requires_grad_()
    kept = target != 1
    rows = z.movedim(1, -1)[kept]
    index = target[kept]
    share = WEIGHT.double()[index]
    value = (share * losses(rows, index)).sum() / share.sum()
    return value.detach(), torch.autograd.grad(value, z)[0]


def focal(gamma: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def losses(z: Tensor, index: Tensor) -> Tensor:
        log_p = (z - z.logsumexp(1, keepdim=True)).gather(1, index[:, None])[:, 0]
        power = torch.as_tensor(gamma, dtype=torch.float64).expand(C)[index]
        return -((1 - log_p.exp()) ** power) * log_p

    return losses


def ldam(z: Tensor, index: Tensor) -> Tensor:
    n = torch.tensor(COUNTS, dtype=torch.float64)
    margin = 0.5 * (n.min() / n) ** 0.25
    one_hot = torch.nn.functional.one_hot(index, C)
    return torch.nn.functional.cross_entropy(30.0 * (z - margin * one_hot), index, reduction="none")


def assert_exact(
    loss: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,
    target: Tensor,
    losses: Callable[[Tensor, Tensor], Tensor],
) -> None:
    value, gradient = exactly(logits, target, losses)
    found = loss(logits, target)
    found.backward()
    assert logits.grad is not None
    grain = 3e-6 if logits.dtype is torch.float32 else 1e-2
    torch.testing.assert_close(found.double(), value, rtol=grain, atol=0)
    torch.testing.assert_close(
        logits.grad.double(), gradient, rtol=grain, atol=grain * float(gradient.abs().max())
    )
    logits.grad = None


OPTIONS: dict[str, Any] = {"weight": WEIGHT, "ignore_index": 1}


def test_per_class_gamma_in_space_and_half_precision() -> None:
    loss = torch.compile(sy.FocalLoss(gamma=GAMMAS, **OPTIONS), fullgraph=True)
    for dtype in (torch.float32, torch.float16):
        assert_exact(loss, *problem(4, C, 5, 3, dtype=dtype), focal(GAMMAS))


def test_smoothing_is_pytorchs() -> None:
    loss = torch.compile(sy.CrossEntropyLoss(label_smoothing=0.1, **OPTIONS), fullgraph=True)
    logits, target = problem(4, C, 5, 3)
    theirs = torch.nn.functional.cross_entropy(
        logits, target, WEIGHT, ignore_index=1, label_smoothing=0.1
    )
    value = loss(logits, target)
    torch.testing.assert_close(value, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(value, logits)[0], torch.autograd.grad(theirs, logits)[0]
    )


def test_an_edit_and_sums_out_of_range() -> None:
    loss = torch.compile(sy.LDAMLoss(class_counts=COUNTS, **OPTIONS), fullgraph=True)
    logits, target = problem(50, C)
    assert_exact(loss, logits, target, ldam)
    with torch.no_grad():
        logits[3] *= 1e4
        logits[target == 1] = float("nan")
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    expected = sy.LDAMLoss(class_counts=COUNTS, engine="reference", **OPTIONS)(logits, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("dims", [(40, C), (3, C, 6, 4)], ids=str)
def test_in_a_graph_of_the_users(dims: tuple[int, ...]) -> None:
    loss = sy.FocalLoss(gamma=2.0, **OPTIONS)

    @torch.compile(fullgraph=True)
    def step(logits: Tensor, target: Tensor) -> Tensor:
        return loss(logits, target)

    logits, target = problem(*dims)
    assert_exact(step, logits, target, focal(2.0))
    with torch.no_grad():
        logits[target.unsqueeze(1).expand_as(logits) == 1] = float("nan")
    (gradient,) = torch.autograd.grad(step(logits, target), logits)
    assert gradient.isfinite().all()


def test_transforms_in_a_graph_of_the_users() -> None:
    loss = sy.FocalLoss(gamma=2.0)
    logits, target = problem(6, C)
    logits = logits.detach()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def each(logits: Tensor, target: Tensor) -> Tensor:
        return torch.vmap(torch.func.grad(lambda z, t: loss(z[None], t[None])))(logits, target)

    expected = [
        torch.func.grad(lambda z, t: loss(z[None], t[None]))(z, t)
        for z, t in zip(logits, target, strict=True)
    ]
    torch.testing.assert_close(each(logits, target), torch.stack(expected))
