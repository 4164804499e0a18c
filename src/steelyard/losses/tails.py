"""The tails: what a loss makes of log p, elementwise.

Each is 0 at log p = 0 and finite, with finite derivatives, for every finite log p; at −∞ the
derivative is that of cross-entropy, or 0.
"""

import torch
from torch import Tensor

# exp(−60) is lost beside 1 in float64: past it 1 − p is 1, and its derivative nothing.
_CERTAINLY_WRONG = -60.0


def cross_entropy(log_p: Tensor, _: None) -> Tensor:
    """−log p."""
    return -log_p


def focal(log_p: Tensor, gamma: float | Tensor) -> Tensor:
    """−(1−p)^γ log p; γ may be one number per class, broadcastable to log_p."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return -log_p
    miss = -torch.expm1(log_p.clamp(min=_CERTAINLY_WRONG))  # 1 − p without cancellation
    certain = miss <= 0
    # The derivative of miss^γ is infinite at 0 for γ < 1, though that of the product is finite:
    # keep 0 away from the power, and put its value back.
    return -log_p * miss.masked_fill(certain, 1).pow(gamma).masked_fill(certain, 0)


def poly(log_p: Tensor, epsilon: float | Tensor) -> Tensor:
    """−log p + ε(1−p)."""
    return -log_p - epsilon * torch.expm1(log_p)


def generalized(log_p: Tensor, q: float | Tensor) -> Tensor:
    """(1−p^q)/q, which tends to −log p for q → 0."""
    return -torch.expm1(q * log_p) / q
