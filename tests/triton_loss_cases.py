"""Every loss of the table through the CUDA engine: run by test_triton.py."""

import math
from typing import Any

import pytest
import torch
from table import TABLE, C, Row
from torch import Tensor
from triton_place import DEVICE, ROUNDING, clean, on_gpu, on_the_cpu, poison, quietly

import steelyard as sy
from steelyard.losses import tails
from steelyard.ops import SoftmaxProblem, parts
from steelyard.ops.cuda import costs, plain, proof

__all__ = ["clean", "on_the_cpu", "poison"]  # fixtures

pytestmark = quietly
each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)

WEIGHT = [0.3, 1.0, 2.0, 0.0, 5.0]
POSITIONS = {"C": (), "N": (7,), "N-d1-d2": (2, 3, 2)}


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits and class indices for positions of this shape, some of class 1."""
    generator = torch.Generator().manual_seed(0)
    full = (*shape[:1], C, *shape[1:])
    logits = 2 * torch.randn(full, generator=generator)
    index = torch.randint(0, C, shape, generator=generator)
    if shape:
        index.view(-1)[:2] = 1
    return logits.to(DEVICE, dtype), index.to(DEVICE)


def value_and_gradient(loss: sy.SoftmaxLoss, logits: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, *args)
    gradient = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=DEVICE)
    (by_logits,) = torch.autograd.grad(value, leaf, gradient.view(value.shape))
    return value.detach(), by_logits


@each_row
@pytest.mark.parametrize("positions", POSITIONS)
def test_every_loss_is_the_references(row: Row, positions: str) -> None:
    logits, index = make(POSITIONS[positions])
    samples = torch.rand(index.shape, device=DEVICE)
    options: list[dict[str, Any]] = [
        {"reduction": "none"},
        {"weight": WEIGHT, "ignore_index": 1, "reduction": "none"},
        {"weight": WEIGHT, "ignore_index": 1},
        {"reduction": "sum", "ignore_index": 1},
    ]
    for given in options:
        for sample_weight in (None, samples):
            ours = value_and_gradient(
                row.build(engine="triton", **given), logits, index, sample_weight
            )
            truth = value_and_gradient(
                row.build(engine="reference", **given), logits.double(), index, sample_weight
            )
            for mine, true in zip(ours, truth, strict=True):
                torch.testing.assert_close(mine, true.float(), rtol=2e-5, atol=3e-6)


@each_row
def test_tails_with_a_kernel_go_by_it(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    if row.build().form.tail.kernel is None:
        return

    def fail(*_: Any) -> Any:
        raise AssertionError("plain torch was asked")

    monkeypatch.setenv(proof.SETTING, "0")
    monkeypatch.setattr(plain, "costs", fail)
    proof.forget()
    logits, index = make((7,))
    value_and_gradient(row.build(engine="triton", weight=WEIGHT), logits, index)
    proof.forget()


PARAMETERS: dict[str, list[Any]] = {
    "cross_entropy": [None],
    "focal": [0.0, 0.5, 2.0, torch.tensor(3.0), torch.tensor([0.0, 0.5, 1.0, 2.0, 5.0])],
    "poly": [0.0, 2.0],
    "generalized": [0.1, 1.0],
    "symmetric": [(0.0, 4.0), (0.5, 4.0)],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_tails_at_the_edges(name: str) -> None:
    """Of p next to 1 and next to 0; of 0 times an infinite loss; of a class that is not there."""
    log_p = torch.tensor([0.0, -1e-30, -1e-7, -1e-3, -0.7, -40.0, -59.9, -60.1, -1e4])
    log_p = torch.cat([log_p, log_p.new_tensor([-math.inf, -math.inf, math.nan, math.nan, 0.0])])
    target = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 4, 0, 4, -100])
    samples = torch.ones(14).index_fill_(0, torch.tensor([10, 12]), 0.0)
    samples[13] = math.nan
    on_device = [each.to(DEVICE).unsqueeze(1) for each in (log_p, target, samples)]
    for parameter in PARAMETERS[name]:
        problem = SoftmaxProblem(
            target=on_device[1],
            sample_weight=on_device[2],
            weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], device=DEVICE),
            tail=getattr(tails, name),
            parameter=parameter.to(DEVICE) if isinstance(parameter, Tensor) else parameter,
        )
        loss, by_log_p, share = costs.costs(on_device[0], problem, 5)
        right = plain.costs(on_device[0].double(), problem)
        assert (loss[13], by_log_p[13]) == (0, 0)
        for found, true in ((loss, right[0]), (share, right[2])):
            assert found is not None
            torch.testing.assert_close(found, true.float(), rtol=2e-5, atol=1e-37, equal_nan=True)
        # Where log p is no number the gradient is none, whatever the slope is.
        number = ~on_device[0].isnan()
        torch.testing.assert_close(
            by_log_p[number], right[1].float()[number], rtol=2e-5, atol=1e-18
        )


@each_row
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_loss_in_half_precision(row: Row, dtype: torch.dtype) -> None:
    logits, index = make((50,), dtype)
    value, by_logits = value_and_gradient(row.build(engine="triton", weight=WEIGHT), logits, index)
    true, by_true = value_and_gradient(
        row.build(engine="reference", weight=WEIGHT), logits.double(), index
    )
    assert value.dtype == torch.float32
    assert by_logits.dtype == dtype
    torch.testing.assert_close(value, true.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(by_logits.double(), by_true, rtol=1.1 * ROUNDING[dtype], atol=1e-6)


@each_row
def test_every_loss_differentiates_twice(row: Row) -> None:
    logits, index = make((7,))
    seconds = []
    for engine_, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        leaf = logits.to(dtype).requires_grad_()
        (first,) = torch.autograd.grad(
            row.build(engine=engine_)(leaf, index), leaf, create_graph=True
        )
        seconds.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    torch.testing.assert_close(seconds[0], seconds[1].float(), rtol=1e-4, atol=1e-5)


@each_row
@pytest.mark.usefixtures("clean")
def test_every_loss_compiles_whole(row: Row) -> None:
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        graphs.append(graph.code)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    torch._dynamo.reset()
    loss = row.build(weight=WEIGHT, ignore_index=1, engine="triton")
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for dtype in (torch.float32, torch.float16):
        logits, index = make((4, 6), dtype)
        for ours, eager in zip(
            value_and_gradient(compiled, logits, index),
            value_and_gradient(loss, logits, index),
            strict=True,
        ):
            torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-6)
    assert all("steelyard.row_logprob" in graph for graph in graphs), graphs


def test_autocast_casts_nothing() -> None:
    logits, index = make((16, 3))
    loss = sy.FocalLoss(weight=WEIGHT, engine="triton")
    expected = value_and_gradient(loss, logits, index)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        within = value_and_gradient(loss, logits, index)
    for one, other in zip(within, expected, strict=True):
        assert torch.equal(one, other)


def test_channels_last_keeps_its_memory_format() -> None:
    logits, index = make((2, 3, 2))
    loss = sy.FocalLoss(engine="triton")
    _, expected = value_and_gradient(loss, logits, index)
    _, ours = value_and_gradient(loss, logits.to(memory_format=torch.channels_last), index)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, expected)


@on_gpu
def test_auto_takes_it() -> None:
    logits, index = make((7,))
    assert sy.explain_engine(logits, index).engine == "triton"
    assert sy.explain_engine(logits.double(), index).engine == "reference"  # few


# By kernels, and by parts.
KINDS = {"kernels": {}, "parts": {"label_smoothing": 0.1, "engine": "blocked"}}
each_kind = pytest.mark.parametrize("kind", KINDS)


@on_gpu
@each_kind
def test_waits_for_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 100)
    logits, index = make((64, 5))
    weight = torch.tensor(WEIGHT, device=DEVICE)
    loss = sy.FocalLoss(weight=weight, ignore_index=1, **KINDS[kind]).to(DEVICE)
    value_and_gradient(loss, logits, index)  # the kernels are compiled by now
    torch.cuda.set_sync_debug_mode("error")
    try:
        value_and_gradient(loss, logits, index)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
@each_kind
@pytest.mark.parametrize("tried", [True, False])
def test_in_a_cuda_graph(kind: str, tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 100)
    logits, index = make((64, 5))
    loss = sy.FocalLoss(weight=torch.tensor(WEIGHT), ignore_index=1, **KINDS[kind]).to(DEVICE)
    leaf = logits.clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(loss(leaf, index), leaf)
    torch.cuda.current_stream().wait_stream(side)
    if not tried:
        proof.forget()  # then the twin of the kernels is captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(leaf, index)
        (by_logits,) = torch.autograd.grad(value, leaf)
    fresh = torch.randn_like(logits)
    with torch.no_grad():
        leaf.copy_(fresh)
    graph.replay()
    expected = value_and_gradient(loss, fresh, index)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(by_logits, expected[1])


@on_gpu
@each_kind
def test_deterministic(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 100)
    logits, index = make((64, 5))
    loss = sy.FocalLoss(weight=WEIGHT, ignore_index=1, **KINDS[kind]).to(DEVICE)
    torch.use_deterministic_algorithms(True)
    try:
        first, again = (value_and_gradient(loss, logits, index) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


@on_gpu
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_under_inductor(mode: str) -> None:
    logits, index = make((64, 5))
    loss = sy.FocalLoss(weight=WEIGHT, ignore_index=1).to(DEVICE)
    compiled = torch.compile(loss, fullgraph=True, mode=mode)
    for _ in range(3):
        ours = value_and_gradient(compiled, logits, index)
        for mine, eager in zip(ours, value_and_gradient(loss, logits, index), strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-5, atol=1e-6)


@on_gpu
def test_nothing_of_the_logits_size_is_kept() -> None:
    logits = torch.randn(4096, 4096, device=DEVICE, requires_grad=True)
    index = torch.randint(0, 4096, (4096,), device=DEVICE)
    size = logits.numel() * logits.element_size()
    loss = sy.FocalLoss()
    torch.autograd.grad(loss(logits, index), logits)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value = loss(logits, index)
    assert torch.cuda.max_memory_allocated() - before <= 0.05 * size
    gradient = torch.autograd.grad(value, logits)
    assert torch.cuda.max_memory_allocated() - before <= 1.15 * size
    del gradient
