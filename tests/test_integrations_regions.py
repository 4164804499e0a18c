"""Losses of regions in the four trainers: one step of micro-batches is one step on all images.

A step of plain gradient descent with a learning rate of 1 moves the parameters by the gradient.
"""

import warnings
from collections.abc import Callable
from typing import Any

import accelerate
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trainer_cases import Stream, flat, lightning_trainer

import steelyard as sy
from steelyard.integrations.accelerate import divide_grads_
from steelyard.integrations.lightning import ExactMeanCallback
from steelyard.integrations.skorch import NeuralNetClassifier
from steelyard.integrations.transformers import ExactMeanTrainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

C = 3
WEIGHT = [1.0, 2.0, 9.0]
Formula = Callable[[Tensor, Tensor], Tensor]


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, C, 1).double()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
        return (self.conv(x),)


def images() -> tuple[Tensor, Tensor]:
    """Four images with unequal numbers of classes, and of pixels that count."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4, 1, 5, 5, generator=g, dtype=torch.float64)
    target = (torch.rand(4, 5, 5, generator=g) ** 3 * C).long()
    target[0] = 0
    target[1, 2:] = -100
    return x, target


def one_by_one() -> list[tuple[Tensor, Tensor]]:
    return [*zip(*(each.split(1) for each in images()), strict=True)]


def dice(logits: Tensor, target: Tensor, *, dims: tuple[int, ...] = (2, 3)) -> Tensor:
    """The mean over the classes that are there, of every image, or of the batch."""
    counts = (target >= 0).unsqueeze(1)
    t = F.one_hot(target.clamp(min=0), C).movedim(-1, 1) * counts
    p = logits.softmax(1) * counts
    both, predicted, true = (each.sum(dims) for each in (p * t, p, t))
    return (1 - 2 * both / (predicted + true))[true > 0].mean()


def dice_of_batch(logits: Tensor, target: Tensor) -> Tensor:
    return dice(logits, target, dims=(0, 2, 3))


def weighted_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, weight=torch.tensor(WEIGHT, dtype=logits.dtype))


FORMULAS: dict[str, tuple[Any, Formula]] = {
    "Dice": (sy.DiceLoss(), dice),
    "DiceCE": (sy.DiceCELoss(dice=0.5), lambda z, y: F.cross_entropy(z, y) + 0.5 * dice(z, y)),
    "Compound": (
        sy.CompoundLoss([(2.0, sy.CrossEntropyLoss(WEIGHT)), (1.0, sy.TverskyLoss())]),
        lambda z, y: 2 * weighted_entropy(z, y) + dice(z, y),
    ),
}
each = pytest.mark.parametrize(("loss", "formula"), FORMULAS.values(), ids=FORMULAS)


def is_gradient(found: Tensor, formula: Formula) -> None:
    """Whether parameters moved by the gradient of a formula on all images at once."""
    model, (x, target) = Segmenter(), images()
    formula(model(x)[0], target).backward()
    grads = [parameter.grad for parameter in model.parameters()]
    wanted = torch.cat([grad.flatten() for grad in grads if grad is not None])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


def hugging_face(loss: Any, folder: Any) -> Any:
    model = Segmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=1,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = ExactMeanTrainer(
        model,
        arguments,
        train_dataset=[{"x": x[0], "labels": target[0]} for x, target in one_by_one()],
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
        loss=loss,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


@each
def test_hugging_face(loss: Any, formula: Formula, tmp_path: Any) -> None:
    trainer = hugging_face(loss, tmp_path)
    before = flat(trainer.model).clone()
    trainer.train()
    is_gradient(before - flat(trainer.model), formula)


def test_hugging_face_has_no_second_pass_for_totals(tmp_path: Any) -> None:
    for loss in sy.DiceLoss(per="batch"), sy.DiceCELoss(per="batch"):
        for given in loss, sy.DeferredReweighting(loss, WEIGHT, start=1):
            with pytest.raises(ValueError, match="per='batch' is one ratio over all images"):
                hugging_face(given, tmp_path)


class Training(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.loss = Segmenter(), sy.ExactMean(sy.DiceLoss())

    def training_step(self, batch: Any, _: int) -> Tensor:
        x, target = batch
        return self.loss(self.net(x)[0], target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def configure_callbacks(self) -> list[Any]:
        return [ExactMeanCallback()]


def test_lightning() -> None:
    module = Training()
    before = flat(module).clone()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        loader = DataLoader(Stream(one_by_one()), batch_size=None)
        lightning_trainer(accumulate_grad_batches=4).fit(module, loader)
    is_gradient(before - flat(module), dice)


def accelerated(walk_back: Callable[[Any, nn.Module, Tensor, Tensor], None]) -> Tensor:
    """How far a step that goes image by image moves the parameters."""
    for state in accelerate.state.AcceleratorState, accelerate.state.GradientState:
        state._reset_state()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    plain = Segmenter()
    model, optimizer = accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), lr=1.0))
    before = flat(plain).clone()
    for x, target in one_by_one():
        with accelerator.accumulate(model):
            walk_back(accelerator, model, x, target)
            optimizer.step()
            optimizer.zero_grad()
    return before - flat(plain)


def test_accelerate() -> None:
    mean = sy.ExactMean(sy.DiceLoss())

    def walk_back(accelerator: Any, model: nn.Module, x: Tensor, target: Tensor) -> None:
        accelerator.backward(mean(model(x)[0], target))
        divide_grads_(mean, accelerator, model.parameters())

    is_gradient(accelerated(walk_back), dice)


def accelerated_by(loss: Any, **whole: Any) -> Tensor:
    """The same where the loss knows the whole step, and Accelerate divides by its length."""

    def walk_back(accelerator: Any, model: nn.Module, x: Tensor, target: Tensor) -> None:
        value = loss(model(x)[0], target, **whole)
        accelerator.backward(value * accelerator.gradient_accumulation_steps)

    return accelerated(walk_back)


@each
def test_accelerate_with_the_denominator_of_the_step(loss: Any, formula: Formula) -> None:
    over = sy.step_denominator(loss, [target for _, target in one_by_one()])
    is_gradient(accelerated_by(loss, denominator=over), formula)


def test_accelerate_with_the_totals_of_the_step() -> None:
    model = Segmenter()

    def totals(loss: Any) -> Tensor:
        with torch.no_grad():
            parts = [loss.statistics(model(x)[0], target) for x, target in one_by_one()]
        return torch.stack(parts).sum(0)

    loss = sy.DiceLoss(per="batch")
    is_gradient(accelerated_by(loss, totals=totals(loss)), dice_of_batch)
    both = sy.DiceCELoss(per="batch")
    over = sy.step_denominator(both, [target for _, target in one_by_one()])
    is_gradient(
        accelerated_by(both, totals=totals(both), denominator=over),
        lambda z, y: F.cross_entropy(z, y) + dice_of_batch(z, y),
    )


def test_lightning_and_accelerate_refuse_what_cannot_be_divided_late() -> None:
    with pytest.raises(ValueError, match="adds means with denominators of their own"):
        sy.ExactMean(sy.DiceCELoss())
    with pytest.raises(ValueError, match="per='batch' is one ratio over all images"):
        sy.ExactMean(sy.DiceLoss(per="batch"))


@pytest.mark.parametrize("per", ["image", "batch"])
def test_skorch(per: str) -> None:
    x, target = images()
    net = NeuralNetClassifier(
        nn.Conv2d(1, C, 1).double(),
        criterion=sy.DiceCELoss,
        criterion__per=per,
        classes=range(C),
        batch_size=len(x),
        max_epochs=1,
        lr=1.0,
        train_split=None,
        verbose=0,
    ).initialize()
    net.module_.load_state_dict(Segmenter().conv.state_dict())
    before = flat(net.module_).clone()
    net.partial_fit(x.numpy(), target.numpy())
    overlap = dice if per == "image" else dice_of_batch
    is_gradient(before - flat(net.module_), lambda z, y: F.cross_entropy(z, y) + overlap(z, y))
    np.testing.assert_allclose(net.predict_proba(x.numpy()).sum(1), 1)
