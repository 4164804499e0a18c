"""The contract, for every loss of the table and on every engine that runs here."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import WEIGHT, C
from region_table import COMPOUNDS, REGIONS
from table import COUNTS, TABLE
from table_sigmoid import SIGMOID_TABLE
from torch import Tensor

from steelyard import losses

ROWS = [*TABLE, *SIGMOID_TABLE, *REGIONS, *COMPOUNDS]

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
on_each_engine = [
    pytest.param(row, engine, id=f"{engine}-{row.id}")
    for row in ROWS
    for engine in row.family.engines
]
each_engine = pytest.mark.parametrize(("row", "engine"), on_each_engine)


def in_each(what: str, engines: bool = True) -> pytest.MarkDecorator:
    """Each loss, on each engine, for each form of target or each shape that its family has."""
    cases = [
        (row, engine, item)
        for row in ROWS
        for engine in (row.family.engines if engines else ["auto"])
        for item in getattr(row.family, f"{what}s")
    ]
    ids = [f"{item}-{engine}-{row.id}" for row, engine, item in cases]
    return pytest.mark.parametrize(("row", "engine", what), cases, ids=ids)


def grad_of(loss: Tensor, logits: Tensor) -> Tensor:
    """The gradient; several values are told apart by different upstream gradients."""
    upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return torch.autograd.grad(loss, logits, upstream)[0]


@in_each("form")
@pytest.mark.parametrize("dims", ["C", "N", "N-d", "N-d1-d2"])
def test_equals_its_formula(row: Any, engine: str, form: str, dims: str) -> None:
    if dims not in row.family.shapes:
        return
    logits, targets = row.family.make(row.family.shapes[dims])
    for options in row.family.options(form):
        for sample_weight in row.family.samples(row, logits):
            ours = logits.clone().requires_grad_()
            theirs = logits.clone().requires_grad_()
            call = {"sample_weight": sample_weight}
            loss = row.build(**options, engine=engine)(ours, targets[form], **call)
            naive = row.family.naive(row, theirs, targets[form], **call, **options)
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


@in_each("form")
@pytest.mark.parametrize("dims", ["C", "N", "N-d", "N-d1-d2"])
def test_limit_is_pytorchs_loss(row: Any, engine: str, form: str, dims: str) -> None:
    if dims not in row.family.shapes or row.limit is None:
        return
    logits, targets = row.family.make(row.family.shapes[dims])
    for options in row.family.options(form):
        theirs = logits.clone().requires_grad_()
        torchs = row.family.torchs(theirs, targets[form], **options)
        if torchs is None:
            continue
        ours = logits.clone().requires_grad_()
        loss = row.module(**row.limit, **options, engine=engine)(ours, targets[form])
        torch.testing.assert_close(loss, torchs, rtol=1e-12, atol=1e-12, equal_nan=False)
        torch.testing.assert_close(
            grad_of(loss, ours), grad_of(torchs, theirs), rtol=1e-12, atol=1e-12
        )


@each_engine
def test_gradcheck(row: Any, engine: str) -> None:
    logits, targets = row.family.make((3, 2))
    logits.requires_grad_()
    hard, soft = row.family.forms[0], row.family.forms[-1]
    ignoring = {"weight": WEIGHT, **row.family.ignoring(hard)}
    for options in ({}, ignoring, {"label_smoothing": 0.1}):
        loss = row.build(**options, engine=engine)
        assert torch.autograd.gradcheck(lambda z, f=loss: f(z, targets[hard]), logits)
    loss = row.build(engine=engine, **row.family.ignoring(soft))
    assert torch.autograd.gradcheck(lambda z: loss(z, targets[soft]), logits)
    loss = row.build(engine=engine)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, targets[hard]), logits)


@each_row
def test_gradient_of_soft_targets_and_sample_weight(row: Any) -> None:
    logits, targets = row.family.make((3,))
    soft = targets[row.family.forms[-1]].nan_to_num(0.3)
    samples = torch.rand(3, dtype=torch.float64, requires_grad=True)
    soft.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t, s: row.build()(logits, t, sample_weight=s), (soft, samples)
    )


@each_engine
def test_ignored_is_dropped(row: Any, engine: str) -> None:
    """Positions of which nothing counts; what is ignored within one, the formulas know."""
    logits, targets = row.family.make((9,))
    form = row.family.forms[0]
    ignored = row.family.ignored(targets[form], logits)
    keep = ~ignored.all(1)
    for options in ({}, {"weight": WEIGHT}, {"label_smoothing": 0.1, "weight": WEIGHT}):
        ours = logits.clone().requires_grad_()
        theirs = logits.clone()[keep].requires_grad_()
        options |= row.family.ignoring(form)
        loss = row.build(**options, engine=engine)(ours, targets[form])
        dropped = row.build(**options, engine=engine)(theirs, targets[form][keep])
        torch.testing.assert_close(loss, dropped, rtol=1e-14, atol=1e-14)
        grad = grad_of(loss, ours)
        torch.testing.assert_close(grad[keep], grad_of(dropped, theirs))
        assert (grad[ignored] == 0).all()


@each_engine
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_ignored_logits_cannot_poison(
    row: Any, engine: str, poison: float, smoothing: float, dtype: torch.dtype
) -> None:
    logits, targets = row.family.make((6, 2), dtype=dtype)
    for form, target in targets.items():
        if form != row.family.forms[0] and not row.family.ignoring(form):
            continue
        ignored = row.family.ignored(target, logits)
        options = {"weight": WEIGHT, **row.family.ignoring(form)}
        loss = row.build(engine=engine, label_smoothing=smoothing, **options)
        clean = loss(logits.clone().requires_grad_(), target)
        sick = logits.masked_fill(ignored, poison).requires_grad_()
        value = loss(sick, target)
        assert torch.equal(value, clean)
        grad = grad_of(value, sick)
        assert grad.isfinite().all()
        assert (grad[ignored] == 0).all()


@each_engine
def test_weight_of_ones_is_no_weight(row: Any, engine: str) -> None:
    logits, targets = row.family.make((8,))
    for form, target in targets.items():
        options = row.family.ignoring(form)
        one = row.build(weight=torch.ones(C), engine=engine, **options)(logits, target)
        torch.testing.assert_close(one, row.build(engine=engine, **options)(logits, target))


@each_engine
def test_targets_that_say_the_same_are_the_same(row: Any, engine: str) -> None:
    batch = row.family.make((8, 2))
    for options, one, other in row.family.alike(batch):
        loss = row.build(weight=WEIGHT, engine=engine, **options)
        torch.testing.assert_close(loss(batch.logits, one), loss(batch.logits, other))


@each_engine
def test_permuting_classes_permutes_gradients(row: Any, engine: str) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])  # the new class i is the old class order[i]
    logits, targets = row.family.make((8,))
    target = targets[row.family.forms[0]]
    logits.requires_grad_()
    arguments = dict(row.arguments)
    if "class_counts" in arguments:
        arguments["class_counts"] = [COUNTS[i] for i in order]
    for name, value in arguments.items():
        if isinstance(value, list) and name != "class_counts":
            arguments[name] = [value[i] for i in order]
    loss = row.build(weight=WEIGHT, engine=engine)(logits, target)
    permuted = logits.detach()[:, order].requires_grad_()
    moved = replace(row, arguments=arguments).build(weight=WEIGHT[order], engine=engine)
    other = moved(permuted, row.family.permuted(target, order))
    torch.testing.assert_close(other, loss)
    torch.testing.assert_close(grad_of(other, permuted), grad_of(loss, logits)[:, order])


@each_row
def test_function_is_module(row: Any) -> None:
    logits, targets = row.family.make((6, 3))
    samples = torch.rand(6, 3)
    options: dict[str, Any] = {"weight": WEIGHT, "label_smoothing": 0.1, "mean_over": "weight"}
    for form, target in targets.items():
        options |= row.family.ignoring(form)
        for call in ({}, {"sample_weight": samples}, {"denominator": 3.5}):
            by_function = row.function(logits, target, **row.arguments, **options, **call)
            assert torch.equal(by_function, row.build(**options)(logits, target, **call))
        options.pop("ignore_index", None)


@each_engine
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e4), (torch.float16, 6e4), (torch.bfloat16, 1e4)]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_saturated_is_finite(
    row: Any, engine: str, dtype: torch.dtype, size: float, smoothing: float
) -> None:
    logits, targets = row.family.saturated(dtype, size)
    names = inspect.signature(row.module).parameters
    exponents = [name for name in names if name.startswith("gamma")]
    for gamma in row.family.gammas if exponents else (None,):
        arguments = row.arguments | dict.fromkeys(exponents, gamma)
        for target in targets.values():
            z = logits.clone().requires_grad_()
            with_gamma = replace(row, arguments=arguments)
            loss = with_gamma.build(engine=engine, label_smoothing=smoothing)(z, target)
            loss.backward()
            assert loss.isfinite(), (gamma, loss)
            assert loss.dtype == torch.float32
            assert z.grad is not None
            assert z.grad.isfinite().all(), gamma
            assert z.grad.dtype == dtype


@each_engine
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_float32(row: Any, engine: str, dtype: torch.dtype) -> None:
    """The error against float64 is no larger than that of float32 on the same rounded logits."""
    positions = 1_000_000 if row.id in ("cross-entropy", "focal", "bce") else 100_000
    logits, targets = row.family.make((positions,), dtype=dtype)
    logits = 1.5 * logits
    target = targets[row.family.forms[0]]
    loss = row.build(weight=WEIGHT, engine=engine)
    half = logits.clone().requires_grad_()
    value = loss(half, target)
    value.backward()
    exact = logits.double().requires_grad_()
    truth = row.build(weight=WEIGHT, engine="reference")(exact, target)
    truth.backward()
    single = logits.float().requires_grad_()
    naive = row.build(weight=WEIGHT, engine="reference")(single, target)
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


@each_engine
def test_masked_out_classes_are_harmless(row: Any, engine: str) -> None:
    for logits, target, options in row.family.masked_out():
        z = logits.clone().requires_grad_()
        value = row.build(engine=engine, **options)(z, target)
        assert value.isfinite()
        if "label_smoothing" in options:
            continue
        grad = grad_of(value, z)
        assert grad.isfinite().all()
        assert (grad[:, C - 1] == 0).all()


@each_engine
def test_inputs_stay_as_they_are_and_layouts_do_not_matter(row: Any, engine: str) -> None:
    logits, targets = row.family.make((4, 3, 2))
    target = targets[row.family.forms[0]]
    loss = row.build(weight=WEIGHT, engine=engine)
    expected_leaf = logits.clone().requires_grad_()
    expected = loss(expected_leaf, target)
    expected.backward()
    layouts = {
        "channels_last": logits.to(memory_format=torch.channels_last),
        "transposed": logits.transpose(0, 3).contiguous().transpose(0, 3),
        "sliced": torch.cat([logits, logits], 3)[..., : logits.shape[3]],
    }
    for name, layout in layouts.items():
        z = layout.detach().requires_grad_()
        before, target_before = z.detach().clone(), target.clone()
        value = loss(z, target)
        grad = torch.autograd.grad(value, z)[0]
        torch.testing.assert_close(value, expected, msg=name)
        torch.testing.assert_close(grad, expected_leaf.grad, msg=name)
        assert torch.equal(z, before)
        assert torch.equal(target, target_before)
        if name == "channels_last":
            assert grad.is_contiguous(memory_format=torch.channels_last)
    targets = row.family.make((6,)).targets
    target = targets[row.family.forms[0]]
    one = torch.randn(1, C, dtype=torch.float64, requires_grad=True)
    value = loss(one.expand(6, C), target)
    copied = one.detach().repeat(6, 1).requires_grad_()
    loss(copied, target).backward()
    assert copied.grad is not None
    torch.testing.assert_close(torch.autograd.grad(value, one)[0], copied.grad.sum(0, keepdim=True))


@each_engine
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_is_zero_and_attached(row: Any, engine: str, smoothing: float) -> None:
    for logits, target, options in row.family.nothing():
        z = logits.clone().requires_grad_()
        value = row.build(engine=engine, label_smoothing=smoothing, **options)(z, target)
        assert value == 0
        assert (torch.autograd.grad(value, z)[0] == 0).all()
        empty = {**options, "empty": "nan"}
        smoothed = row.build(engine=engine, label_smoothing=smoothing, **empty)(z, target)
        assert smoothed.isnan()  # PyTorch's, whatever the sum is
        assert (torch.autograd.grad(smoothed, z)[0] == 0).all()


@each_engine
def test_a_denominator_of_zero_is_a_mean_over_nothing(row: Any, engine: str) -> None:
    logits, targets = row.family.make((4,))
    hard = targets[row.family.forms[0]]
    assert row.build(engine=engine)(logits, hard, denominator=0) == 0
    assert row.build(engine=engine, empty="nan")(logits, hard, denominator=0).isnan()


@in_each("denominator")
def test_denominators_add_up(row: Any, engine: str, denominator: Any) -> None:
    logits, targets = row.family.make((9,))
    samples = torch.rand(9, dtype=torch.float64)
    for form, target in targets.items():
        options = {"weight": WEIGHT, "mean_over": denominator, **row.family.ignoring(form)}
        loss = row.build(engine=engine, **options)
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


@in_each("form", engines=False)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_transforms(row: Any, engine: str, smoothing: float, form: str) -> None:
    logits, targets = row.family.make((4, 6))
    target = targets[form]
    options = {"weight": WEIGHT, "label_smoothing": smoothing, **row.family.ignoring(form)}
    loss = row.build(engine=engine, **options)
    single = logits[:, :, 0]
    aims = target[..., 0]
    each = torch.stack([loss(z[None], t[None]) for z, t in zip(single, aims, strict=True)])
    alone = loss if () in row.family.shapes.values() else lambda z, t: loss(z[None], t[None])
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
    logits, targets = row.family.make((4, 6))
    for form, target in targets.items():
        loss = row.build(weight=WEIGHT, **({"ignore_index": -1} | row.family.ignoring(form)))
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
        target = targets[row.family.forms[0]]
        function = torch.compile(row.function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            function(logits, target, **row.arguments, weight=WEIGHT),
            row.build(weight=WEIGHT)(logits, target),
        )


@each_engine
def test_autocast_and_deterministic_mode(row: Any, engine: str) -> None:
    logits, targets = row.family.make((16, 3), dtype=torch.float32)
    target = targets[row.family.forms[0]]
    loss = row.build(weight=WEIGHT, engine=engine)
    expected = loss(logits, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits, target), expected)
        half = loss(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(logits.bfloat16().float(), target))
    torch.use_deterministic_algorithms(True)
    try:
        z = logits.clone().requires_grad_()
        loss(z, target).backward()
    finally:
        torch.use_deterministic_algorithms(False)


@each_row
def test_any_integer_dtype(row: Any) -> None:
    logits, targets = row.family.make((4, 3, 2))
    target = targets[row.family.forms[0]]
    loss = row.build()
    for dtype in row.family.integers():
        assert torch.equal(loss(logits, target.to(dtype)), loss(logits, target))


@each_engine
def test_a_wrong_target_is_named(row: Any, engine: str) -> None:
    logits, targets = row.family.make((4, 3))
    for target, error, text in row.family.wrong_targets(targets[row.family.forms[0]]):
        for smoothing in (0.0, 0.1):
            loss = row.build(engine=engine, label_smoothing=smoothing)
            with pytest.raises(error, match=text):
                loss(logits, target)


def test_every_public_loss_has_a_row() -> None:
    families = losses._FAMILIES
    modules = {
        value
        for value in map(vars(losses).get, losses.__all__)
        if isinstance(value, type) and value not in families
    }
    functions = {vars(losses)[name] for name in losses.__all__ if name.endswith("_loss")}
    assert {row.module for row in ROWS} == modules
    assert {row.function for row in ROWS} == functions


@pytest.mark.parametrize("family", losses._FAMILIES, ids=lambda family: family.__name__)
def test_options_are_declared_alike(family: Any) -> None:
    keywords = family.keywords
    assert set(keywords.hints.__annotations__) == {*keywords.defaults, *keywords.call}
