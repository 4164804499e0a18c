"""What every engine does alike at the edges: extreme logits, changed inputs, watching modes."""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import aot_module, make_boxed_func
from table import TABLE, Row
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import steelyard as sy

# Of torch itself, when Inductor is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENGINES = ["auto", "reference", "blocked"]
EXTREME_GAMMAS = [0.0, 0.01, 0.05, 0.13, 0.5, 1.0, 2.0, 5.0]

each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
each_engine = pytest.mark.parametrize("engine", ENGINES)


def in_a_graph(loss: nn.Module) -> Callable[..., Tensor]:
    """The loss as a user's torch.compile traces it."""
    torch._dynamo.reset()
    return torch.compile(loss, fullgraph=True, backend="aot_eager")


def value_and_gradient(loss: Callable[..., Tensor], logits: Tensor, *args: Any) -> tuple[Any, Any]:
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, *args)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("engine", [*ENGINES, "graph"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_focal_is_finite_however_right_and_however_small_gamma(
    engine: str, smoothing: float, dtype: torch.dtype
) -> None:
    gaps = torch.tensor([0.0, 20, 60, 86, 87, 88, 90, 95, 100, 103, 104, 105, 740, 745, 746, 1e4])
    logits = torch.stack([torch.zeros_like(gaps), -gaps], 1).to(dtype)
    gaps = -logits[:, 1].double()  # as bfloat16 has rounded them
    target = torch.zeros(len(gaps), dtype=torch.long)
    for gamma in [*EXTREME_GAMMAS, torch.tensor(0.05), [0.05, 0.0]]:
        loss: Any = sy.FocalLoss(
            gamma=gamma,
            label_smoothing=smoothing,
            engine="auto" if engine == "graph" else engine,
            reduction="none",
        )
        value, gradient = value_and_gradient(
            in_a_graph(loss) if engine == "graph" else loss, logits, target
        )
        assert value.isfinite().all(), (gamma, value)
        assert gradient.isfinite().all(), (gamma, gradient)
        if smoothing or isinstance(gamma, list):
            continue
        miss = 1 / (1 + gaps.exp())  # no digit lost, down to 1e−308
        true = -(miss ** float(gamma)) * torch.log1p(-miss)
        atol = 1e-37 if engine in ("blocked", "graph") else 1e-7  # the others' log p is PyTorch's
        torch.testing.assert_close(value.double(), true, rtol=2e-5, atol=atol)


@each_engine
def test_focal_has_a_second_derivative_however_right(engine: str) -> None:
    logits = torch.tensor([[0.0, -40.0], [0.0, -90.0], [0.0, -1e4]], requires_grad=True)
    for gamma in EXTREME_GAMMAS:
        value = sy.FocalLoss(gamma=gamma, engine=engine)(logits, torch.zeros(3, dtype=torch.long))
        (first,) = torch.autograd.grad(value, logits, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 1].sum(), logits)
        assert second.isfinite().all(), (gamma, second)


@each_row
@pytest.mark.parametrize("engine", [*ENGINES, "graph"])
@pytest.mark.parametrize("at", ["target", "other"])
@pytest.mark.parametrize("size", [4, 20000])
def test_an_infinite_logit_is_not_hidden(row: Row, engine: str, at: str, size: int) -> None:
    logits = torch.zeros(size, 5)
    target = torch.zeros(size, dtype=torch.long)
    logits[1, 0 if at == "target" else 1] = math.inf
    loss: Any = row.build(engine="auto" if engine == "graph" else engine)
    if engine == "graph":
        loss = in_a_graph(loss)
    assert F.cross_entropy(logits, target).isnan()
    assert loss(logits, target).isnan()
    # But a finite one beyond what exp can carry is no trouble.
    logits[1] = torch.tensor([200.0, 0, 0, 0, 0]) if at == "target" else torch.zeros(5)
    assert loss(logits, target).isfinite()


def made_of(row: Row, vector: str) -> tuple[Callable[..., Tensor], Tensor]:
    """A functional loss, and the class vector that it takes from outside."""
    given = torch.tensor([0.5, 1.0, 2.0, 1.5, 3.0])
    return lambda z, y, **k: row.function(z, y, **row.arguments | {vector: given}, **k), given


@pytest.mark.parametrize("engine", ["auto", "blocked"])
@pytest.mark.parametrize("vector", ["weight", "gamma", "sample_weight", "target", "denominator"])
@pytest.mark.parametrize("size", [6, 20000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_changed_before_backward_is_told(
    engine: str, vector: str, size: int, smoothing: float, dtype: torch.dtype
) -> None:
    logits = torch.randn(size, 5, dtype=dtype, requires_grad=True)
    target = torch.arange(size) % 5
    given: dict[str, Any] = {"gamma": torch.full((5,), 2.0), "sample_weight": torch.ones(size)}
    given |= {"weight": torch.ones(5), "denominator": torch.tensor(3.0)}
    for again in (False, True):
        value = sy.focal_loss(logits, target, label_smoothing=smoothing, engine=engine, **given)
        if again:
            value.backward(retain_graph=True)
        (given | {"target": target})[vector].mul_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


@pytest.mark.parametrize("wrong", [9, -1, 5, 2**32 + 1, -(2**40)])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"label_smoothing": 1.0}])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_graph_refuses_a_class_that_there_is_not(
    wrong: int, options: dict[str, Any], backend: str
) -> None:
    logits, target = torch.randn(8, 5), torch.arange(8) % 5
    for loss in (sy.CrossEntropyLoss(**options), sy.FocalLoss(weight=[1, 2, 3, 4, 5], **options)):
        torch._dynamo.reset()
        compiled = torch.compile(loss, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(logits, target), loss(logits, target))
        bad = target.clone()
        bad[3] = wrong
        with pytest.raises((RuntimeError, IndexError)):
            compiled(logits, bad)


