"""Sums of losses, and the one that most segmentation is trained with: Dice and cross-entropy."""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, Self, Unpack, cast

import torch
from torch import Tensor, nn

from steelyard import ops
from steelyard.losses.contract import check_denominator, check_logits
from steelyard.losses.images import RegionCallOptions, RegionLossOptions, check_classes, look
from steelyard.losses.module import Loss
from steelyard.losses.options import Keywords, check_number
from steelyard.losses.positions import SoftmaxLoss
from steelyard.losses.region import DiceLoss
from steelyard.losses.regions import KEYWORDS, NOT_A_SUM, SORTED, RegionLoss, of_sums
from steelyard.losses.sigmoid import BCEWithLogitsLoss
from steelyard.losses.softmax import CrossEntropyLoss
from steelyard.losses.vectors import PerClass

__all__ = ["CompoundLoss", "DiceCELoss", "dice_ce_loss"]


class CompoundLoss(nn.Module):
    """A weighted sum of losses, ``Σ_i factor_i · loss_i``.

    Every part has its own options, such as class weights, and its own mean; its factor says how
    much that mean counts. On the CPU, a region loss and a plain ``CrossEntropyLoss`` read the
    logits once, if the target is class indices and both ignore the same class.

    **Over micro-batches and ranks** every part has its own denominator, so :meth:`denominator` is a
    vector, one number per part. It adds up like any denominator, and
    :func:`steelyard.step_denominator` makes the sum exact. :class:`steelyard.ExactMean` cannot: it
    divides gradients that are added already. A part with per="batch" needs its totals too,
    ``loss(logits, target, totals=…, denominator=…)``.

    Args:
        parts: pairs (factor, loss): a finite number ≥ 0, and a loss of this library, or
            :class:`steelyard.DeferredReweighting` of one.

    Raises:
        TypeError: a part is not a pair, or not of a number and a loss of this library.
        ValueError: no part, a negative factor, or a part with reduction="none".

    Example:
        >>> loss = CompoundLoss([(1.0, CrossEntropyLoss(weight=[1.0, 9.0])), (0.5, LovaszLoss())])
        >>> loss(torch.zeros(2, 2, 8), torch.ones(2, 8, dtype=torch.long))
        tensor(0.9431)
    """

    def __init__(self, parts: Iterable[tuple[float, nn.Module]]) -> None:
        super().__init__()
        factors, losses = [], []
        if isinstance(parts, nn.Module):
            raise TypeError(
                f"parts is a {type(parts).__name__}, expected pairs (factor, loss): "
                "CompoundLoss([(1.0, loss), …])"
            )
        for part in parts:
            try:
                factor, loss = part
            except (TypeError, ValueError):
                raise TypeError(
                    f"a part is {part!r}, expected a pair (factor, loss), such as "
                    "(1.0, sy.DiceLoss())"
                ) from None
            if isinstance(factor, nn.Module) or not _is_loss(loss):
                raise TypeError(
                    f"a part is ({type(factor).__name__}, {type(loss).__name__}), expected a "
                    "number and a loss of steelyard"
                )
            check_number("the factor of a part", factor, 0)
            if getattr(getattr(loss, "options", None), "reduction", "mean") == "none":
                raise ValueError(
                    f"{type(loss).__name__} has reduction='none', and losses of positions and of "
                    "regions have no common shape: give the parts reduction='mean' or 'sum'"
                )
            factors.append(float(factor))
            losses.append(loss)
        if not losses:
            raise ValueError("there are no parts: give pairs (factor, loss)")
        self.factors = tuple(factors)
        self.losses = nn.ModuleList(losses)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
        totals: Tensor | None = None,
    ) -> Tensor:
        """The sum of the parts.

        Args:
            logits: as every part takes them.
            target: as every part takes it.
            sample_weight: for every part.
            denominator: divides the sum of every part: a number for all of them, or a vector as
                :meth:`denominator` gives it.
            totals: the :meth:`statistics` of the whole, for the part with per="batch".

        Returns:
            A 0-d tensor, in float32, or float64 for float64 logits.

        Raises:
            ValueError: a denominator without the totals that a part with per="batch" needs, or
                totals without the denominator of the other parts.
        """
        check_logits(logits)
        over = self.denominators(denominator)
        batch = self._of_batch()
        if totals is not None and len(batch) != 1:
            raise ValueError(_totals_of(batch))
        if denominator is not None and totals is None:
            self.refuse_denominator_alone()
        if totals is not None and denominator is None and len(self.losses) > 1:
            raise ValueError(
                "totals make the part with per='batch' exact, and the others want theirs: give "
                "denominator=step_denominator(loss, targets) too"
            )
        if totals is not None:
            over = [
                None if part is batch[0] else d for part, d in zip(self.losses, over, strict=True)
            ]
        values = self._at_once(logits, target, sample_weight, over, totals)
        if values is None:
            # Widened once, so that the gradients of the parts are added before they are rounded.
            logits, values = logits.to(ops.compute_dtype(logits)), []
            for part, divisor in zip(self.losses, over, strict=True):
                more = {"totals": totals} if totals is not None and part is batch[0] else {}
                values.append(part(logits, target, sample_weight, divisor, **more))
        return cast("Tensor", sum(f * v for f, v in zip(self.factors, values, strict=True)))

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What the means of the parts divide by, one number for each.

        Args:
            target: as for the call.
            sample_weight: as for the call.

        Returns:
            A tensor in float64, or float32 where the device has none, one number per part; 1 for a
            part with per="batch", which is divided by what its totals say.
        """
        batch = self._of_batch()
        found = [
            torch.ones((), dtype=ops.compat.widest(target.device), device=target.device)
            if part in batch
            else part.denominator(target, sample_weight)  # type: ignore[operator]
            for part in self.losses
        ]
        return torch.stack(found)

    def statistics(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Those of the part with per="batch"; see :meth:`RegionLoss.statistics`."""
        batch = self._of_batch()
        if len(batch) != 1:
            raise ValueError(_totals_of(batch))
        return batch[0].statistics(logits, target, sample_weight)

    def refuse_late_division(self) -> None:
        """Raise a ValueError where gradients of several means cannot be divided once added."""
        raise ValueError(
            f"{type(self).__name__} adds means with denominators of their own, and gradients that "
            "are added cannot be divided by several numbers: give every call "
            "denominator=step_denominator(loss, targets)"
        )

    def refuse_denominator_alone(self) -> None:
        """Raise a ValueError where a part needs to know more of the whole than denominators."""
        for part in self._of_batch():
            reason = NOT_A_SUM if part.form.of_sums else SORTED
            raise ValueError(
                f"{type(self).__name__} has a part that denominators alone make wrong: {reason}"
            )

    @property
    def weight(self) -> Tensor | None:
        """The class weights of the first part that has any; None without."""
        given = (getattr(part, "weight", None) for part in self.losses)
        return next((weight for weight in given if weight is not None), None)

    def with_weight(self, weight: PerClass) -> Self:
        """A copy of this sum whose parts all have these class weights in the place of their own.

        Raises:
            TypeError: a part is deferred already.
        """
        weighted = []
        for part in self.losses:
            if not isinstance(part, Loss):
                raise TypeError(
                    f"a part is a {type(part).__name__}, which has weights of its own: give the "
                    "sum of plain losses"
                )
            weighted.append(part.with_weight(weight))
        copied = copy(self)
        copied._modules = {**self._modules, "losses": nn.ModuleList(weighted)}
        return copied

    def check_fit(self, logits: Tensor) -> None:
        """Raise a ValueError unless class weights have one number for each class of logits."""
        for part in self.losses:
            part.check_fit(logits)  # type: ignore[operator]

    def denominators(self, given: float | Tensor | None) -> list[float | Tensor | None]:
        """One for each part."""
        if isinstance(given, Tensor) and given.ndim == 1:
            if len(given) != len(self.losses):
                raise ValueError(
                    f"denominator has {len(given)} numbers, but the loss has {len(self.losses)} "
                    "parts: give loss.denominator(target), or one number for all"
                )
            return [*given.unbind()]
        return [given] * len(self.losses)

    def _of_batch(self) -> list[RegionLoss]:
        """The parts with per="batch"."""
        return [
            part
            for part in self.losses
            if isinstance(part, RegionLoss) and part.options.per == "batch"
        ]

    def _at_once(
        self,
        logits: Tensor,
        target: Any,
        sample_weight: Tensor | None,
        over: Sequence[float | Tensor | None],
        totals: Tensor | None,
    ) -> list[Tensor] | None:
        """The values of the parts from one read of the logits, where that is quicker."""
        if len(self.losses) != 2 or not isinstance(target, Tensor) or target.is_floating_point():
            return None
        regions = [i for i, part in enumerate(self.losses) if isinstance(part, RegionLoss)]
        entropies = [i for i, part in enumerate(self.losses) if type(part) is CrossEntropyLoss]
        if len(regions) != 1 or len(entropies) != 1:
            return None
        region = cast("RegionLoss", self.losses[regions[0]])
        entropy = cast("CrossEntropyLoss", self.losses[entropies[0]])
        mine, its = region.options, entropy.options
        if not region.form.of_sums or mine.activation != "softmax":
            return None
        if (mine.ignore_index, mine.engine) != (its.ignore_index, its.engine) or its.smooths:
            return None
        check_classes(logits, mine)
        images = look(mine, logits, target, sample_weight, squared=region.form.squared)
        overlap = images.overlap._replace(logs=True)
        if not ops.sums_at_once(images.logits, overlap, mine.engine):
            return None
        found = ops.sums(images.logits, overlap, mine.engine)
        values: list[Tensor] = [logits] * 2
        divisor = over[regions[0]]
        values[regions[0]] = of_sums(region.form, mine, images, found, divisor, totals)
        values[entropies[0]] = _cross_entropy(
            entropy, images.logits, images.overlap, found, over[entropies[0]]
        )
        return values

    def extra_repr(self) -> str:
        """The factors."""
        return f"factors={self.factors}"


