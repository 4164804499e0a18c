"""Lightning: the exact mean with ``accumulate_grad_batches`` and DDP, and per-class scores."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from steelyard import metrics
from steelyard.distributed import ExactMean
from steelyard.integrations import needs

with needs("lightning", "lightning>=2.5"):
    import lightning.pytorch as pl

__all__ = ["ClassScores", "ExactMeanCallback", "train_trial"]


class ExactMeanCallback(pl.Callback):  # type: ignore[misc]
    """Divides the gradients of a module that trains with :class:`steelyard.ExactMean`.

    The module's ``training_step`` returns what an ``ExactMean`` that is one of its submodules
    gives. This callback divides the gradients after the step's last backward and before clipping,
    and makes good that Lightning divides every loss by ``accumulate_grad_batches``. Let the module
    itself ask for it, so that it cannot be forgotten.

    Raises:
        ValueError: at the start of a fit, a module without ``ExactMean`` or with several, or one
            that optimises by hand; or a strategy, such as DeepSpeed, that keeps its gradients.

    Example::

        class Classifier(pl.LightningModule):
            def __init__(self, network):
                super().__init__()
                self.network = network
                self.loss = sy.ExactMean(sy.FocalLoss())

            def training_step(self, batch, batch_idx):
                inputs, target = batch
                return self.loss(self.network(inputs), target)

            def configure_callbacks(self):
                return [ExactMeanCallback()]
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the module's ``ExactMean`` before anything is trained."""
        _mean_of(pl_module)
        if trainer.strategy.handles_gradient_accumulation:
            raise ValueError(
                f"{type(trainer.strategy).__name__} keeps gradients to itself between backward "
                "and step, so they cannot be divided: give the loss "
                "denominator=steelyard.step_denominator(…) instead"
            )

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Lightning calls this after unscaling and before clipping."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        loss_scale = 1 / trainer.accumulate_grad_batches
        _mean_of(pl_module).divide_grads_(parameters, loss_scale=loss_scale)


def _mean_of(module: pl.LightningModule) -> ExactMean:
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimises by hand: call divide_grads_ of its ExactMean "
            "before the optimiser's step, and leave out this callback"
        )
    found = [part for part in module.modules() if isinstance(part, ExactMean)]
    if len(found) != 1:
        raise ValueError(
            f"{type(module).__name__} has {len(found)} ExactMean among its submodules, expected "
            "one: self.loss = steelyard.ExactMean(…) in its __init__"
        )
    return found[0]


