"""An engine's forward and backward as one node of the autograd graph.

Tail, share and sum are in it: as nodes of their own they would cost a small problem more than all
of its arithmetic.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from steelyard.ops import reference
from steelyard.ops.work import Work


class Kept(NamedTuple):
    """What forward leaves to backward, apart from the inputs."""

    log_p: Tensor  # (N, S), of the target; empty where all classes count
    e: Tensor | None = None  # (N, C, S): the place of the gradient
    total: Tensor | None = None  # (N, S), the sum of e over classes


class Engine(Protocol):
    """A fast engine."""

    def forward(self, logits: Tensor, work: Work, keep: bool) -> tuple[Tensor, Kept]:
        """One loss per position (N, d…), and what backward wants of it."""

    def backward(self, logits: Tensor, work: Work, kept: Kept, gradient: Tensor) -> Tensor:
        """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…)."""


def losses(
    engine: Engine, logits: Tensor, work: Work, reduce: bool, divisor: Tensor | None
) -> Tensor:
    """The losses (N, d…), or with ``reduce`` their sum over ``divisor``."""
    if logits.requires_grad and torch.is_grad_enabled():
        return _Losses.apply(  # type: ignore[no-untyped-call, no-any-return]
            logits, work.target, work.share, divisor, work, engine, reduce
        )
    rows, _ = engine.forward(logits, work, False)
    return _reduced(rows, divisor) if reduce else rows


def _reduced(rows: Tensor, divisor: Tensor | None) -> Tensor:
    total = rows.sum()
    return total if divisor is None else total.div_(divisor)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        share: Tensor | None,
        divisor: Tensor | None,
        work: Work,
        engine: Engine,
        reduce: bool,
    ) -> Tensor:
        rows, ctx.kept = engine.forward(logits, work, True)
        ctx.save_for_backward(logits, target, share, divisor)
        ctx.work, ctx.engine, ctx.reduce = work, engine, reduce
        return _reduced(rows, divisor) if reduce else rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, _, _, divisor = ctx.saved_tensors
        if divisor is not None:
            gradient = gradient / divisor
        if torch.is_grad_enabled():  # create_graph: the reference has derivatives of every order
            rows = reference.losses(logits, ctx.work)
            if ctx.reduce:
                rows = rows.sum()
            (result,) = torch.autograd.grad(rows, logits, gradient, create_graph=True)
        else:
            # Let go of e: autograd clones a gradient that something else holds. A second backward
            # through the same graph computes it again.
            kept, ctx.kept = ctx.kept, ctx.kept._replace(e=None)
            result = ctx.engine.backward(logits, ctx.work, kept, gradient)
        return result, None, None, None, None, None, None
