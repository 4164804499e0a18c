"""The losses of cells, each one class of one position, in plain torch: what they mean.

Any device, any dtype, any order of derivative. Every other engine is tested against this one, so
it is written to be read.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops.problem import Reduction, along_classes, compute_dtype, scaled
from steelyard.ops.softmax import Tail


class Side(NamedTuple):
    """What a cell costs as far as its class is there, or as far as it is not.

    With u the edited logit of a class that is there, and minus it of one that is not, the cost is
    ``factor · tail(log σ(scale · u − margin))``.

    Attributes:
        tail: of log p, p being the probability of being right.
        parameter: the tail's: a number, a tuple of numbers, or one number per class (C,).
        factor: a number, or one per class (C,).
        scale, margin: numbers.
    """

    tail: Tail
    parameter: Any = None
    factor: float | Tensor = 1.0
    scale: float = 1.0
    margin: float = 0.0


class Rebalance(NamedTuple):
    """A weight per cell: ``floor + σ(steepness · (r − middle))``, r = share_c / Σ_j t_j share_j.

    Attributes:
        share: one number per class (C,), the inverse of how often it is there.
        floor, steepness, middle: numbers.
    """

    share: Tensor
    floor: float
    steepness: float
    middle: float


class Cells(NamedTuple):
    """The losses of cells, all but the logits.

    ``s · w_c · [pw_c · t' · positive + (1 − t') · negative]`` with ``t' = (1−ε)·t + ε/2``.

    Attributes:
        target: (N, C, d…), t in [0, 1] of any dtype.
        ignore_index: cells with this target give 0 and a gradient of exactly 0; may be NaN.
        positive, negative: the two sides of a cell.
        bias: added to the logits, (C,) or None.
        weight, pos_weight: (C,) or (), or None for 1.
        sample_weight: s, (N, 1, d…) or (N, C, d…), or None for 1.
        rebalance: one more weight, from the target; or None.
        smoothing: ε.
    """

    target: Tensor
    ignore_index: float
    positive: Side
    negative: Side
    bias: Tensor | None = None
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    sample_weight: Tensor | None = None
    rebalance: Rebalance | None = None
    smoothing: float | Tensor = 0.0

    @property
    def none_ignored(self) -> bool:
        """Whether the dtype of the target says that no cell is ignored."""
        return self.ignore_index < 0 and not self.target.dtype.is_signed

    def ignored(self) -> Tensor:
        """Which cells count nowhere, (N, C, d…)."""
        if self.none_ignored:
            return torch.zeros_like(self.target, dtype=torch.bool)
        if math.isnan(self.ignore_index):
            return self.target != self.target
        return self.target == self.ignore_index

    def as_rows(self) -> "Cells":
        """The same for logits whose positions were flattened to rows."""
        target = self.target.movedim(1, -1).flatten(0, -2)
        weight = self.sample_weight
        if weight is not None:
            weight = weight.movedim(1, -1).flatten(0, -2)
        return self._replace(target=target, sample_weight=weight)

    def present(self, ignored: Tensor, dtype: torch.dtype) -> Tensor:
        """t, and 0 where ignored."""
        return self.target.to(dtype).masked_fill(ignored, 0)

    def cell_weight(self, present: Tensor) -> Tensor | None:
        """The weight of every cell but for ``pos_weight``; broadcasts to (N, C, d…)."""
        found = self.sample_weight
        if self.weight is not None:
            weight = along_classes(self.weight, present)
            found = weight if found is None else found * weight
        if self.rebalance is not None:
            weight = self._rebalanced(self.rebalance, present)
            found = weight if found is None else found * weight
        return found

    def divisor(self, over: str, dtype: torch.dtype) -> Tensor:
        """What a mean divides by, from the target alone.

        Args:
            over: "cell", the number of cells that are not ignored; "position", that of positions
                with such a cell; "weight", the sum of the weights applied; "positive", Σ s·t.
            dtype: in which to add up.
        """
        if over == "cell" and self.none_ignored:
            return self.target.new_full((), self.target.numel(), dtype=dtype)
        ignored = self.ignored()
        if over == "cell":
            return (~ignored).sum().to(dtype)
        if over == "position":
            return (~ignored).any(1).sum().to(dtype)
        present = self.present(ignored, dtype)
        if over == "positive":
            weight, each = self.sample_weight, present
        else:
            weight, each = self.cell_weight(present), torch.ones_like(present)
            if self.pos_weight is not None:
                each = 1 + (along_classes(self.pos_weight, present) - 1) * present
        if weight is not None:
            each = weight * each
        return each.masked_fill(ignored, 0).sum()

    @staticmethod
    def _rebalanced(rebalance: Rebalance, present: Tensor) -> Tensor:
        share, floor, steepness, middle = rebalance
        share = along_classes(share, present)
        # Where no class is there r is infinite, and its σ is 1.
        r = share / (present * share).sum(1, keepdim=True)
        return floor + torch.sigmoid(steepness * (r - middle))


def losses(logits: Tensor, work: Cells, mean: Reduction | None = None) -> Tensor:
    """One loss per cell (N, C, d…) for logits of that shape, or their mean, in at least float32."""
    costs = _costs(logits, work)
    if mean is None:
        return costs
    return _divided(costs.sum(), work, mean)


def _costs(logits: Tensor, work: Cells) -> Tensor:
    dtype = compute_dtype(logits)
    ignored = work.ignored()
    # Before anything else touches them: a NaN that is only multiplied by 0 later stays a NaN.
    edited = logits.to(dtype).masked_fill(ignored, 0)
    if work.bias is not None:
        edited = edited + along_classes(work.bias, logits)
    present = work.present(ignored, dtype)
    weight = work.cell_weight(present)
    share = (1 - work.smoothing) * present + work.smoothing / 2
    positive = share
    if work.pos_weight is not None:
        positive = along_classes(work.pos_weight, logits) * positive
    costs = _as_far_as(positive, _cost(work.positive, edited))
    costs = costs + _as_far_as(1 - share, _cost(work.negative, -edited))
    if weight is not None:
        costs = scaled(weight, costs)
    return costs.masked_fill(ignored, 0)


def _divided(total: Tensor, work: Cells, mean: Reduction) -> Tensor:
    """The sum over what the mean says."""
    if mean.kind == "sum" or mean.over is None:
        return total
    over = mean.over if isinstance(mean.over, Tensor) else work.divisor(mean.over, total.dtype)
    return total / over.masked_fill(over == 0, mean.nothing)


def _cost(side: Side, u: Tensor) -> Tensor:
    if side.scale != 1:
        u = side.scale * u
    if side.margin != 0:
        u = u - side.margin
    cost = side.tail(F.logsigmoid(u), _along(side.parameter, u))
    if isinstance(side.factor, Tensor):
        return along_classes(side.factor, u) * cost
    return cost if side.factor == 1 else side.factor * cost


def _as_far_as(share: Tensor, cost: Tensor) -> Tensor:
    """``share · cost``, where none of an infinite cost is 0; the share has its derivative."""
    return share * cost.masked_fill((share == 0) & cost.isinf(), 0)


def _along(parameter: Any, like: Tensor) -> Any:
    """The tail's parameter as it meets log p (N, C, d…)."""
    if isinstance(parameter, Tensor) and parameter.ndim > 0:
        return along_classes(parameter, like)
    return parameter


