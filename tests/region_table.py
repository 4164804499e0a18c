"""One row per region loss: its formula in naive float64, and the family's contract.

Nothing here is shared with the library: a row says what a paper says, and :func:`naive_region` says
what the options mean.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from families import Batch
from table import TABLE, OneClass, naive_loss
from torch import Tensor

import steelyard as sy

# Of every class and image at once: p, t and s are (N, C, S), s is 0 where ignored.
Item = Callable[[Tensor, Tensor, Tensor], Tensor]


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0/0 is 1, without a gradient."""
    nothing = denominator == 0
    return torch.where(nothing, 1, numerator / torch.where(nothing, 1, denominator))


def sums(p: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """I = (P + T − A) / 2, and P and T."""
    predicted, true, apart = (s * p).sum(-1), (s * t).sum(-1), (s * (p - t).abs()).sum(-1)
    return (predicted + true - apart) / 2, predicted, true


def dice(smooth: float = 0.0) -> Item:
    def loss(p: Tensor, t: Tensor, s: Tensor) -> Tensor:
        both, predicted, true = sums(p, t, s)
        return 1 - ratio(2 * both + smooth, predicted + true + smooth)

    return loss


def squared_dice(smooth: float = 0.0) -> Item:
    def loss(p: Tensor, t: Tensor, s: Tensor) -> Tensor:
        below = (s * p**2).sum(-1) + (s * t**2).sum(-1)
        return 1 - ratio(2 * (s * p * t).sum(-1) + smooth, below + smooth)

    return loss


def jaccard(smooth: float = 0.0) -> Item:
    def loss(p: Tensor, t: Tensor, s: Tensor) -> Tensor:
        both, predicted, true = sums(p, t, s)
        return 1 - ratio(both + smooth, predicted + true - both + smooth)

    return loss


def tversky(alpha: float, beta: float, gamma: float = 1.0, smooth: float = 0.0) -> Item:
    def loss(p: Tensor, t: Tensor, s: Tensor) -> Tensor:
        both, predicted, true = sums(p, t, s)
        below = both + alpha * (predicted - both) + beta * (true - both)
        index = ratio(both + smooth, below + smooth)
        root = 1 - torch.where(index < 1, index, 0)
        return torch.where(index < 1, root ** (1 / gamma), 0)  # no gradient where all is right

    return loss


def lovasz(p: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Errors from the largest down, times the differences of Jaccard's loss of wrong pixels."""
    error, order = (p - t).abs().masked_fill(s == 0, -1).sort(dim=-1, descending=True)
    t, s = t.gather(-1, order), s.gather(-1, order)
    union = (s * t).sum(-1, keepdim=True) + (s * (1 - t)).cumsum(-1)
    jaccard = 1 - ratio(union - s.cumsum(-1), union)
    before = torch.cat([torch.zeros_like(jaccard[..., :1]), jaccard[..., :-1]], -1)
    return (error * (jaccard - before)).sum(-1)


def generalized(power: int) -> Callable[..., Tensor]:
    def loss(p: Tensor, t: Tensor, s: Tensor, weight: Tensor) -> Tensor:
        both, predicted, true = sums(p, t, s)
        weight = torch.where(weight > 0, weight / true**power, 0)
        return 1 - ratio(2 * (weight * both).sum(-1), (weight * (predicted + true)).sum(-1))

    return loss


@dataclass(frozen=True)
class RegionRow:
    """A region loss with its formula.

    ``item(p, t, s)`` is that of every class in every image, (N, C). A row with ``joined`` makes one
    of all classes: ``joined(p, t, s, ω)``, (N,), for ω (N, C) that is 0 where a class does not
    count.
    """

    module: type[sy.RegionLoss]
    function: Callable[..., Tensor]
    arguments: dict[str, Any]
    item: Item | None = None
    joined: Callable[..., Tensor] | None = None
    id: str = field(default="")

    limit: ClassVar[None] = None

    def build(self, **options: Any) -> sy.RegionLoss:
        return self.module(**self.arguments | options)

    @property
    def family(self) -> "Region":
        return Region(self)

    def naive(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        family = {k: v for k, v in self.arguments.items() if k in ("activation", "per", "absent")}
        return naive_region(self, logits, target, **family | options)

    @property
    def of_sums(self) -> bool:
        return self.module is not sy.LovaszLoss

    @property
    def adds_up(self) -> bool:
        """Whether class indices tell a denominator."""
        return self.arguments.get("per") != "batch" and self.takes_one_position

    @property
    def takes_one_position(self) -> bool:
        """Whether logits of one dimension are (C,)."""
        return self.arguments.get("activation") != "sigmoid"


class Region(OneClass):
    """The region losses: sums over pixels, of which some have no denominator from targets alone."""

    engines = ("auto", "reference", "blocked")
    gammas = (0.5, 1, 4 / 3, 5)

    def __init__(self, row: RegionRow) -> None:
        if not row.takes_one_position:
            self.shapes = {name: shape for name, shape in self.shapes.items() if shape}
        if not row.of_sums:
            self.engines = ("auto", "reference")
        self.adds_up = row.adds_up

    @property
    def denominators(self) -> tuple[str | None, ...]:
        return self.mean_overs if self.adds_up else ()

    def naive(self, row: RegionRow, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return row.naive(logits, target, **options)


REGIONS = [
    RegionRow(sy.DiceLoss, sy.dice_loss, {}, dice(), id="dice"),
    RegionRow(sy.DiceLoss, sy.dice_loss, {"per": "batch"}, dice(), id="dice-per-batch"),
    RegionRow(
        sy.DiceLoss,
        sy.dice_loss,
        {"squared": True, "smooth": 0.1, "activation": "sigmoid"},
        squared_dice(0.1),
        id="dice-squared-sigmoid",
    ),
    RegionRow(
        sy.JaccardLoss,
        sy.jaccard_loss,
        {"smooth": 0.2, "activation": "sigmoid", "per": "batch"},
        jaccard(0.2),
        id="jaccard-sigmoid-per-batch",
    ),
    RegionRow(
        sy.TverskyLoss,
        sy.tversky_loss,
        {"alpha": 0.3, "beta": 0.7},
        tversky(0.3, 0.7),
        id="tversky",
    ),
    RegionRow(
        sy.TverskyLoss,
        sy.tversky_loss,
        {"alpha": 0.7, "beta": 0.3, "gamma": 4 / 3, "smooth": 0.5, "per": "batch"},
        tversky(0.7, 0.3, 4 / 3, 0.5),
        id="focal-tversky",
    ),
    RegionRow(
        sy.GeneralizedDiceLoss,
        sy.generalized_dice_loss,
        {},
        joined=generalized(2),
        id="generalized-dice",
    ),
    RegionRow(
        sy.GeneralizedDiceLoss,
        sy.generalized_dice_loss,
        {"weighting": "simple", "per": "batch"},
        joined=generalized(1),
        id="generalized-dice-simple",
    ),
    RegionRow(sy.LovaszLoss, sy.lovasz_loss, {}, lovasz, id="lovasz"),
    RegionRow(
        sy.LovaszLoss,
        sy.lovasz_loss,
        {"activation": "sigmoid", "per": "batch"},
        lovasz,
        id="lovasz-sigmoid-per-batch",
    ),
]


@dataclass(frozen=True)
class CompoundRow:
    """Dice and cross-entropy, added: the one by its own name, or built of its parts."""

    module: type[sy.CompoundLoss]
    function: Callable[..., Tensor]
    arguments: dict[str, Any]
    id: str

    limit: ClassVar[None] = None
    dice: ClassVar[RegionRow] = REGIONS[0]

    def build(self, **options: Any) -> sy.CompoundLoss:
        arguments = self.arguments | options
        if self.module is sy.DiceCELoss:
            return sy.DiceCELoss(**arguments)
        shared = {k: v for k, v in arguments.items() if k not in ("per", "dice", "cross_entropy")}
        per = {"per": arguments.get("per", "image")}
        parts = [
            (arguments["dice"], sy.DiceLoss(**shared, **per)),
            (arguments["cross_entropy"], sy.CrossEntropyLoss(**shared)),
        ]
        return self.module(parts)

    @property
    def family(self) -> "Compound":
        return Compound()


class Compound(OneClass):
    """Of which each part is reduced by itself, so that there is no reduction="none"."""

    def naive(self, row: CompoundRow, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        per = {"per": row.arguments.get("per", "image")}
        dice = naive_region(row.dice, logits, target, **per, **options)
        entropy = naive_loss(TABLE[0], logits, target, **options)
        return row.arguments.get("dice", 1) * dice + row.arguments.get("cross_entropy", 1) * entropy

    def options(self, form: str) -> Iterator[dict[str, Any]]:
        return (each for each in super().options(form) if each["reduction"] != "none")

    def alike(self, batch: Batch) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        return (each for each in super().alike(batch) if each[0].get("reduction") != "none")


COMPOUNDS = [
    CompoundRow(sy.DiceCELoss, sy.dice_ce_loss, {}, "dice-ce"),
    CompoundRow(
        sy.CompoundLoss,
        sy.dice_ce_loss,
        {"dice": 0.7, "cross_entropy": 1.3},
        "compound",
    ),
]


def naive_region(
    row: RegionRow,
    logits: Tensor,
    target: Tensor,
    *,
    activation: str = "softmax",
    per: str = "image",
    absent: str = "skip",
    weight: Tensor | None = None,
    ignore_index: float = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The family's contract for one loss in float64, with a one-hot target."""
    single = logits.ndim == 1
    if single:
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    n, classes, *places = logits.shape
    size = torch.Size(places).numel()
    z = logits.double().reshape(n, classes, size)
    if target.shape == logits.shape:
        t = target.double().reshape(z.shape)
        kept = t != ignore_index if activation == "sigmoid" else torch.ones_like(t, dtype=bool)
    else:
        y = target.long().reshape(n, 1, size)
        t = (y == torch.arange(classes).view(1, -1, 1)).double()
        kept = (y != ignore_index).expand(z.shape)
    s = kept.double()
    if sample_weight is not None:
        given = sample_weight.double()
        of_cells = given.ndim == logits.ndim and not single
        s = s * given.reshape(z.shape if of_cells else (n, 1, size))
    p = z.softmax(1) if activation == "softmax" else 1 / (1 + (-z).exp())
    classes_beside = classes if activation == "softmax" else 2
    smoothed = (1 - label_smoothing) * t + label_smoothing / classes_beside
    if per == "batch":  # one image (1, C, N·S)
        p, t, smoothed, s = (
            x.movedim(0, 1).reshape(1, classes, n * size) for x in (p, t, smoothed, s)
        )
    counts = ((s * t).sum(-1) if absent == "skip" else s.sum(-1)) > 0
    omega = counts.double() * (1 if weight is None else weight.double())
    if row.joined is not None:
        losses = row.joined(p, smoothed, s, omega)
        omega = (omega > 0).any(-1).double()
        counts = omega > 0
    else:
        losses = row.item(p, smoothed, s)
    each = torch.where(omega > 0, omega * losses, 0 * losses.nan_to_num())
    if reduction == "none":
        return each.squeeze(0) if per == "batch" or single else each
    divisor = counts.double().sum() if mean_over == "count" else omega.sum()
    if reduction == "sum" or divisor == 0:
        return each.sum()
    return each.sum() / divisor
