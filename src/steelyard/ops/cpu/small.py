"""Few logits on the CPU: as few calls as can be, for here a call costs more than its numbers.

PyTorch's own cross-entropy turns logits into −log p of each target, and autograd has its derivative
in C++. Where the loss is more than that, one node on top holds the rest, which is (N,) numbers.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.ops import compat
from steelyard.ops.problem import Reduction
from steelyard.ops.softmax import CROSS_ENTROPY, SoftmaxProblem, Tail

# Logits with fewer elements than this take as long as they have calls.
FEW = 2**17
# PyTorch's softmax takes rows of fewer classes one number at a time, but on all threads; tiles as
# small as this do it at once on one thread.
SHORT, FEW_PER_THREAD = 16, 6 * 2**10
_DTYPES = (torch.float32, torch.float64)
_ZERO = {dtype: torch.tensor(0.0, dtype=dtype, device="cpu") for dtype in _DTYPES}
_MINUS_ONE = {dtype: torch.tensor(-1.0, dtype=dtype, device="cpu") for dtype in _DTYPES}


def are_few(logits: Any, target: Any) -> bool:
    """Whether both are such that there is nothing to check about them, and few to compute."""
    return (
        not compat.is_disturbed()
        and (type(logits) is Tensor or type(logits) is nn.Parameter)
        and type(target) is Tensor
        and logits.is_cpu
        and target.is_cpu
        and target.dtype is torch.int64
        and target.shape == logits.shape[:1]
        and _obstacle_of(logits) is None
    )


def obstacle(logits: Tensor, problem: object) -> str | None:
    """Why PyTorch's kernels are not the quickest way, if so."""
    if (reason := _obstacle_of(logits)) is not None:
        return reason
    if not isinstance(problem, SoftmaxProblem) or not problem.of_indices:
        return "it takes class indices alone"
    if problem.all_classes and (
        problem.tail != CROSS_ENTROPY
        or problem.sample_weight is not None
        or isinstance(problem.smoothing, Tensor)
    ):
        return "it smooths cross-entropy alone, without sample weights"
    if problem.margin is not None:
        return "it edits by class, not by target"
    return None


def _obstacle_of(logits: Tensor) -> str | None:
    if logits.ndim != 2 or logits.dtype not in _DTYPES or not logits.is_contiguous():
        return "it takes contiguous rows of float32 or float64"
    few = FEW
    if logits.shape[1] < SHORT:
        few = min(few, FEW_PER_THREAD * torch.get_num_threads())
    if not 0 < logits.numel() <= few:
        return f"there are none, or more than {few} logits"
    return None


