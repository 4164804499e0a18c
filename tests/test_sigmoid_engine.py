"""The CPU's engine for cells, where the table does not go: many tiles, memory, many digits."""

import copy
import gc
import pickle
from typing import Any

import pytest
import torch
from families import C
from table_sigmoid import NAN, POS_WEIGHT, SIGMOID_TABLE, SigmoidRow
from test_engines import least_peak
from torch import Tensor

import steelyard as sy
from steelyard.ops.cpu import ranks, sigmoid, tiles

INF = float("inf")
each_row = pytest.mark.parametrize("row", SIGMOID_TABLE, ids=lambda row: row.id)
WEIGHT = [0.5, 1.0, 2.0, 0.0, 3.0]


def value_and_gradient(loss: Any, logits: Tensor, *args: Any, **call: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, *args, **call)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach(), torch.autograd.grad(value, leaf, upstream)[0]


@each_row
@pytest.mark.parametrize("places", [(), (70,), (20, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_many_tiles_are_one(
    monkeypatch: pytest.MonkeyPatch, row: SigmoidRow, places: tuple[int, ...], dtype: torch.dtype
) -> None:
    logits, targets = row.family.make((64, *places), dtype=dtype)
    target = targets["hard"]
    for room in (sigmoid, ranks):
        small = room.ARITHMETIC._replace(smallest=40, largest=40)
        monkeypatch.setattr(room, "ARITHMETIC", small)
    for options in (
        {},
        {"reduction": "none", "label_smoothing": 0.1},
        {"weight": WEIGHT, "pos_weight": POS_WEIGHT, "mean_over": "weight"},
    ):
        for sample_weight in row.family.samples(row, logits):
            call = {"sample_weight": sample_weight}
            tiled = value_and_gradient(
                row.build(**options, engine="blocked"), logits, target, **call
            )
            plain = value_and_gradient(
                row.build(**options, engine="reference"), logits, target, **call
            )
            tolerance = {} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(tiled, plain, **tolerance)


@each_row
def test_infinite_logits_cost_what_they_do_in_the_definition(row: SigmoidRow) -> None:
    logits, targets = row.family.make((40,), dtype=torch.float32)
    target = targets["hard"].clamp(min=0)
    for logit in (INF, -INF):
        for there in (0.0, 1.0):
            logits[3, 2], target[3, 2] = logit, there
            found = [
                row.build(reduction="none", engine=engine)(logits, target)
                for engine in ("blocked", "reference")
            ]
            torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)
    logits[3, 2] = NAN
    assert row.build(engine="blocked")(logits, target).isnan()


@each_row
def test_digits_of_what_is_all_but_right(row: SigmoidRow) -> None:
    """Relative to the loss itself, down to where float32 ends."""
    logits = torch.linspace(-60, 60, 241)[:, None].expand(241, C)
    for there in (0.0, 1.0):
        target = torch.full((241, C), there)
        for call in (0, 1):
            loss = row.build(reduction="none", engine="blocked")
            exact = row.build(reduction="none", engine="reference")
            found = value_and_gradient(loss, logits, target)[call].double()
            true = value_and_gradient(exact, logits.double(), target.double())[call]
            sized = true.abs() > 1e-30
            # A difference of nearly equal numbers is part of these.
            differs = row.module in (sy.AsymmetricLoss, sy.HillLoss)
            rest = torch.finfo(torch.float32).eps * differs
            error = (found - true).abs() - rest
            lost = sized & (error > 3e-5 * true.abs())
            assert not lost.any(), f"digits are lost at the logits {logits[lost].unique().tolist()}"


def test_a_change_of_the_gradient_does_not_come_back() -> None:
    logits = torch.randn(30, C, requires_grad=True)
    loss = sy.SigmoidFocalLoss(engine="blocked")(logits, torch.ones(30, C))
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    kept = first.clone()
    first.zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], kept)


@pytest.mark.parametrize(
    "loss",
    [sy.BCEWithLogitsLoss(pos_weight=2.0), sy.SigmoidFocalLoss(alpha=0.25), sy.AsymmetricLoss()],
    ids=lambda loss: type(loss).__name__,
)
def test_memory_of_the_gradient(loss: sy.SigmoidLoss) -> None:
    logits = torch.randn(16384, 1000, requires_grad=True)
    target = (torch.rand(16384, 1000) < 0.1).float()

    def step() -> None:
        logits.grad = None
        loss(logits, target).backward()

    def forget() -> None:
        logits.grad = None

    assert least_peak(step, forget) <= 1.1 * logits.nbytes
    with torch.no_grad():
        assert least_peak(lambda: loss(logits, target), forget) <= 0.1 * logits.nbytes
    gc.collect()


