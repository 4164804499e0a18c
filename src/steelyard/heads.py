"""Heads: last layers that some losses expect."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineLinear(nn.Module):
    """A linear layer of cosines: features and class vectors normalised, no bias.

    The head that :func:`steelyard.ldam_loss` expects: each logit is the cosine of the angle
    between the features and a class vector, in [−1, 1], so a margin and a scale mean the same for
    every class.

    Args:
        in_features: length of the features.
        out_features: number of classes.

    Shape:
        (…, in_features) → (…, out_features). A feature vector of zeros gives zeros.

    Example:
        >>> CosineLinear(64, 10)(torch.randn(2, 64)).shape
        torch.Size([2, 10])

    Reference:
        Cao et al., NeurIPS 2019, arXiv:1906.07413.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the class vectors: a normal distribution has no preferred direction."""
        nn.init.normal_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Cosines (…, out_features) of features (…, in_features)."""
        return F.linear(_unit(features), _unit(self.weight))

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (…, features) brought to length 1; those of length 0 stay."""
    # In half precision squares overflow, and normalize's guard against 0 is itself 0.
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return F.normalize(wide, dim=-1).to(vectors.dtype)
