"""The penalties: what a cell costs by the probability p of being right, and how steep that is.

Each is 0 at p = 1. With m = 1 − p, the derivative of a penalty f(−log p, m) by the logit that
speaks for the wrong side is ``f₁ · m + f₂ · m · p``.
"""

import math

import torch
from torch import Tensor

from steelyard.losses import tails
from steelyard.ops import Penalty, Probability, Spare

_LOG2E = math.log2(math.e)


def _power(minus_log: Tensor, gamma: float | Tensor, spare: Spare) -> Tensor:
    """``m^γ`` from −log m, which need not be finite."""
    memory = next(spare, None)
    if isinstance(gamma, Tensor):  # 0 · ∞ would be NaN
        largest = torch.finfo(minus_log.dtype).max / 2**10
        power = torch.clamp(minus_log, max=largest, out=memory).mul_(gamma).mul_(-_LOG2E)
    else:
        power = torch.mul(minus_log, -gamma * _LOG2E, out=memory)
    return power.exp2_()


def _likelihood(p: Probability, parameter: None, spare: Spare) -> tuple[Tensor, Tensor]:
    del parameter, spare
    return p.nll, p.miss


def _focal(p: Probability, gamma: float | Tensor, spare: Spare) -> tuple[Tensor, Tensor]:
    """``m^γ · nll`` and ``m^γ · (m + γ p nll)``."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return p.nll, p.miss
    if not isinstance(gamma, Tensor) and gamma in (1, 2, 3):
        power = torch.pow(p.miss, gamma, out=next(spare, None))
    else:
        power = _power(p.other, gamma, spare)
    if isinstance(gamma, Tensor):
        slope = torch.mul(p.right, p.nll, out=next(spare, None)).mul_(gamma).add_(p.miss)
    else:
        slope = torch.addcmul(p.miss, p.right, p.nll, value=gamma, out=next(spare, None))
    slope.mul_(power)
    return power.mul_(p.nll), slope


def _focal_poly_value(log_p: Tensor, parameters: tuple[float, float]) -> Tensor:
    gamma, epsilon = parameters
    miss = tails.one_minus(log_p)
    return tails.focal(log_p, gamma) + epsilon * miss * tails.raised(miss, gamma)


def _focal_poly(
    p: Probability, parameters: tuple[float, float], spare: Spare
) -> tuple[Tensor, Tensor]:
    gamma, epsilon = parameters
    more = _power(p.other, gamma + 1, spare).mul_(epsilon)  # ε m^(γ+1)
    value, slope = _focal(p, gamma, spare)
    value = torch.add(value, more, out=next(spare, None))
    return value, torch.addcmul(slope, more, p.right, value=gamma + 1, out=more)


def _shifted_value(log_p: Tensor, parameters: tuple[float, float]) -> Tensor:
    gamma, clip = parameters
    miss = (tails.missed(log_p) - clip).relu()
    # 1 − miss is p + clip, which keeps its digits where miss is nearly 1.
    near = torch.log1p(-miss.clamp(max=0.5))
    value = -torch.where(miss < 0.5, near, (log_p.exp() + clip).log())
    return value * tails.raised(miss.clamp(min=torch.finfo(miss.dtype).tiny), gamma)


def _shifted(
    p: Probability, parameters: tuple[float, float], spare: Spare
) -> tuple[Tensor, Tensor]:
    """With m' = max(m − clip, 0): ``m'^γ · c`` with c = −log(1 − m'), and its derivative by m'.

    That is ``m'^(γ−1) · (γ c + m' / (1 − m'))``, times ``m · p``.
    """
    gamma, clip = parameters
    left = torch.sub(p.miss, clip, out=next(spare, None)).relu_()
    rest = torch.add(p.right, clip, out=next(spare, None))  # 1 − m', where anything is left
    cost = torch.neg(left, out=next(spare, None)).log1p_().neg_()
    if clip < 0.01:  # log1p would have lost digits where m' is nearly 1
        cost = torch.where(left < 0.5, cost, -rest.log())
    slope = torch.div(left if gamma else p.miss, rest, out=rest)
    if gamma:
        slope.add_(cost, alpha=gamma)
        cost.mul_(left)
        before = _whole_power_(left, gamma - 1)
        return cost.mul_(before), slope.mul_(before).mul_(p.miss).mul_(p.right)
    return cost, slope.mul_(p.right).masked_fill_(left <= 0, 0)


def _whole_power_(miss: Tensor, gamma: float) -> Tensor:
    """``m^γ`` in its place, and 0 at m = 0 for γ < 0 too."""
    if gamma in (0, 1, 2, 3):  # fills and multiplications
        return miss.pow_(gamma)
    if gamma == 4:
        return miss.square_().square_()
    nothing = miss <= 0
    return miss.clamp_(min=torch.finfo(miss.dtype).tiny).pow_(gamma).masked_fill_(nothing, 0)


def _hill_value(log_p: Tensor, bound: float) -> Tensor:
    miss = tails.missed(log_p)
    return (bound - miss) * miss.square()


def _hill(p: Probability, bound: float, spare: Spare) -> tuple[Tensor, Tensor]:
    square = torch.square(p.miss, out=next(spare, None))
    slope = torch.mul(p.miss, 2 * bound, out=next(spare, None)).sub_(square, alpha=3)
    value = torch.sub(bound, p.miss, out=next(spare, None)).mul_(square)
    return value, slope.mul_(p.miss).mul_(p.right)


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
