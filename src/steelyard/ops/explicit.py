"""The losses of class indices with their gradient written out, for a compiler to fuse.

Let x be the edited logits and m a shift that keeps the sums in range. Per position

    e_c = exp(x_c − m),   o = Σ_{c ≠ y} e_c,   log p_y = −log1p(o / e_y)

and with f = share · (the tail's derivative by −log p) / (o + e_y) the gradient by x is f · e_c, but
−f · o for the target. What a position needs for that is an *output* of forward, so it is computed
once per position. Inlined into backward, as the derivative of the formula is, tail and weights
would be computed once per class.

Plain torch, which also runs uncompiled; :mod:`steelyard.ops.traced` puts it in the user's graph.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.ops.edit import Edit, along_classes, compute_dtype
from steelyard.ops.work import Work, scaled, select


class Positions(NamedTuple):
    """What is known of each position before its logits are summed, all (N, d…).

    Attributes:
        classes: the target's, 0 where ignored.
        ignored: whether it counts nowhere.
        x: the edited logit of that class.
        share: how much it counts, 0 where ignored; None for 1.
    """

    classes: Tensor
    ignored: Tensor
    x: Tensor
    share: Tensor | None


class Kept(NamedTuple):
    """What backward wants of each position, all (N, d…).

    Attributes:
        own: the class in int32, −1 where the gradient is 0.
        shift: m.
        factor: f.
        others: o.
    """

    own: Tensor
    shift: Tensor
    factor: Tensor
    others: Tensor


def at(logits: Tensor, work: Work, index: Tensor, ignored: Tensor) -> Positions:
    """Gather what belongs to the classes ``index`` of positions."""
    x = logits.gather(1, index.unsqueeze(1)).squeeze(1).to(compute_dtype(logits))
    scale, bias, margin = work.edit
    if scale is not None:
        x = x * select(scale, index)
    if bias is not None:
        x = x + select(bias, index)
    if margin is not None:
        x = x - select(margin, index)
    return Positions(index, ignored, x, work.share(index, ignored, work.sample_weight))


def largest(logits: Tensor, work: Work, here: Positions) -> Tensor:
    """The shift that is right for all logits: the largest edited one, (N, d…)."""
    shift = _edited(logits, work.edit).amax(1)
    # The target's own is in it without its margin, and may have been the largest.
    return shift if work.edit.margin is None else torch.maximum(shift, here.x)


def forward(logits: Tensor, work: Work, here: Positions, shift: Tensor) -> tuple[Tensor, Kept]:
    """One loss per position (N, d…), and what :func:`backward` wants."""
    own = here.classes.int()
    e = (_edited(logits, work.edit) - shift.unsqueeze(1)).exp()
    others = e.masked_fill(is_class(logits, own), 0).sum(1)
    if shift is here.x:  # the target's e is 1
        total, log_p = others + 1, -others.log1p()
    else:
        apart = here.x - shift
        own_e = apart.exp()
        total, odds = others + own_e, others / own_e
        log_p = torch.where(in_range(odds), -odds.log1p(), apart - total.log())
    log_p = log_p.masked_fill(here.ignored, 0)
    rows, steepness = work.tail.both(log_p, work.parameter_of(here.classes))
    factor = steepness / total
    if here.share is not None:
        rows, factor = scaled(here.share, rows), here.share * factor
    nothing = here.ignored | (factor == 0)
    return rows, Kept(own.masked_fill(nothing, -1), shift, factor, others)


def backward(logits: Tensor, edit: Edit, kept: Kept, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…)."""
    e = (_edited(logits, edit) - kept.shift.unsqueeze(1)).exp()
    signed = torch.where(is_class(logits, kept.own), -kept.others.unsqueeze(1), e)
    by_x = signed * (kept.factor * gradient).unsqueeze(1)
    if edit.scale is not None:
        by_x = by_x * along_classes(edit.scale, logits)
    # After all else: what an ignored position holds may be NaN.
    return by_x.masked_fill((kept.own < 0).unsqueeze(1), 0).to(logits.dtype)


def in_range(odds: Tensor) -> Tensor:
    """Whether neither the target's e nor f has lost digits; not so for NaN."""
    return odds <= 2.0**60  # Dynamo would make a tensor of a number with a name


def _edited(logits: Tensor, edit: Edit) -> Tensor:
    """The edited logits, but for the margin: that is the target's alone."""
    return edit._replace(margin=None)(logits.to(compute_dtype(logits)), None)


def is_class(logits: Tensor, own: Tensor) -> Tensor:
    """Whether a class is the target's, (N, C, d…)."""
    return along_classes(_classes(logits.shape[1], logits.device), logits) == own.unsqueeze(1)


@torch.library.custom_op("steelyard::classes", mutates_args=())
def _classes(count: int, device: torch.device) -> Tensor:
    """The numbers of all classes, for Inductor to load: it makes those of an arange anew each time.

    In int32, of which a vector register holds as many as of float32.
    """
    return torch.arange(count, dtype=torch.int32, device=device)


@_classes.register_fake
def _(count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.int32, device=device)
