"""A head and its loss inside of a user's graph: one op, whose graph holds no logits."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from families import C, uniform
from table import TABLE
from table_sigmoid import SIGMOID_TABLE
from test_linear import D, classes_last, head
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import make_boxed_func

import steelyard as sy
from steelyard.ops import linear_graph, linear_tiles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
TARGET = torch.arange(8) % C
CELLS = (uniform((8, C), 5, 0) > 0.5).double()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several tiles, and nothing compiled yet."""
    monkeypatch.setattr(linear_tiles, "ROWS", 3)
    monkeypatch.setattr(linear_tiles, "ELEMENTS", 1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend that runs the graphs of forward and backward as they are, and keeps them."""

    def __init__(self) -> None:
        self.seen: list[torch.fx.GraphModule] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        def keep(graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
            self.seen.append(graph)
            return make_boxed_func(graph.forward)

        compiled: Callable[..., Any] = aot_autograd(fw_compiler=keep, bw_compiler=keep)(
            module, inputs
        )
        return compiled

    @property
    def names(self) -> list[str]:
        """Of the ops, in order."""
        return [str(node.target) for each in self.seen for node in each.graph.nodes]

    def sizes(self) -> Iterator[tuple[int, ...]]:
        """The shapes of whatever the graphs hold."""
        for each in self.seen:
            for node in each.graph.nodes:
                values = node.meta.get("val")
                for value in values if isinstance(values, tuple | list) else [values]:
                    if isinstance(value, Tensor):
                        yield tuple(value.shape)


def compare(
    loss: Any, target: Tensor, *, backend: Any = None, dtype: torch.dtype = torch.float64
) -> Graphs:
    """Hold the compiled call to the eager one, values and gradients."""
    graphs, inputs = Graphs(), head((8,), dtype)

    def call(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return sy.linear_loss(loss, x, w, target, bias=b)

    eager = call(*inputs)
    compiled = torch.compile(call, fullgraph=True, backend=backend or graphs)(*inputs)
    close(compiled, eager)
    upstream = torch.linspace(0.5, 1.5, eager.numel(), dtype=eager.dtype).view(eager.shape)
    for mine, other in zip(
        torch.autograd.grad(compiled, inputs, upstream),
        torch.autograd.grad(eager, inputs, upstream),
        strict=True,
    ):
        close(mine, other)
    return graphs


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (sy.FocalLoss(weight=[1.0, 2.0, 3.0, 4.0, 5.0]), TARGET),
        (sy.CrossEntropyLoss(label_smoothing=0.1, reduction="sum"), TARGET),
        (sy.LogitAdjustedLoss(class_counts=[9, 7, 5, 3, 1], reduction="none"), TARGET),
        (sy.SigmoidFocalLoss(), CELLS),
    ],
    ids=["index", "smoothed", "none", "cells"],
)
def test_one_op_and_no_logits(loss: Any, target: Tensor) -> None:
    """At one place per class and row in no graph, but for what a loss per cell gives."""
    graphs = compare(loss, target)
    assert "steelyard.linear_losses.default" in graphs.names
    backward = "steelyard.linear_gradients.default" in graphs.names
    assert backward == (loss.options.reduction == "none")  # else forward had the gradients
    given = [(8, C)] if target is CELLS else []
    assert [size for size in set(graphs.sizes()) if size == (8, C)] == given


@pytest.mark.slow
@pytest.mark.parametrize("row", [*TABLE, *SIGMOID_TABLE], ids=lambda row: row.id)
def test_every_loss(row: Any) -> None:
    targets = row.family.make((8,)).targets
    for form in row.family.forms:
        every = list(row.family.options(form))
        for options in every[len(row.id) % 7 :: len(every) // 3 + 1]:
            torch._dynamo.reset()
            loss = row.build(**options)
            graphs = compare(loss, classes_last(targets[form], (8,)))
            assert "steelyard.linear_losses.default" in graphs.names


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_inductor(reduction: str) -> None:
    compare(sy.FocalLoss(reduction=reduction), TARGET, backend="inductor")


def test_a_number_of_rows_that_changes() -> None:
    counter, loss = CompileCounterWithBackend("aot_eager"), sy.FocalLoss()

    def call(x: Tensor, w: Tensor, target: Tensor) -> Tensor:
        return sy.linear_loss(loss, x, w, target)

    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for n, graphs in ((8, 1), (11, 2), (5, 2)):  # the second is for any number
        features, weight, _ = head((n,))
        one, two = (each(features, weight, torch.arange(n) % C) for each in (compiled, call))
        close(one, two)
        close(torch.autograd.grad(one, weight), torch.autograd.grad(two, weight))
        assert counter.frame_count == graphs


def test_numbers_that_change() -> None:
    """First constants, then symbols of the graph: a denominator, and a parameter of the tail."""
    features, weight, _ = head((8,))

    def call(gamma: float, denominator: float) -> Tensor:
        loss = sy.FocalLoss(gamma=gamma)
        return sy.linear_loss(loss, features, weight, TARGET, denominator=denominator)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for numbers in ((2.0, 5.0), (1.5, 6.0), (3.0, 7.0)):
        close(compiled(*numbers), call(*numbers))


def test_without_gradients_there_are_no_products() -> None:
    graphs, (features, weight, _) = Graphs(), head((8,))
    loss = sy.CrossEntropyLoss()
    compiled = torch.compile(
        lambda x, w: sy.linear_loss(loss, x, w, TARGET), fullgraph=True, backend=graphs
    )
    with torch.no_grad():
        close(compiled(features, weight), loss(features @ weight.T, TARGET))
    assert all(size in ((), (0,), (8,), (8, D), (C, D)) for size in graphs.sizes())
    (node,) = [n for n in graphs.seen[0].graph.nodes if "linear_losses" in str(n.target)]
    assert [tuple(value.shape) for value in node.meta["val"]] == [(), (), (0,), (0,), (0,)]


def test_autocast_in_a_graph() -> None:
    features, weight, _ = head((8,), torch.float32)
    loss = sy.CrossEntropyLoss()

    def call(x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return sy.linear_loss(loss, x, w, TARGET)

    one, two = torch.compile(call, fullgraph=True, backend="aot_eager"), call
    found = [each(features, weight) for each in (one, two)]
    assert found[0] == found[1] != sy.linear_loss(loss, features, weight, TARGET)
    gradients = [torch.autograd.grad(value, (features, weight)) for value in found]
    for mine, other in zip(*gradients, strict=True):
        close(mine, other)


def test_a_class_that_there_is_not() -> None:
    loss = sy.CrossEntropyLoss()
    features, weight, _ = head((8,))
    compiled = torch.compile(
        lambda target: sy.linear_loss(loss, features, weight, target),
        fullgraph=True,
        backend="aot_eager",
    )
    with pytest.raises(RuntimeError, match=r"a target is outside \[0, 5\) and is not ignore_index"):
        compiled(torch.full((8,), C))


def test_what_pytorch_asks_of_an_op() -> None:
    """Schema, fake tensors, autograd and AOT with sizes that change, by PyTorch's own check."""
    features, weight, bias = head((8,))
    given = [features, weight, bias, torch.float64, "auto", [True, True, True]]
    for loss in (sy.FocalLoss(), sy.FocalLoss(reduction="none")):
        seen: list[Any] = []
        loss.computed_by(
            lambda _, problem, engine, reduction, seen=seen: (
                seen.append((problem, reduction)) or torch.zeros(())
            ),
            features @ weight.T,
            TARGET,
        )
        tensors: list[Tensor] = []
        numbers: list[float] = []
        text = linear_graph._written(linear_graph._apart(seen[0], tensors, numbers))
        torch.library.opcheck(linear_graph.losses_op, (*given, text, tensors, numbers))


def test_a_text_tells_all_of_a_problem() -> None:
    """Nothing of this process alone is in it: a graph on a disk outlives the process."""
    tensors: list[Tensor] = []
    numbers: list[float] = []
    target = torch.arange(3)
    problem = sy.ops.SoftmaxProblem(target=target, smoothing=0.25, ignore_index=-7)
    given = (problem, sy.ops.Reduction("mean", None, float("inf")))
    text = linear_graph._written(linear_graph._apart(given, tensors, numbers))
    assert "steelyard.ops.softmax:SoftmaxProblem" in text
    assert "0x" not in text
    assert numbers == [0.25, float("inf")]
    assert [tensor is target for tensor in tensors] == [True]
    again, reduction = linear_graph._together(text, tensors, numbers)
    assert reduction == given[1]
    assert again.target is target
    assert (again.smoothing, again.ignore_index, again.tail) == (0.25, -7, problem.tail)
