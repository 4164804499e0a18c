"""The sigmoid family: several labels per position, or one logit for two classes.

A cell is one class of one position: the class is there, or it is not. A loss is two costs of a
cell: not to see a class that is there, and to see one that is not. p is the sigmoid of the logit,
t the target.

Options that every sigmoid loss takes:

* ``weight`` (None): one number per class, or one for all.
* ``pos_weight`` (None): the same, for cells whose class is there.
* ``ignore_index`` (-1): cells with this target count nowhere; float("nan") for NaN targets.
* ``label_smoothing`` (0.0): with ε the target t becomes ``(1−ε)·t + ε/2``.
* ``mean_over`` (None): what a mean divides by. None is PyTorch's rule, the cells not ignored.
  "weight": the sum of the weights applied. "position": positions with a cell not ignored.
  "positive": ``Σ s·t``, s being ``sample_weight``.
* ``reduction``, ``empty`` and ``engine``: as for every loss.

Per call: ``sample_weight``, per position or per cell, and ``denominator``.
"""

from collections.abc import Mapping
from typing import Any, Unpack

from torch import Tensor

from steelyard.losses import penalties
from steelyard.losses.cells import (
    CellCallOptions,
    CellOptions,
    SigmoidLoss,
    UnweightedCellOptions,
    sigmoid_loss,
)
from steelyard.losses.forms import CellForm
from steelyard.losses.options import check_number
from steelyard.losses.vectors import PerClass, read_class_vector, readable
from steelyard.ops import Side

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "HillLoss",
    "SigmoidFocalLoss",
    "SigmoidPolyLoss",
    "asymmetric_loss",
    "bce_with_logits_loss",
    "hill_loss",
    "sigmoid_focal_loss",
    "sigmoid_poly_loss",
]


def bce_form() -> CellForm:
    """The form of binary cross-entropy, which other losses edit."""
    return CellForm(Side(penalties.likelihood), Side(penalties.likelihood))


def bce_with_logits_loss(
    logits: Tensor, target: Tensor, **options: Unpack[CellCallOptions]
) -> Tensor:
    """Binary cross-entropy: ``−t log p − (1 − t) log(1 − p)``.

    The same numbers as ``torch.nn.functional.binary_cross_entropy_with_logits``, with one
    difference: ``weight`` and ``pos_weight`` always lie along dimension 1, the classes, where
    PyTorch broadcasts them against the last dimension. Missing labels are left out of the mean.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, numbers in [0, 1], bool, or integers 0 and 1; −1 where the
            label is missing.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        TypeError, ValueError: see :meth:`SigmoidLoss.forward`.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
        >>> bce_with_logits_loss(logits, torch.tensor([[1, 0], [1, -1]]), pos_weight=2.0)
        tensor(0.5051)
    """
    return sigmoid_loss(bce_with_logits_loss, bce_form(), logits, target, {**options})


class BCEWithLogitsLoss(SigmoidLoss):
    """:func:`bce_with_logits_loss` as a module, in the place of ``nn.BCEWithLogitsLoss``.

    Args:
        weight: class weights, the one argument that may be positional.
        **options: the options of every sigmoid loss.
    """

    def __init__(
        self, weight: float | PerClass | None = None, **options: Unpack[UnweightedCellOptions]
    ) -> None:
        super().__init__(bce_form(), {"weight": weight, **options})


def sigmoid_focal_form(gamma: float | PerClass, alpha: float | PerClass | None = None) -> CellForm:
    """The form of the focal loss, on which other losses build."""
    number, vector = _number_or_vector("gamma", gamma)
    side = Side(penalties.focal, number)
    form = CellForm(side, side, positive_parameter=vector, negative_parameter=vector)
    if alpha is None:
        return form
    share, shares = _number_or_vector("alpha", alpha, high=1)
    if shares is not None:
        shares = shares.detach()
        return form._replace(positive_factor=shares, negative_factor=1 - shares)
    return form._replace(
        positive=side._replace(factor=share), negative=side._replace(factor=1 - share)
    )


