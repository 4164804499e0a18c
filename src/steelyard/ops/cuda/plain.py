"""The twin of the kernels in plain torch: what they are compared with, and what replaces them.

It takes any dtype. It has no derivative of its own, for an op that torch.compile does not open may
not use autograd.
"""

import torch
from torch import Tensor

from steelyard.ops.problem import compute_dtype, edited, scaled
from steelyard.ops.softmax import SoftmaxProblem


def row_logprob(
    logits: Tensor,
    target: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    margin: Tensor | None,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Log p of the target class, and the log-sum-exp; see :func:`launch.row_logprob`."""
    problem = SoftmaxProblem(
        target=target, ignore_index=ignore_index, scale=scale, bias=bias, margin=margin
    )
    ignored = target == ignore_index
    z = problem.edited_logits(logits)
    own = z.log_softmax(1).gather(1, target.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
    return own.masked_fill(ignored, 0), z.logsumexp(1).masked_fill(ignored, 0)


def row_logprob_backward(
    logits: Tensor,
    target: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    log_p: Tensor,
    lse: Tensor,
    gradient: Tensor,
    ignore_index: int,
) -> Tensor:
    """The gradient by the logits; see :func:`launch.row_logprob_backward`."""
    ignored = target == ignore_index
    z = edited(logits.to(compute_dtype(logits)), None, scale, bias, None)
    by_logits = (z - lse.unsqueeze(1)).exp() * -gradient.unsqueeze(1)
    own = (-torch.expm1(log_p) * gradient).to(by_logits.dtype)
    by_logits.scatter_(1, target.masked_fill(ignored, 0).unsqueeze(1), own.unsqueeze(1))
    by_logits = edited(by_logits, None, scale, None, None)
    return torch.empty_like(logits).copy_(by_logits.masked_fill_(ignored.unsqueeze(1), 0))


def costs(log_p: Tensor, problem: SoftmaxProblem) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, their derivative by log p, and what each counts; see :func:`costs.costs`."""
    ignored = problem.target == problem.ignore_index
    index = problem.target.masked_fill(ignored, 0)
    share = problem.share(index, ignored)
    if share is None:
        share = ignored.logical_not()
    value, slope = problem.tail.with_slope(log_p, problem.parameter_of(index))
    return scaled(share, value), share * -slope, share
