"""The CPU's sums over regions where the table does not go: many tiles, layouts, memory, twice."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from cases import least_peak
from region_table import REGIONS, RegionRow
from table import C
from torch import Tensor

import steelyard as sy
from steelyard.ops.cpu import region

OF_SUMS = [row for row in REGIONS if row.of_sums]
each_row = pytest.mark.parametrize("row", OF_SUMS, ids=lambda row: row.id)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "TILE", 3 * C)


def make(form: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, C, 4, 5, generator=g, dtype=torch.float64)
    samples = torch.rand(3, 4, 5, generator=g)
    index = torch.randint(-1, C - 1, (3, 4, 5), generator=g)
    soft = torch.rand(logits.shape, generator=g, dtype=torch.float64)
    targets = {
        "index": index,
        "complete": index.clamp(min=0),
        "soft": soft,
        "bool": soft < 0.4,
        "missing": soft.round().masked_fill(soft < 0.2, -1),
    }
    return logits.to(dtype), targets[form], samples


def laid_out(logits: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return logits.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return logits.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":
        return torch.cat([logits, logits], 3)[..., : logits.shape[3]]
    return logits


@each_row
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_tiles_are_the_definition(row: RegionRow, layout: str) -> None:
    forms = ["index", "complete", "soft"]
    forms += [] if row.takes_one_position else ["bool", "missing"]
    for form, smoothing, weighted in itertools.product(forms, (0.0, 0.1), (False, True)):
        logits, target, samples = make(form)
        options = {"label_smoothing": smoothing, "ignore_index": -1}
        call = {"sample_weight": samples} if weighted else {}
        results = {}
        for engine in ("blocked", "reference"):
            z = laid_out(logits, layout).detach().requires_grad_()
            loss = row.build(engine=engine, **options)(z, target, **call)
            results[engine] = (loss, torch.autograd.grad(loss, z)[0])
        torch.testing.assert_close(results["blocked"], results["reference"])
        if layout == "channels_last":
            assert results["blocked"][1].is_contiguous(memory_format=torch.channels_last)


@each_row
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_tiles_of_which_some_hold_what_is_ignored(row: RegionRow, poison: float) -> None:
    logits, target, _ = make("index", torch.float32)
    ignored = (target == -1).unsqueeze(1).expand_as(logits)
    loss = row.build(engine="blocked", ignore_index=-1)
    sick = logits.masked_fill(ignored, poison).requires_grad_()
    value = loss(sick, target)
    torch.testing.assert_close(value, loss(logits.masked_fill(ignored, 0), target))
    (grad,) = torch.autograd.grad(value, sick)
    assert grad.isfinite().all()
    assert (grad[ignored] == 0).all()


@each_row
def test_a_graph_can_be_walked_twice_and_differentiated(row: RegionRow) -> None:
    logits, target, _ = make("index")
    logits.requires_grad_()
    loss = row.build(engine="blocked", ignore_index=-1)(logits, target)
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
    second = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(first, second)
    (graph,) = torch.autograd.grad(loss, logits, create_graph=True)
    torch.testing.assert_close(graph.detach(), first)
    each = row.build(engine="blocked", ignore_index=-1, reduction="none")(logits, target).flatten()
    basis = torch.eye(len(each), dtype=each.dtype)
    (rows,) = torch.autograd.grad(each, logits, basis, retain_graph=True, is_grads_batched=True)
    for i, vector in enumerate(basis):
        one = torch.autograd.grad(each, logits, vector, retain_graph=True)[0]
        torch.testing.assert_close(rows[i], one)


def test_what_is_kept_to_compute_in_serves_every_mode_and_thread() -> None:
    logits, target, _ = make("bool", torch.float32)
    loss = sy.DiceLoss(activation="sigmoid", engine="blocked")
    expected = sy.DiceLoss(activation="sigmoid", engine="reference")(logits, target)

    def call() -> list[Tensor]:
        with torch.inference_mode():
            first = loss(logits, target)
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        value.backward()
        return [first, value.detach(), loss(logits.half(), target)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: call(), range(16)):
            for each in found:
                torch.testing.assert_close(each, expected, rtol=1e-3, atol=0)


def test_logits_changed_between_forward_and_backward_are_told() -> None:
    logits, target, _ = make("index")
    z = logits.requires_grad_() * 1
    loss = sy.dice_loss(z, target, ignore_index=-1, engine="blocked")
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("shape", [(4, 21, 256, 256), (8, 1, 512, 512)])
def test_memory_is_that_of_the_gradient(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, requires_grad=True)
    if shape[1] == 1:
        loss: Any = sy.DiceLoss(activation="sigmoid")
        target = (torch.rand(shape) < 0.3).float()
    else:
        loss = sy.DiceLoss()
        target = torch.randint(shape[1], (shape[0], *shape[2:]))
    size = logits.numel() * logits.element_size()

    def forget() -> None:
        logits.grad = None

    tiles = 4 * 4 * region.TILE  # a few tiles, much beside logits as small as these
    assert least_peak(lambda: loss(logits, target).backward(), forget) <= 1.1 * size + tiles
    seen = size // 4  # so much is taken beside, for a call may take nothing that can be measured
    with torch.no_grad():
        peak = least_peak(lambda: [loss(logits, target), torch.ones(seen // 4)], forget)
    assert peak <= seen + 0.1 * size + tiles
