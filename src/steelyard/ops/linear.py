"""A head and its loss in one: logits of linear features, which live no longer than their tile.

A tile of rows X of the features becomes its logits ``X Wᵀ + b``, these become their losses and the
gradient G, and G goes at once into the gradients of the features, ``G W``, of the head, ``Gᵀ X``,
and of its bias, ``Σ G``. So the memory is that of these three, and of one tile.
"""

from typing import Any

import torch
from torch import Tensor

from steelyard.ops import compat, dispatch, linear_graph, linear_tiles, reference
from steelyard.ops.linear_tiles import Head
from steelyard.ops.problem import Problem, Reduction


def losses(
    head: Head, problem: Problem, engine: str = "auto", reduction: Reduction | None = None
) -> Tensor:
    """The losses of a problem whose logits are ``features Wᵀ + b``.

    Args:
        head: the features and the last layer.
        problem: what is to be done with the logits.
        engine: who is to do it.
        reduction: what becomes of the losses; None leaves them as they are.

    Returns:
        As :func:`steelyard.ops.losses`.
    """
    if reduction is None:
        reduction = Reduction("none")
    if in_two_steps(head, problem, engine, reduction) is not None:
        return dispatch.losses(head.logits(), problem, engine, reduction)
    if torch.compiler.is_dynamo_compiling():
        return linear_graph.losses(head, problem, engine, reduction)
    tensors = dispatch.tensors_of(problem, reduction)
    return _Losses.apply(*head, head.logits_dtype, problem, engine, reduction, head.wanted, tensors)  # type: ignore[no-untyped-call, no-any-return]


def in_two_steps(head: Head, problem: Problem, engine: str, reduction: Reduction) -> str | None:
    """Why all the logits are to be computed first, if they are."""
    if engine == "reference":
        return "asked for by name"
    tensors = dispatch.tensors_of(problem, reduction)
    for tensor in head:
        if tensor is not None and (why := dispatch.obstacle(tensor, tensors)) is not None:
            return why
    if torch.compiler.is_dynamo_compiling():
        return linear_graph.obstacle(head, problem, engine)
    if engine != "auto":
        dispatch.choose_engine(engine, head.like_logits, problem, tensors)  # raises if it cannot
    return None


def choose_engine(
    head: Head, problem: Problem, engine: str, reduction: Reduction
) -> dispatch.EngineChoice:
    """The engine that takes the logits of a head, how they are cut, and what that takes."""
    tensors = dispatch.tensors_of(problem, reduction)
    n, classes = head.like_logits.shape
    why = in_two_steps(head, problem, engine, reduction)
    if why is not None:
        chosen = dispatch.choose_engine(engine, head.like_logits, problem, tensors)
        return chosen._replace(reason=f"all logits are computed first: {why}")
    rows = linear_tiles.rows_of_tile(head, problem)
    chosen = dispatch.EngineChoice("blocked", "")
    if not linear_tiles.in_cache(head, problem):
        chosen = dispatch.choose_engine(engine, head.like_logits[:rows], problem, tensors)
    beside = linear_tiles.bytes_of_tile(head, problem) / 2**20
    logits = n * classes * head.logits_dtype.itemsize / 2**20
    reason = (
        f"tiles of {rows:,} × {classes:,} logits take {beside:,.1f} MB beside the gradients, where "
        f"all {n:,} rows of logits are {logits:,.1f} MB"
    )
    return chosen._replace(reason=reason)


class _Losses(torch.autograd.Function):
    """The losses, reduced, with the gradients by features, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        problem: Problem,
        engine: str,
        reduction: Reduction,
        wanted: tuple[bool, bool, bool],
        tensors: tuple[Tensor, ...],
    ) -> Tensor:
        ctx.save_for_backward(features, weight, bias, *tensors)
        ctx.dtype, ctx.problem, ctx.engine, ctx.reduction = dtype, problem, engine, reduction
        head = Head(features, weight, bias)
        value, ctx.divisor, ctx.gradients = linear_tiles.forward(
            head, dtype, problem, engine, reduction, wanted
        )
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        head = Head(*ctx.saved_tensors[:3])
        wanted, nothing = ctx.needs_input_grad[:3], (None,) * 6
        if torch.is_grad_enabled() or compat.is_batched(upstream):
            return *_by_definition(ctx, head, wanted, upstream), *nothing
        if ctx.divisor is not None:
            upstream = upstream / ctx.divisor
        # Let go of them: autograd clones a gradient that something else holds.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is not None:
            return *gradients.times(upstream), *nothing
        return *linear_tiles.backward(
            head, ctx.dtype, ctx.problem, ctx.engine, wanted, upstream
        ), *nothing


def _by_definition(
    ctx: Any, head: Head, wanted: tuple[bool, ...], upstream: Tensor
) -> list[Tensor | None]:
    """The gradients from all the logits, which have derivatives of every order."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        value = reference.losses(head.logits(), ctx.problem, ctx.reduction)
    inputs = [t for t, asked in zip(head, wanted, strict=True) if asked and t is not None]
    found = iter(torch.autograd.grad(value, inputs, upstream, create_graph=create_graph))
    return [next(found) if asked else None for asked in wanted]