def _cross_entropy(
    loss: SoftmaxLoss,
    logits: Tensor,
    overlap: ops.Overlap,
    found: ops.Sums,
    denominator: float | Tensor | None,
) -> Tensor:
    """The cross-entropy of pixels of which −log p is summed by class."""
    options, logs, own = loss.options, found.logs, found.masses.own
    assert logs is not None
    weight = loss.form.fit(logits).weight
    if weight is not None:
        logs, own = (weight * logs).where(weight > 0, 0), weight * own
    if denominator is not None:
        over = check_denominator(denominator, logits)
    elif options.reduction == "sum":
        return logs.sum()
    elif options.mean_over == "count":
        over = (overlap.target != overlap.ignore_index).sum().to(logs.dtype)
    else:
        over = own.sum()
    return ops.Reduction("mean", nothing=options.nothing).of_sums(logs.sum(), over)[0]


def _totals_of(batch: Sequence[RegionLoss]) -> str:
    if batch:
        return (
            f"{len(batch)} parts have per='batch', each with totals of its own: call them one by "
            "one, and add what they give"
        )
    return "statistics and totals are for per='batch', and no part has it"


def _dice_ce_parts(
    dice: float, cross_entropy: float, smooth: float, squared: bool, options: dict[str, Any]
) -> list[tuple[float, Loss]]:
    shared = {k: v for k, v in options.items() if k not in ("activation", "per", "absent")}
    region = DiceLoss(smooth=smooth, squared=squared, **options)
    entropy: Loss
    if region.options.activation == "sigmoid":
        if shared.get("mean_over") == "count":
            shared["mean_over"] = None
        entropy = BCEWithLogitsLoss(**shared)
    else:
        entropy = CrossEntropyLoss(**shared)
    return [(cross_entropy, entropy), (dice, region)]


