"""Accelerate: the exact mean with gradient accumulation and under DDP and FSDP2."""

from collections.abc import Iterable

from torch import Tensor

from steelyard.distributed import ExactMean
from steelyard.integrations import needs

with needs("accelerate", "accelerate>=1.5"):
    from accelerate import Accelerator, DistributedType

__all__ = ["divide_grads_"]


def divide_grads_(
    mean: ExactMean, accelerator: Accelerator, parameters: Tensor | Iterable[Tensor]
) -> Tensor | None:
    """``mean.divide_grads_`` for a loop under ``accelerator.accumulate``.

    Call it after every ``accelerator.backward(mean(logits, target))``, before clipping and
    ``optimizer.step()``. In the middle of a step it does nothing, as the prepared optimiser does;
    and it makes good that ``accelerator.backward`` divides by the number of accumulation steps.

    Args:
        mean: the :class:`steelyard.ExactMean` that gave the losses.
        accelerator: the accelerator that walked back from them.
        parameters: all parameters that the step trains.

    Returns:
        What the whole step's mean divides by; None in the middle of a step.

    Raises:
        ValueError: DeepSpeed or Megatron-LM, which hold gradients and steps of their own.

    Example:
        Two micro-batches are one step, and three rows of weight 1 and one of weight 9 are its mean.

        >>> from accelerate import Accelerator
        >>> from steelyard.integrations.accelerate import divide_grads_
        >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        >>> model = accelerator.prepare(torch.nn.Linear(3, 2))
        >>> mean = ExactMean(CrossEntropyLoss(weight=[1.0, 9.0]))
        >>> for target in torch.tensor([0, 0, 1]), torch.tensor([0]):
        ...     with accelerator.accumulate(model):
        ...         accelerator.backward(mean(model(torch.ones(len(target), 3)), target))
        ...         print(divide_grads_(mean, accelerator, model.parameters()))
        None
        tensor(12., dtype=torch.float64)
    """
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"under {accelerator.distributed_type.value} gradients cannot be divided between "
            "backward and step: give the loss denominator=steelyard.step_denominator(…) instead"
        )
    if not accelerator.sync_gradients:
        return None
    return mean.divide_grads_(parameters, loss_scale=1 / accelerator.gradient_accumulation_steps)