@each_engine
@pytest.mark.parametrize("size", [6, 20000])
def test_a_gamma_that_is_learnt(engine: str, size: int) -> None:
    logits, target = torch.randn(size, 5, dtype=torch.float64), torch.arange(size) % 5
    for gamma in (torch.tensor(1.5), torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])):
        learnt = gamma.double().requires_grad_()
        if engine == "blocked":
            with pytest.raises(RuntimeError, match="another argument requires a gradient"):
                sy.focal_loss(logits, target, gamma=learnt, engine=engine)
            continue
        for smoothing in (0.0, 0.1):
            value = sy.focal_loss(
                logits, target, gamma=learnt, engine=engine, label_smoothing=smoothing
            )
            (found,) = torch.autograd.grad(value, learnt)
            exact = gamma.double().requires_grad_()
            log_p = logits.log_softmax(1)
            each = -((1 - log_p.exp()) ** exact) * log_p
            true = (1 - smoothing) * each.gather(1, target[:, None]).mean()
            true = true + smoothing * each.mean(1).mean()
            torch.testing.assert_close(found, torch.autograd.grad(true, exact)[0])
    weight = torch.rand(5, dtype=torch.float64).requires_grad_()
    if engine != "blocked":
        value = sy.cross_entropy_loss(logits, target, weight=weight, engine=engine)
        each = F.cross_entropy(logits, target, reduction="none") * weight[target]
        true = each.sum() / weight[target].sum()
        torch.testing.assert_close(
            torch.autograd.grad(value, weight), torch.autograd.grad(true, weight)
        )


def test_a_module_keeps_the_parameter_that_it_is_given() -> None:
    for gamma in (nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.ones(5))):
        loss = sy.FocalLoss(gamma=gamma)
        assert list(loss.named_parameters()) == [("gamma", gamma)]
        assert list(loss.state_dict()) == ["gamma"]
        value = loss(torch.randn(6, 5), torch.arange(6) % 5)
        value.backward()
        assert gamma.grad is not None
        assert gamma.grad.abs().sum() > 0
        before = gamma.detach().clone()
        torch.optim.SGD(loss.parameters(), lr=1.0).step()
        assert not torch.equal(gamma, before)
        assert "gamma=" in repr(loss)
        other = sy.FocalLoss(gamma=nn.Parameter(torch.zeros_like(gamma)))
        other.load_state_dict(loss.state_dict())
        with torch.no_grad():
            z, y = torch.randn(6, 5), torch.arange(6) % 5
            torch.testing.assert_close(other.double()(z, y), loss(z, y))
    with pytest.raises(ValueError, match=r"gamma requires a gradient.*nn\.Parameter"):
        sy.FocalLoss(gamma=torch.ones(5, requires_grad=True) * 2)


@pytest.mark.parametrize("engine", [*ENGINES, "graph"])
def test_pytorchs_rule_where_zero_meets_infinity(engine: str) -> None:
    logits = torch.tensor([[-math.inf, 0.0, 1.0], [0.0, 1.0, 2.0]])
    target = torch.tensor([0, 1])
    name = "auto" if engine == "graph" else engine
    for row, smoothing, repeat in itertools.product((0, 1), (0.5, 1.0), (1, 20000)):
        z = logits.roll(row, 0).repeat(repeat, 1)
        y = target.roll(row).repeat(repeat)
        loss: Any = sy.CrossEntropyLoss(label_smoothing=smoothing, engine=name)
        loss = in_a_graph(loss) if engine == "graph" else loss
        theirs = F.cross_entropy(z, y, label_smoothing=smoothing)
        torch.testing.assert_close(loss(z, y), theirs, equal_nan=True)
        moved = (y + 1) % 3  # the infinity is not the target's
        theirs = F.cross_entropy(z, moved, label_smoothing=smoothing)
        torch.testing.assert_close(loss(z, moved), theirs, equal_nan=True)


