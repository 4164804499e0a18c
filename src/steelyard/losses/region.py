"""The region losses: how much a predicted mask overlaps with the true one.

An item is one class of one image. A loss makes one number of three sums over its pixels: T is what
the target covers, P what the prediction covers, and I what both cover.

Options that every region loss takes:

* ``activation`` ("softmax"): "sigmoid" where a pixel may have several classes.
* ``per`` ("image"): "batch" takes all images as one, with one item per class.
* ``absent`` ("skip"): items whose class does not occur in the target cost nothing, however much of
  it is predicted; "count" counts them.
* ``weight``, ``ignore_index``, ``label_smoothing``, ``reduction``, ``mean_over``, ``empty`` and
  ``engine``: as for every loss. reduction="none" gives one value per item.

Per call: ``sample_weight`` per pixel, ``denominator``, and with per="batch" the ``totals`` of the
whole, of which these images are a part.
"""

import functools
import math
from typing import Literal, Unpack

from torch import Tensor

from steelyard.losses.images import RegionCallOptions, RegionLossOptions
from steelyard.losses.options import check_number
from steelyard.losses.regions import Form, Parts, RegionLoss, region_loss

__all__ = [
    "DiceLoss",
    "GeneralizedDiceLoss",
    "JaccardLoss",
    "LovaszLoss",
    "TverskyLoss",
    "dice_loss",
    "generalized_dice_loss",
    "jaccard_loss",
    "lovasz_loss",
    "tversky_loss",
]

Weighting = Literal["square", "simple", "uniform"]
_POWERS = {"square": 2, "simple": 1, "uniform": 0}


def _smoothed(above: Tensor, below: Tensor, smooth: float) -> Parts:
    """ε on both, if there is any: a call for nothing costs as much as one that adds."""
    return (above + smooth, below + smooth) if smooth else (above, below)


def _dice(i: Tensor, p: Tensor, t: Tensor, smooth: float) -> Parts:
    return _smoothed(2 * i, p + t, smooth)


def _dice_form(smooth: float, squared: bool) -> Form:
    check_number("smooth", smooth, 0)
    return Form(functools.partial(_dice, smooth=smooth), squared=bool(squared))


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    smooth: float = 0.0,
    squared: bool = False,
    **options: Unpack[RegionCallOptions],
) -> Tensor:
    """Dice loss: ``1 − (2I + ε) / (P + T + ε)``, one minus the F1 score of a soft prediction.

    Every class of an image counts the same, however few pixels it has. A class that the target does
    not have is left out, unless ``absent="count"``. **So with one sigmoid class false positives on
    images without it cost nothing.** If such images matter, use ``per="batch"``, or
    ``absent="count"`` with a ``smooth``, or add a cross-entropy.

    Args:
        logits: (N, C, d1, …) or (N, C), floating.
        target: class indices (N, d1, …), or a target of the logits' shape, see
            :meth:`RegionLoss.forward`.
        smooth: ε ≥ 0. With 0 an item without any pixel, predicted or true, has the loss 0.
        squared: Σ p² and Σ t² in the place of Σ p and Σ t.
        **options: the options of every region loss, ``sample_weight``, ``denominator`` and
            ``totals``.

    Returns:
        A 0-d tensor; with reduction="none" (N, C), with per="batch" (C,).

    Raises:
        ValueError: smooth is negative or not finite.

    Example:
        >>> logits = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
        >>> mask = torch.tensor([[[[1, 0], [1, 1]]]])
        >>> dice_loss(logits, mask, activation="sigmoid")
        tensor(0.3076)

    Reference:
        Milletari et al., V-Net: fully convolutional neural networks for volumetric medical image
        segmentation, 3DV 2016, arXiv:1606.04797 (which has squares). For soft targets Wang et
        al., Dice semimetric losses, MICCAI 2023, arXiv:2303.16296.
    """
    return region_loss(dice_loss, _dice_form(smooth, squared), logits, target, {**options})


class DiceLoss(RegionLoss):
    """:func:`dice_loss` as a module: ``smooth``, ``squared`` and the options of region losses."""

    def __init__(
        self,
        *,
        smooth: float = 0.0,
        squared: bool = False,
        **options: Unpack[RegionLossOptions],
    ) -> None:
        shown = _unusual(smooth=(smooth, 0.0), squared=(squared, False))
        super().__init__(_dice_form(smooth, squared), {**options}, **shown)


def _jaccard(i: Tensor, p: Tensor, t: Tensor, smooth: float) -> Parts:
    return _smoothed(i, p + t - i, smooth)


