"""One optimiser step in each trainer, against PyTorch's loss on the one big batch in float64.

A step of plain gradient descent with a learning rate of 1 moves the parameters by the gradient,
so the two compare by where they end.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mean_cases import relative_error
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import steelyard as sy

C = 3
WEIGHT = [0.1, 1.0, 10.0]


def ranks() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def big_batch_gradient(model: nn.Module, logits: Callable[[nn.Module], Tensor], target: Any) -> Any:
    """The gradient of PyTorch's weighted mean over everything at once."""
    model = copy.deepcopy(model)
    z = logits(model).double()
    z = z.movedim(-1, 1) if z.ndim > 2 else z
    F.cross_entropy(z, target, weight=torch.tensor(WEIGHT, dtype=z.dtype)).backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return torch.cat([grad.flatten() for grad in grads])


def bert(kind: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        num_labels=C,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    kinds = {
        "token": transformers.BertForTokenClassification,
        "sequence": transformers.BertForSequenceClassification,
    }
    return kinds[kind](config).double()


def sentences(kind: str, number: int) -> dict[str, Tensor]:
    """Unequal numbers of labels that count, and one rare class that few micro-batches hold."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(20, (number, 6), generator=g)
    shape = (number, 6) if kind == "token" else (number,)
    labels = (torch.rand(shape, generator=g) ** 3 * C).long()
    if kind == "token":
        labels[torch.rand(shape, generator=g) < 0.4] = -100
        labels[: number // 2, 2:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def hugging_face(kind: str, accumulate: int, per_device: int, *, exact: bool, loss: Any) -> float:
    """How far one step of the Trainer is from the big batch."""
    import transformers

    from steelyard.integrations.transformers import ExactMeanTrainer

    transformers.utils.logging.set_verbosity_error()
    data = sentences(kind, accumulate * per_device * ranks()[1])
    model = bert(kind)
    wanted = big_batch_gradient(
        model, lambda m: m(data["input_ids"], data["attention_mask"]).logits, data["labels"]
    )
    before = flat(model).clone()
    rows = [{k: v[i] for k, v in data.items()} for i in range(len(data["labels"]))]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {
            "model": model,
            "args": transformers.TrainingArguments(
                directory,
                per_device_train_batch_size=per_device,
                gradient_accumulation_steps=accumulate,
                max_steps=1,
                max_grad_norm=0.0,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            "train_dataset": rows,
            "optimizers": (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
        }
        if exact:
            trainer = ExactMeanTrainer(loss=loss, **settings)
        else:
            trainer = transformers.Trainer(compute_loss_func=loss, **settings)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return relative_error(before - flat(model), wanted)


def counted_by_the_trainer(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """The recipe of the Trainer's documentation, with class weights: a sum over its count."""
    logits = outputs.logits
    logits = logits.movedim(-1, 1) if logits.ndim == 3 else logits
    weight = torch.tensor(WEIGHT, dtype=logits.dtype)
    return F.cross_entropy(logits, labels, weight=weight, reduction="sum") / num_items_in_batch


def weighted_per_batch(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """The weighted mean of a micro-batch, as PyTorch gives it."""
    logits = outputs.logits
    logits = logits.movedim(-1, 1) if logits.ndim == 3 else logits
    return F.cross_entropy(logits, labels, weight=torch.tensor(WEIGHT, dtype=logits.dtype))


def hugging_face_world() -> None:
    for kind in "token", "sequence":
        exact = hugging_face(kind, 3, 2, exact=True, loss=sy.CrossEntropyLoss(WEIGHT))
        assert exact < 1e-12, exact
        for theirs in counted_by_the_trainer, weighted_per_batch:
            usual = hugging_face(kind, 3, 2, exact=False, loss=theirs)
            assert usual > 0.1, (theirs.__name__, usual)


def micro_batches(number: int, rank: int) -> list[tuple[Tensor, Tensor]]:
    """Of unequal size, with a rare class; this rank's of a step."""
    g = torch.Generator().manual_seed(rank)
    pairs = []
    for i in range(number):
        n = 2 + (i + rank) % 3
        x = torch.randn(n, 2, dtype=torch.float64, generator=g)
        target = (torch.rand(n, generator=g) ** 3 * C).long()
        if i == 0:
            target[:] = -100 if rank else 2
        pairs.append((x, target))
    return pairs


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, C)).double()


