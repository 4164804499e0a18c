"""An engine's forward and backward as one node of the autograd graph.

Tail, weights and mean are in it: as nodes of their own they would cost a small problem more than
all of its arithmetic, and a large one of few classes more memory than its logits.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from steelyard.ops import compat, reference
from steelyard.ops.edit import compute_dtype
from steelyard.ops.work import Mean, Work


class Found(NamedTuple):
    """What forward finds.

    Attributes:
        value: the losses (N, d…), or their mean.
        divisor: what the mean divided by, if it did.
        kept: whatever backward is to have of it.
    """

    value: Tensor
    divisor: Tensor | float | None
    kept: Any


class Engine(Protocol):
    """A fast engine."""

    def forward(self, logits: Tensor, work: Work, mean: Mean | None, differentiate: bool) -> Found:
        """The losses (N, d…) of positions, or their mean."""

    def backward(self, logits: Tensor, work: Work, kept: Any, gradient: Tensor) -> Tensor:
        """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…).

        ``kept`` is what forward left, or None the second time: a gradient may have taken its place.
        """


def losses(engine: Engine, logits: Tensor, work: Work, mean: Mean | None) -> Tensor:
    """The losses (N, d…), or their mean."""
    if logits.requires_grad and torch.is_grad_enabled():
        over = mean.over if mean is not None and isinstance(mean.over, Tensor) else None
        return _Losses.apply(logits, over, work, engine, mean)  # type: ignore[no-untyped-call, no-any-return]
    return engine.forward(logits, work, mean, False).value


def counted(mean: Mean, share: Tensor, target: Tensor, work: Work) -> float:
    """What positions that count ``share`` add to the mean's divisor."""
    if mean.over == "share":
        return share.sum().item()
    return (target != work.ignore_index).sum().item() if mean.over == "count" else 0.0


def found(mean: Mean, total: float, divisor: float, logits: Tensor, kept: Any) -> Found:
    """What forward finds for a mean, from numbers that the host has.

    Args:
        mean: the mean.
        total: the sum of the losses.
        divisor: the sum of what is :func:`counted`.
        logits: for the dtype and the device.
        kept: for backward.
    """
    dtype = compute_dtype(logits)
    if mean.over is None:
        return Found(logits.new_full((), total, dtype=dtype), None, kept)
    if isinstance(mean.over, Tensor):
        divisor = mean.over.item()
    divisor = divisor or mean.nothing
    return Found(logits.new_full((), total / divisor, dtype=dtype), divisor, kept)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        over: Tensor | None,
        work: Work,
        engine: Engine,
        mean: Mean | None,
    ) -> Tensor:
        value, ctx.divisor, ctx.kept = engine.forward(logits, work, mean, True)
        # Class vectors too, so that PyTorch tells if one was changed in between.
        ctx.save_for_backward(logits, over, *work.tensors)
        ctx.work, ctx.engine, ctx.mean = work, engine, mean
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits = ctx.saved_tensors[0]
        # create_graph, or many gradients at once: the reference has derivatives of every order.
        if torch.is_grad_enabled() or compat.is_batched(gradient):
            with torch.enable_grad():
                value = reference.losses(logits, ctx.work, ctx.mean)
            (result,) = torch.autograd.grad(
                value, logits, gradient, create_graph=torch.is_grad_enabled()
            )
        else:
            if ctx.divisor is not None:
                gradient = gradient / ctx.divisor
            # Let go of it: autograd clones a gradient that something else holds.
            kept, ctx.kept = ctx.kept, None
            result = ctx.engine.backward(logits, ctx.work, kept, gradient)
        return result, None, None, None, None
