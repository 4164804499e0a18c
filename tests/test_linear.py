"""A head and its loss in one, against the two steps."""

import contextlib
import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import C, uniform
from region_table import REGIONS
from table import TABLE
from table_sigmoid import SIGMOID_TABLE
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import steelyard as sy
from steelyard.ops import linear_tiles
from steelyard.ops.cpu import products

ROWS = [*TABLE, *SIGMOID_TABLE]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
D = 6


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_tiles, "ROWS", 3)
    monkeypatch.setattr(linear_tiles, "ELEMENTS", 1)


def head(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Features (*shape, D), weight and bias."""
    sizes = ((*shape, D), (C, D), (C,))
    parts = [2 * uniform(size, seed, -1) for seed, size in enumerate(sizes)]
    return [part.to(dtype).requires_grad_() for part in parts]


def classes_last(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return tensor.movedim(1, -1) if tensor.ndim > max(1, len(shape)) else tensor


def compare(row: Any, shape: tuple[int, ...], form: str, options: dict[str, Any]) -> None:
    logits, targets = row.family.make(shape)
    target = targets[form]
    for sample_weight in row.family.samples(row, logits):
        features, weight, bias = head(shape)
        loss = row.build(**options)
        full = F.linear(features, weight, bias)
        two = loss(full.movedim(-1, min(1, len(shape))), target, sample_weight=sample_weight)
        weights = sample_weight
        if weights is not None and weights.ndim > len(shape):
            weights = classes_last(weights, shape)
        one = sy.linear_loss(
            loss, features, weight, classes_last(target, shape), bias=bias, sample_weight=weights
        )
        close = functools.partial(
            torch.testing.assert_close,
            rtol=1e-12,
            atol=1e-12,
            msg=f"{options} sample_weight={sample_weight is not None}",
        )
        per_cell = two.ndim > len(shape)
        expected = classes_last(two, shape) if per_cell else two
        close(one, expected)
        upstream = torch.linspace(0.5, 1.5, one.numel(), dtype=one.dtype).view(one.shape)
        inputs = (features, weight, bias)
        theirs = torch.autograd.grad(expected, inputs, upstream)
        for _ in range(2):  # the second backward finds the first one's gradients gone
            ours = torch.autograd.grad(one, inputs, upstream, retain_graph=True)
            for mine, other in zip(ours, theirs, strict=True):
                close(mine, other)


@each_row
@pytest.mark.parametrize("shape", [(8,), (2, 4), (2, 2, 3)], ids=str)
def test_equals_the_two_steps(row: Any, shape: tuple[int, ...]) -> None:
    for form in row.family.forms:
        for options in row.family.options(form):
            compare(row, shape, form, options)


@each_row
def test_logits_beyond_the_range_of_exponentials(row: Any) -> None:
    """A tile whose exponentials overflow is done again, though its logits are gone."""
    features, weight, bias = head((8,))
    target = row.family.make((8,))[1][row.family.forms[0]]
    loss = row.build()
    for smoothed in (loss, row.build(label_smoothing=0.1)):
        one = sy.linear_loss(smoothed, 400 * features, weight, target, bias=bias)
        two = smoothed(F.linear(400 * features, weight, bias), target)
        torch.testing.assert_close(one, two, rtol=1e-12, atol=0)
        inputs = (features, weight, bias)
        for mine, other in zip(
            torch.autograd.grad(one, inputs), torch.autograd.grad(two, inputs), strict=True
        ):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@each_row
def test_ignored_rows_may_hold_anything(row: Any) -> None:
    form = row.family.forms[0]
    target = row.family.make((8,))[1][form]
    loss = row.build(**row.family.ignoring(form))
    features, weight, bias = head((8,))
    ignored = row.family.ignored(target, torch.empty(8, C)).all(1)
    poisoned = features.detach().masked_fill(ignored[:, None], float("nan")).requires_grad_()
    found = []
    for each in (features, poisoned):
        value = sy.linear_loss(loss, each, weight, target, bias=bias)
        # The head's gradient is 0 · NaN there, as it is in two steps.
        found.append((value, torch.autograd.grad(value, (each, bias))))
    assert found[0][0] == found[1][0]
    for clean, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(clean, other)


def test_nothing_and_a_single_row() -> None:
    weight = torch.randn(C, D, requires_grad=True)
    loss = sy.CrossEntropyLoss()
    value = sy.linear_loss(loss, torch.randn(0, D), weight, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0
    assert weight.grad is not None
    assert not weight.grad.any()
    one, target = torch.randn(D), torch.tensor(2)
    torch.testing.assert_close(
        sy.linear_loss(loss, one, weight, target), loss(F.linear(one, weight), target)
    )
    none = sy.CrossEntropyLoss(reduction="none")
    assert sy.linear_loss(none, one, weight, target).shape == ()


@each_row
@pytest.mark.parametrize("place", ["meta", "default meta", "fake"])
def test_tensors_without_numbers(row: Any, place: str) -> None:
    """For who asks for shapes and memory alone: a model on the meta device, or fake tensors."""
    for form in row.family.forms:
        given, loss = row.family.make((8,)).targets[form], row.build()
        modes = {"meta": contextlib.nullcontext(), "default meta": torch.device("meta")}
        with modes[place] if place in modes else FakeTensorMode(allow_non_fake_inputs=True):
            device = torch.device("cpu" if place == "fake" else "meta")
            inputs = [
                torch.empty(size, device=device, requires_grad=True) for size in ((8, D), (C, D), C)
            ]
            target = torch.empty_like(given, device=device)
            value = sy.linear_loss(
                loss.to(device), inputs[0], inputs[1], target, bias=inputs[2], denominator=3.0
            )
            assert (value.shape, value.device) == ((), device)
            found = torch.autograd.grad(value, inputs)
        assert [each.shape for each in found] == [each.shape for each in inputs]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_half_precision_is_as_good_as_the_two_steps(dtype: torch.dtype, smoothing: float) -> None:
    inputs = head((64,), dtype)
    target = torch.arange(64) % C
    loss = sy.FocalLoss(label_smoothing=smoothing)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    right = loss(F.linear(*exact), target)
    one = sy.linear_loss(loss, inputs[0], inputs[1], target, bias=inputs[2])
    two = loss(F.linear(*inputs), target)
    assert one.dtype is torch.float32
    assert abs(one.double() - right) <= abs(two.double() - right) + 1e-3
    for mine, other, best, like in zip(
        torch.autograd.grad(one, inputs),
        torch.autograd.grad(two, inputs),
        torch.autograd.grad(right, exact),
        inputs,
        strict=True,
    ):
        assert mine.dtype is like.dtype is dtype
        bound = (other.double() - best).norm() + torch.finfo(dtype).eps * best.norm()
        assert (mine.double() - best).norm() <= bound


def test_the_heads_gradient_is_summed_in_float32() -> None:
    """In bfloat16 a sum of 4,096 equal parts stops at 256 of them."""
    features = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    loss = sy.CrossEntropyLoss(reduction="sum")
    target = torch.zeros(4096, dtype=torch.long)
    sy.linear_loss(loss, features, weight, target).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[-2048.0], [2048.0]]


def test_autocast_is_that_of_the_two_steps() -> None:
    features, weight, bias = head((16,), torch.float32)
    target = torch.arange(16) % C
    loss = sy.CrossEntropyLoss()
    with torch.autocast("cpu", torch.bfloat16):
        one = sy.linear_loss(loss, features, weight, target, bias=bias)
        two = loss(F.linear(features, weight, bias), target)
    torch.testing.assert_close(one, two)
    for mine, other in zip(
        torch.autograd.grad(one, (features, weight, bias)),
        torch.autograd.grad(two, (features, weight, bias)),
        strict=True,
    ):
        assert mine.dtype is torch.float32
        torch.testing.assert_close(mine, other, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_costs_no_product(frozen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = head((8,))
    inputs[frozen].requires_grad_(False)
    target = torch.arange(8) % C
    loss = sy.CrossEntropyLoss()
    made: list[linear_tiles.Gradients] = []
    add = linear_tiles.Gradients.add
    monkeypatch.setattr(
        linear_tiles.Gradients, "add", lambda self, *tile: (made.append(self), add(self, *tile))[1]
    )
    sy.linear_loss(loss, inputs[0], inputs[1], target, bias=inputs[2]).backward()
    parts = (made[0].features, made[0].weight, made[0].bias)
    assert [part is None for part in parts] == [place == frozen for place in range(3)]
    assert [each.grad is None for each in inputs] == [place == frozen for place in range(3)]
    made.clear()
    with torch.no_grad():
        sy.linear_loss(loss, inputs[0], inputs[1], target, bias=inputs[2])
    assert not made


def test_gradients_of_gradients_and_many_at_once() -> None:
    features, weight, _ = head((5,))
    target = torch.tensor([0, 1, 2, 3, 4])
    loss = sy.FocalLoss()
    assert torch.autograd.gradgradcheck(
        lambda x, w: sy.linear_loss(loss, x, w, target), (features, weight)
    )
    none = sy.FocalLoss(reduction="none")
    one = sy.linear_loss(none, features, weight, target)
    jacobian = torch.autograd.grad(one, weight, torch.eye(5).double(), is_grads_batched=True)[0]
    two = none(F.linear(features, weight), target)
    expected = torch.stack(
        [torch.autograd.grad(two[i], weight, retain_graph=True)[0] for i in range(5)]
    )
    torch.testing.assert_close(jacobian, expected)


def test_compiled_exported_and_transformed() -> None:
    features, weight, bias = head((8,), torch.float32)
    target = torch.arange(8) % C
    loss = sy.FocalLoss()

    def call(x: Tensor, w: Tensor) -> Tensor:
        return sy.linear_loss(loss, x, w, target, bias=bias.detach())

    expected = call(features, weight)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(features, weight)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled, weight), torch.autograd.grad(expected, weight)
    )
    gradient = torch.func.grad(call, argnums=1)(features.detach(), weight.detach())
    torch.testing.assert_close((gradient,), torch.autograd.grad(call(features, weight), weight))


def test_checkpointing_recomputes_it() -> None:
    from torch.utils.checkpoint import checkpoint

    features, weight, _ = head((8,))
    target = torch.arange(8) % C
    loss = sy.CrossEntropyLoss()
    plain = torch.autograd.grad(sy.linear_loss(loss, features, weight, target), weight)
    again = checkpoint(sy.linear_loss, loss, features, weight, target, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again, weight), plain, rtol=0, atol=0)


def test_a_language_model_learns_the_same_step_by_step() -> None:
    """Causal shift, padding, class weights, and the exact mean over uneven micro-batches."""
    torch.manual_seed(0)
    vocabulary, size = 50, 16
    first = nn.ModuleDict(
        {
            "embedding": nn.Embedding(vocabulary, size),
            "body": nn.GRU(size, size, batch_first=True),
            "head": nn.Linear(size, vocabulary, bias=False),
        }
    ).double()
    second = copy.deepcopy(first)
    counts = sy.count_classes(torch.arange(vocabulary) % 7 + 1, num_classes=vocabulary)
    weight = sy.class_weights(counts, "sqrt", absent="max", dtype=torch.float64)
    loss = sy.FocalLoss(gamma=1.0, weight=weight)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (first, second)]
    history: list[list[float]] = [[], []]
    for _ in range(8):
        batches = [torch.randint(vocabulary, (rows, 12)) for rows in (3, 1, 2)]
        targets = [batch[:, 1:].clone() for batch in batches]
        targets[0][0, 5:] = -100
        denominator = sy.step_denominator(loss, targets)
        for place, (model, optimizer) in enumerate(zip((first, second), optimizers, strict=True)):
            total = 0.0
            for batch, target in zip(batches, targets, strict=True):
                states, _ = model["body"](model["embedding"](batch[:, :-1]))
                if place == 0:
                    value = sy.linear_loss(
                        loss, states, model["head"].weight, target, denominator=denominator
                    )
                else:
                    logits = model["head"](states).movedim(-1, 1)
                    value = loss(logits, target, denominator=denominator)
                value.backward()
                total += value.item()
            optimizer.step()
            optimizer.zero_grad()
            history[place].append(total)
    assert history[0] == pytest.approx(history[1], rel=1e-9)
    assert history[0][-1] != history[0][0]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"loss": nn.CrossEntropyLoss()}, TypeError, "loss is a CrossEntropyLoss: expected a loss"),
        ({"loss": REGIONS[0].build()}, TypeError, "of regions, which needs all logits of an image"),
        ({"features": [1.0]}, TypeError, "features is a list, expected a floating-point tensor"),
        ({"weight": torch.ones(C, D, dtype=torch.long)}, TypeError, "weight is a torch.int64"),
        ({"weight": torch.randn(C, D + 1)}, ValueError, r"features have shape \(8, 6\) and weight"),
        ({"bias": torch.randn(C + 1)}, ValueError, r"bias has shape \(6,\), expected one number"),
        ({"target": torch.zeros(7, dtype=torch.long)}, ValueError, r"target has shape \(7,\)"),
        ({"target": torch.full((8,), C)}, IndexError, r"target\[0\] is 5, outside"),
        ({"sample_weight": torch.ones(3)}, ValueError, r"sample_weight has shape \(3,\)"),
        ({"weight": torch.randn(0, D)}, ValueError, "expected at least one class"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {
        "loss": sy.CrossEntropyLoss(),
        "features": torch.randn(8, D),
        "weight": torch.randn(C, D),
        "target": torch.zeros(8, dtype=torch.long),
    } | change
    with pytest.raises(error, match=text):
        sy.linear_loss(**given)


def test_a_named_engine_that_cannot_refuses() -> None:
    loss = sy.CrossEntropyLoss(engine="triton")
    with pytest.raises(RuntimeError, match="works on CUDA"):
        sy.linear_loss(loss, torch.randn(8, D), torch.randn(C, D), torch.zeros(8, dtype=torch.long))


def test_the_engine_of_a_head_is_explained() -> None:
    features, weight = torch.empty(2048, 64), torch.empty(32000, 64)
    target = torch.zeros(2048, dtype=torch.long)
    chosen = sy.explain_engine(features, target, head=weight)
    assert chosen.engine == "blocked"
    # Three rows as these tests have it, and sixteen at once in the cache, had there been as many.
    assert chosen.reason == (
        "tiles of 3 × 32,000 logits take 0.7 MB beside the gradients, where all 2,048 rows of "
        "logits are 250.0 MB"
    )
    asked = sy.explain_engine(features, target, head=weight, engine="reference")
    assert asked == ("reference", "all logits are computed first: asked for by name")
    smoothed = sy.FocalLoss(label_smoothing=0.1)
    more = sy.explain_engine(features, target, head=weight, loss=smoothed).reason
    assert "take 1.5 MB" in more  # log p of all classes, and the shares of the target
    with pytest.raises(ValueError, match="features have shape"):
        sy.explain_engine(features, target, head=weight.T)


@pytest.mark.parametrize(
    ("n", "d", "classes", "rows"),
    [(4096, 256, 32000, 373), (8192, 512, 8192, 1024), (2048, 1024, 128000, 94), (5, 2, 3, 5)],
)
def test_the_size_of_tiles(
    n: int, d: int, classes: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(products, "mkl_is_slower", lambda: True)
    head = linear_tiles.Head(torch.empty(n, d), torch.empty(classes, d), None)
    for smoothing in (0.0, 0.1):
        problem = sy.ops.SoftmaxProblem(
            target=torch.zeros(n, dtype=torch.long), smoothing=smoothing
        )
        assert linear_tiles.rows_of_tile(head, problem) == rows
        assert linear_tiles.bytes_of_tile(head, problem) <= 64 * 2**20
