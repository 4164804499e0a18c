"""The softmax family: each loss is an edit of the logits, a tail of log p, and a docstring.

Here are the losses that change the tail; those that read class counts are in
:mod:`steelyard.losses.counted`. p is always the softmax of the (edited) logits, never weighted;
t is the target, one-hot for class indices. Options that every loss takes are described in
:mod:`steelyard.losses`.
"""

import math
import reprlib
from collections.abc import Mapping
from numbers import Number
from typing import Any, Unpack

from torch import Tensor

from steelyard.losses import tails
from steelyard.losses.forms import Form
from steelyard.losses.options import CallOptions, LossOptions, PlainOptions, check_number
from steelyard.losses.positions import SoftmaxLoss, softmax_loss
from steelyard.losses.vectors import PerClass, read_class_vector

__all__ = [
    "CrossEntropyLoss",
    "FocalLoss",
    "GeneralizedCrossEntropyLoss",
    "PolyLoss",
    "SymmetricCrossEntropyLoss",
    "cross_entropy_loss",
    "focal_loss",
    "generalized_cross_entropy_loss",
    "poly_loss",
    "symmetric_cross_entropy_loss",
]


def _cross_entropy() -> Form:
    return Form(tails.cross_entropy)


def cross_entropy_loss(logits: Tensor, target: Tensor, **options: Unpack[CallOptions]) -> Tensor:
    """Cross-entropy: ``−log p_y``.

    The same numbers as ``torch.nn.functional.cross_entropy``, with every combination of its
    options, but without its traps: NaN at an ignored position reaches no gradient, a mean over
    nothing is 0, and half precisions are computed and returned in float32.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices (N,), (N, d1, …) or () of any integer dtype, or probabilities of the
            logits' shape.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        TypeError, ValueError, IndexError: see :meth:`SoftmaxLoss.forward`.

    Example:
        >>> logits = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
        >>> cross_entropy_loss(logits, torch.tensor([0, 1, 0]), weight=[1, 2])
        tensor(0.7398)
    """
    return softmax_loss(cross_entropy_loss, _cross_entropy(), logits, target, {**options})


class CrossEntropyLoss(SoftmaxLoss):
    """:func:`cross_entropy_loss` as a module, in the place of ``nn.CrossEntropyLoss``.

    Args:
        weight: class weights, the one argument that may be positional.
        **options: the options of every loss.
    """

    def __init__(self, weight: PerClass | None = None, **options: Unpack[PlainOptions]) -> None:
        super().__init__(_cross_entropy(), {"weight": weight, **options})


def _focal_parameter(gamma: float | PerClass) -> float | Tensor:
    given: Any = gamma  # an array may have no dimension
    if isinstance(given, Number) or getattr(given, "ndim", 1) == 0:
        number = check_number("gamma", given, 0)
        return number if isinstance(number, Tensor) else float(number)
    if isinstance(given, Mapping):
        raise TypeError(
            f"gamma={reprlib.repr(gamma)} is a dict, and the classes left out would have no gamma: "
            "give one number, or a list with one number per class"
        )
    return read_class_vector("gamma", given).values


def focal_form(gamma: float | PerClass) -> Form:
    """The form of the focal loss, on which :class:`steelyard.ClassBalancedLoss` builds."""
    return Form(tails.focal, parameter=_focal_parameter(gamma))


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float | PerClass = 2.0,
    **options: Unpack[CallOptions],
) -> Tensor:
    """Focal loss: ``−(1 − p_y)^γ log p_y``.

    The factor makes positions count less that are already right. p is the softmax probability
    itself. Many public versions compute it from the *weighted* cross-entropy: with weights, that
    is another loss. One α for all classes does nothing in a mean; one α per class is ``weight``.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices (N,), (N, d1, …) or () of any integer dtype, or probabilities of the
            logits' shape, for which it is ``−Σ_c t_c (1 − p_c)^γ log p_c``.
        gamma: focusing parameter γ ≥ 0, one number or one per class; 0 is cross-entropy.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: gamma is negative or not finite.

    Example:
        >>> focal_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), gamma=2.0)
        tensor(1.6501)

    Reference:
        Lin et al., Focal loss for dense object detection, ICCV 2017, arXiv:1708.02002, in its
        softmax form.
    """
    return softmax_loss(focal_loss, focal_form(gamma), logits, target, {**options})


class FocalLoss(SoftmaxLoss):
    """:func:`focal_loss` as a module: ``gamma``, and the options of every loss."""

    def __init__(self, *, gamma: float | PerClass = 2.0, **options: Unpack[LossOptions]) -> None:
        super().__init__(focal_form(gamma), {**options}, gamma=gamma)


def _poly(epsilon: float) -> Form:
    return Form(tails.poly, parameter=check_number("epsilon", epsilon, -1))