class ClassScores(pl.Callback):  # type: ignore[misc]
    """Logs recall and precision of every class, and what sums them up, at the end of an epoch.

    ``validation_step`` and ``test_step`` return ``{"logits": …, "target": …}``, any other keys
    beside. Only a C × C confusion matrix is kept, and added up over the ranks once an epoch.
    Scores that the epoch leaves undefined, such as the recall of a class without rows, are not
    logged.

    Logged are ``{stage}_balanced_accuracy``, ``{stage}_macro_f1``, ``{stage}_worst_class_recall``
    and, for each class, ``{stage}_recall/{name}`` and ``{stage}_precision/{name}``, where stage is
    "val" or "test".

    Args:
        num_classes: how many classes there are.
        names: one name per class; None: its index.
        ignore_index: targets of this value are not counted.

    Raises:
        ValueError: another number of names than classes.
        TypeError: a step that does not return logits and target.

    Example::

        def validation_step(self, batch, batch_idx):
            inputs, target = batch
            return {"logits": self.network(inputs), "target": target}

        pl.Trainer(callbacks=[ClassScores(3, names=["cat", "dog", "newt"])])
    """

    def __init__(
        self, num_classes: int, names: Sequence[str] | None = None, ignore_index: int = -100
    ) -> None:
        self.names = list(map(str, range(num_classes) if names is None else names))
        if len(self.names) != num_classes:
            raise ValueError(f"{len(self.names)} names for {num_classes} classes: one for each")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._reset()

    def _reset(self, *_: Any) -> None:
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)

    def _count(self, _: Any, pl_module: Any, outputs: Any, *__: Any) -> None:
        if not (isinstance(outputs, dict) and {"logits", "target"} <= outputs.keys()):
            raise TypeError(
                f"{type(pl_module).__name__}: the evaluation step returned "
                f"{type(outputs).__name__}, ClassScores needs a dict with 'logits' and 'target'"
            )
        target = outputs["target"]
        kept = target != self.ignore_index
        prediction = outputs["logits"].argmax(1)
        matrix = metrics.confusion_matrix(prediction[kept], target[kept].long(), self.num_classes)
        self.confusion = self.confusion.to(matrix.device) + matrix

    def _log(self, pl_module: pl.LightningModule, stage: str) -> None:
        matrix = self.confusion.to(pl_module.device)  # where the ranks' backend can send it from
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(matrix)
        matrix = matrix.cpu()
        scores = {
            f"{stage}_balanced_accuracy": metrics.balanced_accuracy(matrix).item(),
            f"{stage}_macro_f1": metrics.macro_f1(matrix).item(),
            f"{stage}_worst_class_recall": metrics.worst_class_recall(matrix).item(),
        }
        per_class = {"recall": metrics.recall(matrix), "precision": metrics.precision(matrix)}
        for score, values in per_class.items():
            named = zip(self.names, values.tolist(), strict=True)
            scores |= {f"{stage}_{score}/{name}": value for name, value in named}
        defined = {name: value for name, value in scores.items() if not math.isnan(value)}
        # All ranks hold the same numbers; averaging them spares Lightning's warning that they may
        # not, and lets every rank's callbacks monitor them.
        pl_module.log_dict(defined, sync_dist=True)

    on_validation_epoch_start = on_test_epoch_start = _reset
    on_validation_batch_end = on_test_batch_end = _count

    def on_validation_epoch_end(self, _: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the scores of the validation data."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, _: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the scores of the test data."""
        self._log(pl_module, "test")


def train_trial(
    trial: Any, network: nn.Module, optimizer: torch.optim.Optimizer, **trainer: Any
) -> nn.Module:
    """Train one trial of ``compare.trainings`` with Lightning's ``Trainer``.

    Batches, loss, exact mean, schedule and checkpoints are the trial's, so Lightning gives its
    loop, its callbacks and its loggers.

    Args:
        trial: what ``compare.trainings`` gave.
        network: what ``trial.prepare`` returned.
        optimizer: over its parameters.
        **trainer: for ``lightning.pytorch.Trainer``.

    Returns:
        The trained network.

    Raises:
        ValueError: several ranks; there use ``torchrun`` and a loop of your own.

    Example::

        def train(trial):
            network = trial.prepare(resnet18(num_classes=7))
            optimizer = torch.optim.SGD(network.parameters(), trial.learning_rate)
            return train_trial(trial, network, optimizer, callbacks=[...])

        study = compare.trainings(train, train=images, test=test_images, space=...)
    """
    _refuse_ranks(trial)
    epochs = trial.epochs(network, optimizer)
    first = next(epochs, None)
    if first is None:  # it had been trained before it was stopped
        return network
    module = _TrialModule(trial, network, optimizer, epochs, first)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    loop = pl.Trainer(
        max_epochs=trial.plan.epochs - first,
        accelerator="gpu" if trial.device.startswith("cuda") else "cpu",
        devices=1,
        **quiet | trainer,
    )
    loop.fit(module, _TrialBatches(trial, module))
    return network


def _refuse_ranks(trial: Any) -> None:
    if trial.ranks.number > 1:
        raise ValueError("train_trial trains in one process: under torchrun write the loop itself")


class _TrialBatches:
    """A trial's batches, epoch by epoch."""

    def __init__(self, trial: Any, module: "_TrialModule") -> None:
        self.trial, self.module = trial, module

    def __iter__(self) -> Iterator[Any]:
        for batch in self.trial.batches(self.module.epoch):
            yield batch, self.trial.piece


class _TrialModule(pl.LightningModule):  # type: ignore[misc]
    """The network with the trial's loss; the trial takes the steps."""

    def __init__(
        self,
        trial: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        epochs: Iterator[int],
        first: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.epoch = network, first
        self._trial, self._optimizer, self._epochs = trial, optimizer, epochs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._optimizer

    def training_step(self, batch: Any, _: int) -> None:
        (inputs, target), self._trial.piece = batch  # Lightning has loaded the next one already
        self.manual_backward(self._trial.loss(self._trial.call(self.network, inputs), target))
        self._trial.step(self._optimizer)

    def on_train_epoch_end(self) -> None:
        self.epoch = next(self._epochs, self.epoch)
