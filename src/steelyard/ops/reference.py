"""The primitive in plain torch: any device, any dtype, any order of derivative.

Every other engine is tested against this one, so it is written to be read.
"""

import torch
from torch import Tensor

from steelyard.ops.edit import Edit, along_classes, compute_dtype


def row_logprob(logits: Tensor, target: Tensor, edit: Edit, ignore_index: int) -> Tensor:
    """Log-probability of each position's class.

    Args:
        logits: (N, C, d…), floating.
        target: (N, d…), int64 class indices.
        edit: what is done to the logits first.
        ignore_index: positions with this target give 0 and a gradient of exactly 0, whatever
            their logits hold.

    Returns:
        (N, d…), in at least float32.
    """
    ignored = target == ignore_index
    index = target.masked_fill(ignored, 0).unsqueeze(1)  # (N, 1, d…)
    log_p = class_logprob(logits, target, edit, ignore_index)
    return log_p.gather(1, index).squeeze(1).masked_fill(ignored, 0)


def class_logprob(logits: Tensor, target: Tensor, edit: Edit, ignore_index: int) -> Tensor:
    """Log-probabilities of all classes, (N, C, d…), for the targets whose margins apply.

    Args:
        logits: (N, C, d…), floating.
        target: class indices (N, d…) in int64, or probabilities (N, C, d…).
        edit: what is done to the logits first.
        ignore_index: positions with this target are as if their logits were all equal.

    Returns:
        (N, C, d…), in at least float32.
    """
    wide = logits.to(compute_dtype(logits))
    if target.is_floating_point():
        return edit(wide, target).log_softmax(1)
    target = target.unsqueeze(1)  # (N, 1, d…)
    # Before anything else touches them: a NaN that is only multiplied by 0 later stays a NaN.
    wide = wide.masked_fill(target == ignore_index, 0)
    one_hot = None
    if edit.margin is not None:
        classes = torch.arange(logits.shape[1], device=logits.device)
        one_hot = (along_classes(classes, logits) == target).to(wide.dtype)
    return edit(wide, one_hot).log_softmax(1)
