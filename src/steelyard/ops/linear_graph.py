"""A head and its loss as ops of their own, for who compiles the call: no graph holds the logits.

An op takes tensors and numbers, and a problem is more: tails, sides, options. So it is taken apart
into its tensors, its numbers, and a text that says how to put them together again. The text names
functions by where they stand, and holds nothing that is of this process alone: compiled graphs are
kept on disks.
"""

import ast
import dataclasses
import importlib
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops import compat, dispatch, graph
from steelyard.ops.linear_tiles import Gradients, Head, backward, forward, in_cache
from steelyard.ops.problem import Problem, Reduction, compute_dtype
from steelyard.ops.softmax import SoftmaxProblem


def obstacle(head: Head, problem: Problem, engine: str) -> str | None:
    """Why there is no op for it, if so."""
    if in_cache(head, problem) and engine in ("auto", "blocked"):
        return None
    tensors = problem.tensors
    if dispatch.choose_engine(engine, head.like_logits, problem, tensors).engine == "triton":
        return None
    return "it takes autograd to differentiate the loss, which an op of a compiled graph has not"


def losses(head: Head, problem: Problem, engine: str, reduction: Reduction) -> Tensor:
    """The losses, reduced."""
    if isinstance(problem, SoftmaxProblem) and problem.of_indices:
        graph.assert_classes(problem, head.weight.shape[0])
    tensors: list[Tensor] = []
    numbers: list[float] = []
    text = _written(_apart((problem, reduction), tensors, numbers))
    wanted = list(head.wanted)
    value: Tensor = losses_op(*head, head.logits_dtype, engine, wanted, text, tensors, numbers)[0]
    return value


def _apart(given: Any, tensors: list[Tensor], numbers: list[float]) -> tuple[Any, ...]:
    """What is given, as tuples of constants; tensors and numbers go into the lists."""
    if isinstance(given, Tensor):
        tensors.append(given)
        return "tensor", len(tensors) - 1
    if isinstance(given, float):
        numbers.append(given)
        return "number", len(numbers) - 1
    if given is None or isinstance(given, int | str):
        return "constant", given
    if isinstance(given, Problem):
        fields = [getattr(given, field.name) for field in dataclasses.fields(given)]
    elif isinstance(given, tuple):
        fields = list(given)
    else:
        return "name", given
    return "made", type(given), *[_apart(field, tensors, numbers) for field in fields]


def _written(parts: tuple[Any, ...]) -> str:
    """The text of what was taken apart."""
    return repr(_named(parts))


# torch.compile is to ask rather than to trace how a text comes about.
compat.mark_constant(_written)


