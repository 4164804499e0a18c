"""Hugging Face Trainer: any loss, exact with gradient accumulation and under DDP."""

import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MethodType, SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from steelyard.distributed import CountedLoss, check_counted, step_denominator
from steelyard.integrations import needs
from steelyard.losses import SoftmaxLoss

with needs("transformers", "transformers[torch]>=5.0"):
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

__all__ = ["ExactMeanMixin", "ExactMeanTrainer", "train_trial"]


class ExactMeanMixin:
    """Gives a Trainer class a loss of this library; put it before the Trainer among the bases.

    The Trainer holds all micro-batches of an optimiser step before the first forward and counts
    their labels, which is not what a weighted mean divides by. This puts the loss's denominator,
    summed over the ranks, in the place of that count. Evaluation reports the mean of each batch.

    For models that classify sequences, images (logits (B, C), labels (B,)), tokens (logits
    (B, T, C), labels (B, T)) or pixels (logits (B, C, H, W), labels of the same H × W); labels may
    be probabilities of the logits' shape, and for losses of several labels are 0 and 1 of that
    shape. Labels to leave out are the loss's ``ignore_index``, -100 by default, or -1 for several
    labels. Inputs under the key "sample_weight", of the labels' shape, are taken by the loss (and
    need ``remove_unused_columns=False``).

    Args:
        *args: the Trainer's.
        loss: a loss of this library.
        **kwargs: the Trainer's.

    Raises:
        TypeError: the loss does not know its denominator.
        ValueError: a causal language model, whose labels are shifted; a multi-label model and a
            loss of one class per position; label smoothing or a loss function given to the
            Trainer.

    Example::

        class ExactTrainer(ExactMeanMixin, MyTrainer):
            pass

        ExactTrainer(model, arguments, train_dataset=rows, loss=sy.FocalLoss()).train()
    """

    # The loss divides by the denominator of the whole step, so the Trainer must not divide again:
    # the first says so to releases that ask, the second to older ones.
    loss_is_scaled_for_ga = True
    model_accepts_loss_kwargs: bool
    args: Any

    def __init__(self, *args: Any, loss: CountedLoss, **kwargs: Any) -> None:
        check_counted(loss)
        if hasattr(loss, "refuse_denominator_alone"):
            loss.refuse_denominator_alone()  # the Trainer has no second pass for totals
        super().__init__(*args, **kwargs)
        self.loss = loss.to(self.args.device) if isinstance(loss, nn.Module) else loss
        _refuse_other_losses(self)
        self.model_accepts_loss_kwargs = True

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
    """``transformers.Trainer`` with ``loss=``: see :class:`ExactMeanMixin`.

    Example:
        >>> import tempfile
        >>> from transformers import TrainingArguments
        >>> from steelyard.integrations.transformers import ExactMeanTrainer
        >>> class Rows(torch.nn.Linear):
        ...     def forward(self, x, labels=None):
        ...         return {"logits": super().forward(x)}
        >>> rows = [{"x": torch.randn(4), "labels": i % 3} for i in range(24)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = ExactMeanTrainer(
        ...         Rows(4, 3),
        ...         TrainingArguments(
        ...             folder, max_steps=2, gradient_accumulation_steps=3, use_cpu=True,
        ...             per_device_train_batch_size=4, report_to=[], save_strategy="no",
        ...             logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False),
        ...         train_dataset=rows,
        ...         loss=FocalLoss(gamma=2.0, weight=[0.4, 1.0, 12.0]))
        ...     trainer.train().global_step
        {...}
        2
    """


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
    if problem == "regression":
        raise ValueError(f"problem_type={problem!r}: the losses of steelyard are for classes")
    if problem == "multi_label_classification" and isinstance(trainer.loss, SoftmaxLoss):
        raise ValueError(
            f"problem_type={problem!r}, but {type(trainer.loss).__name__} is for one class per "
            "position: give a loss of several labels, such as sy.BCEWithLogitsLoss"
        )