@pytest.mark.parametrize("engine", [*ENGINES, "graph"])
@pytest.mark.parametrize("size", [4, 20000])
def test_pytorchs_rule_for_a_sum_over_nothing(engine: str, size: int) -> None:
    logits = torch.randn(size, 3)
    target = torch.zeros(size, dtype=torch.long)
    name = "auto" if engine == "graph" else engine
    for weight, smoothing in (([0.0, 1.0, 1.0], 0.1), ([0.0, 1.0, 1.0], 0.0)):
        loss: Any = sy.CrossEntropyLoss(
            weight=weight, label_smoothing=smoothing, empty="nan", engine=name
        )
        loss = in_a_graph(loss) if engine == "graph" else loss
        theirs = F.cross_entropy(logits, target, torch.tensor(weight), label_smoothing=smoothing)
        torch.testing.assert_close(loss(logits, target), theirs, equal_nan=True)


@each_row
@each_engine
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [3, 9000])
def test_batched_gradients(row: Row, engine: str, dtype: torch.dtype, size: int) -> None:
    logits = torch.randn(size, 5, dtype=dtype, requires_grad=True)
    target = torch.arange(size) % 5
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "none"}):
        value = row.build(engine=engine, **options)(logits, target)
        upstream = torch.randn(4, *value.shape, dtype=value.dtype)
        one_by_one = [
            torch.autograd.grad(value, logits, each, retain_graph=True)[0] for each in upstream
        ]
        batched = torch.autograd.grad(value, logits, upstream, is_grads_batched=True)[0]
        grain = 1e-2 if dtype is torch.bfloat16 else 1e-9
        torch.testing.assert_close(batched, torch.stack(one_by_one), rtol=grain, atol=grain / 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, for what it has no batching rule
        few = torch.randn(3, 5, dtype=torch.float64)
        loss = row.build(engine=engine, reduction="none")
        rows = [
            torch.autograd.functional.jacobian(lambda z: loss(z, target[:3]), few, vectorize=v)
            for v in (False, True)
        ]
    torch.testing.assert_close(*rows)


TRACERS: dict[str, Callable[..., Any]] = {
    "real": lambda f: make_fx(f),
    "fake": lambda f: make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True),
    "symbolic": lambda f: make_fx(f, tracing_mode="symbolic", _allow_non_fake_inputs=True),
    "pre-dispatch": lambda f: make_fx(f, pre_dispatch=True),
}


