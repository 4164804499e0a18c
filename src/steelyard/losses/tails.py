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
    return -log_p * raised(one_minus(log_p.clamp(min=_CERTAINLY_WRONG)), gamma)


def raised(miss: Tensor, gamma: float | Tensor) -> Tensor:
    """``miss^γ`` for miss > 0.

    As a logarithm, and not as a power: the derivatives of m^γ by m are m^(γ−1) and m^(γ−2), which
    overflow where m is small, though those of a loss are finite.
    """
    return (miss.log() * gamma).exp()


def _focal(log_p: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor | float]:
    """With m = 1 − p: ``−m^γ log p`` and ``m^γ · (1 − γ p log p / m)``."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return -log_p, 1.0
    bounded = log_p.clamp(min=_CERTAINLY_WRONG)
    if not isinstance(gamma, Tensor) and gamma >= 1:
        # In fewer calls: where losses are few, calls are all that counts.
        less = torch.expm1(bounded)  # −m
        power = less if gamma == 2 else less.abs().pow_(gamma - 1).neg_()  # −m^(γ−1)
        slope = torch.addcmul(less, bounded.exp(), bounded, value=gamma).mul_(power)
        return (log_p * less).mul_(power).neg_(), slope
    miss = one_minus(bounded)
    power = miss.pow(gamma)
    ratio = bounded.exp().mul_(bounded).div_(miss)
    return (log_p * power).neg_(), ratio.mul_(-gamma).add_(1).mul_(power)


def missed(log_p: Tensor) -> Tensor:
    """``1 − p``, with all digits at both ends, and so its derivative.

    Autograd takes that of expm1 as the result and 1 more, which is 0 where p is lost beside 1.
    """
    return torch.where(log_p > -0.7, -torch.expm1(log_p), 1 - log_p.exp())


def one_minus(log_p: Tensor) -> Tensor:
    """``1 − p`` without cancellation, but never 0, which no power or quotient would bear."""
    return (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)


def _poly_value(log_p: Tensor, epsilon: float | Tensor) -> Tensor:
    return -log_p - epsilon * torch.expm1(log_p)


def _poly(log_p: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
    return _poly_value(log_p, epsilon), log_p.exp().mul_(epsilon).add_(1)


def _generalized_value(log_p: Tensor, q: float | Tensor) -> Tensor:
    return missed(q * log_p) / q


def _generalized(log_p: Tensor, q: float | Tensor) -> tuple[Tensor, Tensor]:
    scaled = q * log_p
    return -torch.expm1(scaled) / q, scaled.exp_()


def _symmetric_value(log_p: Tensor, parameters: tuple[float, float]) -> Tensor:
    alpha, reverse = parameters
    value = reverse * missed(log_p)
    return value if alpha == 0 else value - alpha * log_p  # 0 times an infinite log p is 0


def _symmetric(log_p: Tensor, parameters: tuple[float, float]) -> tuple[Tensor, Tensor]:
    alpha, reverse = parameters
    value = torch.expm1(log_p).mul_(-reverse)
    if alpha != 0:
        value.sub_(log_p, alpha=alpha)
    return value, log_p.exp().mul_(reverse).add_(alpha)


cross_entropy = CROSS_ENTROPY
"""−log p."""

focal = Tail(_focal_value, _focal, "focal")
"""−(1−p)^γ log p; γ may be one number per class, broadcastable to log p."""

poly = Tail(_poly_value, _poly, "poly")
"""−log p + ε(1−p)."""

generalized = Tail(_generalized_value, _generalized, "generalized")
"""(1−p^q)/q, which tends to −log p for q → 0."""

symmetric = Tail(_symmetric_value, _symmetric, "symmetric")
"""−α log p + ρ(1−p), with the parameters (α, ρ)."""
