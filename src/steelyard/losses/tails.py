"""The tails: what a loss makes of log p, elementwise, and their slopes.

Each is 0 at log p = 0 and finite, with finite derivatives, for every finite log p; at −∞ the
derivative is that of cross-entropy, or 0.
"""

from typing import Any

import torch
from torch import Tensor

from steelyard.ops import Tail

# exp(−60) is lost beside 1 in float64: past it 1 − p is 1, and its derivative nothing.
_CERTAINLY_WRONG = -60.0


def _minus_log_p(log_p: Tensor, _: Any) -> Tensor:
    return -log_p


def _minus_one(log_p: Tensor, _: Any) -> Tensor:
    return torch.full_like(log_p, -1)


def _focal(log_p: Tensor, gamma: float | Tensor) -> Tensor:
    if not isinstance(gamma, Tensor) and gamma == 0:
        return -log_p
    miss = -torch.expm1(log_p.clamp(min=_CERTAINLY_WRONG))  # 1 − p without cancellation
    certain = miss <= 0
    # The derivative of miss^γ is infinite at 0 for γ < 1, though that of the product is finite:
    # keep 0 away from the power, and put its value back.
    return -log_p * miss.masked_fill(certain, 1).pow(gamma).masked_fill(certain, 0)


def _focal_slope(log_p: Tensor, gamma: float | Tensor) -> Tensor:
    """``miss^(γ−1) · (γ p log p − miss)``."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return torch.full_like(log_p, -1)
    bounded = log_p.clamp(min=_CERTAINLY_WRONG)
    miss = torch.expm1(bounded).neg_()
    certain = miss <= 0
    inner = bounded.exp().mul_(bounded).mul_(gamma).sub_(miss)
    return inner.mul_(miss.masked_fill_(certain, 1).pow_(gamma - 1)).masked_fill_(certain, 0)


def _poly(log_p: Tensor, epsilon: float | Tensor) -> Tensor:
    return -log_p - epsilon * torch.expm1(log_p)


def _poly_slope(log_p: Tensor, epsilon: float | Tensor) -> Tensor:
    return log_p.exp().mul_(-epsilon).sub_(1)


def _generalized(log_p: Tensor, q: float | Tensor) -> Tensor:
    return -torch.expm1(q * log_p) / q


def _generalized_slope(log_p: Tensor, q: float | Tensor) -> Tensor:
    return (q * log_p).exp_().neg_()


cross_entropy = Tail(_minus_log_p, _minus_one)
"""−log p."""

focal = Tail(_focal, _focal_slope)
"""−(1−p)^γ log p; γ may be one number per class, broadcastable to log p."""

poly = Tail(_poly, _poly_slope)
"""−log p + ε(1−p)."""

generalized = Tail(_generalized, _generalized_slope)
"""(1−p^q)/q, which tends to −log p for q → 0."""