@each_row
@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_make_fx(row: Row, tracer: str, smoothing: float) -> None:
    logits, target = torch.randn(6, 5), torch.arange(6) % 5
    loss = row.build(label_smoothing=smoothing)

    def step(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        value = loss(leaf, y)
        if tracer == "pre-dispatch":  # which does not see a backward
            return value, value
        return value, torch.autograd.grad(value, leaf)[0]

    traced = TRACERS[tracer](step)(logits, target)
    other, index = torch.randn(6, 5), target.flip(0)
    for found, true in zip(traced(other, index), step(other, index), strict=True):
        torch.testing.assert_close(found, true)


@each_row
def test_aot_module(row: Row) -> None:
    loss = row.build(reduction="sum")
    traced = aot_module(loss, lambda graph, _: make_boxed_func(graph.forward))
    target = torch.arange(6) % 5
    for _ in range(2):
        logits = torch.randn(6, 5, requires_grad=True)
        value = traced(logits, target)
        torch.testing.assert_close(value, loss(logits, target))
        torch.testing.assert_close(
            torch.autograd.grad(value, logits), torch.autograd.grad(loss(logits, target), logits)
        )


@each_row
@each_engine
def test_fake_and_meta_tensors(row: Row, engine: str) -> None:
    loss = row.build(engine="reference" if engine == "blocked" else engine)
    plain = row.build()
    for size in (6, 20000):
        z = torch.empty(size, 5, device="meta", requires_grad=True)
        value = loss.to("meta")(z, torch.empty(size, dtype=torch.long, device="meta"))
        assert value.shape == ()
        assert torch.autograd.grad(value, z)[0].shape == z.shape
    with FakeTensorMode(allow_non_fake_inputs=True):
        z = torch.empty(6, 5, requires_grad=True)
        value = plain(z, torch.zeros(6, dtype=torch.long))
        assert torch.autograd.grad(value, z)[0].shape == z.shape


def test_explain_engine_names_who_does_the_work() -> None:
    few, many = torch.randn(6, 5), torch.randn(10000, 5)
    index = torch.zeros(10000, dtype=torch.long)
    assert sy.explain_engine(few, index[:6]).engine == "pytorch"
    assert "few" in sy.explain_engine(few, index[:6]).reason
    assert sy.explain_engine(many, index).engine == "blocked"
    assert sy.explain_engine(few, index[:6], engine="blocked").engine == "blocked"


def test_explain_engine_looks_at_the_whole_loss() -> None:
    logits, index = torch.randn(6, 5), torch.zeros(6, dtype=torch.long)

    def choice(loss: Any) -> str:
        return sy.explain_engine(logits, index, loss=loss).engine

    smoothed = sy.CrossEntropyLoss(label_smoothing=0.1, weight=[1, 2, 3, 4, 5])
    assert choice(smoothed) == choice(sy.FocalLoss()) == "pytorch"
    assert sy.explain_engine(logits, index, label_smoothing=0.1).engine == "pytorch"
    assert choice(sy.FocalLoss(label_smoothing=0.1)) == "blocked"
    assert choice(sy.LDAMLoss(class_counts=[5, 4, 3, 2, 1])) == "blocked"
    assert choice(sy.FocalLoss(gamma=torch.nn.Parameter(torch.tensor(2.0)))) == "reference"
    assert choice(sy.DeferredReweighting(sy.FocalLoss(), [1, 2, 3, 4, 5], 2)) == "pytorch"
    assert choice(sy.DiceLoss()) == "blocked"
    assert choice(sy.LovaszLoss()) == "reference"
    with pytest.raises(TypeError, match="each part of a CompoundLoss has an engine of its own"):
        choice(sy.DiceCELoss())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.0, 4.0, 5.0]])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_few_logits_that_are_nan_or_infinite(
    smoothing: float, weight: list[float] | None, reduction: str
) -> None:
    """PyTorch makes NaN of what is ignored, or weighs nothing, and here it counts 0."""
    logits = torch.randn(4, 5)
    logits[0], logits[1:3, 2] = math.nan, -math.inf
    index = torch.tensor([-100, 3, 2, 0])
    options = {"label_smoothing": smoothing, "weight": weight, "reduction": reduction}
    results = []
    for engine in ("auto", "reference"):
        z = logits.clone().requires_grad_()
        value = sy.cross_entropy_loss(z, index, engine=engine, **options)
        results += [value, *torch.autograd.grad(value.sum(), z)]
    torch.testing.assert_close(results[:2], results[2:])
    assert results[1][0].eq(0).all()


@pytest.mark.parametrize("samples", [None, torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)])
def test_probabilities_of_0_have_a_derivative(samples: torch.Tensor | None) -> None:
    """ℓ is linear in the target: its derivative is the loss of each class, also of one without."""
    logits = torch.randn(3, 4, dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    target = torch.tensor([[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0.1, 0.2, 0.3, 0.4]]).double()
    p, factor = logits.softmax(1), 1.0 if samples is None else samples.unsqueeze(1)
    for loss, tail in (
        (sy.CrossEntropyLoss(weight=weight, reduction="sum"), -p.log()),
        (sy.FocalLoss(gamma=2.0, weight=weight, reduction="sum"), -((1 - p) ** 2) * p.log()),
    ):
        t = target.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(logits, t, samples), t)
        torch.testing.assert_close(found, factor * weight * tail)
    t = target.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits, t, reduction="sum"), t)
    t = target.clone().requires_grad_()
    (ours,) = torch.autograd.grad(sy.cross_entropy_loss(logits, t, reduction="sum"), t)
    torch.testing.assert_close(ours, theirs)
    # Of a class that is ruled out the loss is infinite, and has no derivative that is of use.
    ruled_out = logits.index_fill(1, torch.tensor([3]), -math.inf)
    t = target[:2].clone().requires_grad_()
    value = sy.cross_entropy_loss(ruled_out[:2], t)
    (found,) = torch.autograd.grad(value, t)
    assert value.isfinite()
    assert found.isfinite().all()


def test_a_sample_weight_of_0_has_a_derivative() -> None:
    logits, index = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    s = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    value = sy.focal_loss(logits, index, sample_weight=s, reduction="sum")
    (found,) = torch.autograd.grad(value, s)
    torch.testing.assert_close(found, sy.focal_loss(logits, index, reduction="none"))
    cells = torch.nn.functional.one_hot(index, 4).double()
    (found,) = torch.autograd.grad(
        sy.bce_with_logits_loss(logits, cells, sample_weight=s, reduction="sum"), s
    )
    wanted = F.binary_cross_entropy_with_logits(logits, cells, reduction="none").sum(1)
    torch.testing.assert_close(found, wanted)
