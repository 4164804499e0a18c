"""What every rank does to show that a head and its loss in one sum to the mean of a big batch."""

import itertools
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mean_cases import SOME, Case, cases, expected, flat_grad, network, relative_error
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import steelyard as sy


class HeadLoss(nn.Module):
    """A loss that reads features in the place of logits."""

    def __init__(self, loss: sy.SoftmaxLoss, head: nn.Linear) -> None:
        super().__init__()
        self.loss, self.head = loss, head

    def forward(
        self,
        features: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        return sy.linear_loss(
            self.loss,
            features,
            self.head.weight,
            target,
            bias=self.head.bias,
            sample_weight=sample_weight,
            denominator=denominator,
        )

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return self.loss.denominator(target, sample_weight)


class Network(nn.Module):
    """The layers of ``network()``, with the loss inside of forward."""

    def __init__(self) -> None:
        super().__init__()
        layers = network()
        self.body, self.head = layers[:2], layers[2]
        self.loss: Any = None

    def forward(self, x: Tensor, target: Tensor, **given: Any) -> Tensor:
        return self.loss(self.body(x), target, **given)


def step(model: nn.Module, whole: Network, case: Case, *, deferred: bool, unsynced: Any) -> None:
    """One step, by what is known before it or by what is divided after it."""
    loss = HeadLoss(case.loss, whole.head)
    mean = sy.ExactMean(loss)
    given = {}
    if not deferred:
        weights = [batch.sample_weight for batch in case.mine]
        targets = [batch.target for batch in case.mine]
        given = {"denominator": sy.step_denominator(loss, targets, weights)}
    object.__setattr__(whole, "loss", mean if deferred else loss)  # and not a part of the model
    for i, batch in enumerate(case.mine):
        with unsynced() if i < len(case.mine) - 1 else nullcontext():
            model(batch.x, batch.target, **batch.weights, **given).backward()
    if deferred:
        mean.divide_grads_(model.parameters())


def worst(model: nn.Module, whole: Network, unsynced: Any, every: int) -> float:
    """The largest relative error of the gradients, over losses, options and both ways."""
    errors = []
    several = cases(dist.get_world_size(), SOME, equal_numbers=True)
    for case in itertools.islice(several, 0, None, every):
        for deferred in (False, True):
            model.zero_grad()
            step(model, whole, case, deferred=deferred, unsynced=unsynced)
            errors.append(relative_error(flat_grad(whole), expected(case, network())))
    assert max(errors) <= 1e-12, errors
    return max(errors)


def under_ddp(every: int = 1) -> float:
    whole = Network()
    ddp = DistributedDataParallel(whole)
    return worst(ddp, whole, ddp.no_sync, every)


def under_fsdp(every: int = 1) -> float:
    """The head belongs to the root, and is whole in its forward."""
    whole = Network()
    for layer in (whole.body[0], whole):
        fully_shard(layer)
    assert type(whole.head.weight).__name__ == "DTensor"
    found = worst(whole, whole, nullcontext, every)
    assert all(type(p.grad).__name__ == "DTensor" for p in whole.parameters())
    return found


def sharded_head() -> None:
    """A head that is sharded by itself is whole in its own forward alone, which nobody calls."""
    whole = Network()
    for layer in (whole.head, whole):
        fully_shard(layer)
    whole.loss = HeadLoss(sy.CrossEntropyLoss(), whole.head)
    with pytest.raises(ValueError, match=r"weight is sharded \(a DTensor\): call linear_loss in"):
        whole(torch.randn(2, 3, dtype=torch.float64), torch.tensor([0, 1]))


def all_of_it() -> None:
    under_ddp(every=5)
    under_fsdp(every=5)
    sharded_head()
