"""The contract, for every loss of the table and on every engine that runs here."""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from region_table import REGIONS
from table import COUNTS, TABLE, C
from torch import Tensor

from steelyard import losses
from steelyard.losses.module import Loss
from steelyard.losses.options import CallOptions, LossOptions
from steelyard.losses.positions import KEYWORDS
from steelyard.ops import ENGINES

# "triton" wants a GPU or its interpreter: it has tests of its own. "auto" takes so few logits as
# these by another way than any named engine.
HERE = [engine for engine in ENGINES if engine != "triton"]
SHAPES = {"C": (), "N": (7,), "N-d": (3, 4), "N-d1-d2": (2, 3, 2)}
WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.0, 5.0], dtype=torch.float64)

ROWS: list[Any] = [*TABLE, *REGIONS]

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def each_row_and_engine(function: Any, rows: list[Any] = ROWS) -> Any:
    """Every row on every engine that it has and that runs here."""
    cases = [(row, engine) for row in rows for engine in HERE if engine in row.engines]
    ids = [f"{row.id}-{engine}" for row, engine in cases]
    return pytest.mark.parametrize(("row", "engine"), cases, ids=ids)(function)


def each_row_with_a_limit(function: Any) -> Any:
    return each_row_and_engine(function, [row for row in ROWS if row.limit is not None])


def each_row_that_adds_up(function: Any) -> Any:
    return each_row_and_engine(function, [row for row in ROWS if row.adds_up])


def make(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """Logits, class indices (some of them 1) and probabilities for positions of this shape."""
    generator = torch.Generator().manual_seed(seed)
    full = (*shape[:1], C, *shape[1:])
    logits = 2 * torch.randn(full, generator=generator, dtype=torch.float64)
    index = torch.randint(0, C, shape, generator=generator)
    if shape:
        index.view(-1)[:2] = 1  # something to ignore
    share = torch.rand(full, generator=generator, dtype=torch.float64)
    share = share / share.sum(min(1, share.ndim - 1), keepdim=True)
    return logits.to(dtype), index, share


def grad_of(loss: Tensor, logits: Tensor) -> Tensor:
    """The gradient; several values are told apart by different upstream gradients."""
    upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return torch.autograd.grad(loss, logits, upstream)[0]


def option_grid(soft: bool) -> Iterator[dict[str, Any]]:
    for weight, ignore, smoothing, reduction, mean_over in itertools.product(
        (None, WEIGHT), (-100, 1), (0.0, 0.2), ("mean", "sum", "none"), (None, "weight", "count")
    ):
        if (soft and ignore >= 0) or (reduction != "mean" and mean_over):
            continue
        yield {
            "weight": weight,
            "ignore_index": ignore,
            "label_smoothing": smoothing,
            "reduction": reduction,
            "mean_over": mean_over,
        }


@each_row_and_engine
@pytest.mark.parametrize("form", ["index", "probabilities"])
@pytest.mark.parametrize("dims", SHAPES)
def test_equals_its_formula(row: Any, engine: str, form: str, dims: str) -> None:
    if dims == "C" and not row.takes_one_position:
        dims = "N"
    shape = SHAPES[dims]
    logits, index, share = make(shape)
    target = index if form == "index" else share
    generator = torch.Generator().manual_seed(1)
    samples = torch.rand(shape, generator=generator, dtype=torch.float64)
    for options in option_grid(soft=form != "index"):
        for sample_weight in (None, samples):
            ours = logits.clone().requires_grad_()
            theirs = logits.clone().requires_grad_()
            loss = row.build(**options, engine=engine)(ours, target, sample_weight=sample_weight)
            naive = row.naive(theirs, target, sample_weight=sample_weight, **options)
            case = f"{options} sample_weight={sample_weight is not None}"
            assert loss.shape == naive.shape, case
            torch.testing.assert_close(
                loss, naive, rtol=1e-10, atol=1e-12, msg=lambda m, case=case: f"{case}\n{m}"
            )
            torch.testing.assert_close(
                grad_of(loss, ours),
                grad_of(naive, theirs),
                rtol=1e-9,
                atol=1e-12,
                msg=lambda m, case=case: f"gradient of {case}\n{m}",
            )


@each_row_with_a_limit
@pytest.mark.parametrize("form", ["index", "probabilities"])
@pytest.mark.parametrize("dims", SHAPES)
def test_limit_is_pytorchs_cross_entropy(row: Any, engine: str, form: str, dims: str) -> None:
    logits, index, share = make(SHAPES[dims])
    target = index if form == "index" else share
    for options in option_grid(soft=form != "index"):
        if options["mean_over"] or (options["ignore_index"] == 1 and dims == "C" and index == 1):
            continue
        ours = logits.clone().requires_grad_()
        theirs = logits.clone().requires_grad_()
        loss = row.module(**row.limit, **options, engine=engine)(ours, target)
        options = {k: v for k, v in options.items() if k != "mean_over"}
        torch_loss = F.cross_entropy(theirs, target, **options)
        torch.testing.assert_close(loss, torch_loss, rtol=1e-12, atol=1e-12, equal_nan=False)
        torch.testing.assert_close(
            grad_of(loss, ours), grad_of(torch_loss, theirs), rtol=1e-12, atol=1e-12
        )


@each_row_and_engine
def test_gradcheck(row: Any, engine: str) -> None:
    logits, index, share = make((3, 2))
    logits.requires_grad_()
    for options in ({}, {"weight": WEIGHT, "ignore_index": 1}, {"label_smoothing": 0.1}):
        loss = row.build(**options, engine=engine)
        assert torch.autograd.gradcheck(lambda z, f=loss: f(z, index), logits)
    loss = row.build(engine=engine)
    assert torch.autograd.gradcheck(lambda z: loss(z, share), logits)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, index), logits)


