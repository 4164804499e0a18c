"""Devices without float64, as Apple's GPUs are: every loss, its denominator, its move there.

Twice: on a device that holds no numbers, so that nobody can look at one, and with the CPU taken for
such a device, for the numbers. On both every operation that would make a float64 is refused.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from region_table import COMPOUNDS, REGIONS
from table import TABLE
from table_sigmoid import SIGMOID_TABLE
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import steelyard as sy
from steelyard.ops import compat

ROWS = [*TABLE, *SIGMOID_TABLE, *REGIONS, *COMPOUNDS]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


class RefuseFloat64(TorchDispatchMode):
    """As torch does for a tensor of float64 on such a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        found = function(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor) and each.device.type == self.device:
                assert each.dtype is not torch.float64, function
        return found


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device that has shapes and dtypes, but neither float64 nor numbers to look at."""
    widest = {"meta": torch.float32, "cpu": torch.float64}
    monkeypatch.setattr(compat, "widest", lambda device: widest[device.type])
    with RefuseFloat64("meta"):
        yield torch.device("meta")


def batch(row: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    shape = (2, 3, 2)
    logits, targets = row.family.make(shape, dtype=torch.float32)
    narrow = {
        name: target.float() if target.is_floating_point() else target
        for name, target in targets.items()
    }
    return logits, narrow, torch.linspace(0.5, 1.5, 12).view(shape)


def options_of(row: Any) -> list[dict[str, Any]]:
    named = {} if row in REGIONS or row in COMPOUNDS else {"weight": [0.3, 1.0, 2.0, 0.0, 5.0]}
    return [named, named | {"label_smoothing": 0.1, "reduction": "sum"}]


@each_row
def test_every_loss_on_such_a_device(row: Any, gpu: torch.device) -> None:
    logits, targets, samples = batch(row)
    logits, samples = logits.to(gpu), samples.to(gpu)
    for form, target in targets.items():
        for options in options_of(row):
            loss = row.build(**options, **row.family.ignoring(form)).to(gpu)
            assert all(buffer.dtype is not torch.float64 for buffer in loss.buffers())
            leaf = logits.detach().requires_grad_()
            value = loss(leaf, target.to(gpu), samples)
            assert value.device.type == "meta"
            assert value.dtype is torch.float32
            value.sum().backward()


@pytest.mark.parametrize("row", [*TABLE, *SIGMOID_TABLE], ids=lambda row: row.id)
def test_every_denominator_on_such_a_device(row: Any, gpu: torch.device) -> None:
    _, targets, samples = batch(row)
    target = next(iter(targets.values()))
    for mean_over in row.family.denominators:
        loss = row.build(**({} if mean_over is None else {"mean_over": mean_over})).to(gpu)
        mass = loss.denominator(target.to(gpu), samples.to(gpu))
        assert mass.device.type == "meta"
        assert mass.dtype is torch.float32


def test_what_reads_class_counts_on_such_a_device(gpu: torch.device) -> None:
    logits = torch.randn(4, 3).to(gpu)
    target = torch.tensor([0, 2, 1, 0]).to(gpu)
    counts = [900, 90, 9]
    assert sy.logit_adjusted_loss(logits, target, class_counts=counts).device.type == "meta"
    assert sy.adjust_logits(logits, counts).device.type == "meta"
    assert sy.unweight_logits(logits, [1.0, 2.0, 3.0]).device.type == "meta"
    model = nn.Sequential(nn.Linear(2, 3), sy.LDAMLoss(class_counts=counts)).to(gpu)
    assert all(buffer.device.type == "meta" for buffer in model.buffers())


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> RefuseFloat64:
    """The CPU taken for a device without float64, which are refused within it."""
    monkeypatch.setattr(compat, "widest", lambda device: torch.float32)
    return RefuseFloat64("cpu")


@each_row
def test_every_loss_has_the_same_numbers_and_gradient(row: Any, without: RefuseFloat64) -> None:
    logits, targets, samples = batch(row)
    for form, target in targets.items():
        for options in options_of(row):
            given = options | row.family.ignoring(form)
            true = logits.double().requires_grad_()
            row.build(**given)(true, target, samples).sum().backward()
            loss = row.build(**given).to("cpu")
            narrow = logits.clone().requires_grad_()
            with without:
                value = loss(narrow, target, samples)
                value.sum().backward()
            assert true.grad is not None
            torch.testing.assert_close(narrow.grad, true.grad.float(), rtol=1e-4, atol=1e-5)


@each_row
def test_every_denominator_is_the_same_number(row: Any, without: RefuseFloat64) -> None:
    _, targets, samples = batch(row)
    target = next(iter(targets.values()))
    for mean_over in row.family.denominators:
        options = {} if mean_over is None else {"mean_over": mean_over}
        true = row.build(**options).denominator(target, samples)
        loss = row.build(**options).to("cpu")
        with without:
            mass = loss.denominator(target, samples)
        assert mass.dtype is torch.float32
        torch.testing.assert_close(mass, true.float())


def test_the_mean_of_a_step_over_micro_batches(without: RefuseFloat64) -> None:
    logits = torch.randn(12, 3, requires_grad=True)
    target = torch.randint(0, 3, (12,))
    loss = sy.CrossEntropyLoss(weight=[1.0, 2.0, 7.0])
    (whole,) = torch.autograd.grad(loss(logits, target), logits)
    loss = loss.to("cpu")
    parts = list(zip(logits.split(5), target.split(5), strict=True))
    with without:
        divisor = sy.step_denominator(loss, [part for _, part in parts])
        total = sum(loss(z, y, denominator=divisor) for z, y in parts)
    (summed,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(summed, whole)


@pytest.mark.parametrize(
    "loss", [sy.FocalLoss(label_smoothing=0.1), sy.LogitAdjustedLoss(class_counts=[9, 5, 1])]
)
def test_a_head_and_its_loss_in_one(loss: sy.SoftmaxLoss, without: RefuseFloat64) -> None:
    features, weight = torch.randn(6, 4), torch.randn(3, 4, requires_grad=True)
    target = torch.arange(6) % 3
    (true,) = torch.autograd.grad(loss(features @ weight.t(), target), weight)
    loss = loss.to("cpu")
    with without:
        value = sy.linear_loss(loss, features, weight, target)
        (found,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("wrap", [sy.ExactMean, lambda loss: loss.with_weight([1.0, 2.0, 3.0])])
def test_what_holds_a_loss_moves_too(wrap: Any, gpu: torch.device) -> None:
    held = wrap(sy.LogitAdjustedLoss(class_counts=[9, 5, 1])).to(gpu)
    logits = torch.randn(4, 3).to(gpu).requires_grad_()
    held(logits, torch.zeros(4, dtype=torch.long, device=gpu)).backward()
    deferred = sy.DeferredReweighting(sy.FocalLoss(), weight=[1.0, 2.0, 3.0], start=1).to(gpu)
    deferred.set_epoch(1)
    deferred(logits, torch.zeros(4, dtype=torch.long, device=gpu)).backward()


def test_which_devices_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat.widest(torch.device("mps")) is torch.float32
    for name in ("cpu", "cuda:1", "meta"):
        assert compat.widest(torch.device(name)) is torch.float64
    for has, dtype in ((True, torch.float64), (False, torch.float32)):
        properties = type("Properties", (), {"has_fp64": has})
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device, p=properties: p)
        assert compat.widest(torch.device("xpu")) is dtype
