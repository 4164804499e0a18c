"""The blocked engine for targets that spread over classes: smoothing, and probabilities.

The tail of every class counts, so forward keeps nothing, and backward takes each tile anew.
"""

import torch
from torch import Tensor

from steelyard.ops.edit import along_classes
from steelyard.ops.pages import empty_like
from steelyard.ops.tiles import Flat
from steelyard.ops.work import Work, scaled


def forward(flat: Flat) -> Tensor:
    """One loss per position, (N, S)."""
    result = flat.empty_positions()
    scratch = flat.scratch()
    for logits, target, share, rows in flat.tiles(flat.logits, flat.target, flat.share, result):
        log_p = _log_softmax(flat.work, logits, target, scratch)
        losses = flat.work.tail.value(log_p, flat.work.class_parameter(log_p))
        _over_classes(flat.work, losses, target, rows)
        if share is not None:
            rows.copy_(scaled(share, rows))
    return result


def backward(flat: Flat, gradient: Tensor) -> Tensor:
    """The gradient (N, C, S) for that of the losses, () or (N, S)."""
    work = flat.work
    result = empty_like(flat.logits)
    scratch = flat.scratch()
    gradient = gradient.expand(flat.logits.shape[0], flat.logits.shape[2])
    for logits, target, share, g, out in flat.tiles(
        flat.logits, flat.target, flat.share, gradient, result
    ):
        log_p = _log_softmax(work, logits, target, scratch)
        by_log_p = work.tail.slope(log_p, work.class_parameter(log_p))
        _weigh(work, by_log_p, target)
        if share is not None:
            g = g * share
        if work.of_indices:
            g = g.masked_fill(target == work.ignore_index, 0)
        by_log_p.mul_(g.unsqueeze(1))
        p = log_p.exp_()
        torch.addcmul(by_log_p, p, by_log_p.sum(1, keepdim=True), value=-1, out=p)
        if work.edit.scale is not None:
            p.mul_(work.edit.scale.unsqueeze(1))
        out.copy_(p)
    return result


def _log_softmax(work: Work, logits: Tensor, target: Tensor, scratch: Tensor) -> Tensor:
    """Log p of a tile (n, C, s), in ``scratch``."""
    x = scratch[: logits.numel()].view(logits.shape).copy_(logits)
    edit = work.edit
    if work.of_indices:
        ignored = target == work.ignore_index
        x.masked_fill_(ignored.unsqueeze(1), 0)
    if edit.scale is not None:
        x.mul_(edit.scale.unsqueeze(1))
    if edit.bias is not None:
        x.add_(edit.bias.unsqueeze(1))
    if edit.margin is not None and work.of_indices:
        index = target.masked_fill(ignored, 0)
        x.scatter_add_(1, index.unsqueeze(1), edit.margin[index].neg().unsqueeze(1))
    elif edit.margin is not None:
        x.addcmul_(edit.margin.unsqueeze(1), target, value=-1)
    return torch.log_softmax(x, 1, out=x)


def _over_classes(work: Work, losses: Tensor, target: Tensor, out: Tensor) -> None:
    """``Σ_c weight_c · t'_c · losses_c`` of a tile, (n, s), in ``out``."""
    if not work.of_indices:
        torch.sum(scaled(_distribution(work, target), losses), 1, out=out)
        return
    if work.weight is not None:
        losses = scaled(along_classes(work.weight, losses), losses)
    ignored = target == work.ignore_index
    own = losses.gather(1, target.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
    torch.sum(losses, 1, out=out).mul_(work.smoothing / losses.shape[1])
    out.add_(own.mul_(1 - work.smoothing)).masked_fill_(ignored, 0)


def _weigh(work: Work, by_log_p: Tensor, target: Tensor) -> None:
    """Multiply the slopes of a tile (n, C, s) by ``weight_c · t'_c`` in place."""
    if not work.of_indices:
        by_log_p.mul_(_distribution(work, target))
        return
    if work.weight is not None:
        by_log_p.mul_(along_classes(work.weight, by_log_p))
    spread = work.smoothing / by_log_p.shape[1]
    index = target.masked_fill(target == work.ignore_index, 0).unsqueeze(1)
    own = by_log_p.gather(1, index).mul_(1 - work.smoothing)
    by_log_p.mul_(spread).scatter_add_(1, index, own)


def _distribution(work: Work, target: Tensor) -> Tensor:
    """``weight_c · t'_c`` for probabilities (n, C, s)."""
    if work.smoothing:
        target = (1 - work.smoothing) * target + work.smoothing / target.shape[1]
    return target if work.weight is None else along_classes(work.weight, target) * target