def dice_ce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    dice: float = 1.0,
    cross_entropy: float = 1.0,
    smooth: float = 0.0,
    squared: bool = False,
    **options: Unpack[RegionCallOptions],
) -> Tensor:
    """Dice and cross-entropy: ``dice · Dice + cross_entropy · CE``, from one read of the logits.

    Dice counts small objects as much as large ones, but it is flat where nothing overlaps yet.
    Cross-entropy has a gradient everywhere, also on images without a class. With
    activation="sigmoid" the cross-entropy is that of each class by itself,
    :func:`steelyard.bce_with_logits_loss`.

    Args:
        logits: (N, C, d1, …) or (N, C), floating.
        target: class indices (N, d1, …), or a target of the logits' shape.
        dice: the factor of the Dice loss.
        cross_entropy: the factor of the cross-entropy.
        smooth: ε of the Dice loss.
        squared: squares in the Dice loss.
        **options: the options of every region loss, ``sample_weight``, ``denominator`` and
            ``totals``, for both; ``reduction`` is "mean" or "sum".

    Returns:
        A 0-d tensor.

    Raises:
        ValueError: reduction="none", or a number outside its range.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> dice_ce_loss(logits, torch.tensor([[0, 1, 1]]))
        tensor(0.5688)

    Reference:
        Isensee et al., nnU-Net: self-adapting framework for U-Net-based medical image
        segmentation, 2018, arXiv:1809.10486.
    """
    DiceCELoss.keywords.refuse_unknown(options, dice_ce_loss)
    given: dict[str, Any] = {**options}
    call = {name: given.pop(name) for name in KEYWORDS.call if name in given}
    loss = DiceCELoss(
        dice=dice, cross_entropy=cross_entropy, smooth=smooth, squared=squared, **given
    )
    return cast("Tensor", loss(logits, target, **call))


def _is_loss(loss: object) -> bool:
    return isinstance(loss, nn.Module) and hasattr(loss, "denominator")  # a class has one, too


class DiceCELoss(CompoundLoss):
    """:func:`dice_ce_loss` as a module: its factors, ``smooth``, ``squared`` and region options."""

    keywords: Keywords = KEYWORDS

    def __init__(
        self,
        *,
        dice: float = 1.0,
        cross_entropy: float = 1.0,
        smooth: float = 0.0,
        squared: bool = False,
        **options: Unpack[RegionLossOptions],
    ) -> None:
        self.keywords.refuse_unknown(options, type(self))
        super().__init__(_dice_ce_parts(dice, cross_entropy, smooth, squared, {**options}))