def _jaccard_form(smooth: float) -> Form:
    check_number("smooth", smooth, 0)
    return Form(functools.partial(_jaccard, smooth=smooth))


def jaccard_loss(
    logits: Tensor, target: Tensor, *, smooth: float = 0.0, **options: Unpack[RegionCallOptions]
) -> Tensor:
    """Jaccard loss: ``1 − (I + ε) / (P + T − I + ε)``, one minus a soft intersection over union.

    It takes soft targets too: I is Σ min(p, t), so the loss is smallest where p = t.

    Args:
        logits: (N, C, d1, …) or (N, C), floating.
        target: as for :func:`dice_loss`.
        smooth: ε ≥ 0.
        **options: the options of every region loss, ``sample_weight``, ``denominator`` and
            ``totals``.

    Returns:
        A 0-d tensor; with reduction="none" (N, C), with per="batch" (C,).

    Raises:
        ValueError: smooth is negative or not finite.

    Example:
        >>> logits = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
        >>> mask = torch.tensor([[[[1, 0], [1, 1]]]])
        >>> jaccard_loss(logits, mask, activation="sigmoid")
        tensor(0.4705)

    Reference:
        Wang et al., Jaccard metric losses: optimizing the Jaccard index with soft labels, NeurIPS
        2023, arXiv:2302.05666.
    """
    return region_loss(jaccard_loss, _jaccard_form(smooth), logits, target, {**options})


class JaccardLoss(RegionLoss):
    """:func:`jaccard_loss` as a module: ``smooth``, and the options of every region loss."""

    def __init__(self, *, smooth: float = 0.0, **options: Unpack[RegionLossOptions]) -> None:
        shown = _unusual(smooth=(smooth, 0.0))
        super().__init__(_jaccard_form(smooth), {**options}, **shown)


def _tversky(i: Tensor, p: Tensor, t: Tensor, alpha: float, beta: float, smooth: float) -> Parts:
    return _smoothed(i, i + alpha * (p - i) + beta * (t - i), smooth)


def _tversky_form(alpha: float, beta: float, gamma: float, smooth: float) -> Form:
    check_number("alpha", alpha, 0)
    check_number("beta", beta, 0)
    check_number("gamma", gamma, 0, open_low=True)
    check_number("smooth", smooth, 0)
    ratio = functools.partial(_tversky, alpha=alpha, beta=beta, smooth=smooth)
    return Form(ratio, gamma=gamma)


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth: float = 0.0,
    **options: Unpack[RegionCallOptions],
) -> Tensor:
    """Tversky loss: ``(1 − (I + ε) / (I + α(P − I) + β(T − I) + ε))^(1/γ)``.

    P − I are false positives and T − I false negatives. α = β = 0.5 is Dice, α = β = 1 Jaccard.
    With β above α misses cost more than false alarms: take that where positives are few. γ above 1
    is the focal Tversky loss, and its authors take 4/3. Its gradient is finite, and 0 at a perfect
    overlap.

    Args:
        logits: (N, C, d1, …) or (N, C), floating.
        target: as for :func:`dice_loss`.
        alpha: α ≥ 0, the price of false positives.
        beta: β ≥ 0, the price of false negatives. Some libraries have the two the other way round.
        gamma: γ > 0.
        smooth: ε ≥ 0.
        **options: the options of every region loss, ``sample_weight``, ``denominator`` and
            ``totals``.

    Returns:
        A 0-d tensor; with reduction="none" (N, C), with per="batch" (C,).

    Raises:
        ValueError: a number outside its range.

    Example:
        >>> logits = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
        >>> mask = torch.tensor([[[[1, 0], [1, 1]]]])
        >>> tversky_loss(logits, mask, alpha=0.3, beta=0.7, activation="sigmoid")
        tensor(0.3589)

    Reference:
        Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional
        deep networks, MLMI 2017, arXiv:1706.05721; Abraham and Khan, A novel focal Tversky loss
        function, ISBI 2019, arXiv:1810.07842.
    """
    form = _tversky_form(alpha, beta, gamma, smooth)
    return region_loss(tversky_loss, form, logits, target, {**options})


class TverskyLoss(RegionLoss):
    """:func:`tversky_loss` as a module: ``alpha``, ``beta``, ``gamma``, ``smooth``, and options."""

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        smooth: float = 0.0,
        **options: Unpack[RegionLossOptions],
    ) -> None:
        form = _tversky_form(alpha, beta, gamma, smooth)
        shown = _unusual(gamma=(gamma, 1.0), smooth=(smooth, 0.0))
        super().__init__(form, {**options}, alpha=alpha, beta=beta, **shown)