@each_row
def test_gradient_of_probabilities_and_sample_weight(row: Any) -> None:
    logits, _, share = make((3,))
    samples = torch.rand(3, dtype=torch.float64, requires_grad=True)
    share.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t, s: row.build()(logits, t, sample_weight=s), (share, samples)
    )


@each_row_and_engine
def test_ignored_is_dropped(row: Any, engine: str) -> None:
    logits, index, _ = make((9,))
    keep = index != 1
    for options in ({}, {"weight": WEIGHT}, {"label_smoothing": 0.1, "weight": WEIGHT}):
        ours = logits.clone().requires_grad_()
        theirs = logits.clone()[keep].requires_grad_()
        loss = row.build(ignore_index=1, engine=engine, **options)(ours, index)
        dropped = row.build(engine=engine, **options)(theirs, index[keep])
        torch.testing.assert_close(loss, dropped, rtol=1e-14, atol=1e-14)
        grad = grad_of(loss, ours)
        torch.testing.assert_close(grad[keep], grad_of(dropped, theirs))
        assert (grad[~keep] == 0).all()


@each_row_and_engine
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_ignored_logits_cannot_poison(
    row: Any, engine: str, poison: float, smoothing: float, dtype: torch.dtype
) -> None:
    logits, index, _ = make((6, 2), dtype=dtype)
    ignored = (index == 1).unsqueeze(1).expand_as(logits)
    loss = row.build(ignore_index=1, engine=engine, label_smoothing=smoothing, weight=WEIGHT)
    clean = loss(logits.clone().requires_grad_(), index)
    sick = logits.masked_fill(ignored, poison).requires_grad_()
    value = loss(sick, index)
    assert torch.equal(value, clean)
    grad = grad_of(value, sick)
    assert grad.isfinite().all()
    assert (grad[ignored] == 0).all()


@each_row_and_engine
def test_weight_of_ones_is_no_weight(row: Any, engine: str) -> None:
    logits, index, share = make((8,))
    for target in (index, share):
        one = row.build(weight=torch.ones(C), engine=engine)(logits, target)
        torch.testing.assert_close(one, row.build(engine=engine)(logits, target))


@each_row_and_engine
def test_one_hot_is_the_index(row: Any, engine: str) -> None:
    logits, index, _ = make((8, 2))
    one_hot = F.one_hot(index, C).movedim(-1, 1).double()
    for options in ({"mean_over": "weight"}, {"reduction": "sum"}, {"reduction": "none"}):
        for smoothing in (0.0, 0.1):
            loss = row.build(weight=WEIGHT, label_smoothing=smoothing, engine=engine, **options)
            torch.testing.assert_close(loss(logits, one_hot), loss(logits, index))


