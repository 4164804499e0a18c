"""The losses of the sigmoid family that read how often each class is there."""

from typing import Unpack

import torch
from torch import Tensor

from steelyard.classes import ClassCountsLike, as_class_counts, class_weights
from steelyard.losses import penalties
from steelyard.losses.cells import CellCallOptions, CellOptions, SigmoidLoss, sigmoid_loss
from steelyard.losses.forms import CellForm
from steelyard.losses.options import check_number
from steelyard.losses.priors import Total, log_odds, positive_counts
from steelyard.losses.sigmoid import bce_form, sigmoid_focal_form
from steelyard.losses.vectors import PerClass
from steelyard.ops import Side

__all__ = [
    "DistributionBalancedLoss",
    "SigmoidClassBalancedLoss",
    "SigmoidLogitAdjustedLoss",
    "distribution_balanced_loss",
    "sigmoid_class_balanced_loss",
    "sigmoid_logit_adjusted_loss",
]


def _class_balanced(
    class_counts: ClassCountsLike, beta: float, gamma: float | PerClass
) -> CellForm:
    weight = class_weights(class_counts, "effective", beta=beta, dtype=torch.float64)
    return sigmoid_focal_form(gamma)._replace(weight=weight)


def sigmoid_class_balanced_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    beta: float = 0.9999,
    gamma: float | PerClass = 0.0,
    **options: Unpack[CellCallOptions],
) -> Tensor:
    """Class-balanced sigmoid loss: binary cross-entropy or focal, weighted per class.

    w_c ∝ (1 − β) / (1 − β^n_c), scaled so that they sum to the number of classes present; n_c are
    positives. A ``weight`` in the options multiplies them. The published code is for one class per
    sample, and gives all cells of a sample the weight of its class: that is
    ``sigmoid_focal_loss(…, sample_weight=w[y])``.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        class_counts: positives per class in training; a class without any has weight 0.
        beta: β in [0, 1); the nearer to 1, the nearer to inverse frequency.
        gamma: γ of the focal loss, 0 for binary cross-entropy.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        ValueError: counts that are negative or all zero, beta outside [0, 1), gamma negative.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 1]])
        >>> sigmoid_class_balanced_loss(logits, target, class_counts=[900, 100])
        tensor(0.6345)

    Reference:
        Cui et al., Class-balanced loss based on effective number of samples, CVPR 2019,
        arXiv:1901.05555.
    """
    form = _class_balanced(class_counts, beta, gamma)
    return sigmoid_loss(sigmoid_class_balanced_loss, form, logits, target, {**options})


class SigmoidClassBalancedLoss(SigmoidLoss):
    """:func:`sigmoid_class_balanced_loss` as a module: ``class_counts``, ``beta``, ``gamma``."""

    def __init__(
        self,
        *,
        class_counts: ClassCountsLike,
        beta: float = 0.9999,
        gamma: float | PerClass = 0.0,
        **options: Unpack[CellOptions],
    ) -> None:
        form = _class_balanced(class_counts, beta, gamma)
        super().__init__(form, {**options}, class_counts=class_counts, beta=beta, gamma=gamma)


def _logit_adjusted(class_counts: ClassCountsLike, total: Total, tau: float) -> CellForm:
    check_number("tau", tau, float("-inf"))
    return bce_form()._replace(bias=tau * log_odds(class_counts, total))


def sigmoid_logit_adjusted_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    total: Total = None,
    tau: float = 1.0,
    **options: Unpack[CellCallOptions],
) -> Tensor:
    """Logit-adjusted sigmoid loss: binary cross-entropy of ``z_c + τ log(π_c / (1 − π_c))``.

    The binary form of logit adjustment. The model learns how much more likely than usual a class
    is. At prediction its raw logits treat both sides of a class alike. For probabilities of the
    training data's mix add the adjustment, as :func:`steelyard.adjust_logits` with −τ does. With
    one class, this is a last layer whose bias starts at the prior's log-odds.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        class_counts: positives per class in training. A class that is never there is counted as
            there once, and one that is always there as absent once: their log-odds are infinite.
        total: positions in training, one number, or one per class where labels are missing. None:
            ``class_counts`` knows it, being counted from targets of 0 and 1.
        tau: τ, any finite number; 0 is binary cross-entropy.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        ValueError: counts that are negative, all zero or above total, no total, tau not finite.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]])
        >>> sigmoid_logit_adjusted_loss(logits, target, class_counts=[10, 500], total=1000)
        tensor(1.6801)

    Reference:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314, in
        its binary form.
    """
    form = _logit_adjusted(class_counts, total, tau)
    return sigmoid_loss(sigmoid_logit_adjusted_loss, form, logits, target, {**options})


