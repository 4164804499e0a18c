"""The edit: what a loss does to the logits before the softmax."""

from typing import NamedTuple

import torch
from torch import Tensor


class Edit(NamedTuple):
    """``scale · logits + bias − margin · target``, each part one number per class, or absent.

    Every part is a tensor of shape (C,) in the dtype of the computation, or None. The target is
    one-hot for class indices; the margin is in units of the scaled logits.
    """

    scale: Tensor | None = None
    bias: Tensor | None = None
    margin: Tensor | None = None

    def __call__(self, logits: Tensor, target: Tensor | None) -> Tensor:
        """Edit logits (N, C, d…); ``target`` (N, C, d…) is read only where there is a margin."""
        if self.scale is not None:
            logits = logits * along_classes(self.scale, logits)
        if self.bias is not None:
            logits = logits + along_classes(self.bias, logits)
        if self.margin is not None:
            assert target is not None
            logits = logits - along_classes(self.margin, logits) * target
        return logits


def along_classes(vector: Tensor, logits: Tensor) -> Tensor:
    """View a vector (C,) so that it broadcasts along dimension 1 of logits (N, C, d…)."""
    return vector.view(-1, *[1] * (logits.ndim - 2))


def compute_dtype(logits: Tensor) -> torch.dtype:
    """The dtype of the arithmetic: float32 for half precisions, else the logits' own."""
    return torch.promote_types(logits.dtype, torch.float32)