@each_row_and_engine
def test_permuting_classes_permutes_gradients(row: Any, engine: str) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])  # the new class i is the old class order[i]
    logits, index, _ = make((8,))
    logits.requires_grad_()
    arguments = dict(row.arguments)
    if "class_counts" in arguments:
        arguments["class_counts"] = [COUNTS[i] for i in order]
    if isinstance(arguments.get("gamma"), list):
        arguments["gamma"] = [arguments["gamma"][i] for i in order]
    loss = row.build(weight=WEIGHT, engine=engine)(logits, index)
    permuted = logits.detach()[:, order].requires_grad_()
    moved = row.module(**arguments, weight=WEIGHT[order], engine=engine)
    other = moved(permuted, order.argsort()[index])
    torch.testing.assert_close(other, loss)
    torch.testing.assert_close(grad_of(other, permuted), grad_of(loss, logits)[:, order])


@each_row
def test_function_is_module(row: Any) -> None:
    logits, index, share = make((6, 3))
    samples = torch.rand(6, 3)
    options: dict[str, Any] = {"weight": WEIGHT, "label_smoothing": 0.1, "mean_over": "weight"}
    for target in (index, share):
        for call in ({}, {"sample_weight": samples}, {"denominator": 3.5}):
            by_function = row.function(logits, target, **row.arguments, **options, **call)
            assert torch.equal(by_function, row.build(**options)(logits, target, **call))


@each_row_and_engine
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e4), (torch.float16, 6e4), (torch.bfloat16, 1e4)]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_saturated_is_finite(
    row: Any, engine: str, dtype: torch.dtype, size: float, smoothing: float
) -> None:
    extreme = torch.tensor([size, -size, 0.0, 50.0, -50.0])
    logits = torch.stack([extreme.roll(i) for i in range(C)] + [torch.zeros(C)])
    logits = logits.to(dtype).repeat_interleave(C, 0)
    index = torch.arange(C).repeat(C + 1)
    takes_gamma = "gamma" in inspect.signature(row.module).parameters
    for gamma in row.gammas if takes_gamma else (None,):
        arguments = row.arguments if gamma is None else row.arguments | {"gamma": gamma}
        for target in (index, F.one_hot(index, C).float()):
            z = logits.clone().requires_grad_()
            loss = row.module(**arguments, engine=engine, label_smoothing=smoothing)(z, target)
            loss.backward()
            assert loss.isfinite(), (gamma, loss)
            assert loss.dtype == torch.float32
            assert z.grad is not None
            assert z.grad.isfinite().all(), gamma
            assert z.grad.dtype == dtype


@each_row_and_engine
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_float32(row: Any, engine: str, dtype: torch.dtype) -> None:
    """The error against float64 is no larger than that of float32 on the same rounded logits."""
    positions = 1_000_000 if row.id in ("cross-entropy", "focal") else 100_000
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(positions, C, generator=generator)).to(dtype)
    index = torch.randint(0, C, (positions,), generator=generator)
    loss = row.build(weight=WEIGHT, engine=engine)
    half = logits.clone().requires_grad_()
    value = loss(half, index)
    value.backward()
    exact = logits.double().requires_grad_()
    truth = row.build(weight=WEIGHT, engine="reference")(exact, index)
    truth.backward()
    single = logits.float().requires_grad_()
    naive = row.build(weight=WEIGHT, engine="reference")(single, index)
    naive.backward()
    assert value.dtype == torch.float32
    assert abs(value - truth) <= abs(naive - truth) + 2e-6 * abs(truth)
    assert half.grad is not None
    assert exact.grad is not None
    assert single.grad is not None
    # Rounding to the gradient's dtype: half a unit in the last place, or a subnormal of float16.
    rounding = torch.finfo(dtype).eps / 2 * exact.grad.abs() + torch.finfo(dtype).smallest_normal
    # Where p is 1 to sixteen digits the gradient in float64 is 0, and the truth is not.
    rounding += torch.finfo(torch.float64).eps * exact.grad.abs().max()
    error = (half.grad.double() - exact.grad).abs()
    # And a unit of float32 of the largest gradient: what is nothing beside it may underflow.
    unit = torch.finfo(torch.float32).eps * exact.grad.abs().max()
    assert (error <= (single.grad - exact.grad).abs() + 1.01 * rounding + unit).all()


