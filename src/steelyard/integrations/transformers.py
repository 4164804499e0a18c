"""Hugging Face Trainer: any loss, exact with gradient accumulation and under DDP."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from steelyard.distributed import CountedLoss, check_counted, step_denominator
from steelyard.integrations import needs

with needs("transformers", "transformers[torch]>=5.0"):
    from transformers import Trainer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

__all__ = ["ExactMeanMixin", "ExactMeanTrainer"]


class ExactMeanMixin:
    """Gives a Trainer class a loss of this library; put it before the Trainer among the bases.

    The Trainer holds all micro-batches of an optimiser step before the first forward and counts
    their labels, which is not what a weighted mean divides by. This puts the loss's denominator,
    summed over the ranks, in the place of that count. Evaluation reports the mean of each batch.

    For models that classify sequences, images (logits (B, C), labels (B,)), tokens (logits
    (B, T, C), labels (B, T)) or pixels (logits (B, C, H, W), labels of the same H × W); labels may
    be probabilities of the logits' shape. Labels to leave out are the loss's ``ignore_index``,
    -100 by default. Inputs under the key "sample_weight", of the labels' shape, are taken by the
    loss (and need ``remove_unused_columns=False``).

    Args:
        *args: the Trainer's.
        loss: a loss of this library.
        **kwargs: the Trainer's.

    Raises:
        TypeError: the loss does not know its denominator.
        ValueError: a causal language model, whose labels are shifted; a multi-label model; label
            smoothing or a loss function given to the Trainer.
    """

    # The loss divides by the denominator of the whole step, so the Trainer must not divide again:
    # the first says so to releases that ask, the second to older ones.
    loss_is_scaled_for_ga = True
    model_accepts_loss_kwargs: bool
    args: Any

    def __init__(self, *args: Any, loss: CountedLoss, **kwargs: Any) -> None:
        check_counted(loss)
        super().__init__(*args, **kwargs)
        _refuse_other_losses(self)
        self.model_accepts_loss_kwargs = True
        self.loss = loss.to(self.args.device) if isinstance(loss, nn.Module) else loss

    def get_batch_samples(
        self,
        epoch_iterator: Iterator[Any],
        num_batches: int,
        device: torch.device,  # noqa: ARG002
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of a step, and in the place of their count the denominator."""
        batches = list(islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        weights = [batch.get("sample_weight") for batch in batches]
        labels = [_labels_of(batch) for batch in batches]
        return batches, step_denominator(self.loss, labels, weights)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The loss of a micro-batch over the denominator of its step; in evaluation its mean."""
        labels = _labels_of(inputs)
        given = {k: v for k, v in inputs.items() if k not in ("labels", "sample_weight")}
        outputs = model(**given)
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        if logits.ndim == 3:  # (B, T, C), where losses want (B, C, T)
            logits = logits.movedim(-1, 1)
            labels = labels.movedim(-1, 1) if labels.ndim == 3 else labels
        denominator = num_items_in_batch if model.training else None
        loss = self.loss(logits, labels, inputs.get("sample_weight"), denominator=denominator)
        return (loss, outputs) if return_outputs else loss


class ExactMeanTrainer(ExactMeanMixin, Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` with ``loss=``: see :class:`ExactMeanMixin`."""


def _labels_of(batch: Mapping[str, Any]) -> Tensor:
    if "labels" not in batch:
        raise ValueError(
            f"the batch has {', '.join(map(repr, batch))} but no 'labels': rename the column of "
            "the targets"
        )
    return cast("Tensor", batch["labels"])


def _refuse_other_losses(trainer: Any) -> None:
    """Raise where the Trainer or the model means another loss than ``loss``."""
    if trainer.args.label_smoothing_factor or trainer.compute_loss_func is not None:
        given = "compute_loss_func" if trainer.compute_loss_func else "label_smoothing_factor"
        raise ValueError(f"{given} would be ignored: the loss is `loss`, and takes label_smoothing")
    name = type(trainer.model).__name__
    generates = name.endswith(("ForCausalLM", "ForConditionalGeneration"))
    if generates or name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise ValueError(
            f"{name} is a language model, which shifts its labels itself: here labels belong to "
            "the logits of the same position"
        )
    problem = getattr(getattr(trainer.model, "config", None), "problem_type", None)
    if problem in ("multi_label_classification", "regression"):
        raise ValueError(
            f"problem_type={problem!r}: the losses of steelyard are for one class per position"
        )
