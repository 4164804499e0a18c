"""The arithmetic of a region loss: what one would write to work it out by hand."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steelyard import ops
from steelyard._explain_cells import CellExplanation
from steelyard.losses.images import look
from steelyard.losses.regions import RegionLoss, counted, divisor, of_target_too


@dataclass(frozen=True)
class Item:
    """``weight · (1 − above / below)^(1/γ)`` of one class in one image, or in the whole batch.

    ``both``, ``predicted`` and ``true`` are I, P and T. An item is ignored where its class is
    absent, or its image has no pixel that counts. Where a loss joins the classes there is one item
    per image, with the sums of all classes; Lovász's loss has none of these numbers.
    """

    index: tuple[int, ...]
    ignored: bool
    both: tuple[float, ...]
    predicted: tuple[float, ...]
    true: tuple[float, ...]
    above: float
    below: float
    loss: float
    weight: float
    contribution: float

    headings: ClassVar = ("item", "I", "P", "T", "ratio", "loss", "weight", "contribution")

    def row(self) -> list[str]:
        """As cells of a table."""
        place = ", ".join(map(str, self.index)) or "all"
        sums = [
            ", ".join(f"{number:.6f}" for number in each) or "–"
            for each in (self.both, self.predicted, self.true)
        ]
        if self.ignored:
            return [place, *sums, "left out", "", "", "0"]
        ratio = "–" if math.isnan(self.below) else f"{self.above:.6f} / {self.below:.6f}"
        return [
            place,
            *sums,
            ratio,
            f"{self.loss:.6f}",
            f"{self.weight:g}",
            f"{self.contribution:.6f}",
        ]


@torch.no_grad()
def explain_regions(
    loss: RegionLoss,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    denominator: float | Tensor | None,
) -> CellExplanation:
    """One item after the other, in float64; see :func:`steelyard.explain`."""
    expected = loss(logits, target, sample_weight, denominator).double()
    form, options = loss.form, loss.options
    wide = logits.detach().cpu().double()
    samples = None if sample_weight is None else sample_weight.cpu()
    images = look(options, wide, target.cpu(), samples, squared=form.squared)
    found = ops.sums(images.logits, images.overlap, "reference")
    counts = counted(found.masses.own, found.masses.whole, options)
    sums = torch.stack(of_target_too(found, images))
    if form.of_sums:
        above, below = form.parts(sums, counts)
        losses = form.losses(sums, counts)
    else:
        losses = ops.lovasz(images.logits, images.overlap)
        above = below = torch.full_like(losses, math.nan)
    weight = form.item_weights(counts, losses)
    contributions = (weight * losses).where(weight > 0, 0)
    items = tuple(
        Item(
            index=(() if options.per == "batch" else (i,)) + (() if form.joined else (c,)),
            ignored=not bool(counts[i].any() if form.joined else counts[i, c]),
            **_numbers(sums, i, None if form.joined else c, known=form.of_sums),
            above=float(above[i, c]),
            below=float(below[i, c]),
            loss=float(losses[i, c]),
            weight=float(weight[i, c]),
            contribution=float(contributions[i, c]),
        )
        for i in range(losses.shape[0])
        for c in range(losses.shape[1])
    )
    numerator = math.fsum(item.contribution for item in items)
    over: float | None = None
    result: float | tuple[float, ...]
    if options.reduction == "none":
        result = tuple(item.contribution for item in items)
    else:
        if denominator is not None:
            over = float(denominator)
        elif options.reduction == "mean":
            over = float(divisor(options, weight, counts))
        if over == 0:
            result = 0.0 if options.empty == "zero" else math.nan
        else:
            result = numerator if over is None else numerator / over
    given = torch.tensor(result, dtype=torch.float64).view(expected.shape)
    # The loss computed in float32 unless the logits were float64; the arithmetic here did not.
    if not torch.allclose(given, expected.cpu(), rtol=1e-4, atol=1e-5, equal_nan=True):
        raise RuntimeError(
            f"the arithmetic gives {result}, but {loss} returned {expected.tolist()}: please "
            "report this with the logits and the target"
        )
    return CellExplanation(repr(loss), options.reduction, items, numerator, over, result)


def _numbers(sums: Tensor, i: int, c: int | None, *, known: bool) -> dict[str, tuple[float, ...]]:
    """I, P and T of one class, or of all."""
    names = ("both", "predicted", "true")
    if not known:
        return dict.fromkeys(names, ())
    columns = slice(None) if c is None else slice(c, c + 1)
    return {n: tuple(each[i, columns].tolist()) for n, each in zip(names, sums, strict=True)}
