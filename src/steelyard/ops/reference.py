"""The losses in plain torch: any device, any dtype, any order of derivative.

Every other engine is tested against this one, so it is written to be read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops.edit import along_classes, compute_dtype
from steelyard.ops.work import Mean, Work, scaled


def losses(logits: Tensor, work: Work, mean: Mean | None) -> Tensor:
    """One loss per position (N, d…) for logits (N, C, d…), or their mean, in at least float32."""
    if not work.of_indices:
        rows = _over_classes(class_logprob(logits, work), work)
        if work.sample_weight is not None:
            rows = scaled(work.sample_weight, rows)
        return reduced(rows, mean, work.sample_weight, torch.zeros_like(rows, dtype=torch.bool))
    ignored = work.ignored()
    index = work.target.masked_fill(ignored, 0)
    share = work.share(index, ignored, work.sample_weight)
    log_p = class_logprob(logits, work)
    if work.all_classes:
        rows = _over_classes(log_p, work)
        factor = work.sample_weight
    else:
        # Unlike gather it has a backward that Inductor fuses; 0 where ignored.
        own = -F.nll_loss(log_p, work.target, ignore_index=work.ignore_index, reduction="none")
        rows = work.tail(own, work.parameter_of(index))  # 0 where ignored, for there log p is 0
        factor = share
    return reduced(rows if factor is None else scaled(factor, rows), mean, share, ignored)


def reduced(rows: Tensor, mean: Mean | None, share: Tensor | None, ignored: Tensor) -> Tensor:
    """The losses of positions as they are, or their mean."""
    if mean is None:
        return rows
    divisor = mean.divisor(share, ignored, rows.dtype)
    return rows.sum() if divisor is None else rows.sum() / divisor


def class_logprob(logits: Tensor, work: Work) -> Tensor:
    """Log-probabilities of all classes (N, C, d…); an ignored position's are those of zeros."""
    wide = logits.to(compute_dtype(logits))
    if not work.of_indices:
        return work.edit(wide, work.target).log_softmax(1)
    target = work.target.unsqueeze(1)  # (N, 1, d…)
    # Before anything else touches them: a NaN that is only multiplied by 0 later stays a NaN.
    wide = wide.masked_fill(target == work.ignore_index, 0)
    one_hot = None
    if work.edit.margin is not None:
        classes = torch.arange(logits.shape[1], device=logits.device)
        one_hot = (along_classes(classes, logits) == target).to(wide.dtype)
    return work.edit(wide, one_hot).log_softmax(1)


def _over_classes(log_p: Tensor, work: Work) -> Tensor:
    """``Σ_c weight_c · t'_c · tail(log p_c)``, (N, d…)."""
    losses = work.tail(log_p, work.class_parameter(log_p))
    spread = work.smoothing / log_p.shape[1]
    if not work.of_indices:
        share = (1 - work.smoothing) * work.target + spread
        if work.weight is not None:
            share = along_classes(work.weight, log_p) * share
        return scaled(share, losses).sum(1)
    if work.weight is not None:
        losses = scaled(along_classes(work.weight, log_p), losses)
    ignored = work.ignored()
    index = work.target.masked_fill(ignored, 0)
    own = losses.gather(1, index.unsqueeze(1)).squeeze(1)
    rows = (1 - work.smoothing) * own + spread * losses.sum(1)
    return rows.masked_fill(ignored, 0)