def big_batch(model: nn.Module, number: int) -> Tensor:
    """The gradient of PyTorch's weighted mean over all micro-batches of all ranks."""
    every = [pair for rank in range(ranks()[1]) for pair in micro_batches(number, rank)]
    x = torch.cat([x for x, _ in every])
    return big_batch_gradient(model, lambda m: m(x), torch.cat([target for _, target in every]))


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches as they are, for loaders with ``batch_size=None``."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def with_accelerate(accumulate: int, *, exact: bool, clip: float | None = None) -> Tensor:
    """Where one step moves the parameters to."""
    import accelerate

    from steelyard.integrations.accelerate import divide_grads_

    for state in accelerate.state.AcceleratorState, accelerate.state.GradientState:
        state._reset_state()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    plain = network()
    model, optimizer = accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), lr=1.0))
    before = flat(plain).clone()
    loss = sy.CrossEntropyLoss(WEIGHT)
    mean = sy.ExactMean(loss)
    divided = []
    for x, target in micro_batches(accumulate, ranks()[0]):
        with accelerator.accumulate(model):
            if exact:
                accelerator.backward(mean(model(x), target))
                divided.append(divide_grads_(mean, accelerator, model.parameters()))
            else:
                accelerator.backward(loss(model(x), target))
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    if exact:
        assert [d is None for d in divided] == [True] * (accumulate - 1) + [False]
    return before - flat(plain)


def accelerate_world() -> None:
    wanted = big_batch(network(), 4)
    assert relative_error(with_accelerate(4, exact=True), wanted) < 1e-12
    assert relative_error(with_accelerate(4, exact=False), wanted) > 0.1
    half = float(wanted.norm()) / 2
    # PyTorch's clipping adds 1e-6 to the norm.
    assert relative_error(with_accelerate(4, exact=True, clip=half), wanted / 2) < 1e-5


def lightning_module(*, exact: bool) -> Any:
    import lightning.pytorch as pl

    from steelyard.integrations.lightning import ExactMeanCallback

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            loss = sy.CrossEntropyLoss(WEIGHT)
            self.loss = sy.ExactMean(loss) if exact else loss

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, target = batch
            return self.loss(self.net(x), target)

        def validation_step(self, batch: Any, _: int) -> dict[str, Tensor]:
            x, target = batch
            return {"logits": self.net(x), "target": target}

        test_step = validation_step

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1.0)

        def configure_callbacks(self) -> list[Any]:
            return [ExactMeanCallback()] if exact else []

    return Classifier()


def lightning_trainer(**keywords: Any) -> Any:
    import lightning.pytorch as pl
    from lightning.pytorch.plugins.environments import LightningEnvironment

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if ranks()[1] > 1:
        keywords |= {"strategy": "ddp", "devices": ranks()[1], "plugins": [LightningEnvironment()]}
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings = dict.fromkeys(quiet, False) | {"accelerator": "cpu", "devices": 1, "max_epochs": 1}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        return pl.Trainer(use_distributed_sampler=False, **settings | keywords)


def with_lightning(number: int, *, exact: bool, **keywords: Any) -> Tensor:
    module = lightning_module(exact=exact)
    before = flat(module).clone()
    loader = DataLoader(Stream(micro_batches(number, ranks()[0])), batch_size=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        lightning_trainer(**keywords).fit(module, loader)
    return before - flat(module)


def lightning_world() -> None:
    wanted = big_batch(network(), 4)
    for accumulate in 4, 6:  # the epoch ends in the middle of the second
        found = with_lightning(4, exact=True, accumulate_grad_batches=accumulate)
        assert relative_error(found, wanted) < 1e-12
        found = with_lightning(4, exact=False, accumulate_grad_batches=accumulate)
        assert relative_error(found, wanted) > 0.1
    half = float(wanted.norm()) / 2
    keywords = {"accumulate_grad_batches": 4, "gradient_clip_val": half}
    assert relative_error(with_lightning(4, exact=True, **keywords), wanted / 2) < 1e-5
    class_scores()


def class_scores() -> None:
    """What an epoch logs is what scikit-learn says of all its rows, of all ranks."""
    from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score

    from steelyard.integrations.lightning import ClassScores

    module = lightning_module(exact=True)
    trainer = lightning_trainer(callbacks=[ClassScores(C, names=["many", "some", "few"])])
    rank, world_size = ranks()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("error", message="It is recommended to use `self.log")
        trainer.validate(
            module, DataLoader(Stream(micro_batches(5, rank)), batch_size=None), verbose=False
        )
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    pairs = [pair for other in range(world_size) for pair in micro_batches(5, other)]
    target = torch.cat([target for _, target in pairs])
    prediction = module.net(torch.cat([x for x, _ in pairs])).argmax(1)[target >= 0]
    y = target[target >= 0]
    labels = range(C)
    recall = recall_score(y, prediction, labels=labels, average=None, zero_division=0)
    precision = precision_score(y, prediction, labels=labels, average=None, zero_division=0)
    wanted = {"val_balanced_accuracy": balanced_accuracy_score(y, prediction)}
    for c, name in enumerate(["many", "some", "few"]):
        wanted[f"val_recall/{name}"] = recall[c]
        if (prediction == c).any():
            wanted[f"val_precision/{name}"] = precision[c]
    assert {name: logged[name] for name in wanted} == pytest.approx(wanted, rel=1e-6)
    assert logged.keys() - wanted.keys() == {"val_macro_f1", "val_worst_class_recall"}