@each_row_and_engine
def test_masked_out_classes_are_harmless(row: Any, engine: str) -> None:
    logits, index, share = make((6,))
    index = index.clamp(max=C - 2)
    logits[:, C - 1] = -float("inf")
    share[:, C - 1] = 0
    for target in (index, share):
        z = logits.clone().requires_grad_()
        value = row.build(engine=engine)(z, target)
        grad = grad_of(value, z)
        assert value.isfinite()
        assert grad.isfinite().all()
        assert (grad[:, C - 1] == 0).all()
    weight = WEIGHT.clone()
    weight[C - 1] = 0
    smoothed = row.build(engine=engine, weight=weight, label_smoothing=0.1)(logits, index)
    assert smoothed.isfinite()


@each_row_and_engine
def test_inputs_stay_as_they_are_and_layouts_do_not_matter(row: Any, engine: str) -> None:
    logits, index, _ = make((4, 3, 2))
    loss = row.build(weight=WEIGHT, engine=engine)
    expected_leaf = logits.clone().requires_grad_()
    expected = loss(expected_leaf, index)
    expected.backward()
    layouts = {
        "channels_last": logits.to(memory_format=torch.channels_last),
        "transposed": logits.transpose(0, 3).contiguous().transpose(0, 3),
        "sliced": torch.cat([logits, logits], 3)[..., : logits.shape[3]],
    }
    for name, layout in layouts.items():
        z = layout.detach().requires_grad_()
        before, index_before = z.detach().clone(), index.clone()
        value = loss(z, index)
        grad = torch.autograd.grad(value, z)[0]
        torch.testing.assert_close(value, expected, msg=name)
        torch.testing.assert_close(grad, expected_leaf.grad, msg=name)
        assert torch.equal(z, before)
        assert torch.equal(index, index_before)
        if name == "channels_last":
            assert grad.is_contiguous(memory_format=torch.channels_last)
    one = torch.randn(1, C, dtype=torch.float64, requires_grad=True)
    value = loss(one.expand(6, C), torch.arange(6) % C)
    copied = one.detach().repeat(6, 1).requires_grad_()
    loss(copied, torch.arange(6) % C).backward()
    assert copied.grad is not None
    torch.testing.assert_close(torch.autograd.grad(value, one)[0], copied.grad.sum(0, keepdim=True))


@each_row_and_engine
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_is_zero_and_attached(row: Any, engine: str, smoothing: float) -> None:
    logits, index, _ = make((4,))
    cases = [
        (logits[:0], index[:0], {}),
        (logits, torch.full_like(index, 2), {"ignore_index": 2}),
        (logits, torch.full_like(index, 3), {"weight": WEIGHT}),
    ]
    for z, target, options in cases:
        z = z.clone().requires_grad_()
        value = row.build(engine=engine, label_smoothing=smoothing, **options)(z, target)
        assert value == 0
        assert (torch.autograd.grad(value, z)[0] == 0).all()
        options["empty"] = "nan"
        smoothed = row.build(engine=engine, label_smoothing=smoothing, **options)(z, target)
        assert not smoothed.isfinite()


@each_row_that_adds_up
@pytest.mark.parametrize("mean_over", [None, "weight", "count"])
def test_denominators_add_up(row: Any, engine: str, mean_over: Any) -> None:
    logits, index, share = make((9,))
    samples = torch.rand(9, dtype=torch.float64)
    for target, options in ((index, {"ignore_index": 1}), (share, {})):
        loss = row.build(weight=WEIGHT, mean_over=mean_over, engine=engine, **options)
        whole = loss(logits, target, sample_weight=samples)
        parts = [slice(0, 2), slice(2, 7), slice(7, 9)]
        total = sum(loss.denominator(target[p], samples[p]) for p in parts)
        assert isinstance(total, Tensor)
        assert total.dtype == torch.float64
        torch.testing.assert_close(total, loss.denominator(target, samples))
        micro = [
            loss(logits[p], target[p], sample_weight=samples[p], denominator=total) for p in parts
        ]
        torch.testing.assert_close(torch.stack(micro).sum(), whole, rtol=1e-14, atol=1e-14)


