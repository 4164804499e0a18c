"""Whoever traces, fakes or exports a loss reads no value of a tensor, and neither do we."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from functorch.compile import aot_function, nop
from region_table import REGIONS
from table import COUNTS, TABLE, C, Row
from table_sigmoid import SIGMOID_TABLE
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import steelyard as sy

Call = Callable[..., Tensor]
each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
each_counting_row = pytest.mark.parametrize(
    "row", [row for row in TABLE if "class_counts" in row.arguments], ids=lambda row: row.id
)
CONTAINERS: list[Any] = [
    COUNTS,
    tuple(COUNTS),
    dict(enumerate(COUNTS)),
    {f"class {c}": n for c, n in enumerate(COUNTS)},
    sy.ClassCounts(COUNTS),
]
each_form = pytest.mark.parametrize("form", ["index", "probabilities"])
OPTIONS = [{"label_smoothing": 0.1}, {"reduction": "none"}, {"mean_over": "weight"}]


def made(form: str) -> tuple[Tensor, ...]:
    """Logits, target, sample weight, class weight and denominator."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, C, generator=generator)
    index = torch.randint(0, C, (4,), generator=generator)
    target = index if form == "index" else torch.rand(4, C, generator=generator).softmax(1)
    return (
        logits,
        target,
        torch.rand(4, generator=generator),
        torch.rand(C, generator=generator),
        torch.tensor(3.0),
    )


def function(row: Row, options: dict[str, Any]) -> Call:
    """The functional loss of five tensors."""

    def loss(z: Tensor, t: Tensor, s: Tensor, w: Tensor, d: Tensor) -> Tensor:
        divided = {} if options.get("reduction") == "none" else {"denominator": d}
        return row.function(z, t, **row.arguments, weight=w, sample_weight=s, **options, **divided)

    return loss


def summed_gradient(loss: Call) -> Call:
    return torch.func.grad(lambda *given: loss(*given).sum())


def check_make_fx(row: Row, given: tuple[Tensor, ...], mode: str, **options: Any) -> None:
    loss = function(row, options)
    for traced in (loss, summed_gradient(loss)):
        graph = make_fx(traced, tracing_mode=mode)(*given)
        torch.testing.assert_close(graph(*given), traced(*given))


@each_row
@pytest.mark.parametrize("mode", ["real", "fake"])
def test_make_fx(row: Row, mode: str) -> None:
    check_make_fx(row, made("index"), mode)


@each_form
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_make_fx_of_every_option(form: str, mode: str, options: dict[str, Any]) -> None:
    check_make_fx(TABLE[1], made(form), mode, **options)


@each_row
def test_aot_function(row: Row) -> None:
    given, loss = made("index"), function(row, {"label_smoothing": 0.1})
    leaf = given[0].clone().requires_grad_()
    aot_function(loss, nop)(leaf, *given[1:]).sum().backward()
    torch.testing.assert_close(leaf.grad, summed_gradient(loss)(*given))


@each_row
@each_form
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_fake_tensors(row: Row, form: str, engine: str) -> None:
    """The module is built and called where no tensor has values."""
    with FakeTensorMode() as mode:
        logits, target, samples, weight, denominator = map(mode.from_tensor, made(form))
        for given in (weight, [1.0] * C, {1: 2.0}):
            loss = row.build(weight=given, engine=engine)
            leaf = logits.clone().requires_grad_()
            loss(leaf, target, sample_weight=samples).backward()
            loss(leaf, target, denominator=denominator).backward()
            assert leaf.grad is not None
            assert leaf.grad.shape == logits.shape
            assert loss.denominator(target, samples).shape == ()
            assert type(loss).__name__ in repr(loss)


class Counted(nn.Module):
    """A functional loss that reads class counts, for who exports modules alone."""

    def __init__(self, row: Row, class_counts: Any) -> None:
        super().__init__()
        self.call = partial(row.function, **row.arguments | {"class_counts": class_counts})

    def forward(self, logits: Tensor, target: Tensor, sample_weight: Tensor) -> Tensor:
        return self.call(logits, target, sample_weight=sample_weight)


@each_counting_row
def test_export_of_functions_that_read_class_counts(row: Row) -> None:
    given = made("index")[:3]
    for container in CONTAINERS:
        model = Counted(row, container)
        exported = torch.export.export(model, given).module()
        torch.testing.assert_close(exported(*given), model(*given))
    strict = torch.export.export(model, given, strict=True).module()
    torch.testing.assert_close(strict(*given), model(*given))


@each_row
@each_form
def test_export_with_sizes_that_change(row: Row, form: str) -> None:
    batch, size = torch.export.Dim("batch"), torch.export.Dim("size")
    generator = torch.Generator().manual_seed(0)
    loss = row.build(weight=[1.0] * C, label_smoothing=0.1)
    logits = torch.randn(4, C, 6, generator=generator)
    target = torch.randint(0, C, (4, 6), generator=generator)
    sizes = {"logits": {0: batch, 2: size}, "target": {0: batch, 1: size}}
    if form == "probabilities":
        target, sizes["target"] = logits.softmax(1), {0: batch, 2: size}
    # Named for logits and target alone: the arguments that are not given have no sizes.
    exported = torch.export.export(loss, (logits, target), dynamic_shapes=sizes).module()
    for z, t in ((logits, target), (logits[:3, :, :2], target[:3, ..., :2])):
        torch.testing.assert_close(exported(z, t), loss(z, t))