def _position_losses(logits: Tensor, work: Cells, mean: Reduction | None = None) -> Tensor:
    """``log(1 + Σ_c w_c (1 − t'_c) e^z_c) + log(1 + Σ_c w_c pw_c t'_c e^−z_c)``, times s.

    The sides of the cells, their bias and their re-balancing have no part in it.

    Returns:
        One loss per position (N, d…) for logits (N, C, d…), or their mean, in at least float32.
    """
    dtype = compute_dtype(logits)
    ignored = work.ignored()
    wide = logits.to(dtype).masked_fill(ignored, 0)
    share = (1 - work.smoothing) * work.present(ignored, dtype) + work.smoothing / 2
    weight = wide.new_ones(()) if work.weight is None else along_classes(work.weight, wide)
    positive = weight if work.pos_weight is None else weight * along_classes(work.pos_weight, wide)
    rows = _log_one_plus(wide, weight * (1 - share), ignored)
    rows = rows + _log_one_plus(-wide, positive * share, ignored)
    if work.sample_weight is not None:
        rows = scaled(work.sample_weight.squeeze(1), rows)
    return rows if mean is None else _divided(rows.sum(), work, mean)


def _log_one_plus(u: Tensor, factor: Tensor, ignored: Tensor) -> Tensor:
    """``log(1 + Σ_c factor_c e^u_c)``, (N, d…), without what is ignored or has a factor of 0."""
    nothing = ignored | (factor <= 0)
    exponents = (u + factor.masked_fill(nothing, 1).log()).masked_fill(nothing, -math.inf)
    one = torch.zeros_like(u[:, :1])
    return torch.cat([one, exponents], 1).logsumexp(1)


def cell_losses(
    logits: Tensor, work: Cells, engine: str = "auto", mean: Reduction | None = None
) -> Tensor:
    """The losses of cells, or their mean.

    Args:
        logits: (N, C, d…), floating.
        work: what is to be done.
        engine: which engine is to do it.
        mean: sum over cells, and divide.

    Returns:
        (N, C, d…), or with ``mean`` a 0-d tensor; in at least float32.
    """
    _plain_torch_alone(engine)
    if logits.ndim > 2 and logits.stride(1) == 1:  # as in dispatch.losses
        rows = logits.movedim(1, -1)
        flat = cell_losses(rows.flatten(0, -2), work.as_rows(), engine, mean)
        return flat if mean is not None else flat.view(rows.shape).movedim(-1, 1)
    return losses(logits, work, mean)


def position_losses(
    logits: Tensor, work: Cells, engine: str = "auto", mean: Reduction | None = None
) -> Tensor:
    """The losses of positions whose cells belong together (N, d…), or their mean."""
    _plain_torch_alone(engine)
    if logits.ndim > 2 and logits.stride(1) == 1:
        rows = logits.movedim(1, -1)
        flat = position_losses(rows.flatten(0, -2), work.as_rows(), engine, mean)
        return flat if mean is not None else flat.view(rows.shape[:-1])
    return _position_losses(logits, work, mean)


def _plain_torch_alone(engine: str) -> None:
    if engine not in ("auto", "reference"):
        raise RuntimeError(
            f"engine={engine!r} cannot do this: the loss is of cells, not of classes. "
            "engine='auto' takes the fastest that can, engine='reference' does everything"
        )
