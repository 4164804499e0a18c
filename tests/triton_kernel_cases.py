"""The kernels of the CUDA engine against the formula in float64: run by test_triton.py.

The interpreter has to be asked for before triton is first imported, so these tests have a process
of their own.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_place import DEVICE, ROUNDING, clean, on_the_cpu, poison, quietly

from steelyard.ops.cuda import launch as engine

__all__ = ["clean", "on_the_cpu", "poison"]  # fixtures

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
IGNORE = 1

pytestmark = quietly
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# (N, C, S), each for what it makes the kernels do.
SHAPES = {
    "a block of classes not full, one of rows neither": (70, 10, 1),
    "a block of classes full, a second one of rows": (65, 16, 1),
    "lanes of 16 bytes whose last are idle": (2, 1000, 1),
    "several blocks of classes, the last not full": (2, 5000, 1),
    "one class": (3, 1, 1),
    "places of no power of 2": (2, 3, 70),
    "several blocks of classes for places": (2, 19, 64),
    "several programs for the places of a sample": (2, 5, 1100),
    "fewer places than a warp has lanes": (3, 4, 2),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda z: z,
    "reversed": lambda z: z.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "classes innermost": lambda z: z.movedim(1, 2).contiguous().movedim(2, 1),
    "sliced": lambda z: torch.cat([z, z, z], 1)[:, 1 : 1 + z.shape[1]],
    "every other place": lambda z: z.repeat_interleave(2, 2)[:, :, ::2],
}


def case(shape: tuple[int, ...], dtype: torch.dtype, edited: bool = True) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    n, classes, s = shape
    target = torch.randint(0, classes, (n, s), generator=generator)
    target.view(-1)[:2] = min(IGNORE, classes - 1)
    edit = [torch.rand(classes, generator=generator) + shift for shift in (0.5, -0.5, 0.0)]
    parts = [part.to(DEVICE) if edited else None for part in edit]
    return {
        "logits": (3 * torch.randn(shape, generator=generator)).to(DEVICE, dtype),
        "target": target.to(DEVICE),
        **dict(zip(("scale", "bias", "margin"), parts, strict=True)),
        "ignore_index": IGNORE,
    }


def both(given: dict[str, Any], gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Log p and the gradient by the logits, through the kernels."""
    log_p, lse = engine.row_logprob(**given)
    given = {name: value for name, value in given.items() if name != "margin"}
    return log_p, engine.row_logprob_backward(**given, log_p=log_p, lse=lse, gradient=gradient)