class SigmoidLogitAdjustedLoss(SigmoidLoss):
    """:func:`sigmoid_logit_adjusted_loss` as a module: ``class_counts``, ``total``, ``tau``."""

    def __init__(
        self,
        *,
        class_counts: ClassCountsLike,
        total: Total = None,
        tau: float = 1.0,
        **options: Unpack[CellOptions],
    ) -> None:
        form = _logit_adjusted(class_counts, total, tau)
        super().__init__(form, {**options}, class_counts=class_counts, total=total, tau=tau)


# The paper's map from r to the weight: 0.1 + σ(10 (r − 0.2)).
_REBALANCE = (0.1, 10.0, 0.2)


def _distribution_balanced(
    class_counts: ClassCountsLike,
    total: Total,
    kappa: float,
    negative_scale: float,
    gamma: float,
) -> CellForm:
    check_number("kappa", kappa, 0)
    check_number("negative_scale", negative_scale, 0, open_low=True)
    check_number("gamma", gamma, 0)
    class_counts = as_class_counts(class_counts)
    negative = Side(penalties.focal, gamma, factor=1 / negative_scale, scale=negative_scale)
    return CellForm(
        Side(penalties.focal, gamma),
        negative,
        bias=kappa / negative_scale * log_odds(class_counts, total),
        share=1 / positive_counts(class_counts),
        rebalance=_REBALANCE,
    )


def distribution_balanced_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_counts: ClassCountsLike,
    total: Total = None,
    kappa: float = 0.05,
    negative_scale: float = 5.0,
    gamma: float = 2.0,
    **options: Unpack[CellCallOptions],
) -> Tensor:
    """Distribution-balanced loss: re-balanced weights and negatives that pull less.

    With r = n_c⁻¹ / Σ_j t_j n_j⁻¹, the weight ŵ = 0.1 + σ(10 (r − 0.2)) and
    z' = z − (κ/λ) log(N/n_c − 1), a cell costs ``ŵ [t·F(z') + (1 − t)·F(−λ z')/λ]``, where F is the
    focal loss of a logit. Class-aware sampling draws a sample once for each of its labels; ŵ undoes
    that. λ makes negatives pull less that are right already. ŵ counts in ``mean_over="weight"``.
    The published code changes the caller's logits in place; this does not.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        class_counts: positives per class in training; a class that is never there counts once.
        total: positions in training, one number, or one per class where labels are missing. None:
            ``class_counts`` knows it, being counted from targets of 0 and 1.
        kappa: κ ≥ 0, how much of the prior goes into the bias.
        negative_scale: λ > 0; 5 in the paper, 2 in some of the published configurations.
        gamma: γ ≥ 0 of the focal factor; 0 leaves it out.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one of the logits' shape.

    Raises:
        ValueError: counts that are negative, all zero or above total, no total, or a number out
            of its range.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([[1, 0]])
        >>> distribution_balanced_loss(logits, target, class_counts=[10, 500], total=1000)
        tensor(0.0053)

    Reference:
        Wu et al., Distribution-balanced loss for multi-label classification in long-tailed
        datasets, ECCV 2020, arXiv:2007.09654.
    """
    form = _distribution_balanced(class_counts, total, kappa, negative_scale, gamma)
    return sigmoid_loss(distribution_balanced_loss, form, logits, target, {**options})


class DistributionBalancedLoss(SigmoidLoss):
    """:func:`distribution_balanced_loss` as a module, with the same keywords."""

    def __init__(
        self,
        *,
        class_counts: ClassCountsLike,
        total: Total = None,
        kappa: float = 0.05,
        negative_scale: float = 5.0,
        gamma: float = 2.0,
        **options: Unpack[CellOptions],
    ) -> None:
        form = _distribution_balanced(class_counts, total, kappa, negative_scale, gamma)
        super().__init__(
            form,
            {**options},
            class_counts=class_counts,
            total=total,
            kappa=kappa,
            negative_scale=negative_scale,
            gamma=gamma,
        )