def _number_or_vector(
    name: str, given: float | PerClass, high: float = float("inf")
) -> tuple[float, Tensor | None]:
    """One number, or a vector with one number per class in its place."""
    if isinstance(given, Mapping):
        raise TypeError(
            f"{name}={given!r} is a dict, and the classes left out would have no {name}: give one "
            "number, or a list with one number per class"
        )
    value: Any = given
    if isinstance(value, int | float) or getattr(value, "ndim", 1) == 0:
        learnt = isinstance(value, Tensor) and value.requires_grad
        check_number(name, value if isinstance(value, Tensor) else float(value), 0, high)
        return (0.0, value) if learnt else (float(value), None)
    vector = read_class_vector(name, given).values
    if readable(vector) and len(vector):
        check_number(f"the largest {name}", float(vector.detach().max()), 0, high)
    return 0.0, vector


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float | PerClass = 2.0,
    alpha: float | PerClass | None = None,
    **options: Unpack[CellCallOptions],
) -> Tensor:
    """Sigmoid focal loss: ``−α t (1 − p)^γ log p − (1 − α)(1 − t) p^γ log(1 − p)``.

    It makes cells count less that are already right, most of all the many easy negatives. Without
    ``alpha`` both factors are 1. torchvision's defaults are ``alpha=0.25, gamma=2`` and reduction
    "none"; its ``alpha=-1`` is None here. RetinaNet divides by the number of positives: that is
    ``mean_over="positive"``.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        gamma: focusing parameter γ ≥ 0, one number or one per class; 0 is binary cross-entropy.
        alpha: α in [0, 1], one number or one per class: positives weigh α and negatives 1 − α.
            None: both weigh 1.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        ValueError: gamma is negative or not finite, alpha outside [0, 1].

    Example:
        >>> logits, target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1, 0], [0, 1]])
        >>> sigmoid_focal_loss(logits, target, alpha=0.25, reduction="sum")
        tensor(0.2713)

    Reference:
        Lin et al., Focal loss for dense object detection, ICCV 2017, arXiv:1708.02002.
    """
    form = sigmoid_focal_form(gamma, alpha)
    return sigmoid_loss(sigmoid_focal_loss, form, logits, target, {**options})


class SigmoidFocalLoss(SigmoidLoss):
    """:func:`sigmoid_focal_loss` as a module: ``gamma``, ``alpha``, options."""

    def __init__(
        self,
        *,
        gamma: float | PerClass = 2.0,
        alpha: float | PerClass | None = None,
        **options: Unpack[CellOptions],
    ) -> None:
        form = sigmoid_focal_form(gamma, alpha)
        super().__init__(form, {**options}, gamma=gamma, alpha=alpha)


def _asymmetric(gamma_pos: float, gamma_neg: float, clip: float) -> CellForm:
    check_number("gamma_pos", gamma_pos, 0)
    check_number("gamma_neg", gamma_neg, 0)
    check_number("clip", clip, 0, 1)
    if clip == 1:
        raise ValueError("clip=1 takes the cost from every negative: expected 0 ≤ clip < 1")
    negative = Side(penalties.focal, gamma_neg)
    if clip:
        negative = Side(penalties.shifted, (gamma_neg, clip))
    return CellForm(Side(penalties.focal, gamma_pos), negative)


def asymmetric_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    **options: Unpack[CellCallOptions],
) -> Tensor:
    """Asymmetric loss: ``−t (1 − p)^γ₊ log p − (1 − t) m^γ₋ log(1 − m)``, m = max(p − clip, 0).

    A focal loss with another γ for each side. Negatives below ``clip`` cost nothing at all. The
    published code adds 1e-8 inside the logarithm: that is 0 in float16, and it stops the gradient
    of confident mistakes. Here nothing is added. The published code also sums over cells, which is
    reduction="sum".

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        gamma_pos: γ₊ ≥ 0 of positives.
        gamma_neg: γ₋ ≥ 0 of negatives.
        clip: in [0, 1): how much is taken from the probability of negatives; 0 takes nothing.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        ValueError: gamma_pos or gamma_neg negative or not finite, clip outside [0, 1).

    Example:
        >>> logits = torch.tensor([[5.0, -5.0, 0.0]])
        >>> asymmetric_loss(logits, torch.tensor([[1, 0, 1]]), reduction="sum")
        tensor(0.3466)

    Reference:
        Ridnik et al., Asymmetric loss for multi-label classification, ICCV 2021, arXiv:2009.14119.
    """
    form = _asymmetric(gamma_pos, gamma_neg, clip)
    return sigmoid_loss(asymmetric_loss, form, logits, target, {**options})