@each_counting_row
def test_compiled_functions_read_class_counts(row: Row) -> None:
    logits, target, *_ = made("index")
    torch._dynamo.reset()
    compiled = torch.compile(row.function, fullgraph=True, backend="eager")
    for container in (COUNTS, sy.ClassCounts(COUNTS)):
        arguments = row.arguments | {"class_counts": container}
        torch.testing.assert_close(
            compiled(logits, target, **arguments), row.function(logits, target, **arguments)
        )


def test_class_counts_that_cannot_be_read_are_taken_as_they_are() -> None:
    logits, target, *_ = made("index")
    counts = torch.tensor(COUNTS)

    def loss(z: Tensor, n: Tensor) -> Tensor:
        return sy.logit_adjusted_loss(z, target, class_counts=n)

    torch.testing.assert_close(make_fx(loss)(logits, counts)(logits, counts), loss(logits, counts))
    per_trial = torch.vmap(loss, in_dims=(None, 0))(logits, counts.expand(2, C))
    torch.testing.assert_close(per_trial, loss(logits, counts).expand(2))
    with pytest.raises(TypeError, match="counts is a tensor whose numbers cannot be read"):
        sy.class_balanced_loss(
            logits, target, class_counts=torch.empty(C, dtype=torch.int64, device="meta")
        )


@each_row
def test_built_and_shown_on_the_meta_device(row: Row) -> None:
    with torch.device("meta"):
        for weight in (None, torch.ones(C), [1.0] * C, {1: 2.0}):
            loss = row.build(weight=weight)
            value = loss(torch.randn(4, C), torch.zeros(4, dtype=torch.long))
            assert value.is_meta
            assert type(loss).__name__ in repr(loss)
        assert "weight=tensor(shape=(5,), device='meta')" in repr(row.build(weight=torch.ones(C)))
        listed = row.build(weight=[1.0, 2.0, 3.0, 4.0, 5.0])
    expected = row.build(weight=[1.0, 2.0, 3.0, 4.0, 5.0])
    logits, target, *_ = made("index")
    # What a list says is known on any device.
    assert torch.equal(listed.to_empty(device="cpu")(logits, target), expected(logits, target))


def test_what_is_on_the_meta_device_is_told() -> None:
    logits, target, samples, weight, _ = made("index")
    text = "is on the meta device, which holds no numbers, and is wanted on cpu: build it outside"
    with pytest.raises(ValueError, match=f"weight {text}"):
        sy.CrossEntropyLoss(weight).to("meta")(logits, target)
    with pytest.raises(ValueError, match=f"weight {text}"):
        sy.CrossEntropyLoss(weight).to("meta").denominator(target)
    for call in (sy.CrossEntropyLoss(), lambda z, t, s: sy.CrossEntropyLoss().denominator(t, s)):
        with pytest.raises(ValueError, match=f"sample_weight {text}"):
            call(logits, target, samples.to("meta"))
    with pytest.raises(ValueError, match=f"denominator {text}"):
        sy.CrossEntropyLoss()(logits, target, denominator=torch.tensor(1.0, device="meta"))


@each_row
def test_logits_and_target_on_two_devices(row: Row) -> None:
    logits, target, *_ = made("index")
    text = r"the target is on cpu and the logits are on {}: use target\.to\(logits\.device\)"
    with pytest.raises(ValueError, match=text.format("meta")):
        row.build()(logits.to("meta"), target)
    with pytest.raises(ValueError, match="the target is on meta and the logits are on cpu"):
        row.build()(logits, target.to("meta"))
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match=text.format("cuda:0")):
            row.build()(logits.cuda(), target)


@pytest.mark.parametrize("row", [*SIGMOID_TABLE, *REGIONS], ids=lambda row: row.id)
def test_the_other_families(row: Any) -> None:
    logits, targets = row.family.make((4, 3), dtype=torch.float32)
    batch = torch.export.Dim("batch")
    for form, target in targets.items():
        options = row.arguments | row.family.ignoring(form)

        def loss(z: Tensor, t: Tensor, w: Tensor) -> Tensor:
            return row.function(z, t, **options, weight=w).sum()  # noqa: B023

        given = (logits, target, torch.ones(C))
        graph = make_fx(loss, tracing_mode="fake")(*given)
        torch.testing.assert_close(graph(*given), loss(*given))
        with FakeTensorMode() as mode:
            leaf = mode.from_tensor(logits).requires_grad_()
            built = row.build(weight=[1.0] * C)
            built(leaf, mode.from_tensor(target)).sum().backward()
            assert leaf.grad is not None
        with torch.device("meta"):
            assert type(built).__name__ in repr(row.build(weight=torch.ones(C)))
        with pytest.raises(ValueError, match="the target is on cpu and the logits are on meta"):
            row.build()(logits.to("meta"), target)
    target, module = targets[row.family.forms[0]], row.build()
    sizes = {"logits": {0: batch}, "target": {0: batch}}
    exported = torch.export.export(module, (logits, target), dynamic_shapes=sizes).module()
    fewer = logits[:3], target[:3]
    torch.testing.assert_close(exported(*fewer), module(*fewer))
