"""The tails: what a loss makes of log p, elementwise, and how much of cross-entropy's gradient.

Each is 0 at log p = 0 and finite, with finite derivatives, for every finite log p; at −∞ the
derivative is that of cross-entropy, or 0.
"""

import torch
from torch import Tensor

from steelyard.ops import CROSS_ENTROPY, Tail

# exp(−60) is lost beside 1 in float64: past it 1 − p is 1, and its derivative nothing.
_CERTAINLY_WRONG = -60.0


def _focal_value(log_p: Tensor, gamma: float | Tensor) -> Tensor:
    if not isinstance(gamma, Tensor) and gamma == 0:
        return -log_p
    miss = -torch.expm1(log_p.clamp(min=_CERTAINLY_WRONG))  # 1 − p without cancellation
    certain = miss <= 0
    # The derivative of miss^γ is infinite at 0 for γ < 1, though that of the product is finite:
    # keep 0 away from the power, and put its value back.
    return -log_p * miss.masked_fill(certain, 1).pow(gamma).masked_fill(certain, 0)


def _focal(log_p: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor | float]:
    """With m = 1 − p: ``−m^γ log p`` and ``m^(γ−1) · (m − γ p log p)``."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return -log_p, 1.0
    bounded = log_p.clamp(min=_CERTAINLY_WRONG)
    less = torch.expm1(bounded)  # −m
    power = less if not isinstance(gamma, Tensor) and gamma == 2 else _power(less, gamma)
    p = bounded.exp()
    if isinstance(gamma, Tensor):
        slope = p.mul_(bounded).mul_(gamma).add_(less)
    else:
        slope = torch.addcmul(less, p, bounded, value=gamma)
    return (log_p * less).mul_(power).neg_(), slope.mul_(power)


def _power(less: Tensor, gamma: float | Tensor) -> Tensor:
    """``−m^(γ−1)`` for −m, and 0 where m is 0."""
    certain = less >= 0
    return (-less).masked_fill_(certain, 1).pow_(gamma - 1).masked_fill_(certain, 0).neg_()


def _poly_value(log_p: Tensor, epsilon: float | Tensor) -> Tensor:
    return -log_p - epsilon * torch.expm1(log_p)


def _poly(log_p: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
    return _poly_value(log_p, epsilon), log_p.exp().mul_(epsilon).add_(1)


def _generalized_value(log_p: Tensor, q: float | Tensor) -> Tensor:
    return -torch.expm1(q * log_p) / q


def _generalized(log_p: Tensor, q: float | Tensor) -> tuple[Tensor, Tensor]:
    scaled = q * log_p
    return -torch.expm1(scaled) / q, scaled.exp_()


cross_entropy = CROSS_ENTROPY
"""−log p."""

focal = Tail(_focal_value, _focal)
"""−(1−p)^γ log p; γ may be one number per class, broadcastable to log p."""

poly = Tail(_poly_value, _poly)
"""−log p + ε(1−p)."""

generalized = Tail(_generalized_value, _generalized)
"""(1−p^q)/q, which tends to −log p for q → 0."""
