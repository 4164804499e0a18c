"""The definition on parts, as an accelerator has it: here the CPU is one, and parts are small."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import C
from region_table import REGIONS, RegionRow
from table import TABLE
from table_sigmoid import SIGMOID_TABLE
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import steelyard as sy
from steelyard.ops import dispatch, parts

SMALL = 3 * C + 1  # logits of a part
# Rows that no part divides; places of one item that make several parts; items of several places.
SHAPES = [(37,), (2, 7), (7, 2, 2)]
OF_SUMS = [row for row in REGIONS if row.of_sums]


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As if the CPU were an accelerator; how many logits the definition was given, each time."""
    monkeypatch.setattr(dispatch, "_on_the_cpu", lambda logits: False)
    monkeypatch.setattr(parts, "PART", SMALL)
    sizes, of = list[int](), parts.Place.of

    def counted(place: parts.Place, tensor: Tensor) -> Tensor:
        sizes.append(of(place, tensor).numel())
        return of(place, tensor)

    monkeypatch.setattr(parts.Place, "of", counted)
    return sizes


def value_and_gradient(loss: Any, logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, *args)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach(), torch.autograd.grad(value, leaf, upstream)[0]


def assert_like_the_reference(row: Any, options: dict[str, Any], *args: Any) -> None:
    ours = value_and_gradient(row.build(engine="blocked", **options), *args)
    whole = value_and_gradient(row.build(engine="reference", **options), *args)
    logits = args[0]
    # Sums are added up in another order, and half precision is rounded once by both.
    grain = 1e-12 if logits.dtype is torch.float64 else 2e-6
    torch.testing.assert_close(ours[0], whole[0], rtol=grain, atol=grain)
    grain = max(grain, 2.0**-8) if logits.dtype is torch.bfloat16 else grain
    torch.testing.assert_close(ours[1], whole[1], rtol=grain, atol=grain)


@pytest.mark.parametrize("row", [*TABLE, *SIGMOID_TABLE], ids=lambda row: row.id)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_parts_are_the_whole(row: Any, dtype: torch.dtype, accelerator: list[int]) -> None:
    for positions in SHAPES if dtype is torch.float64 else SHAPES[1:2]:
        logits, targets = row.family.make(positions, dtype=dtype)
        for form, target in targets.items():
            samples = row.family.samples(row, logits)[-1]
            ignoring = row.family.ignoring(form)
            for options in (
                {"reduction": "none", "label_smoothing": 0.1},
                {"reduction": "mean", "weight": [0.3, 1.0, 2.0, 0.0, 5.0]},
                {"reduction": "mean", "mean_over": "weight", "label_smoothing": 0.1},
            ):
                assert_like_the_reference(row, options | ignoring, logits, target, samples)
    assert 0 < max(accelerator) <= SMALL


