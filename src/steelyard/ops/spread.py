"""As :mod:`steelyard.ops.explicit`, for targets that spread over classes: smoothing, probabilities.

With W_c = weight_c · t'_c and h_c = W_c · (the tail's derivative by −log p_c), the loss is
s · Σ_c W_c · tail(log p_c), and its gradient by x is s · (p_c · Σ h − h_c).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.ops.edit import along_classes, compute_dtype
from steelyard.ops.explicit import is_class
from steelyard.ops.work import Work, scaled


class Kept(NamedTuple):
    """What backward wants of each position, all (N, d…).

    Attributes:
        largest: of the edited logits.
        log_sum: log Σ exp(x − largest).
        pull: Σ h.
        share: s, 0 where ignored.
    """

    largest: Tensor
    log_sum: Tensor
    pull: Tensor
    share: Tensor


def forward(logits: Tensor, work: Work) -> tuple[Tensor, Kept]:
    """One loss per position (N, d…), and what :func:`backward` wants."""
    x = _edited(logits, work)
    largest = x.amax(1)
    log_sum = (x - largest.unsqueeze(1)).exp().sum(1).log()
    share = torch.ones_like(log_sum) if work.sample_weight is None else work.sample_weight
    if work.of_indices:
        share = share.masked_fill(work.ignored(), 0)
    log_p = _log_p(x, largest, log_sum)
    value, steepness = work.tail.both(log_p, work.class_parameter(log_p))
    part = _part(work, log_p)
    rows = scaled(part, value).sum(1)
    if work.of_indices and work.smoothing == 1:  # PyTorch's 0 of the target's own is NaN
        index = work.target.masked_fill(work.ignored(), 0).unsqueeze(1)
        rows = rows + 0 * value.gather(1, index).squeeze(1)
    return scaled(share, rows), Kept(largest, log_sum, (part * steepness).sum(1), share)


def backward(logits: Tensor, work: Work, kept: Kept, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…)."""
    log_p = _log_p(_edited(logits, work), kept.largest, kept.log_sum)
    _, steepness = work.tail.both(log_p, work.class_parameter(log_p))
    by_x = log_p.exp() * kept.pull.unsqueeze(1) - _part(work, log_p) * steepness
    by_x = by_x * (kept.share * gradient).unsqueeze(1)
    if work.edit.scale is not None:
        by_x = by_x * along_classes(work.edit.scale, logits)
    # After all else: what an ignored position holds may be NaN.
    return by_x.masked_fill((kept.share == 0).unsqueeze(1), 0).to(logits.dtype)


def _log_p(x: Tensor, largest: Tensor, log_sum: Tensor) -> Tensor:
    return x - largest.unsqueeze(1) - log_sum.unsqueeze(1)


def _edited(logits: Tensor, work: Work) -> Tensor:
    """The edited logits (N, C, d…)."""
    wide = logits.to(compute_dtype(logits))
    if work.edit.margin is None or not work.of_indices:
        return work.edit(wide, work.target)
    return work.edit(wide, _is_target(work, wide).to(wide.dtype))


def _part(work: Work, like: Tensor) -> Tensor:
    """W, (N, C, d…)."""
    spread = work.smoothing / like.shape[1]
    if work.of_indices:
        part = _is_target(work, like).to(like.dtype) * (1 - work.smoothing) + spread
    else:
        part = (1 - work.smoothing) * work.target + spread
    return part if work.weight is None else along_classes(work.weight, like) * part


def _is_target(work: Work, like: Tensor) -> Tensor:
    return is_class(like, work.target.int())
