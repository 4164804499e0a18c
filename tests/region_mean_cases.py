"""What every rank of a world does to show that regions' gradients are those of one big batch."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from families import WEIGHT, C
from mean_cases import flat_grad, relative_error
from region_table import COMPOUNDS, REGIONS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import steelyard as sy

FEATURES, PIXELS = 3, 6
Batch = tuple[Tensor, Tensor, Tensor]  # inputs, targets and sample weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(FEATURES, 4, 1), nn.Tanh(), nn.Conv1d(4, C, 1)).double()


def draw(world_size: int, seed: int, activation: str) -> list[list[Batch]]:
    """For each rank 1–5 micro-batches of 1–3 images; one rank has ignored all."""
    g = torch.Generator().manual_seed(seed)
    steps = []
    for rank in range(world_size):
        step = []
        for _ in range(1 + (seed + rank) % 5):
            n = int(torch.randint(1, 4, (), generator=g))
            x = torch.randn(n, FEATURES, PIXELS, dtype=torch.float64, generator=g)
            if activation == "sigmoid":
                target = (torch.rand(n, C, PIXELS, generator=g) < 0.4).double()
                target[torch.rand(target.shape, generator=g) < 0.2] = -1
            else:
                target = torch.randint(C, (n, PIXELS), generator=g)
                target[torch.rand(target.shape, generator=g) < 0.2] = -1
            if world_size > 1 and rank == seed % world_size:
                target[:] = -1
            samples = torch.rand(n, PIXELS, dtype=torch.float64, generator=g)
            step.append((x, target, samples))
        steps.append(step)
    return steps


def of_images(model: Any, loss: Any, step: list[Batch], unsynced: Callable[[], Any]) -> None:
    """A denominator of the whole step, found from targets alone."""
    denominator = sy.step_denominator(loss, [b[1] for b in step], [b[2] for b in step])
    for i, (x, target, samples) in enumerate(step):
        with unsynced() if i < len(step) - 1 else nullcontext():
            loss(model(x), target, samples, denominator=denominator).backward()


def deferred(model: Any, loss: Any, step: list[Batch], unsynced: Callable[[], Any]) -> None:
    mean = sy.ExactMean(loss)
    for i, (x, target, samples) in enumerate(step):
        with unsynced() if i < len(step) - 1 else nullcontext():
            mean(model(x), target, samples).backward()
    mean.divide_grads_(model.parameters())


def of_the_batch(model: Any, loss: Any, step: list[Batch], unsynced: Callable[[], Any]) -> None:
    """Two passes: statistics without gradients, one sum over the ranks, then their gradients."""
    with torch.no_grad():
        totals = sum(loss.statistics(model(x), *more) for x, *more in step)
    dist.all_reduce(totals)
    more: dict[str, Any] = {"totals": totals}
    if isinstance(loss, sy.CompoundLoss):
        more["denominator"] = sy.step_denominator(
            loss, [b[1] for b in step], [b[2] for b in step], gradients="sum"
        )
    for i, (x, target, samples) in enumerate(step):
        with unsynced() if i < len(step) - 1 else nullcontext():
            # DDP averages what is to be added up.
            (dist.get_world_size() * loss(model(x), target, samples, **more)).backward()


def cases() -> Iterator[tuple[Any, dict[str, Any], Callable[..., None]]]:
    for row in [*REGIONS, *COMPOUNDS]:
        activations = ("softmax",) if row in COMPOUNDS else ("softmax", "sigmoid")
        for activation in activations:
            for smoothing in (0.0, 0.1):
                family = {} if row in COMPOUNDS else {"activation": activation}
                image = replace(row, arguments=row.arguments | family | {"per": "image"})
                batch = replace(row, arguments=row.arguments | family | {"per": "batch"})
                options = {"weight": WEIGHT, "label_smoothing": smoothing, "ignore_index": -1}
                yield image, options, of_images
                if row in COMPOUNDS:
                    yield batch, options, of_the_batch
                elif row.of_sums:
                    yield image, options, deferred
                    yield batch, options, of_the_batch


def every_loss() -> float:
    """The largest relative error over losses and ways."""
    model = network()
    ddp = DistributedDataParallel(model)
    rank, errors = dist.get_rank(), {}
    for seed, (row, options, way) in enumerate(cases()):
        activation = row.arguments.get("activation", "softmax")
        steps = draw(dist.get_world_size(), seed, activation)
        model.zero_grad()
        way(ddp, row.build(**options), steps[rank], ddp.no_sync)
        union = copy.deepcopy(model)
        union.zero_grad()
        x, target, samples = (
            torch.cat(each) for each in zip(*[b for s in steps for b in s], strict=True)
        )
        naive = row.family.naive(row, union(x), target, sample_weight=samples, **options)
        naive.backward()
        name = f"{row.id} {row.arguments} {way.__name__} {seed}"
        errors[name] = relative_error(flat_grad(model), flat_grad(union))
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= 1e-12, (worst, errors[worst])
    return errors[worst]


def one_reduction_of_the_sums() -> list[int]:
    """The numbers that are sent for a Dice loss over the batch."""
    sizes, original = [], dist.all_reduce

    def recording(tensor: Tensor, *args: Any, **keywords: Any) -> Any:
        sizes.append(tensor.numel())
        return original(tensor, *args, **keywords)

    dist.all_reduce = recording
    try:
        step = draw(dist.get_world_size(), 0, "softmax")[dist.get_rank()]
        loss = sy.DiceLoss(per="batch", ignore_index=-1)
        of_the_batch(network(), loss, step, nullcontext)
    finally:
        dist.all_reduce = original
    return sizes


def whole_world() -> None:
    every_loss()
    assert one_reduction_of_the_sums() == [3 * C]