def losses_at_once(
    logits: Tensor,
    target: Tensor,
    tail: Tail,
    parameter: Any,
    kind: str,
    *,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor | None:
    """:func:`losses` where logits and target :func:`are_few`, and the divisor is PyTorch's.

    None also where an index is too large, or a tail of all classes is asked for.
    """
    # Without weights nothing counts 0 times, unless it is ignored.
    bare = weight is None and not label_smoothing
    all_count = bare and ignore_index < 0 and target.min().item() >= 0
    if not all_count and not _is_finite(logits):
        return None
    try:
        if tail == CROSS_ENTROPY:
            value = F.cross_entropy(
                logits,
                target,
                weight,
                ignore_index=ignore_index,
                reduction=kind,
                label_smoothing=label_smoothing,
            )
        elif label_smoothing:
            return None
        else:
            nll = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
            share = None if weight is None else _shares(logits, target, weight, ignore_index)
            divisor = {"none": None, "sum": 1.0, "mean": float(len(target))}[kind]
            if kind == "mean" and not all_count:
                counted = target != ignore_index if share is None else share
                divisor = float(counted.sum().item())
                if not divisor:
                    return None
            tensors = (target,) if weight is None else (target, weight)
            value = _tailed(nll, tensors, tail, parameter, share, divisor)
    except (IndexError, RuntimeError):
        return None
    return value if all_count or _is_finite(value) else None


def _is_finite(tensor: Tensor) -> bool:
    """Whether the sum is, which is one number to ask for."""
    return math.isfinite((tensor.detach().sum() if tensor.ndim > 0 else tensor).item())


def losses(
    logits: Tensor, problem: SoftmaxProblem, reduction: Reduction, tensors: tuple[Tensor, ...]
) -> Tensor | None:
    """The losses (N,), reduced; None where PyTorch's kernels may carry a NaN where none belongs.

    The ``tensors`` are all that take part, so that PyTorch tells if one was changed in between.
    Logits of ignored positions may be anything, an infinite loss may count 0 times, and PyTorch's
    mean over nothing is NaN.
    """
    unweighted = problem.weight is None and problem.sample_weight is None
    # One number tells it of most batches, at half the price of the sum of the logits.
    bare = unweighted and not problem.all_classes
    all_count = bare and problem.ignore_index < 0 and problem.target.min().item() >= 0
    if not all_count and not _is_finite(logits):
        return None
    if problem.scale is not None or problem.bias is not None:
        logits = problem.edited(logits, None)
    # Equal, not the same: a module that was copied or unpickled has another.
    if problem.sample_weight is None and problem.tail == CROSS_ENTROPY:
        value = _cross_entropy(logits, problem, reduction)
        return value if all_count or _is_finite(value) else None
    target, ignore_index = problem.target, int(problem.ignore_index)
    nll = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    share: Tensor | None = None
    if not unweighted:
        share = _shares(logits, target, problem.weight, ignore_index)
        if problem.sample_weight is not None:
            share = share * problem.sample_weight
    divisor: float | None = None
    if reduction.kind == "sum":
        divisor = 1.0
    elif reduction.kind == "mean":
        one_each = all_count and not isinstance(reduction.over, Tensor)
        counted = None if one_each else reduction.divisor(problem, share)
        divisor = len(nll) if counted is None else counted.item()
        if not divisor and reduction.nothing != math.inf:
            return None  # NaN, whose gradient is 0
        divisor = divisor or math.inf
    return _tailed(nll, tensors, problem.tail, _parameter(problem), share, divisor)


def _cross_entropy(logits: Tensor, problem: SoftmaxProblem, reduction: Reduction) -> Tensor:
    """What ``F.cross_entropy`` computes, by itself or but for the divisor."""
    kind, over = reduction.kind, reduction.over
    divided = kind == "mean" and (
        isinstance(over, Tensor) or (over == "count" and problem.weight is not None)
    )
    value = F.cross_entropy(
        logits,
        problem.target,
        problem.weight,
        ignore_index=int(problem.ignore_index),
        reduction="sum" if divided else kind,
        label_smoothing=problem.smoothing,  # type: ignore[arg-type]
    )
    return reduction.of_sums(value, reduction.divisor(problem, None))[0] if divided else value


def _shares(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What each position counts (N,), 0 where ignored: it is its loss where log p is −1."""
    log_p = _MINUS_ONE[logits.dtype].expand_as(logits)
    return F.nll_loss(log_p, target, weight, ignore_index=ignore_index, reduction="none")


def _parameter(problem: SoftmaxProblem) -> Any:
    """The tail's parameter for each position."""
    parameter = problem.parameter
    if parameter is None or isinstance(parameter, float):
        return parameter
    ignored = problem.target == problem.ignore_index
    return problem.parameter_of(problem.target.masked_fill(ignored, 0))


def _tailed(nll: Tensor, tensors: tuple[Tensor, ...], *rest: Any) -> Tensor:
    """:func:`_value`, as one node where a gradient is asked for."""
    if nll.requires_grad:
        return _Tail.apply(nll, tensors, *rest)  # type: ignore[no-untyped-call, no-any-return]
    return _value(nll, *rest)


def _value(
    nll: Tensor, tail: Tail, parameter: Any, share: Tensor | None, divisor: float | None
) -> Tensor:
    """The losses, or their sum over the divisor, in operations that autograd differentiates."""
    losses = tail.value(-nll, parameter)
    if share is not None:
        losses = losses * share
    return losses if divisor is None else losses.sum() / divisor


class _Tail(torch.autograd.Function):
    """:func:`_value` in fewer calls, and one node: a node for every step would cost far more."""

    @staticmethod
    def forward(
        ctx: Any,
        nll: Tensor,
        tensors: tuple[Tensor, ...],
        tail: Tail,
        parameter: Any,
        share: Tensor | None,
        divisor: float | None,
    ) -> Tensor:
        losses, slope = tail.with_slope(nll.neg(), parameter)
        if not isinstance(slope, Tensor):
            slope = torch.full_like(losses, slope)
        if share is not None:
            losses, slope = losses.mul_(share), slope * share
        ctx.save_for_backward(nll, *tensors)
        ctx.slope, ctx.divisor, ctx.rest = slope, divisor, (tail, parameter, share, divisor)
        if divisor is None:
            return losses
        total = losses.sum()
        return total.fill_(total.item() / divisor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        nll = ctx.saved_tensors[0]
        if torch.is_grad_enabled():  # create_graph
            (result,) = torch.autograd.grad(
                _value(nll, *ctx.rest), nll, gradient, create_graph=True
            )
        elif ctx.divisor is None:
            result = gradient * ctx.slope
        else:
            # gradient · slope / divisor, where a number for ``value`` costs nothing.
            zero = _ZERO[gradient.dtype]
            result = torch.addcmul(zero, gradient, ctx.slope, value=1 / ctx.divisor)
        return result, None, None, None, None, None