def poly_loss(
    logits: Tensor, target: Tensor, *, epsilon: float = 1.0, **options: Unpack[CallOptions]
) -> Tensor:
    """Poly-1: ``−log p_y + ε(1 − p_y)``.

    It changes the first coefficient of cross-entropy's expansion in powers of 1 − p. By itself it
    is no remedy for imbalance; combine it with ``weight``.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`.
        epsilon: ε ≥ −1; 0 is cross-entropy.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: epsilon is below −1 or not finite.

    Example:
        >>> poly_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.2461)

    Reference:
        Leng et al., PolyLoss: a polynomial expansion perspective of classification loss
        functions, ICLR 2022, arXiv:2204.12511.
    """
    return softmax_loss(poly_loss, _poly(epsilon), logits, target, {**options})


class PolyLoss(SoftmaxLoss):
    """:func:`poly_loss` as a module: ``epsilon``, and the options of every loss."""

    def __init__(self, *, epsilon: float = 1.0, **options: Unpack[LossOptions]) -> None:
        super().__init__(_poly(epsilon), {**options}, epsilon=epsilon)


def _generalized(q: float) -> Form:
    return Form(tails.generalized, parameter=check_number("q", q, 0, 1, open_low=True))


def generalized_cross_entropy_loss(
    logits: Tensor, target: Tensor, *, q: float = 0.7, **options: Unpack[CallOptions]
) -> Tensor:
    """Generalised cross-entropy: ``(1 − p_y^q) / q``.

    It lies between cross-entropy (q → 0) and the mean absolute error (q = 1). It is bounded, so
    wrong labels pull less. A remedy for label noise, not for imbalance.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`.
        q: in (0, 1].
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: q is outside (0, 1].

    Example:
        >>> generalized_cross_entropy_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        tensor(1.1062)

    Reference:
        Zhang and Sabuncu, Generalized cross entropy loss for training deep neural networks with
        noisy labels, NeurIPS 2018, arXiv:1805.07836.
    """
    form = _generalized(q)
    return softmax_loss(generalized_cross_entropy_loss, form, logits, target, {**options})


class GeneralizedCrossEntropyLoss(SoftmaxLoss):
    """:func:`generalized_cross_entropy_loss` as a module: ``q``, and the options of every loss."""

    def __init__(self, *, q: float = 0.7, **options: Unpack[LossOptions]) -> None:
        super().__init__(_generalized(q), {**options}, q=q)


def _symmetric(alpha: float, beta: float, log_zero: float) -> Form:
    forward = float(check_number("alpha", alpha, 0))
    reverse = -float(
        check_number("beta", beta, 0) * check_number("log_zero", log_zero, -math.inf, 0)
    )
    return Form(tails.symmetric, parameter=(forward, reverse))


def symmetric_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    **options: Unpack[CallOptions],
) -> Tensor:
    """Symmetric cross-entropy: ``−α log p_y − β A (1 − p_y)``.

    The sum of α times cross-entropy and β times reverse cross-entropy, ``−Σ_c p_c log t_c``. In the
    reverse part the target t is one-hot, and A stands for the logarithm of its zeros. The reverse
    part is bounded, so wrong labels pull less; cross-entropy keeps hard classes moving. A remedy
    for label noise, not for imbalance.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`. Probabilities,
            and smoothed labels, cost what labels drawn from them cost on average,
            ``Σ_c t_c (−α log p_c − β A (1 − p_c))``. The paper has no formula for them.
        alpha: α ≥ 0, the share of cross-entropy. The paper takes 0.1 for CIFAR-10, 6 for CIFAR-100.
        beta: β ≥ 0, the share of the reverse part: 1 for CIFAR-10, 0.1 for CIFAR-100. With α = 1
            and β = 0 it is cross-entropy.
        log_zero: A ≤ 0, finite; only β · A matters.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: alpha or beta is negative, log_zero positive, or one of them not finite.

    Example:
        >>> symmetric_cross_entropy_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        tensor(3.7359)

    Reference:
        Wang et al., Symmetric cross entropy for robust learning with noisy labels, ICCV 2019,
        arXiv:1908.06112.
    """
    form = _symmetric(alpha, beta, log_zero)
    return softmax_loss(symmetric_cross_entropy_loss, form, logits, target, {**options})


class SymmetricCrossEntropyLoss(SoftmaxLoss):
    """:func:`symmetric_cross_entropy_loss` as a module.

    Args:
        alpha: the share of cross-entropy.
        beta: the share of the reverse part.
        log_zero: what stands for the logarithm of 0.
        **options: the options of every loss.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = -4.0,
        **options: Unpack[LossOptions],
    ) -> None:
        form = _symmetric(alpha, beta, log_zero)
        super().__init__(form, {**options}, alpha=alpha, beta=beta, log_zero=log_zero)
