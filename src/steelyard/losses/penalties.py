"""The penalties: what a cell costs by the probability p of being right, and how steep that is.

Each is 0 at p = 1. With m = 1 − p, the derivative of a penalty f(−log p, m) by the logit that
speaks for the wrong side is ``f₁ · m + f₂ · m · p``.
"""

import math

import torch
from torch import Tensor

from steelyard.losses import tails
from steelyard.ops import Penalty

_LOG2E = math.log2(math.e)


def _power(minus_log: Tensor, gamma: float | Tensor) -> Tensor:
    """``m^γ`` from −log m, which need not be finite."""
    if isinstance(gamma, Tensor):  # 0 · ∞ would be NaN
        minus_log = minus_log.clamp(max=torch.finfo(minus_log.dtype).max / 2**10)
        return (minus_log * gamma).mul_(-_LOG2E).exp2_()
    return torch.mul(minus_log, -gamma * _LOG2E).exp2_()


def _likelihood(
    nll: Tensor, other: Tensor, miss: Tensor, right: Tensor, parameter: None
) -> tuple[Tensor, Tensor]:
    del other, right, parameter
    return nll, miss


def _focal(
    nll: Tensor, other: Tensor, miss: Tensor, right: Tensor, gamma: float | Tensor
) -> tuple[Tensor, Tensor]:
    """``m^γ · nll`` and ``m^γ · (m + γ p nll)``."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return nll, miss
    if not isinstance(gamma, Tensor) and gamma in (1, 2):
        power = miss if gamma == 1 else miss * miss
    else:
        power = _power(other, gamma)
    if isinstance(gamma, Tensor):
        slope = (right * nll).mul_(gamma).add_(miss)
    else:
        slope = torch.addcmul(miss, right, nll, value=gamma)
    return nll * power, slope.mul_(power)


def _focal_poly_value(log_p: Tensor, parameters: tuple[float, float]) -> Tensor:
    gamma, epsilon = parameters
    miss = tails.one_minus(log_p)
    return tails.focal(log_p, gamma) + epsilon * miss * tails.raised(miss, gamma)


def _focal_poly(
    nll: Tensor, other: Tensor, miss: Tensor, right: Tensor, parameters: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    gamma, epsilon = parameters
    value, slope = _focal(nll, other, miss, right, gamma)
    more = _power(other, gamma + 1).mul_(epsilon)  # ε m^(γ+1)
    return value + more, torch.addcmul(slope, more, right, value=gamma + 1)


def _shifted_value(log_p: Tensor, parameters: tuple[float, float]) -> Tensor:
    gamma, clip = parameters
    miss = (-torch.expm1(log_p) - clip).relu()
    # 1 − miss is p + clip, which keeps its digits where miss is nearly 1.
    near = torch.log1p(-miss.clamp(max=0.5))
    value = -torch.where(miss < 0.5, near, (log_p.exp() + clip).log())
    return value * tails.raised(miss.clamp(min=torch.finfo(miss.dtype).tiny), gamma)


def _shifted(
    nll: Tensor, other: Tensor, miss: Tensor, right: Tensor, parameters: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """With m' = max(m − clip, 0): ``m'^γ · c`` with c = −log(1 − m'), and its derivative by m'.

    That is ``m'^(γ−1) · (γ c + m' / (1 − m'))``, times ``m · p``.
    """
    del nll, other
    gamma, clip = parameters
    left = (miss - clip).relu_()
    rest = right + clip  # 1 − m', where anything is left
    cost = left.neg().log1p_().neg_()
    if clip < 0.01:  # log1p would have lost digits where m' is nearly 1
        cost = torch.where(left < 0.5, cost, -rest.log())
    if gamma == 0:
        slope = torch.div(miss, rest).mul_(right)
        return cost, slope.masked_fill_(left <= 0, 0)
    before = _whole_power(left, gamma - 1)
    slope = torch.div(left, rest).add_(cost, alpha=gamma).mul_(before)
    return cost * before * left, slope.mul_(miss).mul_(right)


def _whole_power(miss: Tensor, gamma: float) -> Tensor:
    """``m^γ``, by multiplication where γ is a small whole number; 0 at m = 0 for γ < 0 too."""
    if gamma == 0:
        return torch.ones_like(miss)
    if gamma == 1:
        return miss
    if gamma in (2, 3, 4):
        square = miss * miss
        return square if gamma == 2 else square * (miss if gamma == 3 else square)
    return miss.clamp(min=torch.finfo(miss.dtype).tiny).pow_(gamma).masked_fill_(miss <= 0, 0)


def _hill_value(log_p: Tensor, bound: float) -> Tensor:
    miss = -torch.expm1(log_p)
    return (bound - miss) * miss.square()


def _hill(
    nll: Tensor, other: Tensor, miss: Tensor, right: Tensor, bound: float
) -> tuple[Tensor, Tensor]:
    del nll, other
    square = miss * miss
    slope = torch.addcmul(miss.mul(2 * bound), miss, miss, value=-3)
    return (bound - miss).mul_(square), slope.mul_(miss).mul_(right)


likelihood = Penalty(tails.cross_entropy.value, _likelihood)
"""−log p."""

focal = Penalty(tails.focal.value, _focal)
"""−m^γ log p; γ may be one number per class, broadcastable to log p."""

focal_poly = Penalty(_focal_poly_value, _focal_poly)
"""−m^γ log p + ε m^(γ+1), with the parameters (γ, ε)."""

shifted = Penalty(_shifted_value, _shifted)
"""−m'^γ log(1 − m') with m' = max(m − clip, 0) and the parameters (γ, clip), clip > 0."""

hill = Penalty(_hill_value, _hill)
"""(λ − m)·m²."""
