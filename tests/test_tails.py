"""Tails and penalties by themselves: the digits of their values and slopes, at both ends."""

import re
from decimal import Decimal, getcontext
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.losses import penalties, tails
from steelyard.ops import Penalty, Probability, Tail

getcontext().prec = 60

TAILS: dict[str, tuple[Tail, Any]] = {
    "cross_entropy": (tails.cross_entropy, None),
    "focal": (tails.focal, 2.0),
    "focal-below-one": (tails.focal, 0.5),
    "poly": (tails.poly, 1.5),
    "generalized": (tails.generalized, 0.7),
    "generalized-mae": (tails.generalized, 1.0),
    "symmetric": (tails.symmetric, (0.3, 4.2)),
    "symmetric-reverse": (tails.symmetric, (0.0, 4.0)),
}
PENALTIES: dict[str, tuple[Penalty, Any]] = {
    "likelihood": (penalties.likelihood, None),
    "focal": (penalties.focal, 2.0),
    "focal_poly": (penalties.focal_poly, (2.0, 1.5)),
    "shifted": (penalties.shifted, (4.0, 0.05)),
    "hill": (penalties.hill, 1.5),
}
# From all but right to surely wrong; 0.7 is where 1 − p changes its formula.
LOGS = [-1e-12, -1e-8, -1e-4, -0.3, -0.69, -0.71, -2.0, -17.0, -30.0, -45.0]


def value_of(name: str, log_p: Decimal, parameter: Any) -> Decimal:
    """The formula, with sixty digits."""
    p = log_p.exp()
    m = 1 - p
    if name == "likelihood" or name == "cross_entropy":
        return -log_p
    if name.startswith("focal") and name != "focal_poly":
        return -log_p * m ** Decimal(parameter)
    if name == "poly":
        return -log_p + Decimal(parameter) * m
    if name.startswith("generalized"):
        q = Decimal(parameter)
        return (1 - (q * log_p).exp()) / q
    if name.startswith("symmetric"):
        alpha, reverse = map(Decimal, parameter)
        return -alpha * log_p + reverse * m
    if name == "hill":
        return (Decimal(parameter) - m) * m * m
    first, second = map(Decimal, parameter)
    if name == "focal_poly":
        return -log_p * m**first + second * m ** (first + 1)
    left = max(m - second, Decimal(0))
    return -(left**first) * (1 - left).ln() if left else Decimal(0)


def slope_of(name: str, log_p: Decimal, parameter: Any) -> Decimal:
    """The derivative by −log p, as a central difference of sixty digits."""
    step = abs(log_p) * Decimal("1e-15")
    up, down = (value_of(name, log_p + s, parameter) for s in (step, -step))
    return (down - up) / (2 * step)


def exact(name: str, log_p: Tensor, parameter: Any) -> tuple[Tensor, Tensor]:
    """The values and the slopes at these log p."""
    places = [Decimal(x) for x in log_p.tolist()]
    values = [float(value_of(name, x, parameter)) for x in places]
    slopes = [float(slope_of(name, x, parameter)) for x in places]
    return torch.tensor(values, dtype=log_p.dtype), torch.tensor(slopes, dtype=log_p.dtype)


def is_exact(
    value: Tensor, log_p: Tensor, values: Tensor, slopes: Tensor, close: dict[str, float]
) -> None:
    """Whether a value, and autograd's derivative of it, are as close as that."""
    torch.testing.assert_close(value.detach(), values, **close)
    (slope,) = torch.autograd.grad(-value.sum(), log_p)
    torch.testing.assert_close(slope, slopes, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TAILS)
def test_a_tail_has_all_its_digits(name: str, dtype: torch.dtype) -> None:
    tail, parameter = TAILS[name]
    log_p = torch.tensor(LOGS, dtype=dtype, requires_grad=True)
    values, slopes = exact(name, log_p, parameter)
    close = {"rtol": 64 * torch.finfo(dtype).eps, "atol": 0}
    is_exact(tail(log_p, parameter), log_p, values, slopes, close)
    value, slope = tail.with_slope(log_p.detach(), parameter)
    torch.testing.assert_close(value, values, **close)
    torch.testing.assert_close(torch.as_tensor(slope).to(dtype).expand(len(LOGS)), slopes, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_has_all_its_digits(name: str, dtype: torch.dtype) -> None:
    penalty, parameter = PENALTIES[name]
    log_p = torch.tensor(LOGS, dtype=dtype, requires_grad=True)
    values, slopes = exact(name, log_p, parameter)
    close = {"rtol": 64 * torch.finfo(dtype).eps, "atol": 0}
    if name == "hill":  # whose slope is a difference of nearly equal numbers where p is small
        close["atol"] = 8 * torch.finfo(dtype).eps
    is_exact(penalty.value(log_p, parameter), log_p, values, slopes, close)
    logit = torch.logit(log_p.detach().double().exp()).to(dtype)
    sure = logit.isfinite()  # no logit of this dtype is as sure as the first
    p = Probability.of(logit[sure], iter(()))
    values, slopes = exact(name, -p.nll, parameter)
    value, slope = penalty.with_slope(p, parameter, iter(()))
    torch.testing.assert_close(value, values, **close)
    torch.testing.assert_close(slope, slopes * p.miss, **close)


def test_the_example_of_the_contributing_page() -> None:
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tail_block, penalty_block = map(
        dedent, re.findall(r"^ *```python\n(.*?)```", page, re.M | re.S)
    )
    room = dict(vars(tails))
    exec(tail_block, room)
    miss = room["miss"]
    room = vars(penalties) | {"tails": SimpleNamespace(**vars(tails) | {"miss": miss})}
    exec(penalty_block, room)
    logit = torch.linspace(-20, 20, 41, dtype=torch.float64, requires_grad=True)
    value = miss(F.logsigmoid(logit), 2.5)
    torch.testing.assert_close(value, torch.sigmoid(-logit) ** 2.5)
    (by_logit,) = torch.autograd.grad(value.sum(), logit)
    log_p = F.logsigmoid(logit).detach()
    torch.testing.assert_close(miss.with_slope(log_p, 2.5)[1] * (1 - log_p.exp()), -by_logit)
    p = Probability.of(logit.detach(), iter(()))
    found = room["missed"].with_slope(p, 2.5, iter([torch.empty_like(log_p)]))
    torch.testing.assert_close(found, (value.detach(), -by_logit))