@pytest.mark.parametrize("row", OF_SUMS, ids=lambda row: row.id)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_parts_of_regions_are_the_whole(
    row: RegionRow, dtype: torch.dtype, accelerator: list[int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for positions in [(2, 7), (7, 2, 2)]:
        shape = (positions[0], C, *positions[1:])
        logits = torch.randn(shape, generator=generator).to(dtype)
        index = torch.randint(-1, C, positions, generator=generator)
        soft = torch.randn(shape, generator=generator).double().softmax(1)
        samples = torch.rand(positions, generator=generator)
        for target, smoothing in itertools.product((index, soft), (0.0, 0.1)):
            options = {"label_smoothing": smoothing, "ignore_index": -1}
            assert_like_the_reference(row, options, logits, target, samples)
    assert 0 < max(accelerator) <= SMALL


@pytest.mark.parametrize("row", [TABLE[1], SIGMOID_TABLE[0], *OF_SUMS], ids=lambda row: row.id)
def test_the_host_looks_at_no_number(row: Any) -> None:
    """On a device that has none."""
    logits, targets = row.family.make((7, 2, 2), dtype=torch.float32)
    leaf = logits.to("meta").requires_grad_()
    for form, target in targets.items():
        for reduction in ("mean", "none"):
            loss = row.build(engine="blocked", reduction=reduction, **row.family.ignoring(form))
            loss(leaf, target.to("meta")).sum().backward()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("build", [sy.DiceLoss, sy.DiceCELoss, sy.LovaszLoss])
def test_the_host_looks_at_no_number_of_regions(build: Any, activation: str) -> None:
    """Nor whether a pixel is ignored, a class absent, or a ratio 0/0."""
    leaf = torch.empty(3, C, 4, 4, device="meta", requires_grad=True)
    index = torch.empty(3, 4, 4, dtype=torch.long, device="meta")
    cells, samples = torch.empty(3, C, 4, 4, device="meta"), torch.empty(3, 4, 4, device="meta")
    targets = [cells] if build is sy.DiceCELoss and activation == "sigmoid" else [index, cells]
    kinds = [("image", "skip"), ("batch", "count")]
    for target, (per, absent) in itertools.product(targets, kinds):
        loss = build(activation=activation, per=per, absent=absent, weight=[1.0] * C)
        loss(leaf, target, samples).backward()
        if per == "batch" and build is sy.DiceLoss:
            totals = loss.statistics(leaf, target, samples)
            loss(leaf, target, samples, totals=totals).backward()


def test_a_compound_takes_the_sums_of_parts() -> None:
    logits = torch.randn(3, C, 4, 4, dtype=torch.float64)
    target = torch.randint(0, C, (3, 4, 4))
    ours = value_and_gradient(sy.DiceCELoss(engine="blocked"), logits, target)
    whole = value_and_gradient(sy.DiceCELoss(engine="reference"), logits, target)
    torch.testing.assert_close(ours, whole)


def test_channels_last_keeps_its_memory_format() -> None:
    logits = torch.randn(2, C, 3, 4).to(memory_format=torch.channels_last)
    target = torch.randint(0, C, (2, 3, 4))
    for loss in (sy.FocalLoss(engine="blocked"), sy.DiceLoss(engine="blocked")):
        _, by_logits = value_and_gradient(loss, logits, target)
        assert by_logits.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("empty", ["zero", "nan"])
@pytest.mark.parametrize("positions", [(0,), (0, 3), (7,)], ids=str)
def test_a_mean_over_nothing(positions: tuple[int, ...], empty: str) -> None:
    logits = torch.full((*positions[:1], C, *positions[1:]), math.nan)
    target = torch.full(positions, -100)
    loss = sy.FocalLoss(engine="blocked", empty=empty)
    value, by_logits = value_and_gradient(loss, logits, target)
    torch.testing.assert_close(
        value, torch.tensor(0.0 if empty == "zero" else math.nan), equal_nan=True
    )
    assert empty == "nan" or (by_logits == 0).all()


def test_walked_twice_and_differentiated_twice() -> None:
    logits = torch.randn(9, C, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, C, (9,))
    loss = sy.FocalLoss(engine="blocked", label_smoothing=0.1)
    value = loss(logits, target)
    first = torch.autograd.grad(value, logits, retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], first)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target), logits)


def test_auto_takes_parts_of_what_is_more_than_one() -> None:
    target = torch.zeros(3, dtype=torch.long)
    few = sy.explain_engine(torch.randn(3, C), target)
    assert few == (
        "reference",
        "blocked cannot: there are no more than 16 logits, which is one part",
    )
    many = sy.explain_engine(torch.randn(4, C), target.new_zeros(4))
    assert many.engine == "blocked"
    named = sy.explain_engine(torch.randn(3, C), target, engine="blocked")
    assert named == ("blocked", "asked for by name")


def test_how_many_logits_are_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert parts.PART == 2**22


def peak(call: Callable[[], object]) -> int:
    """How far the memory of tensors rises during a call, as torch's own allocator counts it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    changes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize(
    "loss", [sy.FocalLoss(label_smoothing=0.1), sy.AsymmetricLoss(), sy.DiceLoss()], ids=repr
)
def test_memory_is_one_gradient_and_few_parts(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(dispatch, "_on_the_cpu", lambda logits: False)
    logits = torch.randn(4, 8, 32, 32, requires_grad=True)
    target = torch.randint(0, 8, (4, 32, 32))
    if isinstance(loss, sy.AsymmetricLoss):
        target = torch.nn.functional.one_hot(target, 8).movedim(-1, 1).bool()
    monkeypatch.setattr(parts, "PART", logits.numel() // 64)
    loss(logits, target).backward()
    logits.grad = None
    size = logits.numel() * logits.element_size()
    assert peak(lambda: loss(logits, target).backward()) <= 1.5 * size
    logits.grad = None
    with torch.no_grad():
        assert peak(lambda: loss(logits, target)) <= 0.5 * size
