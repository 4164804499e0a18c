"""The exact mean: one mean over all micro-batches of all ranks, whatever their sizes.

A batch in pieces i has the mean Σᵢ Sᵢ / Σᵢ Dᵢ, sums over denominators. The mean of the pieces'
means Sᵢ / Dᵢ is something else as soon as the Dᵢ differ, and with class weights, ignored
positions or sample weights they do. Either the denominator is known before the first backward
(:func:`step_denominator`), or the gradients are divided by it after the last
(:class:`ExactMean`). Both send one number per rank and step, and never logits.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal, Protocol, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steelyard.classes.numbers import kind_of

__all__ = ["ExactMean", "step_denominator"]

Gradients: TypeAlias = Literal["average", "sum"]
_GRADIENTS = ("average", "sum")


class CountedLoss(Protocol):
    """A loss that knows what its mean divides by: every loss of this library."""

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What the mean divides by for these targets."""

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of logits against target."""


def step_denominator(
    loss: CountedLoss,
    targets: Tensor | Iterable[Tensor],
    sample_weights: Tensor | Iterable[Tensor | None] | None = None,
    *,
    group: "dist.ProcessGroup | None" = None,
    gradients: Gradients = "average",
) -> Tensor:
    """The denominator of a whole optimiser step, for loops that hold all its micro-batches.

    Pass it as ``denominator=`` to the loss of each micro-batch. The gradients then add up, over
    micro-batches and ranks, to those of one mean over all of them. If no target is valid, gradients
    are 0, and the loss is what its ``empty`` says.

    Every rank of the group calls this once per step; one number is all-reduced. A rank whose
    targets are all ignored takes part like any other.

    Args:
        loss: a loss of this library.
        targets: this rank's targets of the step, one tensor per micro-batch, as the loss takes
            them; a tensor alone is one micro-batch.
        sample_weights: as the loss takes them, one per micro-batch (None for one without).
        group: the ranks that share the step; by default all, or this process alone where
            ``torch.distributed`` is not initialised.
        gradients: what becomes of the ranks' gradients: "average" under DDP and FSDP, which
            divide by the number of ranks; "sum" where they are added up.

    Returns:
        A 0-d tensor on the targets' device, in float64, or float32 where the device has none,
        without a gradient; for "average" already divided by the number of ranks.

    Raises:
        TypeError: the loss does not know its denominator, or a target is no tensor.
        ValueError: no micro-batch, another number of sample weights than targets, or a group
            that this process is not in.

    Example:
        >>> import steelyard as sy
        >>> loss = sy.CrossEntropyLoss(weight=[1.0, 9.0])
        >>> micro_batches = [torch.tensor([0, 0, 1]), torch.tensor([0])]
        >>> step_denominator(loss, micro_batches)
        tensor(12., dtype=torch.float64)
    """
    ranks = _check(loss, group, gradients)
    targets = _listed(targets)
    if not targets:
        raise ValueError(
            "targets holds no micro-batch: a rank without data takes part in the step with an "
            "empty or an ignored target"
        )
    for target in targets:
        if not isinstance(target, Tensor):
            raise TypeError(
                f"targets holds {kind_of(target)}: give one tensor of targets per "
                "micro-batch, as in [target for _, target in micro_batches]"
            )
    weights: list[Tensor | None] = [None] * len(targets)
    if sample_weights is not None:
        weights = _listed(sample_weights)
    if len(weights) != len(targets):
        raise ValueError(
            f"sample_weights holds {len(weights)} micro-batches and targets {len(targets)}: give "
            "one per target, None for a micro-batch without"
        )
    with torch.no_grad():
        masses = [loss.denominator(*pair) for pair in zip(targets, weights, strict=True)]
        mass = _over_ranks(torch.stack(masses).sum(0), group)
    return mass / ranks if gradients == "average" else mass


class ExactMean(nn.Module):
    """The exact mean for loops that see one micro-batch at a time.

    Call it instead of the loss: it returns the *sum* over the micro-batch and remembers what the
    mean would divide by. After the last backward of a step, :meth:`divide_grads_` adds those
    numbers up over the ranks and divides the gradients in place. Clip and step after that. If a
    step has no valid target at all, its gradients become 0.

    The gradients may be those of plain accumulation, of DDP with or without ``no_sync``, or the
    DTensors of FSDP2. Under a ``GradScaler`` the order is backward, ``unscale_``, divide, clip,
    step. The sum is larger than the mean, so the scaler settles at a scale that much lower.

    It remembers only losses that require a gradient, so you may evaluate under ``no_grad`` in the
    middle of a step. Save checkpoints between steps: the ``state_dict`` does not hold what is
    remembered.

    Args:
        loss: a loss of this library.
        group: the ranks that share the step; by default all, or this process alone where
            ``torch.distributed`` is not initialised.
        gradients: what becomes of the ranks' gradients: "average" under DDP and FSDP, "sum"
            where they are added up.

    Raises:
        TypeError: the loss does not know its denominator.
        ValueError: ``gradients`` is neither, or this process is not in the group.

    Example:
        >>> import steelyard as sy
        >>> model = torch.nn.Linear(3, 2)
        >>> mean = ExactMean(sy.CrossEntropyLoss(weight=[1.0, 9.0]))
        >>> for target in torch.tensor([0, 0, 1]), torch.tensor([0]):
        ...     mean(model(torch.ones(len(target), 3)), target).backward()
        >>> mean.divide_grads_(model.parameters())
        tensor(12., dtype=torch.float64)
    """

    def __init__(
        self,
        loss: CountedLoss,
        *,
        group: "dist.ProcessGroup | None" = None,
        gradients: Gradients = "average",
    ) -> None:
        super().__init__()
        _check(loss, group, gradients)
        if hasattr(loss, "refuse_late_division"):
            loss.refuse_late_division()
        self.loss = loss
        self.group = group
        self.gradients = gradients
        self._mass: Tensor | None = None

    def forward(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """The sum over a micro-batch; call it, and backward on it, once per micro-batch.

        Arguments and errors as for :meth:`SoftmaxLoss.forward`.
        """
        total = self.loss(logits, target, sample_weight, denominator=1.0)
        if total.requires_grad:
            with torch.no_grad():
                mass = self.loss.denominator(target, sample_weight)
                self._mass = mass if self._mass is None else self._mass + mass
        return total

    @torch.no_grad()
    def divide_grads_(
        self, parameters: Tensor | Iterable[Tensor], *, loss_scale: float = 1.0
    ) -> Tensor:
        """Make the accumulated gradients those of the mean, in place, and begin a new step.

        Every rank of the group calls this once per step, after its last backward; one number is
        all-reduced.

        Args:
            parameters: all parameters that the step trains, or one of them alone.
            loss_scale: a factor that every loss had before its backward and that the gradients
                still have, such as 1/k if a trainer divides by k accumulation steps.

        Returns:
            What the whole step's mean divides by, a float64 0-d tensor. Sum the returned losses
            over micro-batches and ranks and divide by it: that is the mean.

        Raises:
            ValueError: no parameters.
            RuntimeError: no loss that requires a gradient was computed since the last division.
        """
        parameters = _listed(parameters)
        if not parameters:
            raise ValueError("there are no parameters: give all that the step trains, at once")
        if self._mass is None:
            raise RuntimeError(
                "no loss was computed since the gradients were last divided: call divide_grads_ "
                "once per step, with all parameters, after backward; a rank without data takes "
                "part with an empty batch"
            )
        ranks = _check(self.loss, self.group, self.gradients)
        mass = _over_ranks(self._mass, self.group)
        self.reset()
        divisor = loss_scale * (mass / ranks if self.gradients == "average" else mass)
        divisor = divisor.masked_fill(divisor == 0, math.inf)
        for parameter in parameters:
            if parameter.grad is not None:
                _divide_(parameter.grad, divisor)
        return mass

    def reset(self) -> None:
        """Forget the step so far, where it is dropped without :meth:`divide_grads_`."""
        self._mass = None

    def extra_repr(self) -> str:
        """How gradients are combined."""
        return f"gradients={self.gradients!r}"


def _listed(given: Iterable[Any]) -> list[Any]:
    return [given] if isinstance(given, Tensor) else list(given)


def check_counted(loss: CountedLoss) -> None:
    """Raise a TypeError unless the loss knows its denominator, a ValueError if it has none."""
    if not hasattr(loss, "denominator"):
        raise TypeError(
            f"loss is a {type(loss).__module__}.{type(loss).__name__}, which does not know what "
            "its mean divides by: expected a loss of steelyard, such as sy.CrossEntropyLoss"
        )
    if hasattr(loss, "refuse_denominator"):
        loss.refuse_denominator()


def _check(loss: CountedLoss, group: "dist.ProcessGroup | None", gradients: str) -> int:
    """The number of ranks that share a step, or an error."""
    check_counted(loss)
    if gradients not in _GRADIENTS:
        known = " or ".join(map(repr, _GRADIENTS))
        raise ValueError(
            f"gradients={gradients!r} is not known: choose {known}, as the ranks' gradients are "
            "averaged (DDP, FSDP) or summed"
        )
    if not _in_ranks():
        return 1
    ranks = dist.get_world_size(group)
    if ranks < 1:
        raise ValueError(
            f"rank {dist.get_rank()} is not in the group: only its members share the step"
        )
    return ranks


def _in_ranks() -> bool:
    return dist.is_available() and dist.is_initialized()


def _over_ranks(mass: Tensor, group: "dist.ProcessGroup | None") -> Tensor:
    """Mass () summed over the ranks, where it was."""
    if not _in_ranks():
        return mass
    # NCCL cannot send what is still on the CPU, as the targets of a look-ahead often are.
    devices = dist.get_backend_config(group)  # "cpu:gloo,cuda:nccl"
    sent = mass.clone()
    if f"{mass.device.type}:" not in devices and (near := torch.accelerator.current_accelerator()):
        sent = mass.to(near)
    dist.all_reduce(sent, group=group)
    return sent.to(mass.device)


def _divide_(grad: Tensor, divisor: Tensor) -> None:
    """Divide a gradient in place; of a DTensor its local part."""
    part: Tensor = grad.to_local() if hasattr(grad, "to_local") else grad
    # In half precision the divisor itself would be rounded, by up to 0.4 % in bfloat16.
    wide = part.to(torch.promote_types(part.dtype, torch.float32))
    part.copy_(wide.div_(divisor.to(part.device)))