class AsymmetricLoss(SigmoidLoss):
    """:func:`asymmetric_loss` as a module: ``gamma_pos``, ``gamma_neg``, ``clip``, options."""

    def __init__(
        self,
        *,
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        **options: Unpack[CellOptions],
    ) -> None:
        form = _asymmetric(gamma_pos, gamma_neg, clip)
        given = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "clip": clip}
        super().__init__(form, {**options}, **given)


def _poly(epsilon: float, gamma: float) -> CellForm:
    check_number("epsilon", epsilon, -1)
    check_number("gamma", gamma, 0)
    side = Side(penalties.focal_poly, (gamma, epsilon))
    return CellForm(side, side)


def sigmoid_poly_loss(
    logits: Tensor,
    target: Tensor,
    *,
    epsilon: float = 1.0,
    gamma: float = 0.0,
    **options: Unpack[CellCallOptions],
) -> Tensor:
    """Sigmoid Poly-1: focal with γ, plus ``ε (1 − p_t)^(γ+1)``.

    p_t is p for what is there and 1 − p for what is not. The loss changes the first coefficient of
    the expansion in powers of 1 − p_t.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        epsilon: ε ≥ −1; 0 is the focal loss.
        gamma: γ ≥ 0; 0 is binary cross-entropy plus ``ε (1 − p_t)``.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        ValueError: epsilon below −1, gamma negative, or either not finite.

    Example:
        >>> sigmoid_poly_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]]))
        tensor(0.7196)

    Reference:
        Leng et al., PolyLoss: a polynomial expansion perspective of classification loss
        functions, ICLR 2022, arXiv:2204.12511.
    """
    form = _poly(epsilon, gamma)
    return sigmoid_loss(sigmoid_poly_loss, form, logits, target, {**options})


class SigmoidPolyLoss(SigmoidLoss):
    """:func:`sigmoid_poly_loss` as a module: ``epsilon``, ``gamma``, options."""

    def __init__(
        self, *, epsilon: float = 1.0, gamma: float = 0.0, **options: Unpack[CellOptions]
    ) -> None:
        super().__init__(_poly(epsilon, gamma), {**options}, epsilon=epsilon, gamma=gamma)


def _hill(gamma: float, margin: float, bound: float) -> CellForm:
    check_number("gamma", gamma, 0)
    check_number("margin", margin, float("-inf"))
    check_number("bound", bound, 1)
    return CellForm(Side(penalties.focal, gamma, margin=margin), Side(penalties.hill, bound))


def hill_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    margin: float = 1.0,
    bound: float = 1.5,
    **options: Unpack[CellCallOptions],
) -> Tensor:
    """Hill loss: ``−t (1 − p_m)^γ log p_m + (1 − t)(λ − p) p²`` with p_m = σ(z − margin).

    For data whose missing labels were written as negatives. Where the model is almost sure that a
    negative is there, the label may be missing, and it pulls less. Mark labels that are known to be
    missing with ``ignore_index`` instead. The published code takes the logarithm of the sigmoid of
    a sigmoid; this is the paper's formula.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        gamma: γ ≥ 0 of the positives' focal loss.
        margin: taken from the logit of positives.
        bound: λ ≥ 1 of the negatives; with 1.5 the slope at p = 1 is 0.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        ValueError: gamma negative, bound below 1, or a number that is not finite.

    Example:
        >>> hill_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]]))
        tensor(0.1363)

    Reference:
        Zhang et al., Simple and robust loss design for multi-label learning with missing labels,
        2021, arXiv:2112.07368.
    """
    form = _hill(gamma, margin, bound)
    return sigmoid_loss(hill_loss, form, logits, target, {**options})


class HillLoss(SigmoidLoss):
    """:func:`hill_loss` as a module: ``gamma``, ``margin``, ``bound``, options."""

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        margin: float = 1.0,
        bound: float = 1.5,
        **options: Unpack[CellOptions],
    ) -> None:
        form = _hill(gamma, margin, bound)
        super().__init__(form, {**options}, gamma=gamma, margin=margin, bound=bound)
