"""ZLPR: the one loss of the sigmoid family that couples the classes of a position."""

from typing import Unpack

from torch import Tensor

from steelyard.losses.cells import CellCallOptions, CellOptions, SigmoidLoss, sigmoid_loss
from steelyard.losses.forms import CellForm
from steelyard.losses.sigmoid import bce_form

__all__ = ["ZLPRLoss", "zlpr_loss"]


def _zlpr() -> CellForm:
    return bce_form()._replace(whole_positions=True)


def zlpr_loss(logits: Tensor, target: Tensor, **options: Unpack[CellCallOptions]) -> Tensor:
    """Zero-bounded log-sum-exp and pairwise rank loss, per position.

    ``log(1 + Σ_c (1 − t_c) e^z_c) + log(1 + Σ_c t_c e^−z_c)``: it wants the logit of every class
    that is there above 0, and every other logit below. On each side the worst classes pull most, so
    that many easy negatives do not drown few positives. ``weight`` and ``pos_weight`` multiply the
    terms inside the logarithms.

    A position is a whole here. Unless ``mean_over`` says otherwise, the mean is over the positions
    with a label that is not missing. ``sample_weight`` has one number per position, and
    reduction="none" gives one loss per position.

    Args:
        logits: (N, C), (N, C, d1, …), or (N,) for one class; floating.
        target: of the logits' shape, as for :func:`bce_with_logits_loss`.
        **options: the options of every sigmoid loss, ``sample_weight`` and ``denominator``.

    Returns:
        A 0-d tensor, or with reduction="none" one number per position (N, d1, …).

    Raises:
        ValueError: sample weights per cell; and see :meth:`SigmoidLoss.forward`.

    Example:
        >>> zlpr_loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1, 0, 0]]))
        tensor(0.9889)

    Reference:
        Su et al., ZLPR: a novel loss for multi-label classification, 2022, arXiv:2208.02955.
    """
    return sigmoid_loss(zlpr_loss, _zlpr(), logits, target, {**options})


class ZLPRLoss(SigmoidLoss):
    """:func:`zlpr_loss` as a module: the options of every sigmoid loss."""

    def __init__(self, **options: Unpack[CellOptions]) -> None:
        super().__init__(_zlpr(), {**options})
