"""What every rank does to show that sigmoid losses are those of one big batch."""

import copy
import itertools
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from families import C
from mean_cases import FEATURES, flat_grad, network, relative_error
from table_sigmoid import POS_WEIGHT, SIGMOID_TABLE, SigmoidRow, naive_cells
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import steelyard as sy

WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.0, 9.0], dtype=torch.float64)
OPTIONS: list[dict[str, Any]] = [
    {"pos_weight": POS_WEIGHT},
    {"weight": WEIGHT, "mean_over": "weight", "label_smoothing": 0.1},
    {"mean_over": "position"},
    {"mean_over": "positive"},
]
Batch = tuple[Tensor, Tensor, Tensor]


def draw(world_size: int, seed: int) -> list[list[Batch]]:
    """For each rank 1–5 micro-batches of 1–6 rows; where there are ranks, one has no label."""
    g = torch.Generator().manual_seed(seed)
    steps = []
    for rank in range(world_size):
        step = []
        for _ in range(1 + (seed + rank) % 5):
            n = int(torch.randint(1, 7, (), generator=g))
            x = torch.randn(n, FEATURES, dtype=torch.float64, generator=g)
            target = (torch.rand(n, C, generator=g) < 0.4).double()
            target[torch.rand(n, C, generator=g) < 0.3] = -1
            if world_size > 1 and rank == seed % world_size:
                target[:] = -1
            step.append((x, target, torch.rand(n, dtype=torch.float64, generator=g)))
        steps.append(step)
    return steps


def error(row: SigmoidRow, options: dict[str, Any], seed: int) -> float:
    """How far the two forms are from the naive loss of the union, at most."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    steps = draw(ranks, seed)
    model = network()
    union = [torch.cat(parts) for parts in zip(*itertools.chain(*steps), strict=True)]
    wanted_model = copy.deepcopy(model)
    naive_cells(row, wanted_model(union[0]), union[1], sample_weight=union[2], **options).backward()
    wanted = flat_grad(wanted_model)
    step = steps[dist.get_rank() if ranks > 1 else 0]
    trained: Any = DistributedDataParallel(model) if ranks > 1 else model
    loss = row.build(**options)
    errors = []
    for looks_ahead in (True, False):
        model.zero_grad()
        mean = sy.ExactMean(loss)
        denominator = sy.step_denominator(loss, [b[1] for b in step], [b[2] for b in step])
        for i, (x, target, samples) in enumerate(step):
            unsynced = trained.no_sync() if ranks > 1 and i < len(step) - 1 else nullcontext()
            with unsynced:
                if looks_ahead:
                    loss(trained(x), target, samples, denominator=denominator).backward()
                else:
                    mean(trained(x), target, samples).backward()
        if not looks_ahead:
            mean.divide_grads_(model.parameters())
        errors.append(relative_error(flat_grad(model), wanted))
    return max(errors)


def every_loss() -> float:
    """The largest error over losses and options."""
    cases = list(itertools.product(SIGMOID_TABLE, OPTIONS))
    found = {
        (row.id, str(options)): error(row, options, seed)
        for seed, (row, options) in enumerate(cases)
    }
    worst = max(found, key=found.__getitem__)
    assert found[worst] <= 1e-12, (worst, found[worst])
    return found[worst]
