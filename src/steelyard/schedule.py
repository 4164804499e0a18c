"""What changes during training: re-weighting that waits until features are learnt."""

from typing import Any, cast

from torch import Tensor, nn

from steelyard.losses.compound import CompoundLoss
from steelyard.losses.module import Loss
from steelyard.losses.options import check_number
from steelyard.losses.regions import RegionLoss
from steelyard.losses.vectors import PerClass


class DeferredReweighting(nn.Module):
    """A loss unweighted until epoch ``start``, weighted from then on.

    Weights from the first epoch on harm the features, most of all with many classes. In the last
    fifth or so of the training they only move the decision.

    Args:
        loss: a loss of this library without weights; of a sum of losses, such as
            :class:`DiceCELoss`, every part takes the weights.
        weight: class weights, as every loss takes them.
        start: the first weighted epoch, counted as :meth:`set_epoch` counts.

    Raises:
        TypeError: not a loss of this library.
        ValueError: the loss has weights already, they do not fit it, or start is negative.

    Example:
        >>> loss = DeferredReweighting(CrossEntropyLoss(), weight=[1.0, 9.0], start=160)
        >>> loss.set_epoch(160)
        >>> loss.active
        True

    Reference:
        Cao et al., NeurIPS 2019, arXiv:1906.07413.
    """

    def __init__(self, loss: Loss | CompoundLoss, weight: PerClass, start: int) -> None:
        super().__init__()
        if not isinstance(loss, Loss | CompoundLoss):
            raise TypeError(f"loss is a {type(loss).__name__}, expected a loss of steelyard")
        if loss.weight is not None:
            raise ValueError(
                f"{type(loss).__name__} has class weights of its own, so it would be weighted "
                "from the first epoch: give the weights to DeferredReweighting alone"
            )
        check_number("start", start, 0)
        self.unweighted = loss
        self.weighted: Loss | CompoundLoss = loss.with_weight(weight)
        self.start = start
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; call it once per epoch, as for a distributed sampler."""
        self.epoch = int(epoch)

    @property
    def active(self) -> bool:
        """Whether the weights are in force."""
        return self.epoch >= self.start

    @property
    def current(self) -> Loss | CompoundLoss:
        """The loss in force, unweighted or weighted."""
        return self.weighted if self.active else self.unweighted

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """The loss in force; arguments and errors as for a call of the loss."""
        loss = cast("Tensor", self.current(logits, target, sample_weight, denominator, **more))
        if not self.active:
            # A weight of the wrong length is refused now rather than in epoch ``start``.
            self.weighted.check_fit(logits)
        return loss

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What the mean of the loss in force divides by; see :meth:`SoftmaxLoss.denominator`."""
        return self.current.denominator(target, sample_weight)

    def __getattr__(self, name: str) -> Any:
        """The refusals that the loss has; see :class:`RegionLoss` and :class:`CompoundLoss`."""
        if name.startswith("refuse_"):
            return getattr(self.unweighted, name)
        return super().__getattr__(name)

    def statistics(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """The sums of a loss over regions; see :meth:`RegionLoss.statistics`."""
        if not isinstance(self.current, RegionLoss | CompoundLoss):
            raise TypeError(
                f"{type(self.current).__name__} has no statistics: they are of losses over regions"
            )
        return self.current.statistics(logits, target, sample_weight)

    def extra_repr(self) -> str:
        """Where it stands."""
        return f"start={self.start}, epoch={self.epoch}"

    def get_extra_state(self) -> dict[str, int]:
        """The epoch, for the state_dict."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the epoch from a state_dict."""
        self.epoch = int(state["epoch"])
