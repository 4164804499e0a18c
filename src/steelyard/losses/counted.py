"""The losses of the softmax family that read how often each class occurs.

Each derives a bias, a scale, a margin or weights from class counts; see
:mod:`steelyard.losses.softmax` for the notation.
"""

from typing import Unpack

import torch
from torch import Tensor

from steelyard.classes import ClassCountsLike, class_weights
from steelyard.losses import tails
from steelyard.losses.forms import Form
from steelyard.losses.options import CallOptions, LossOptions, check_number
from steelyard.losses.positions import SoftmaxLoss, softmax_loss
from steelyard.losses.priors import log_prior, softmax_counts
from steelyard.losses.softmax import focal_form
from steelyard.losses.vectors import PerClass

__all__ = [
    "BalancedSoftmaxLoss",
    "ClassBalancedLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "VSLoss",
    "balanced_softmax_loss",
    "class_balanced_loss",
    "ldam_loss",
    "logit_adjusted_loss",
    "vs_loss",
]


def _class_balanced(class_counts: ClassCountsLike, beta: float, gamma: float | PerClass) -> Form:
    weight = class_weights(class_counts, "effective", beta=beta, dtype=torch.float64)
    return focal_form(gamma)._replace(weight=weight)


def class_balanced_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    beta: float = 0.9999,
    gamma: float | PerClass = 0.0,
    **options: Unpack[CallOptions],
) -> Tensor:
    """Class-balanced loss: cross-entropy or focal, weighted by the effective number of examples.

    w_c ∝ (1 − β) / (1 − β^n_c), scaled so that they sum to the number of classes present. A
    ``weight`` in the options multiplies them. The published "CB-Focal" figures are of the *sigmoid*
    focal loss; this is the softmax one.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`.
        class_counts: training examples per class; an absent class has weight 0.
        beta: β in [0, 1); the nearer to 1, the nearer to inverse frequency. Best on CIFAR-100-LT
            is between 0.9 and 0.999.
        gamma: γ of the focal loss, 0 for cross-entropy.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: counts that are negative or all zero, beta outside [0, 1), gamma negative.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> class_balanced_loss(logits, target, class_counts=[900, 100])
        tensor(1.9197)

    Reference:
        Cui et al., Class-balanced loss based on effective number of samples, CVPR 2019,
        arXiv:1901.05555.
    """
    form = _class_balanced(class_counts, beta, gamma)
    return softmax_loss(class_balanced_loss, form, logits, target, {**options})


class ClassBalancedLoss(SoftmaxLoss):
    """:func:`class_balanced_loss` as a module: ``class_counts``, ``beta``, ``gamma``, options."""

    def __init__(
        self,
        *,
        class_counts: ClassCountsLike,
        beta: float = 0.9999,
        gamma: float | PerClass = 0.0,
        **options: Unpack[LossOptions],
    ) -> None:
        form = _class_balanced(class_counts, beta, gamma)
        super().__init__(form, {**options}, class_counts=class_counts, beta=beta, gamma=gamma)


def _logit_adjusted(class_counts: ClassCountsLike, tau: float) -> Form:
    strength = check_number("tau", tau, float("-inf"))
    return Form(tails.cross_entropy, bias=strength * log_prior(class_counts))


def logit_adjusted_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    tau: float = 1.0,
    **options: Unpack[CallOptions],
) -> Tensor:
    """Logit-adjusted cross-entropy: ``−log softmax(z + τ · log π)_y``.

    In training the log-prior is added to the logits, so the network learns the rest. At prediction
    its raw logits are those of balanced classes. :func:`steelyard.adjust_logits` is the same idea
    for a model that was trained without it: never use both.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`.
        class_counts: training examples per class. A count of 0 is taken as 1, for its logarithm
            is −∞.
        tau: strength τ, finite; 0 is cross-entropy.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: counts that are negative, all zero or of several labels, tau not finite.

    Example:
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
        >>> logit_adjusted_loss(logits, target, class_counts=[900, 100])
        tensor(2.3026)

    Reference:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314.
    """
    form = _logit_adjusted(class_counts, tau)
    return softmax_loss(logit_adjusted_loss, form, logits, target, {**options})


class LogitAdjustedLoss(SoftmaxLoss):
    """:func:`logit_adjusted_loss` as a module: ``class_counts``, ``tau``, options."""

    def __init__(
        self,
        *,
        class_counts: ClassCountsLike,
        tau: float = 1.0,
        **options: Unpack[LossOptions],
    ) -> None:
        form = _logit_adjusted(class_counts, tau)
        super().__init__(form, {**options}, class_counts=class_counts, tau=tau)


def _balanced_softmax(class_counts: ClassCountsLike) -> Form:
    return Form(tails.cross_entropy, bias=softmax_counts(class_counts).log())


def balanced_softmax_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    **options: Unpack[CallOptions],
) -> Tensor:
    """Balanced softmax: ``−log (n_y e^{z_y} / Σ_c n_c e^{z_c})``.

    Equal to :func:`logit_adjusted_loss` with τ = 1. At prediction use the raw logits.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`.
        class_counts: training examples per class; a count of 0 is taken as 1, for its logarithm
            is −∞.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: counts that are negative, all zero or of several labels.

    Example:
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
        >>> balanced_softmax_loss(logits, target, class_counts=[900, 100])
        tensor(2.3026)

    Reference:
        Ren et al., Balanced meta-softmax for long-tailed visual recognition, NeurIPS 2020,
        arXiv:2007.10740.
    """
    form = _balanced_softmax(class_counts)
    return softmax_loss(balanced_softmax_loss, form, logits, target, {**options})


