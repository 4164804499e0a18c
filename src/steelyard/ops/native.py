"""Few logits on the CPU: as few calls as can be, for here a call costs more than its numbers.

PyTorch's own kernels turn logits into log p, and gradients back, in two calls each; where the loss
is what ``F.cross_entropy`` computes, in one.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops.fused import Found, counted, found
from steelyard.ops.work import CROSS_ENTROPY, Mean, Work

# Logits with fewer elements than this take as long as they have calls.
FEW = 2**15
_MINUS_ONE = {
    dtype: torch.tensor(-1.0, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)
}


class Kept(NamedTuple):
    """What backward needs of forward."""

    log_p: Tensor  # of all classes (N, C)
    slope: Tensor  # of each loss by −log p of its class (N,), 0 where ignored


def suits(logits: Tensor, work: Work) -> bool:
    """Whether this is the quickest way to the losses, and a right one."""
    edit = work.edit
    return (
        logits.ndim == 2
        and logits.numel() <= FEW
        and logits.dtype in _MINUS_ONE
        and (edit.scale is edit.bias is edit.margin is None)
        and not work.all_classes
        and logits.is_contiguous()  # else PyTorch's gradient would lose the memory format
        # Ignored positions may hold what would poison the gradient.
        and math.isfinite(logits.detach().sum().item())
    )


def cross_entropy(logits: Tensor, work: Work, mean: Mean | None) -> Tensor | None:
    """``F.cross_entropy``, where it means the same."""
    if work.tail != CROSS_ENTROPY or work.sample_weight is not None:
        return None
    if mean is None:
        reduction = "none"
    elif mean.over is None:
        reduction = "sum"
    elif mean.over == "share" or (mean.over == "count" and work.weight is None):
        reduction = "mean"
    else:
        return None
    value = F.cross_entropy(
        logits, work.target, work.weight, ignore_index=work.ignore_index, reduction=reduction
    )
    if reduction == "mean" and math.isnan(value.item()):  # a mean over nothing
        return None
    return value


def forward(logits: Tensor, work: Work, mean: Mean | None, differentiate: bool) -> Found:
    """The losses (N,) of positions, or their mean."""
    log_p = logits.log_softmax(1)
    # What each position counts, 0 where ignored, is its loss where log p is −1.
    share = _own(_MINUS_ONE[log_p.dtype].expand_as(log_p), work, work.weight)
    if work.sample_weight is not None:
        share = share * work.sample_weight
    parameter = work.parameter
    if isinstance(parameter, Tensor):
        parameter = work.parameter_of(work.target.masked_fill(work.ignored(), 0))
    value, slope = work.tail.both(_own(log_p, work, None).neg_(), parameter)
    kept = Kept(log_p, share * slope) if differentiate else None
    if mean is None:
        return Found(value.mul_(share), None, kept)
    divisor = counted(mean, share, work.target, work)
    return found(mean, value.dot(share).item(), divisor, logits, kept)


def backward(logits: Tensor, work: Work, kept: Kept | None, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N,)."""
    if kept is None:
        kept = forward(logits, work, None, True).kept
    by_loss = kept.slope.mul_(gradient)
    # The 0 is the reduction "none"; the last is the divisor of the mean, which it does not look at.
    by_log_p = torch.ops.aten.nll_loss_backward(
        by_loss, kept.log_p, work.target, None, 0, work.ignore_index, by_loss.new_empty(())
    )
    return torch._log_softmax_backward_data(by_log_p, kept.log_p, 1, logits.dtype)


def _own(log_p: Tensor, work: Work, weight: Tensor | None) -> Tensor:
    """``−weight_y · log p_y``, 0 where ignored; refuses a class that there is not."""
    return F.nll_loss(log_p, work.target, weight, ignore_index=work.ignore_index, reduction="none")