def test_explain_engine_names_who_does_cells() -> None:
    logits, target = torch.randn(4, 3), torch.zeros(4, 3)
    assert sy.explain_engine(logits, target, loss=sy.HillLoss()).engine == "blocked"
    assert sy.explain_engine(logits, target, loss=sy.ZLPRLoss()).engine == "blocked"
    asked = sy.explain_engine(logits[:, 0], target[:, 0], loss=sy.HillLoss(engine="reference"))
    assert asked.reason == "asked for by name"
    softmax = sy.explain_engine(logits, target, loss=sy.FocalLoss(label_smoothing=0.1))
    assert softmax.engine == "blocked"


def test_a_family_without_an_arithmetic_is_left_to_the_reference() -> None:
    alone = sy.ops.Problem(target=torch.zeros(3))
    assert tiles.obstacle(alone) == "it has no arithmetic for a Problem"


@pytest.mark.parametrize("row", SIGMOID_TABLE, ids=lambda row: row.id)
def test_off_the_cpu_no_number_is_looked_at(row: SigmoidRow) -> None:
    """On "meta" there is none: what runs there does not make an accelerator wait."""
    logits = torch.randn(6, C, device="meta", requires_grad=True)
    target = torch.zeros(6, C, dtype=torch.long, device="meta")
    samples = torch.ones(6, device="meta")
    for mean_over in row.family.mean_overs:
        for weight in (WEIGHT, torch.ones(C), 3.0):
            loss = row.build(weight=weight, pos_weight=weight, mean_over=mean_over)
            loss(logits, target, samples).backward()
            assert loss.denominator(target, samples).device.type == "meta"
    loss.half().to("meta")
    assert all(b.device.type == "meta" and b.dtype != torch.half for b in loss.buffers())


@pytest.mark.parametrize("row", SIGMOID_TABLE, ids=lambda row: row.id)
def test_a_module_is_pickled_and_copied(row: SigmoidRow) -> None:
    loss = row.build(weight=WEIGHT, pos_weight={1: 2.0})
    logits, targets = row.family.make((6,))
    value = loss(logits, targets["hard"])
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(other(logits, targets["hard"]), value)
        assert repr(other) == repr(loss)


@pytest.mark.parametrize("gamma", [2.0, [1.0, 2.0, 0.5, 3.0, 1.5]], ids=str)
def test_a_learnt_gamma_has_the_gradient_of_its_formula(gamma: Any) -> None:
    logits, targets = SIGMOID_TABLE[0].family.make((6,))
    parameter = torch.nn.Parameter(torch.tensor(gamma, dtype=torch.float64))
    loss = sy.SigmoidFocalLoss(gamma=parameter)
    loss(logits, targets["hard"]).backward()
    step, found = 1e-6, parameter.grad
    assert found is not None
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            parameter += sign * step
            ends.append(loss(logits, targets["hard"]))
            parameter -= sign * step
    torch.testing.assert_close(found.sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-9)
    assert next(iter(loss.parameters())) is parameter


@pytest.mark.parametrize("row", SIGMOID_TABLE, ids=lambda row: row.id)
def test_a_learnt_weight_has_a_gradient(row: SigmoidRow) -> None:
    logits, targets = row.family.make((6,))
    weight = torch.nn.Parameter(torch.ones(C, dtype=torch.float64))
    loss = row.build(pos_weight=weight)
    loss(logits, targets["hard"]).backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


@each_row
def test_a_compiled_graph_has_the_numbers_of_the_definition(row: SigmoidRow) -> None:
    logits, targets = row.family.make((9, 2), dtype=torch.float32)
    target = targets["hard"]
    logits[4, :3] = torch.tensor([[INF, -INF], [-INF, INF], [60.0, -60.0]])
    torch._dynamo.reset()
    options = {"weight": WEIGHT, "pos_weight": POS_WEIGHT, "label_smoothing": 0.0}
    for reduction in ("none", "mean"):
        loss = row.build(reduction=reduction, **options)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        plain = row.build(reduction=reduction, engine="reference", **options)
        found, expected = (value_and_gradient(f, logits, target) for f in (compiled, plain))
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
        if reduction == "none":
            known = logits.isfinite()
            torch.testing.assert_close(found[1][known], expected[1][known], rtol=1e-4, atol=1e-6)