def _generalized(i: Tensor, p: Tensor, t: Tensor, weight: Tensor, power: int) -> Parts:
    counts = weight > 0
    if power:
        # Relative to the smallest class: the ratio does not change, and 1/T² cannot overflow.
        least = t.masked_fill(~counts, math.inf).amin(-1, keepdim=True).detach()
        relative = least / t.masked_fill(~counts, 1)
        weight = (weight * relative**power).masked_fill(~counts, 0)
    return 2 * (weight * i).sum(-1), (weight * (p + t)).sum(-1)


def _generalized_form(weighting: Weighting, absent: str) -> Form:
    if weighting not in _POWERS:
        known = ", ".join(map(repr, _POWERS))
        raise ValueError(f"weighting={weighting!r} is not known: choose one of {known}")
    if absent == "count" and weighting != "uniform":
        raise ValueError(
            f"absent='count' with weighting={weighting!r} would divide by the size of a class "
            "that is absent, which is 0: use absent='skip', or weighting='uniform'"
        )
    return Form(joined=functools.partial(_generalized, power=_POWERS[weighting]))


def generalized_dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weighting: Weighting = "square",
    **options: Unpack[RegionCallOptions],
) -> Tensor:
    """Generalised Dice loss: ``1 − 2 Σ_c v_c I_c / Σ_c v_c (P_c + T_c)`` with ``v_c = w_c / T_c²``.

    One ratio over all classes of an image, each divided by the square of its size. Small classes
    weigh enormously: a class of ten pixels weighs ten thousand times one of a thousand. Classes
    that the target does not have are left out.

    Args:
        logits: (N, C, d1, …) or (N, C), floating.
        target: as for :func:`dice_loss`.
        weighting: by what a class is divided: "square" T², "simple" T, "uniform" 1.
        **options: the options of every region loss, ``sample_weight``, ``denominator`` and
            ``totals``. ``weight`` multiplies v here, inside the ratio.

    Returns:
        A 0-d tensor; with reduction="none" (N,), with per="batch" ().

    Raises:
        ValueError: an unknown weighting; absent="count" with another than "uniform".

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> generalized_dice_loss(logits, torch.tensor([[0, 1, 1]]))
        tensor(0.2735)

    Reference:
        Sudre et al., Generalised Dice overlap as a deep learning loss function for highly
        unbalanced segmentations, DLMIA 2017, arXiv:1707.03237.
    """
    form = _generalized_form(weighting, options.get("absent", "skip"))
    return region_loss(generalized_dice_loss, form, logits, target, {**options})


class GeneralizedDiceLoss(RegionLoss):
    """:func:`generalized_dice_loss` as a module: ``weighting`` and the options of regions."""

    def __init__(
        self, *, weighting: Weighting = "square", **options: Unpack[RegionLossOptions]
    ) -> None:
        form = _generalized_form(weighting, options.get("absent", "skip"))
        super().__init__(form, {**options}, **_unusual(weighting=(weighting, "square")))


def lovasz_loss(logits: Tensor, target: Tensor, **options: Unpack[RegionCallOptions]) -> Tensor:
    """Lovász-softmax: the Jaccard loss of hard predictions, made continuous.

    The errors |p − t| of a class are sorted, largest first. Each is weighted by what its pixel adds
    to the Jaccard loss of the pixels before it. For hard predictions it is the Jaccard loss. Its
    gradient goes to the pixels that cost most. With activation="sigmoid" the errors are those of
    the sigmoid, not a hinge. It sorts, so it is slower than the other losses.

    Args:
        logits: (N, C, d1, …) or (N, C), floating.
        target: as for :func:`dice_loss`; a soft target covers a part of its pixel.
        **options: the options of every region loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor; with reduction="none" (N, C), with per="batch" (C,).

    Raises:
        ValueError: totals, which cannot make per="batch" exact.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> lovasz_loss(logits, torch.tensor([[0, 1, 1]]), reduction="none")
        tensor([[0.3096, 0.3096]])

    Reference:
        Berman et al., The Lovász-softmax loss, CVPR 2018, arXiv:1705.08790.
    """
    return region_loss(lovasz_loss, Form(), logits, target, {**options})


class LovaszLoss(RegionLoss):
    """:func:`lovasz_loss` as a module, with the options of every region loss."""

    def __init__(self, **options: Unpack[RegionLossOptions]) -> None:
        super().__init__(Form(), {**options})


def _unusual(**arguments: tuple[object, object]) -> dict[str, object]:
    """The arguments that are not their defaults, for the repr."""
    return {name: given for name, (given, default) in arguments.items() if given != default}