def train_trial(
    trial: Any, network: nn.Module, optimizer: torch.optim.Optimizer, **arguments: Any
) -> nn.Module:
    """Train one trial of ``compare.trainings`` with Hugging Face's ``Trainer``.

    Batches, loss, schedule, clipping and checkpoints are the trial's, so the Trainer gives its
    loop.

    Args:
        trial: what ``compare.trainings`` gave; samples are dicts with "labels".
        network: what ``trial.prepare`` returned.
        optimizer: over its parameters.
        **arguments: for ``TrainingArguments``.

    Returns:
        The trained network.

    Raises:
        ValueError: several ranks, or micro-batches, which the Trainer would count itself.

    Example::

        def train(trial):
            network = trial.prepare(AutoModelForTokenClassification.from_config(config))
            optimizer = torch.optim.AdamW(network.parameters(), trial.learning_rate)
            return train_trial(trial, network, optimizer)

        study = compare.trainings(train, train=texts, test=test_texts, space=...)
    """
    if trial.ranks.number > 1 or trial.plan.micro_batch is not None:
        raise ValueError(
            "train_trial trains in one process, a whole step at once: leave out torchrun and "
            "micro_batch, or write the loop itself"
        )
    epochs = trial.epochs(network, optimizer)
    first = next(epochs, None)
    if first is None:  # it had been trained before it was stopped
        return network
    data = _TrialBatches(trial, first)
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "output_dir": folder,
            "num_train_epochs": trial.plan.epochs - first,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "logging_strategy": "no",
            "max_grad_norm": 0.0,
            "use_cpu": not trial.device.startswith("cuda"),
        }
        trainer = _TrialTrainer(
            trial,
            data,
            model=network,
            args=TrainingArguments(**given | arguments),
            train_dataset=data,
            optimizers=(_stepped_by(trial, optimizer), LambdaLR(optimizer, lambda _: 1.0)),
            callbacks=[_NextEpoch(data, epochs)],
        )
        trainer.train()
    return network


def _stepped_by(trial: Any, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser, whose steps are the trial's."""
    plain = optimizer.step

    def step(_: torch.optim.Optimizer, closure: Any = None) -> None:  # noqa: ARG001
        # Its groups are asked for now: Accelerate has replaced them since.
        groups, clear = optimizer.param_groups, optimizer.zero_grad
        trial.step(SimpleNamespace(param_groups=groups, step=plain, zero_grad=clear))

    # A method, for schedulers look for what it is bound to.
    optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]
    return optimizer


class _TrialBatches(IterableDataset):  # type: ignore[type-arg]
    """A trial's batches of the current epoch, as dicts."""

    def __init__(self, trial: Any, epoch: int) -> None:
        self.trial, self.epoch = trial, epoch

    def __len__(self) -> int:
        return int(self.trial.steps_per_epoch)

    def __iter__(self) -> Iterator[Any]:
        for inputs, labels in self.trial.batches(self.epoch):
            yield {**inputs, "labels": labels}


class _NextEpoch(TrainerCallback):  # type: ignore[misc]
    """Ends the trial's epoch with the Trainer's."""

    def __init__(self, data: _TrialBatches, epochs: Iterator[int]) -> None:
        self.data, self.epochs = data, epochs

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.data.trial.begin(self.data.epoch)  # once more: the Trainer has its own seed

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.data.epoch = next(self.epochs, self.data.epoch)


class _TrialTrainer(Trainer):  # type: ignore[misc]
    """Takes its batches and its loss from a trial."""

    def __init__(self, trial: Any, data: _TrialBatches, **given: Any) -> None:
        super().__init__(**given)
        self.trial, self.data = trial, data

    def get_train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=None, generator=torch.Generator())

    def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Any:
        given = {key: value for key, value in inputs.items() if key != "labels"}
        return self.trial.loss(model(**given), inputs["labels"])
