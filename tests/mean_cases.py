"""What every rank of a world does to show that its gradients are those of one big batch.

The reference is the naive float64 loss of table.py on the union of all micro-batches.
"""

import copy
import itertools
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic, sleep
from typing import Any

import pytest
import torch
import torch.distributed as dist
from table import TABLE, C, Row, naive_loss
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import steelyard as sy

FEATURES = 3
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.0, 9.0], dtype=torch.float64)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": WEIGHT},
    "smoothing": {"weight": WEIGHT, "label_smoothing": 0.1, "ignore_index": 1},
    "count": {"weight": WEIGHT, "mean_over": "count"},
    "probabilities": {},
    "probabilities-weight": {"weight": WEIGHT, "mean_over": "weight"},
}


@dataclass
class Batch:
    """One micro-batch."""

    x: Tensor
    target: Tensor
    sample_weight: Tensor | None = None

    @property
    def weights(self) -> dict[str, Any]:
        return {} if self.sample_weight is None else {"sample_weight": self.sample_weight}


@dataclass
class Case:
    """One loss and, for each rank, its micro-batches."""

    row: Row
    options: dict[str, Any]
    steps: list[list[Batch]] = field(repr=False)
    name: str = ""

    @property
    def mine(self) -> list[Batch]:
        return self.steps[dist.get_rank() if dist.is_initialized() else 0]

    @property
    def loss(self) -> sy.SoftmaxLoss:
        return self.row.build(**self.options)

    def union(self) -> Batch:
        every = [batch for step in self.steps for batch in step]
        weights = [batch.sample_weight for batch in every]
        return Batch(
            torch.cat([batch.x for batch in every]),
            torch.cat([batch.target for batch in every]),
            None if weights[0] is None else torch.cat(weights),
        )


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, C))
    return layers.double()


def draw(
    world_size: int, seed: int, kind: str, *, equal_numbers: bool = False
) -> list[list[Batch]]:
    """Micro-batches of 1–6 rows, 1–5 to a rank; where there are ranks, one has ignored all."""
    g = torch.Generator().manual_seed(seed)
    ignore_index = OPTIONS[kind].get("ignore_index", -100)
    steps = []
    for rank in range(world_size):
        number = 1 + (seed + (0 if equal_numbers else rank)) % 5
        step = []
        for _ in range(number):
            n = int(torch.randint(1, 7, (), generator=g))
            x = torch.randn(n, FEATURES, dtype=torch.float64, generator=g)
            if kind.startswith("probabilities"):
                target = torch.rand(n, C, dtype=torch.float64, generator=g).softmax(1)
            else:
                target = torch.randint(C, (n,), generator=g)
                target[torch.rand(n, generator=g) < 0.2] = ignore_index
                target[0] = C - 1
                if world_size > 1 and rank == seed % world_size:
                    target[:] = ignore_index
            weighted = kind in ("smoothing", "probabilities-weight")
            s = torch.rand(n, dtype=torch.float64, generator=g) if weighted else None
            step.append(Batch(x, target, s))
        steps.append(step)
    return steps


def cases(
    world_size: int, rows: list[Row] = TABLE, *, equal_numbers: bool = False
) -> Iterator[Case]:
    for seed, (row, kind) in enumerate(itertools.product(rows, OPTIONS)):
        steps = draw(world_size, seed, kind, equal_numbers=equal_numbers)
        yield Case(row, OPTIONS[kind], steps, f"{row.id}-{kind}")


def expected(case: Case, model: nn.Module) -> Tensor:
    """The gradient of the mean over the union, by the naive float64 loss."""
    model = copy.deepcopy(model).double()
    model.zero_grad()
    union = case.union()
    naive_loss(case.row, model(union.x), union.target, **case.options, **union.weights).backward()
    return flat_grad(model)


def flat_grad(model: nn.Module) -> Tensor:
    grads = [parameter.grad for parameter in model.parameters()]
    whole = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
    return torch.cat([g.flatten() for g in whole]).double()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def look_ahead(
    model: nn.Module,
    case: Case,
    unsynced: Callable[[], Any] = nullcontext,
    gradients: Any = "average",
) -> None:
    loss, step = case.loss, case.mine
    denominator = sy.step_denominator(
        loss, [b.target for b in step], [b.sample_weight for b in step], gradients=gradients
    )
    for i, batch in enumerate(step):
        with unsynced() if i < len(step) - 1 else nullcontext():
            x = batch.x.to(next(model.parameters()).dtype)
            loss(model(x), batch.target, **batch.weights, denominator=denominator).backward()


def deferred(
    model: nn.Module,
    case: Case,
    unsynced: Callable[[], Any] = nullcontext,
    gradients: Any = "average",
) -> None:
    mean, step = sy.ExactMean(case.loss, gradients=gradients), case.mine
    for i, batch in enumerate(step):
        with unsynced() if i < len(step) - 1 else nullcontext():
            x = batch.x.to(next(model.parameters()).dtype)
            mean(model(x), batch.target, **batch.weights).backward()
    mean.divide_grads_(model.parameters())