def _named(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with names in the place of classes and functions."""
    kind, first, *rest = parts
    if kind in ("name", "made"):
        first = f"{first.__module__}:{first.__qualname__}"
    return kind, first, *[_named(part) for part in rest]


def _together(text: str, tensors: Sequence[Tensor], numbers: Sequence[float]) -> Any:
    """What was taken apart."""

    def made(parts: tuple[Any, ...]) -> Any:
        kind, first, *rest = parts
        if kind == "tensor":
            return tensors[first]
        if kind == "number":
            return numbers[first]
        if kind == "constant":
            return first
        module, name = first.split(":")
        found: Any = operator.attrgetter(name)(importlib.import_module(module))
        if kind == "name":
            return found
        fields = [made(part) for part in rest]
        if found is tuple:
            return tuple(fields)
        if issubclass(found, Problem):
            names = [field.name for field in dataclasses.fields(found)]
            return found(**dict(zip(names, fields, strict=True)))
        return found(*fields)

    return made(ast.literal_eval(text))


class _Work(NamedTuple):
    """What an op is given.

    Attributes:
        features, weight, bias: the head.
        dtype: of the logits.
        engine: who is to do it.
        wanted: whether the gradients by features, weight and bias are.
        text, tensors, numbers: problem and reduction, taken apart.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    engine: str
    wanted: list[bool]
    text: str
    tensors: list[Tensor]
    numbers: list[float]

    @property
    def head(self) -> Head:
        return Head(self.features, self.weight, self.bias)

    def task(self) -> tuple[Problem, Reduction]:
        problem, reduction = _together(self.text, self.tensors, self.numbers)
        return problem, reduction


# The same for PyTorch.
_WORK = (
    "Tensor features, Tensor weight, Tensor? bias, ScalarType dtype, str engine, bool[] wanted, "
    "str text, Tensor[] tensors, float[] numbers"
)


def _losses(*given: Any) -> tuple[Tensor, ...]:
    """The losses, reduced; what divided them; the gradients by the head, still to be divided."""
    work = _Work(*given)
    problem, reduction = work.task()
    value, divisor, gradients = forward(
        work.head, work.dtype, problem, work.engine, reduction, work.wanted
    )
    return value, *_tensors(work, divisor, *_parts(gradients))


def _gradients(upstream: Tensor, *given: Any) -> tuple[Tensor, ...]:
    """The gradients by the head, for those by each loss."""
    work = _Work(*given)
    problem, _ = work.task()
    found = backward(work.head, work.dtype, problem, work.engine, work.wanted, upstream)
    return tuple(_tensors(work, *found))


def _parts(gradients: Gradients | None) -> tuple[Tensor | None, ...]:
    return (None,) * 3 if gradients is None else gradients.parts


def _tensors(work: _Work, *given: Tensor | None) -> list[Tensor]:
    """For an op, which has to return tensors: an empty one for what there is not."""
    return [work.features.new_empty(0) if tensor is None else tensor for tensor in given]


losses_op = torch.library.custom_op(
    "steelyard::linear_losses",
    _losses,
    mutates_args=(),
    schema=f"({_WORK}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
gradients_op = torch.library.custom_op(
    "steelyard::linear_gradients",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor upstream, {_WORK}) -> (Tensor, Tensor, Tensor)",
)


@losses_op.register_fake
def _(*given: Any) -> tuple[Tensor, ...]:
    work = _Work(*given)
    problem, reduction = work.task()
    (n, classes), wide = work.head.like_logits.shape, compute_dtype(work.features.to(work.dtype))
    if reduction.kind == "none":
        value = work.features.new_empty((n, classes) if problem.per_cell else (n,), dtype=wide)
        return value, *_tensors(work, *(None,) * 4)
    value = work.features.new_empty((), dtype=wide)
    divisor = value.clone() if reduction.kind == "mean" else None
    gradients = Gradients(work.head, work.head, work.wanted) if any(work.wanted) else None
    return value, *_tensors(work, divisor, *_parts(gradients))


@gradients_op.register_fake
def _(_: Tensor, *given: Any) -> tuple[Tensor, ...]:
    work = _Work(*given)
    each = zip(work.head, work.wanted, strict=True)
    found = [torch.empty_like(part) if part is not None and w else None for part, w in each]
    return tuple(_tensors(work, *found))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    work, (value, *others) = _Work(*inputs), output
    ctx.mark_non_differentiable(*others)
    ctx.each, ctx.tensors = value.ndim > 0, len(work.tensors)
    ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in work.head]
    ctx.rest = work[3:7], work.numbers
    ctx.save_for_backward(*((*work.head, *work.tensors) if ctx.each else others))


def _differentiate(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    if ctx.each:
        head, tensors = ctx.saved_tensors[:3], list(ctx.saved_tensors[3:])
        options, numbers = ctx.rest
        found = gradients_op(upstream, *head, *options, tensors, numbers)
    else:
        divisor, *found = ctx.saved_tensors
        if divisor.ndim == 0:
            upstream = upstream / divisor
        found = [
            part if dtype is None else (part * upstream).to(dtype)
            for part, dtype in zip(found, ctx.dtypes, strict=True)
        ]
    wanted = ctx.needs_input_grad[:3]
    found = [part if w else None for part, w in zip(found, wanted, strict=True)]
    return *found, None, None, None, None, [None] * ctx.tensors, None


losses_op.register_autograd(_differentiate, setup_context=_keep)