class BalancedSoftmaxLoss(SoftmaxLoss):
    """:func:`balanced_softmax_loss` as a module: ``class_counts``, options."""

    def __init__(self, *, class_counts: ClassCountsLike, **options: Unpack[LossOptions]) -> None:
        form = _balanced_softmax(class_counts)
        super().__init__(form, {**options}, class_counts=class_counts)


def _ldam(class_counts: ClassCountsLike, max_margin: float, scale: float) -> Form:
    largest = check_number("max_margin", max_margin, 0)
    factor = check_number("scale", scale, 0, open_low=True)
    counts = softmax_counts(class_counts)
    margin = largest * (counts.min() / counts) ** 0.25
    return Form(tails.cross_entropy, scale=factor * torch.ones_like(counts), margin=factor * margin)


def ldam_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    max_margin: float = 0.5,
    scale: float = 30.0,
    **options: Unpack[CallOptions],
) -> Tensor:
    """Label-distribution-aware margin: cross-entropy of ``s · (z − m · t)``.

    m_c = max_margin · (min n / n_c)^¼: the rarest class has the largest margin. z has to be a
    cosine, so take :class:`steelyard.CosineLinear` as the last layer; with an ordinary linear layer
    s = 30 means nothing. At prediction there is no margin: use the raw logits. In the paper's best
    results weights set in late, see :class:`steelyard.DeferredReweighting`.

    Args:
        logits: cosines, (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`; the margin of
            each class counts by its probability.
        class_counts: training examples per class; a count of 0 is taken as 1, for its margin
            would be infinite.
        max_margin: the margin of the rarest class, ≥ 0, in units of the cosine.
        scale: s > 0, multiplies cosine and margin.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: counts that are negative, all zero or of several labels, max_margin negative,
            scale not positive.

    Example:
        >>> cosines, target = torch.tensor([[0.2, 0.1]]), torch.tensor([1])
        >>> ldam_loss(cosines, target, class_counts=[900, 100])
        tensor(18.0000)

    Reference:
        Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss,
        NeurIPS 2019, arXiv:1906.07413.
    """
    form = _ldam(class_counts, max_margin, scale)
    return softmax_loss(ldam_loss, form, logits, target, {**options})


class LDAMLoss(SoftmaxLoss):
    """:func:`ldam_loss` as a module: ``class_counts``, ``max_margin``, ``scale``, options."""

    def __init__(
        self,
        *,
        class_counts: ClassCountsLike,
        max_margin: float = 0.5,
        scale: float = 30.0,
        **options: Unpack[LossOptions],
    ) -> None:
        form = _ldam(class_counts, max_margin, scale)
        arguments = {"class_counts": class_counts, "max_margin": max_margin, "scale": scale}
        super().__init__(form, {**options}, **arguments)


def _vs(class_counts: ClassCountsLike, gamma: float, tau: float) -> Form:
    exponent = check_number("gamma", gamma, 0)
    strength = check_number("tau", tau, float("-inf"))
    counts = softmax_counts(class_counts)
    scale, shares = (counts / counts.max()) ** exponent, counts / counts.sum()
    return Form(tails.cross_entropy, scale=scale, bias=strength * shares.log())


def vs_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    gamma: float = 0.3,
    tau: float = 1.0,
    **options: Unpack[CallOptions],
) -> Tensor:
    """Vector scaling: cross-entropy of ``(n_c / n_max)^γ · z_c + τ · log π_c``.

    With τ = 0 it is the CDT loss (Ye et al., arXiv:2001.01385), with γ = 0 it is
    :func:`logit_adjusted_loss`. The paper's ω is ``weight``. At prediction use the raw logits.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        target: class indices or probabilities, as for :func:`cross_entropy_loss`.
        class_counts: training examples per class; a count of 0 is taken as 1.
        gamma: exponent γ ≥ 0 of the scaling.
        tau: strength τ of the additive adjustment, finite.
        **options: the options of every loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices.

    Raises:
        ValueError: counts that are negative, all zero or of several labels, gamma negative, tau
            not finite.

    Example:
        >>> logits, target = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
        >>> vs_loss(logits, target, class_counts=[900, 100])
        tensor(2.2715)

    Reference:
        Kini et al., Label-imbalanced and group-sensitive classification under
        overparameterization, NeurIPS 2021, arXiv:2103.01550.
    """
    return softmax_loss(vs_loss, _vs(class_counts, gamma, tau), logits, target, {**options})


class VSLoss(SoftmaxLoss):
    """:func:`vs_loss` as a module: ``class_counts``, ``gamma``, ``tau``, options."""

    def __init__(
        self,
        *,
        class_counts: ClassCountsLike,
        gamma: float = 0.3,
        tau: float = 1.0,
        **options: Unpack[LossOptions],
    ) -> None:
        form = _vs(class_counts, gamma, tau)
        super().__init__(form, {**options}, class_counts=class_counts, gamma=gamma, tau=tau)
