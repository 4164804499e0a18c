"""The losses in a graph that the user compiles: one node, with a gradient that fuses."""

from typing import Any

import torch
from torch import Tensor

from steelyard.ops import compat, explicit, spread
from steelyard.ops.reference import reduced
from steelyard.ops.work import Mean, Work


def losses(logits: Tensor, work: Work, mean: Mean | None) -> Tensor:
    """The losses (N, d…), or their mean."""
    if work.of_indices:
        _refuse_no_class(logits, work)
    rows = _Losses.apply(logits, work)  # type: ignore[no-untyped-call]
    if not work.of_indices:
        return reduced(rows, mean, work.sample_weight, torch.zeros_like(rows, dtype=torch.bool))
    ignored = work.ignored()
    index = work.target.masked_fill(ignored, 0)
    return reduced(rows, mean, work.share(index, ignored, work.sample_weight), ignored)


def _refuse_no_class(logits: Tensor, work: Work) -> None:
    """Compiled code would read outside of its memory, or count from the end."""
    target, classes = work.target, logits.shape[1]
    inside = ((target >= 0) & (target < classes)) | work.ignored()
    compat.assert_async(
        inside.all(),
        f"a target is outside [0, {classes}) and is not ignore_index={work.ignore_index}; the same "
        "call outside of torch.compile names it",
    )


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, work: Work) -> Tensor:
        kept: tuple[Tensor, ...]
        if work.all_classes:
            rows, kept = spread.forward(logits, work)
        else:
            ignored = work.ignored()
            here = explicit.at(logits, work, work.target.masked_fill(ignored, 0), ignored)
            shift = explicit.largest(logits, work, here)
            rows, kept = explicit.forward(logits, work, here, shift)
        ctx.save_for_backward(logits, *kept)
        ctx.work = work
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, *kept = ctx.saved_tensors
        if ctx.work.all_classes:
            return spread.backward(logits, ctx.work, spread.Kept(*kept), gradient), None
        return explicit.backward(logits, ctx.work.edit, explicit.Kept(*kept), gradient), None
