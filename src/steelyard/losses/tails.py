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
    # As a logarithm, and not as a power: the derivatives of m^γ by m are m^(γ−1) and m^(γ−2), which
    # overflow where m is small, though those of the loss are finite.
    return -log_p * (_miss(log_p.clamp(min=_CERTAINLY_WRONG)).log() * gamma).exp()


def _focal(log_p: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor | float]:
    """With m = 1 − p: ``−m^γ log p`` and ``m^γ · (1 − γ p log p / m)``."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return -log_p, 1.0
    bounded = log_p.clamp(min=_CERTAINLY_WRONG)
    miss = _miss(bounded)
    power = miss.pow(gamma)
    ratio = bounded.exp().mul_(bounded).div_(miss)
    return (log_p * power).neg_(), ratio.mul_(-gamma).add_(1).mul_(power)


def _miss(log_p: Tensor) -> Tensor:
    """``1 − p`` without cancellation, but never 0, which no power or quotient would bear."""
    return (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)


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
