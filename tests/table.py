"""One row per loss: its formula in naive float64, its limit, and the contract as a naive loop.

Nothing here is shared with the library: a row says what a paper says, and :func:`naive_loss` says
what the options mean.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

import steelyard as sy
from steelyard.ops import ENGINES

C = 5
COUNTS = [900, 300, 90, 20, 4]


def prior(counts: list[int]) -> Tensor:
    n = torch.tensor(counts, dtype=torch.float64)
    return n / n.sum()


def margins(counts: list[int], largest: float) -> Tensor:
    n = torch.tensor(counts, dtype=torch.float64)
    return largest * (n.min() / n) ** 0.25


def effective(counts: list[int], beta: float) -> Tensor:
    n = torch.tensor(counts, dtype=torch.float64)
    weight = (1 - beta) / (1 - beta**n)
    return weight * len(counts) / weight.sum()


def log_softmax(z: Tensor) -> Tensor:
    return z - z.logsumexp(-1, keepdim=True)


def plain(z: Tensor, t: Tensor) -> Tensor:
    return -log_softmax(z)


def focal(gamma: Any) -> Callable[[Tensor, Tensor], Tensor]:
    g = torch.as_tensor(gamma, dtype=torch.float64)

    def losses(z: Tensor, t: Tensor) -> Tensor:
        log_p = log_softmax(z)
        return -((1 - log_p.exp()) ** g) * log_p

    return losses


@dataclass(frozen=True)
class Row:
    """A public loss.

    ``losses(z, t)`` gives the loss of every class, (rows, C), for logits and one-hot or soft
    targets in float64. With ``limit`` for arguments the loss is plain cross-entropy.
    """

    module: type[sy.SoftmaxLoss]
    function: Callable[..., Tensor]
    arguments: dict[str, Any]
    losses: Callable[[Tensor, Tensor], Tensor]
    limit: dict[str, Any]
    own_weight: Tensor | None = None
    # Near the limit rather than at it: how far from cross-entropy it may be there.
    limit_tolerance: float = 1e-12
    id: str = field(default="")

    engines: ClassVar[tuple[str, ...]] = ENGINES
    gammas: ClassVar[tuple[float, ...]] = (0, 0.1, 0.5, 1, 2, 5)
    adds_up: ClassVar[bool] = True
    takes_one_position: ClassVar[bool] = True

    def build(self, **options: Any) -> sy.SoftmaxLoss:
        return self.module(**self.arguments, **options)

    def naive(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return naive_loss(self, logits, target, **options)


EQUAL = [7] * C
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]

TABLE = [
    Row(sy.CrossEntropyLoss, sy.cross_entropy_loss, {}, plain, {}, id="cross-entropy"),
    Row(sy.FocalLoss, sy.focal_loss, {}, focal(2.0), {"gamma": 0.0}, id="focal"),
    Row(
        sy.FocalLoss,
        sy.focal_loss,
        {"gamma": GAMMAS},
        focal(GAMMAS),
        {"gamma": [0.0] * C},
        id="focal-per-class",
    ),
    Row(
        sy.FocalLoss,
        sy.focal_loss,
        {"gamma": 0.5},
        focal(0.5),
        {"gamma": 0},
        id="focal-below-one",
    ),
    Row(
        sy.PolyLoss,
        sy.poly_loss,
        {"epsilon": 1.5},
        lambda z, t: -log_softmax(z) + 1.5 * (1 - log_softmax(z).exp()),
        {"epsilon": 0.0},
        id="poly",
    ),
    Row(
        sy.GeneralizedCrossEntropyLoss,
        sy.generalized_cross_entropy_loss,
        {},
        lambda z, t: (1 - log_softmax(z).exp() ** 0.7) / 0.7,
        {"q": 1e-14},
        id="generalized",
    ),
    Row(
        sy.ClassBalancedLoss,
        sy.class_balanced_loss,
        {"class_counts": COUNTS, "beta": 0.99, "gamma": 1.0},
        focal(1.0),
        {"class_counts": EQUAL},
        own_weight=effective(COUNTS, 0.99),
        id="class-balanced",
    ),
    Row(
        sy.LogitAdjustedLoss,
        sy.logit_adjusted_loss,
        {"class_counts": COUNTS, "tau": 1.3},
        lambda z, t: plain(z + 1.3 * prior(COUNTS).log(), t),
        {"class_counts": COUNTS, "tau": 0.0},
        id="logit-adjusted",
    ),
    Row(
        sy.BalancedSoftmaxLoss,
        sy.balanced_softmax_loss,
        {"class_counts": COUNTS},
        lambda z, t: plain(z + prior(COUNTS).log(), t),
        {"class_counts": EQUAL},
        id="balanced-softmax",
    ),
    Row(
        sy.LDAMLoss,
        sy.ldam_loss,
        {"class_counts": COUNTS, "scale": 5.0},
        lambda z, t: plain(5.0 * (z - margins(COUNTS, 0.5) * t), t),
        {"class_counts": COUNTS, "max_margin": 0.0, "scale": 1.0},
        id="ldam",
    ),
    Row(
        sy.VSLoss,
        sy.vs_loss,
        {"class_counts": COUNTS},
        lambda z, t: plain(
            (prior(COUNTS) / prior(COUNTS).max()) ** 0.3 * z + prior(COUNTS).log(), t
        ),
        {"class_counts": COUNTS, "gamma": 0.0, "tau": 0.0},
        id="vs",
    ),
]


def rows_of(tensor: Tensor) -> Tensor:
    """(N, C, d…) or (C,) → (rows, C)."""
    return tensor.unsqueeze(0) if tensor.ndim == 1 else tensor.movedim(1, -1).flatten(0, -2)


def naive_loss(
    row: Row,
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The contract for one loss, position by position, in float64."""
    z = rows_of(logits.double())
    soft = target.is_floating_point()
    shape = (
        (logits.shape[:1] + logits.shape[2:] if logits.ndim > 1 else ()) if soft else target.shape
    )
    if soft:
        t, kept = rows_of(target.double()), torch.ones(len(z), dtype=torch.bool)
    else:
        flat = target.flatten().long()
        kept = flat != ignore_index
        t = torch.zeros_like(z)
        t[kept, flat[kept]] = 1.0
    s = torch.ones(len(z), dtype=torch.float64)
    if sample_weight is not None:
        s = sample_weight.double().expand(shape).flatten()
    w = torch.ones(C, dtype=torch.float64) if weight is None else weight.double()
    if row.own_weight is not None:
        w = w * row.own_weight
    smoothed = (1 - label_smoothing) * t + label_smoothing / C
    values, shares = [], []
    for i in range(len(z)):
        if not kept[i]:
            values.append(0 * z[i].nan_to_num().sum())
            shares.append(z.new_zeros(()))
            continue
        losses = row.losses(z[i : i + 1], t[i : i + 1])[0]
        values.append(s[i] * (w * smoothed[i] * losses).sum())
        if mean_over == "count":
            shares.append(z.new_ones(()))
        elif soft and mean_over is None:
            shares.append(s[i])
        else:
            shares.append(s[i] * (w * t[i]).sum())
    each = torch.stack(values) if values else z.new_zeros(0)
    if reduction == "none":
        return each.reshape(shape)
    if reduction == "sum":
        return each.sum()
    denominator = torch.stack(shares).sum() if shares else z.new_zeros(())
    return each.sum() / denominator if denominator != 0 else 0 * each.nan_to_num().sum()
