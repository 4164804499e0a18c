"""Few logits on the CPU: as few calls as can be, for here a call costs more than its numbers.

PyTorch's own kernels turn logits into log p, and gradients back, in two calls each; where the loss
is what ``F.cross_entropy`` computes, in one.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops import compat
from steelyard.ops.problem import Reduction
from steelyard.ops.softmax import CROSS_ENTROPY, SoftmaxProblem

# Logits with fewer elements than this take as long as they have calls.
FEW = 2**15
_MINUS_ONE = {
    dtype: torch.tensor(-1.0, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)
}
# PyTorch's softmax takes rows of fewer classes one number at a time, and tiles are faster.
SHORT, FEW_OF_SHORT = 16, 2**12

# Log p of all classes (N, C); and times what each loss counts its slope, (N,), 0 where ignored.
Kept = tuple[Tensor, Tensor]


def obstacle(logits: Tensor, problem: object) -> str | None:
    """Why PyTorch's kernels are not the quickest way, if so."""
    few = FEW if logits.ndim == 2 and logits.shape[1] >= SHORT else FEW_OF_SHORT
    if logits.numel() > few:
        return f"there are more than {few} logits"
    if not isinstance(problem, SoftmaxProblem) or problem.all_classes:
        return "it takes class indices alone, without smoothing"
    if problem.margin is not None:
        return "it edits by class, not by target"
    if logits.ndim != 2 or logits.dtype not in _MINUS_ONE or not logits.is_contiguous():
        return "it takes contiguous rows of float32 or float64"
    return None


def may_poison(logits: Tensor) -> bool:
    """Whether PyTorch's kernels may carry a NaN where none belongs.

    Logits of ignored positions may be anything, and an infinite loss may count 0 times.
    """
    return not math.isfinite(logits.detach().sum().item())


def plain(logits: Tensor, problem: SoftmaxProblem, reduction: Reduction) -> Tensor | None:
    """``F.cross_entropy``, where it means the same."""
    # Equal, not the same: a module that was copied or unpickled has another.
    if problem.tail != CROSS_ENTROPY or problem.sample_weight is not None:
        return None
    kind, over = reduction.kind, reduction.over
    if kind == "mean" and (
        isinstance(over, Tensor) or (over == "count" and problem.weight is not None)
    ):
        return None
    value = F.cross_entropy(
        problem.edited(logits, None),
        problem.target,
        problem.weight,
        ignore_index=problem.ignore_index,  # type: ignore[arg-type]
        reduction=kind,
    )
    if kind == "mean" and math.isnan(value.item()):  # a mean over nothing
        return None
    return value


def forward(
    logits: Tensor, problem: SoftmaxProblem, reduction: Reduction, differentiate: bool
) -> tuple[Tensor, float | None, Kept | None]:
    """The losses (N,) of positions, reduced; the divisor of a mean; and what backward wants."""
    log_p = problem.edited(logits, None).log_softmax(1)
    share = None
    if problem.weight is not None or problem.sample_weight is not None:
        # What each position counts, 0 where ignored, is its loss where log p is −1.
        share = _own(_MINUS_ONE[log_p.dtype].expand_as(log_p), problem, problem.weight)
        if problem.sample_weight is not None:
            share = share * problem.sample_weight
    parameter = problem.parameter
    if parameter is not None and not isinstance(parameter, float):
        parameter = problem.parameter_of(
            problem.target.masked_fill(problem.target == problem.ignore_index, 0)
        )
    losses, slope = problem.tail.with_slope(_own(log_p, problem, None).neg_(), parameter)
    # Without weights there is nothing to multiply: log p of ignored positions is 0, and so is their
    # loss; and nll_loss_backward leaves their slopes out.
    if share is not None:
        losses, slope = losses.mul_(share), share * slope
    if not isinstance(slope, Tensor):
        slope = torch.full_like(losses, slope)
    kept = (log_p, slope) if differentiate else None
    if reduction.kind == "none":
        return losses, None, kept
    count = 0.0
    if reduction.kind == "mean" and not isinstance(reduction.over, Tensor):
        count = problem.count(reduction.over, share).item()
    value, divisor = reduction.of_numbers(losses.sum().item(), count)
    return logits.new_full((), value), divisor, kept


def backward(
    logits: Tensor, problem: SoftmaxProblem, kept: Kept | None, gradient: Tensor
) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N,)."""
    if kept is None:
        kept = forward(logits, problem, Reduction("none"), True)[2]
        assert kept is not None
    log_p, slope = kept
    by_loss = slope.mul_(gradient)
    by_log_p = compat.nll_loss_backward(by_loss, log_p, problem.target, problem.ignore_index)
    result = compat.log_softmax_backward(by_log_p, log_p)
    return result if problem.scale is None else result.mul_(problem.scale)


def _own(log_p: Tensor, problem: SoftmaxProblem, weight: Tensor | None) -> Tensor:
    """``−weight_y · log p_y``, 0 where ignored; refuses a class that there is not."""
    return F.nll_loss(
        log_p,
        problem.target,
        weight,
        ignore_index=problem.ignore_index,  # type: ignore[arg-type]
        reduction="none",
    )