@each_row
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("form", ["index", "probabilities"])
def test_transforms(row: Any, smoothing: float, form: str) -> None:
    logits, index, share = make((4, 6))
    target = index if form == "index" else share
    ignore = {"ignore_index": 1} if form == "index" else {}
    loss = row.build(weight=WEIGHT, label_smoothing=smoothing, **ignore)
    single = logits[:, :, 0]
    aims = target[..., 0]
    each = torch.stack([loss(z[None], t[None]) for z, t in zip(single, aims, strict=True)])
    alone = loss if row.takes_one_position else lambda z, t: loss(z[None], t[None])
    torch.testing.assert_close(torch.vmap(alone)(single, aims), each)
    grad = torch.func.grad(lambda z: loss(z, target))(logits)
    leaf = logits.clone().requires_grad_()
    loss(leaf, target).backward()
    torch.testing.assert_close(grad, leaf.grad)
    per_sample = torch.vmap(torch.func.grad(lambda z, t: loss(z[None], t[None])))(logits, target)
    assert per_sample.shape == logits.shape
    hessian = torch.func.jacrev(torch.func.grad(lambda z: loss(z, aims[:1])))(single[:1])
    assert hessian.isfinite().all()


@each_row
def test_compiles_whole_and_exports(row: Any) -> None:
    logits, index, share = make((4, 6))
    loss = row.build(weight=WEIGHT, ignore_index=-1)
    for target in (index, share):
        torch._dynamo.reset()
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
        value, eager = compiled(ours, target), loss(theirs, target)
        torch.testing.assert_close(value, eager)
        torch.testing.assert_close(grad_of(value, ours), grad_of(eager, theirs))
        exported = torch.export.export(loss, (logits, target)).module()
        torch.testing.assert_close(exported(logits, target), eager)
    if "class_counts" not in row.arguments:  # whose values cannot be read while tracing
        torch._dynamo.reset()
        function = torch.compile(row.function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            function(logits, index, **row.arguments, weight=WEIGHT),
            row.build(weight=WEIGHT)(logits, index),
        )


@each_row_and_engine
def test_autocast_and_deterministic_mode(row: Any, engine: str) -> None:
    logits, index, _ = make((16, 3), dtype=torch.float32)
    loss = row.build(weight=WEIGHT, engine=engine)
    expected = loss(logits, index)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits, index), expected)
        half = loss(logits.bfloat16(), index)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(logits.bfloat16().float(), index))
    torch.use_deterministic_algorithms(True)
    try:
        z = logits.clone().requires_grad_()
        loss(z, index).backward()
    finally:
        torch.use_deterministic_algorithms(False)


@each_row
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]
)
def test_any_integer_dtype(row: Any, dtype: torch.dtype) -> None:
    logits, index, _ = make((4, 3, 2))
    loss = row.build()
    assert torch.equal(loss(logits, index.to(dtype)), loss(logits, index))


@each_row_and_engine
def test_out_of_range_target_is_named(row: Any, engine: str) -> None:
    logits, index, _ = make((4, 3))
    for wrong in (C, -1, 10**6):
        index[2, 1] = wrong
        for smoothing in (0.0, 0.1):
            loss = row.build(engine=engine, label_smoothing=smoothing)
            with pytest.raises(
                IndexError, match=rf"target\[2, 1\] is {wrong}, .*C = 5 .*ignore_index=-100"
            ):
                loss(logits, index)


def test_every_public_loss_has_a_row() -> None:
    modules = {
        value
        for value in map(vars(losses).get, losses.__all__)
        if isinstance(value, type) and Loss not in value.__bases__
    }
    functions = {vars(losses)[name] for name in losses.__all__ if name.endswith("_loss")}
    assert {row.module for row in ROWS} == modules
    assert {row.function for row in ROWS} == functions


def test_options_are_declared_alike() -> None:
    assert set(LossOptions.__annotations__) == set(KEYWORDS.defaults)
    assert set(CallOptions.__annotations__) == {*KEYWORDS.defaults, "sample_weight", "denominator"}
