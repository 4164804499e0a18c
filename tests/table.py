"""One row per loss: its formula in naive float64, its limit, and the contract as a naive loop.

Nothing here is shared with the library: a row says what a paper says, and :func:`naive_loss` says
what the options mean.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from families import WEIGHT, Batch, C, Family, random_logits, uniform
from torch import Tensor

import steelyard as sy
from steelyard.ops import ENGINES

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
    family: ClassVar[Family]

    def build(self, **options: Any) -> sy.SoftmaxLoss:
        return self.module(**self.arguments, **options)


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
        sy.SymmetricCrossEntropyLoss,
        sy.symmetric_cross_entropy_loss,
        {"alpha": 0.3, "beta": 0.7, "log_zero": -6.0},
        lambda z, t: -0.3 * log_softmax(z) + 0.7 * 6.0 * (1 - log_softmax(z).exp()),
        {"alpha": 1.0, "beta": 0.0},
        id="symmetric",
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


class OneClass(Family):
    """Targets of one class per position, as its index or as a distribution."""

    # "triton" wants a GPU or its interpreter: it has tests of its own. "auto" takes so few logits
    # as these by another way than any named engine.
    engines = tuple(engine for engine in ENGINES if engine != "triton")
    forms = ("index", "probabilities")
    shapes: ClassVar = {"C": (), "N": (7,), "N-d": (3, 4), "N-d1-d2": (2, 3, 2)}
    mean_overs = (None, "weight", "count")

    def make(
        self, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> Batch:
        logits = random_logits(shape, seed, dtype)
        generator = torch.Generator().manual_seed(seed + 1)
        index = torch.randint(0, C, shape, generator=generator)
        if shape:
            index.view(-1)[:2] = 1  # something to ignore
        share = uniform(logits.shape, seed + 2)
        share = share / share.sum(min(1, share.ndim - 1), keepdim=True)
        return Batch(logits, {"index": index, "probabilities": share})

    def ignoring(self, form: str) -> dict[str, Any]:
        return {"ignore_index": 1} if form == "index" else {}

    def ignored(self, target: Tensor, logits: Tensor) -> Tensor:
        return (target == 1).unsqueeze(min(1, target.ndim)).expand_as(logits)

    def options(self, form: str) -> Iterator[dict[str, Any]]:
        ignores = (-100, 1) if form == "index" else (-100,)
        for weight, ignore, smoothing, reduction, mean_over in itertools.product(
            (None, WEIGHT), ignores, (0.0, 0.2), ("mean", "sum", "none"), self.mean_overs
        ):
            if reduction != "mean" and mean_over:
                continue
            yield {
                "weight": weight,
                "ignore_index": ignore,
                "label_smoothing": smoothing,
                "reduction": reduction,
                "mean_over": mean_over,
            }

    def samples(self, row: Any, logits: Tensor) -> list[Tensor | None]:
        return [None, uniform(logits.shape[:1] + logits.shape[2:] if logits.ndim > 1 else (), 1)]

    def alike(self, batch: Batch) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        index = batch.targets["index"]
        one_hot = F.one_hot(index, C).movedim(-1, 1).double()
        for options in ({"mean_over": "weight"}, {"reduction": "sum"}, {"reduction": "none"}):
            for smoothing in (0.0, 0.1):
                yield {"label_smoothing": smoothing, **options}, one_hot, index

    def permuted(self, target: Tensor, order: Tensor) -> Tensor:
        return target[:, order] if target.is_floating_point() else order.argsort()[target]

    def saturated(self, dtype: torch.dtype, size: float) -> Batch:
        extreme = torch.tensor([size, -size, 0.0, 50.0, -50.0])
        # e^−100 is so little that float32 has no normal number for it.
        sure = torch.tensor([50.0, -50.0, -50.0, -50.0, -50.0])
        rows = [extreme.roll(i) for i in range(C)] + [torch.zeros(C), sure]
        index = torch.arange(C).repeat(len(rows))
        targets = {"index": index, "probabilities": F.one_hot(index, C).float()}
        return Batch(torch.stack(rows).to(dtype).repeat_interleave(C, 0), targets)

    def masked_out(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        logits, targets = self.make((6,))
        index = targets["index"].clamp(max=C - 2)
        share = targets["probabilities"]
        logits[:, C - 1] = -float("inf")
        share[:, C - 1] = 0
        yield logits, index, {}
        yield logits, share, {}
        weight = WEIGHT.clone()
        weight[C - 1] = 0
        yield logits, index, {"weight": weight, "label_smoothing": 0.1}

    def nothing(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        logits, targets = self.make((4,))
        index = targets["index"]
        yield logits[:0], index[:0], {}
        yield logits, torch.full_like(index, 2), {"ignore_index": 2}
        yield logits, torch.full_like(index, 3), {"weight": WEIGHT}

    def integers(self) -> list[torch.dtype]:
        unsigned = [torch.uint8, torch.uint16]
        return [*unsigned, torch.int8, torch.int16, torch.int32, torch.int64]

    def wrong_targets(self, hard: Tensor) -> Iterator[tuple[Tensor, type[Exception], str]]:
        for wrong in (C, -1, 10**6):
            target = hard.clone()
            target[2, 1] = wrong
            yield target, IndexError, rf"target\[2, 1\] is {wrong}, .*C = 5 .*ignore_index=-100"


class Softmax(OneClass):
    """The softmax losses, whose limit is cross-entropy."""

    def naive(self, row: Row, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return naive_loss(row, logits, target, **options)

    def torchs(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor | None:
        if options.pop("mean_over"):
            return None
        if target.shape == () and target == options["ignore_index"]:
            return None  # of nothing PyTorch makes NaN
        return F.cross_entropy(logits, target, **options)


Row.family = Softmax()