def naive(given: dict[str, Any], gradient: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same by the formula."""
    logits = given["logits"].detach().to(dtype).requires_grad_()
    ignored = given["target"] == given["ignore_index"]
    target = given["target"].masked_fill(ignored, 0).unsqueeze(1)
    scale, bias, margin = (given[name] for name in ("scale", "bias", "margin"))
    z = logits.masked_fill(ignored.unsqueeze(1), 0)
    if scale is not None:
        one_hot = torch.zeros_like(z).scatter_(1, target, 1.0)
        z = scale.to(dtype)[:, None] * z + bias.to(dtype)[:, None]
        z = z - margin.to(dtype)[:, None] * one_hot
    log_p = (z - z.logsumexp(1, keepdim=True)).gather(1, target).squeeze(1).masked_fill(ignored, 0)
    (by_logits,) = torch.autograd.grad(log_p, logits, gradient.to(dtype))
    return log_p.detach(), by_logits


def upstream(shape: tuple[int, ...]) -> Tensor:
    n, _, s = shape
    return torch.linspace(-0.5, 1.5, n * s, device=DEVICE).view(n, s)


def assert_right(given: dict[str, Any]) -> None:
    """As exact as the formula in float32, and the gradient rounded once."""
    gradient = upstream(given["logits"].shape)
    before = {name: value.clone() for name, value in given.items() if isinstance(value, Tensor)}
    log_p, by_logits = both(given, gradient)
    truth, by_truth = naive(given, gradient, torch.float64)
    single, by_single = naive(given, gradient, torch.float32)
    assert log_p.dtype == torch.float32
    assert by_logits.dtype == given["logits"].dtype
    assert by_logits.shape == given["logits"].shape
    slack = 2e-6 * (1 + truth.abs())
    assert ((log_p - truth).abs() <= (single - truth).abs() + slack).all()
    slack = 2e-6 * (1 + by_truth.abs()) + 1.01 * ROUNDING[by_logits.dtype] * by_truth.abs()
    assert ((by_logits - by_truth).abs() <= (by_single - by_truth).abs() + slack).all()
    ignored = given["target"] == given["ignore_index"]
    assert (log_p[ignored] == 0).all()
    assert (by_logits.movedim(1, -1)[ignored] == 0).all()
    for name, value in before.items():
        assert torch.equal(given[name], value), name


@each_dtype
@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_kernels_are_the_formula(
    shape: tuple[int, int, int], dtype: torch.dtype, edited: bool
) -> None:
    assert_right(case(shape, dtype, edited))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(70, 10, 1), (2, 19, 64), (3, 24, 5)], ids=str)
def test_layouts(layout: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    given = case(shape, dtype)
    given["logits"] = LAYOUTS[layout](given["logits"])
    assert_right(given)


def test_expanded_logits_and_gradient() -> None:
    given = case((6, 5, 1), torch.float32)
    given["logits"] = given["logits"][:1].expand(6, 5, 1)
    given["target"] = given["target"][3:4].expand(6, 1)
    assert_right(given)
    gradient = torch.ones((), device=DEVICE).expand(6, 1)
    torch.testing.assert_close(
        both(given, gradient)[1], naive(given, gradient, torch.float64)[1].float()
    )


@pytest.mark.parametrize("part", ["scale", "bias", "margin"])
def test_each_part_of_the_edit_is_its_own(part: str) -> None:
    given = case((4, 6, 3), torch.float32)
    alone = case((4, 6, 3), torch.float32, edited=False) | {part: given[part]}
    neutral = {
        name: given[name] if name == part else torch.full_like(given[name], value)
        for name, value in (("scale", 1.0), ("bias", 0.0), ("margin", 0.0))
    }
    gradient = upstream((4, 6, 3))
    for ours, expected in zip(
        both(alone, gradient), naive(alone | neutral, gradient, torch.float64), strict=True
    ):
        torch.testing.assert_close(ours, expected.float(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", [(8, 10, 1), (2, 5000, 1), (1, 3, 8)], ids=str)
def test_no_digit_of_one_minus_p_is_lost(shape: tuple[int, int, int]) -> None:
    given = case(shape, torch.float32, edited=False) | {"ignore_index": -100}
    n, _, s = shape
    far = torch.linspace(5, 60, n * s, device=DEVICE).view(n, 1, s)
    given["logits"].scatter_(1, given["target"].unsqueeze(1), far)
    gradient = torch.ones(n, s, device=DEVICE)
    own = given["target"].unsqueeze(1)
    # In float64 1 − p would be lost as well: Σ_{c ≠ y} e^(z_c − z_y) is the odds against.
    z = given["logits"].double()
    odds = (z - z.gather(1, own)).exp().scatter(1, own, 0).sum(1)
    log_p, by_logits = both(given, gradient)
    torch.testing.assert_close(log_p.double(), -odds.log1p(), rtol=1e-5, atol=0)
    miss = by_logits.double().gather(1, own).squeeze(1)
    torch.testing.assert_close(miss, odds / (1 + odds), rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1e4, 6e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("classes", [5, 4100])
def test_saturated(size: float, dtype: torch.dtype, classes: int) -> None:
    extreme = torch.zeros(classes)
    extreme[:5] = torch.tensor([size, -size, 0.0, 50.0, -50.0])
    logits = torch.stack([extreme] * 6).unsqueeze(2)
    logits[5] = size
    target = torch.tensor([0, 1, 2, 3, 4, 0]).unsqueeze(1)
    given = {"logits": logits.to(DEVICE, dtype), "target": target.to(DEVICE), "ignore_index": -100}
    assert_right(given | dict.fromkeys(("scale", "bias", "margin")))


@each_dtype
@pytest.mark.parametrize("shape", [(6, 10, 1), (2, 5000, 1), (2, 5, 3)], ids=str)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_ignored_positions_may_hold_anything(
    shape: tuple[int, int, int], dtype: torch.dtype, poison: float
) -> None:
    given = case(shape, dtype)
    ignored = (given["target"] == IGNORE).unsqueeze(1)
    sick = given | {"logits": given["logits"].masked_fill(ignored, poison)}
    gradient = upstream(shape)
    gradient[given["target"] == IGNORE] = math.nan
    for ours, healthy in zip(both(sick, gradient), both(given, gradient), strict=True):
        assert torch.equal(ours, healthy)
        assert ours.isfinite().all()


@pytest.mark.parametrize("shape", [(6, 10, 1), (2, 5000, 1), (2, 5, 3)], ids=str)
def test_masked_out_classes_are_harmless(shape: tuple[int, int, int]) -> None:
    given = case(shape, torch.float32)
    given["target"].clamp_(max=2)
    given["logits"][:, 3:] = -math.inf
    log_p, by_logits = both(given, upstream(shape))
    few = {
        name: value[..., :3] if name in ("scale", "bias", "margin") else value
        for name, value in given.items()
    } | {"logits": given["logits"][:, :3]}
    truth, by_truth = naive(few, upstream(shape), torch.float64)
    torch.testing.assert_close(log_p, truth.float(), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(by_logits[:, :3], by_truth.float(), rtol=2e-6, atol=2e-6)
    assert (by_logits[:, 3:] == 0).all()


@pytest.mark.parametrize("classes", [5, 5000])
def test_infinities_and_nan_are_those_of_pytorch(classes: int) -> None:
    logits = torch.randn(8, classes, 1, device=DEVICE)
    target = torch.zeros(8, 1, dtype=torch.long, device=DEVICE)
    logits[0, 0] = -math.inf  # a target that is masked out: an infinite loss, a finite gradient
    logits[1] = -math.inf
    logits[2, 0] = math.inf
    logits[3, 2] = math.inf
    logits[4, 0] = math.nan
    logits[5, 2] = math.nan
    logits[6, 1:] = -math.inf  # no class but the target
    given = {"logits": logits, "target": target, "ignore_index": -100}
    given |= dict.fromkeys(("scale", "bias", "margin"))
    z = logits.detach().clone().requires_grad_()
    log_p = -F.cross_entropy(z, target, reduction="none")
    (by_z,) = torch.autograd.grad(log_p, z, torch.ones_like(log_p))
    ours, by_logits = both(given, torch.ones_like(log_p))
    torch.testing.assert_close(ours, log_p.detach(), equal_nan=True)
    torch.testing.assert_close(by_logits, by_z, equal_nan=True)


@pytest.mark.parametrize("shape", [(6, 10, 1), (2, 5, 3)], ids=str)
def test_a_class_that_is_not_there_is_not_looked_for(shape: tuple[int, int, int]) -> None:
    given = case(shape, torch.float32)
    right, _ = both(given, upstream(shape))
    given["target"].view(-1)[2:5] = torch.tensor([shape[1], -1, 2**60], device=DEVICE)
    log_p, _ = both(given, upstream(shape))
    assert log_p.view(-1)[2:5].isnan().all()
    log_p.view(-1)[2:5] = right.view(-1)[2:5]
    assert torch.equal(log_p, right)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((4, 4, 1), (2**30, 1, 1)),
        ((4, 4, 3), (2**30, 3, 1)),
        ((1, 4, 3), (1, 2**30, 1)),
    ],
    ids=str,
)
def test_more_than_2_31_numbers(shape: tuple[int, int, int], strides: tuple[int, int, int]) -> None:
    # Pages of it that nobody touches are not there.
    far = torch.empty(3 * 2**30 + 64, device=DEVICE, dtype=torch.float16)
    given = case(shape, torch.float16)
    logits = far.as_strided(shape, strides)
    given["logits"] = logits.copy_(given["logits"])
    assert_right(given)


def test_no_positions() -> None:
    for shape in ((0, 3, 1), (0, 3, 4), (2, 3, 0)):
        given = case((2, 3, 4), torch.float32)
        given |= {
            "logits": torch.zeros(shape, device=DEVICE),
            "target": torch.zeros(shape[0], shape[2], dtype=torch.long, device=DEVICE),
        }
        log_p, by_logits = both(given, torch.zeros(shape[0], shape[2], device=DEVICE))
        assert log_p.shape == (shape[0], shape[2])
        assert by_logits.shape == shape


def test_the_same_bits_again() -> None:
    given, gradient = case((65, 16, 1), torch.float32), upstream((65, 16, 1))
    for first, second in zip(both(given, gradient), both(given, gradient), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [(3, 5, 1), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("edited", [False, True])
def test_opcheck(shape: tuple[int, int, int], edited: bool) -> None:
    given = case(shape, torch.float32, edited)
    arguments = tuple(given.values())
    log_p, lse = engine.op(*arguments)
    torch.library.opcheck(engine.op, arguments)
    given["logits"].requires_grad_()
    torch.library.opcheck(engine.op, tuple(given.values()))
    given["logits"] = given["logits"].detach()
    kept = [given[name] for name in ("logits", "target", "scale", "bias")]
    torch.library.opcheck(engine.backward_op, (*kept, log_p, lse, upstream(shape), IGNORE))


def test_the_op_differentiates_once() -> None:
    given = case((3, 5, 1), torch.float32)
    logits = given["logits"].requires_grad_()
    log_p, lse = engine.op(**given)
    assert not lse.requires_grad
    gradient = upstream((3, 5, 1)).requires_grad_()
    (first,) = torch.autograd.grad(log_p, logits, gradient, create_graph=True)
    torch.testing.assert_close(first.detach(), both(given, gradient.detach())[1].detach())
    with pytest.raises(RuntimeError, match=r"no second derivative .*engine='reference'"):
        torch.autograd.grad(first.sum(), logits)


def test_autocast_casts_nothing() -> None:
    given = case((5, 7, 1), torch.float32)
    plain = engine.op(**given)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        within = engine.op(**given)
    for one, other in zip(within, plain, strict=True):
        assert torch.equal(one, other)