def mean_of_means(model: nn.Module, case: Case, unsynced: Callable[[], Any] = nullcontext) -> None:
    """What loops usually do."""
    loss, step = case.loss, case.mine
    for i, batch in enumerate(step):
        with unsynced() if i < len(step) - 1 else nullcontext():
            (loss(model(batch.x), batch.target, **batch.weights) / len(step)).backward()


def sum_over_ranks(model: nn.Module) -> None:
    grads = [parameter.grad for parameter in model.parameters()]
    summed = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(summed)
    for grad, part in zip(grads, summed.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def every_loss(dtype: torch.dtype, rows: list[Row] = TABLE) -> float:
    """The largest relative error over losses and options; each meets every way in turn."""
    model = network().to(dtype)
    ddp = DistributedDataParallel(model)

    def look_ahead_summed(case: Case) -> None:
        look_ahead(model, case, gradients="sum")
        sum_over_ranks(model)

    ways: list[Callable[[Case], None]] = [
        lambda case: look_ahead(ddp, case, ddp.no_sync),
        lambda case: deferred(ddp, case, ddp.no_sync),
        look_ahead_summed,
    ]
    errors = {}
    for i, case in enumerate(cases(dist.get_world_size(), rows)):
        model.zero_grad()
        ways[(i + i // len(OPTIONS)) % len(ways)](case)
        errors[case.name] = relative_error(flat_grad(model), expected(case, model))
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= (1e-12 if dtype == torch.float64 else 1e-5), (worst, errors[worst])
    return errors[worst]


def the_usual_way(seed: int = 14) -> float:
    """How far the mean of the ranks' means of micro-batches is off, for weighted cross-entropy."""
    ddp = DistributedDataParallel(network())
    steps = draw(dist.get_world_size(), seed, "weight")
    case = Case(TABLE[0], OPTIONS["weight"], steps)
    mean_of_means(ddp, case, ddp.no_sync)
    return relative_error(flat_grad(ddp.module), expected(case, ddp.module))


SOME = [row for row in TABLE if row.id in ("cross-entropy", "class-balanced")]


def every_step_synchronised() -> float:
    """DDP without no_sync: gradients are averaged after every micro-batch."""
    model = network()
    ddp = DistributedDataParallel(model)
    errors = []
    for case in cases(dist.get_world_size(), SOME, equal_numbers=True):
        wanted = expected(case, model)
        for way in look_ahead, deferred:
            model.zero_grad()
            way(ddp, case)
            errors.append(relative_error(flat_grad(model), wanted))
    assert max(errors) <= 1e-12, errors
    return max(errors)


def sharded() -> float:
    """FSDP2: the gradients are DTensors; reduced after every micro-batch, or after the last."""
    plain, model = network(), network()
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    errors = []
    for case in itertools.islice(
        cases(dist.get_world_size(), SOME, equal_numbers=True), 1, None, 3
    ):
        wanted = expected(case, plain)
        for way in look_ahead, deferred:
            for unsynced in (nullcontext, lambda: no_reduction(model)):
                model.zero_grad()
                way(model, case, unsynced)
                assert all(type(p.grad).__name__ == "DTensor" for p in model.parameters())
                errors.append(relative_error(flat_grad(model), wanted))
    assert max(errors) <= 1e-12, errors
    return max(errors)


@contextmanager
def no_reduction(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    yield
    model.set_requires_gradient_sync(True)


def clipped_and_scaled() -> None:
    """Clipping sees the gradient of the mean; a GradScaler's scale cancels; bf16 stays close."""
    case = next(cases(dist.get_world_size(), SOME[1:2]))
    model = network().float()
    ddp = DistributedDataParallel(model)
    wanted = expected(case, model)
    limit = 0.3 * float(wanted.norm())
    for autocast, tolerance in (False, 1e-5), (True, 3e-2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        mean, step = sy.ExactMean(case.loss), case.mine
        for i, batch in enumerate(step):
            unsynced = ddp.no_sync() if i < len(step) - 1 else nullcontext()
            with unsynced, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                total = mean(ddp(batch.x.float()), batch.target, **batch.weights)
                scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        mean.divide_grads_(model.parameters())
        assert relative_error(flat_grad(model), wanted) < tolerance
        norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
        assert abs(float(norm) / float(wanted.norm()) - 1) < tolerance
        scaler.step(optimizer)
        scaler.update()
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        stepped = (before - after).double() / 0.5
        assert relative_error(stepped, 0.3 * wanted) < tolerance
        optimizer.zero_grad()
        nn.utils.vector_to_parameters(before, model.parameters())


def one_number_sent() -> list[list[int]]:
    """The sizes of all that the two forms send, each without a model's gradients."""
    case = next(cases(dist.get_world_size(), SOME))
    sizes: list[list[int]] = []
    names = ["all_reduce", "all_gather", "all_gather_object", "broadcast", "reduce", "gather"]
    originals = {name: getattr(dist, name) for name in names}

    def recording(name: str) -> Callable[..., Any]:
        def call(tensor: Any, *args: Any, **keywords: Any) -> Any:
            sizes[-1].append(tensor.numel() if name == "all_reduce" else -1)
            return originals[name](tensor, *args, **keywords)

        return call

    for name in names:
        setattr(dist, name, recording(name))
    try:
        for way in look_ahead, deferred:
            sizes.append([])
            way(network(), case)
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return sizes


def nothing_to_learn() -> None:
    """No rank has a valid target: zero gradients, also where the loss itself is to be NaN."""
    ddp = DistributedDataParallel(network())
    for empty in "zero", "nan":
        case = next(cases(dist.get_world_size(), SOME))
        case.options = {**case.options, "empty": empty}
        for batch in case.mine:
            batch.target[:] = -100
        for way in look_ahead, deferred:
            ddp.zero_grad()
            way(ddp, case, ddp.no_sync)
            assert (flat_grad(ddp.module) == 0).all()


def in_groups() -> None:
    """Ranks 0 and 1 share a step that rank 2 knows nothing of."""
    group = dist.new_group([0, 1])
    loss, rank = sy.CrossEntropyLoss(weight=[1.0, 9.0]), dist.get_rank()
    target = torch.tensor([rank] * (rank + 1))  # of weights 1, and 9 + 9
    if rank < 2:
        found = sy.step_denominator(loss, target, group=group)
        assert found == 19 / 2
        assert sy.step_denominator(loss, target, group=group, gradients="sum") == 19
        return
    with pytest.raises(ValueError, match="rank 2 is not in the group: only its members merge"):
        sy.ClassCounts([1]).all_reduce(group)
    for call in (
        lambda: sy.step_denominator(loss, target, group=group),
        lambda: sy.ExactMean(loss, group=group),
    ):
        with pytest.raises(ValueError, match="rank 2 is not in the group: only its members share"):
            call()


def class_counts() -> None:
    """Counts of the shards are those of the whole, also where a shard lacks classes or support."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    masks = torch.randint(6, (40, 5, 5), generator=torch.Generator().manual_seed(1))
    whole = sy.count_classes(masks, num_classes=7)
    mine = sy.count_classes(masks[rank::ranks], num_classes=7)
    assert mine.all_reduce() == whole
    assert whole.counts.tolist() == torch.bincount(masks.flatten(), minlength=7).tolist()
    empty = sy.ClassCounts([0] * 7, support=[0] * 7)
    assert (empty if rank else whole).all_reduce() == whole
    assert sy.ClassCounts([rank, 2**53 + rank]).all_reduce().counts.tolist() == [
        sum(range(ranks)),
        ranks * 2**53 + sum(range(ranks)),
    ]
    if ranks > 1:
        with pytest.raises(ValueError, match="cannot merge counts of 2 and of 3 classes"):
            sy.ClassCounts([1] * (2 + min(rank, 1))).all_reduce()


def count_ten_million() -> tuple[int, list[int]]:
    """10⁷ labels in batches over the ranks: the bytes that this rank's memory grew by, counts."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    per_rank, size = 10**7 // ranks, 2_000

    def batches(total: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, total, size):
            yield torch.empty(0), (torch.arange(start, start + size) * 7 + rank) % 10

    sy.count_classes(batches(10 * size), num_classes=10)  # what is allocated once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = sy.count_classes(batches(per_rank), num_classes=10).all_reduce()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown * 1024, counts.counts.tolist()


def lost(how: str, timeout: float) -> tuple[float, str] | None:
    """Rank 1 is killed, or hangs, in the middle of its training; what the others meet, and when."""
    ddp = DistributedDataParallel(network())
    x, target = torch.ones(2, FEATURES, dtype=torch.float64), torch.tensor([0, 1])
    group = dist.new_group(timeout=timedelta(seconds=timeout))
    mean = sy.ExactMean(sy.CrossEntropyLoss(), group=group)
    for step in range(5):
        mean(ddp(x), target).backward()
        if dist.get_rank() == 1 and step == 3:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            sleep(timeout + 2)
            return None
        start = monotonic()
        try:
            mean.divide_grads_(ddp.parameters())
        except RuntimeError as error:
            return monotonic() - start, str(error)
    raise AssertionError("no error")


def whole_world() -> None:
    """All that one world shows, of any number of ranks."""
    every_loss(torch.float64)
    every_loss(torch.float32, SOME)
    assert the_usual_way() > 0.1
    every_step_synchronised()
    sharded()
    clipped_and_scaled()
    nothing_to_learn()
    class_counts()
    assert one_number_sent() == [[1], [1]]


if __name__ == "__main__":  # under torchrun
    dist.init_process_group("gloo")
    whole_world()
    print(f"rank {dist.get_rank()} of {dist.get_world_size()} agrees\n", end="")  # in one write
    dist.destroy_process_group()
