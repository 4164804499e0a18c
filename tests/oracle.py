"""The softmax family once more, in float64 or float32, right for every logit that there is.

The table's formulas are those of the papers, and cancel where p is nearly 1. Here every loss is a
function of one number, the odds against a class c,

    d_c = log Σ_{j≠c} exp(z_j) − z_c,   −log p_c = softplus(d_c),   log(1 − p_c) = −softplus(−d_c),

which keeps all its digits. Nothing is shared with the library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Odds = Callable[[Tensor], Tensor]


def minus_log_p(d: Tensor) -> Tensor:
    return F.softplus(d, threshold=40)  # by default it is linear from 20 on, and e^−20 is not 0


def log_miss(d: Tensor) -> Tensor:
    return -minus_log_p(-d)


def focal(gamma: Tensor) -> Odds:
    def losses(d: Tensor) -> Tensor:
        return torch.exp(gamma.to(d.dtype) * log_miss(d)) * minus_log_p(d)

    return losses


def poly(epsilon: float) -> Odds:
    return lambda d: minus_log_p(d) + epsilon * log_miss(d).exp()


def generalized(q: float) -> Odds:
    return lambda d: -torch.expm1(-q * minus_log_p(d)) / q


@dataclass(frozen=True)
class Truth:
    """What a loss is: a tail of the odds, an edit of the logits, weights of its own, all (C,)."""

    tail: Odds
    at_certain_miss: float = float("inf")  # the tail where p is 0
    scale: Tensor | None = None
    bias: Tensor | None = None
    margin: Tensor | None = None
    own_weight: Tensor | None = None
    steepness: float = 1.0  # how much of an error of log p the tail makes

    def edited(self, z: Tensor, t: Tensor) -> Tensor:
        """Of logits and targets (rows, C)."""
        for vector, combine in ((self.scale, torch.mul), (self.bias, torch.add)):
            z = z if vector is None else combine(z, vector.to(z.dtype))
        return z if self.margin is None else z - self.margin.to(z.dtype) * t


@dataclass(frozen=True)
class Rows:
    """What a call means, position by position: (rows,) or (rows, C) in the dtype of z."""

    z: Tensor
    t: Tensor
    kept: Tensor
    s: Tensor
    w: Tensor
    soft: bool


def tails(truth: Truth, z: Tensor, wanted: Tensor) -> Tensor:
    """The tail of every class (rows, C), 0 where it is not wanted."""
    classes = z.shape[1]
    same = torch.eye(classes, dtype=torch.bool)
    others = z.unsqueeze(1).masked_fill(same, -torch.inf)  # (rows, class, others)
    alone = (others == -torch.inf).all(-1)
    # Where nothing else is possible p is 1 and the loss 0, and its derivative 0 too.
    d = others.masked_fill(alone.unsqueeze(-1), 0).logsumexp(-1) - z
    impossible = d == torch.inf
    unclear = d.isnan()  # of a logit that is NaN or +∞
    inside = d.masked_fill(alone | impossible | unclear, 0)
    value = truth.tail(inside).masked_fill(impossible, truth.at_certain_miss).masked_fill(alone, 0)
    # PyTorch's log-softmax is NaN in every class of a row with +∞ or NaN, or with −∞ alone.
    lost = (z.isnan() | (z == torch.inf)).any(1, keepdim=True)
    lost |= (z == -torch.inf).all(1, keepdim=True)
    return value.masked_fill(unclear | lost, torch.nan).masked_fill(~wanted, 0)


def losses(truth: Truth, rows: Rows, smoothing: float) -> Tensor:
    """The loss of each position, (rows,)."""
    classes = rows.z.shape[1]
    t = (1 - smoothing) * rows.t + smoothing / classes
    factor = rows.w * t * rows.s.unsqueeze(1) * rows.kept.unsqueeze(1)
    z = rows.z.masked_fill(~rows.kept.unsqueeze(1), 0)
    each = tails(truth, truth.edited(z, rows.t), factor != 0)
    if smoothing == 1 and not rows.soft:
        # PyTorch adds (1 − ε) times the target's own loss, and 0 · ∞ is NaN.
        each = each.masked_fill((rows.t > 0) & (each == torch.inf), torch.nan)
    return (factor * each).sum(1)


def reduced(each: Tensor, rows: Rows, call: dict[str, Any]) -> Tensor:
    """What the options make of the losses of positions."""
    if call["reduction"] == "none":
        return each
    if call["denominator"] is not None:
        over = torch.as_tensor(float(call["denominator"]), dtype=each.dtype)
    elif call["reduction"] == "sum":
        return each.sum()
    elif call["mean_over"] == "count":
        over = rows.kept.sum().to(each.dtype)
    elif rows.soft and call["mean_over"] is None:
        over = rows.s.sum()
    else:
        over = (rows.kept * rows.s * (rows.w * rows.t).sum(1)).sum()
    if over == 0:
        over = torch.full_like(over, torch.inf if call["empty"] == "zero" else torch.nan)
    return each.sum() / over


def rows_of(call: dict[str, Any], logits: Tensor, truth: Truth, dtype: torch.dtype) -> Rows:
    """The positions of a call one below the other."""

    def flat(given: Tensor) -> Tensor:
        given = given.to(dtype)
        return given.unsqueeze(0) if given.ndim == 1 else given.movedim(1, -1).flatten(0, -2)

    z, target, classes = flat(logits), call["target"], logits.shape[min(1, logits.ndim - 1)]
    soft = target.is_floating_point()
    if soft:
        t, kept = flat(target), torch.ones(len(z), dtype=torch.bool)
    else:
        index = target.long().flatten()
        kept = index != call["ignore_index"]
        t = F.one_hot(index.where(kept, 0), classes).to(dtype)
    s, shape = torch.ones(len(z), dtype=dtype), logits.shape[:1] + logits.shape[2:]
    if call["sample_weight"] is not None:
        s = call["sample_weight"].to(dtype).expand(shape if logits.ndim > 1 else ()).flatten()
    w = torch.ones(classes, dtype=dtype)
    for weight in (call["plain_weight"], truth.own_weight):
        w = w if weight is None else w * weight.to(dtype)
    return Rows(z, t, kept, s, w, soft)


def answer(truth: Truth, call: dict[str, Any], logits: Tensor, dtype: torch.dtype) -> Tensor:
    """The value of a call, for logits that may require a gradient."""
    rows = rows_of(call, logits, truth, dtype)
    value = reduced(losses(truth, rows, float(call["label_smoothing"])), rows, call)
    if call["reduction"] != "none":
        return value
    return value.view(logits.shape[:1] + logits.shape[2:] if logits.ndim > 1 else ())
