"""Losses of regions beside MONAI's and a formula of gather and scatter, checked, then timed.

``python -m benchmarks.regions [--seconds 20] [--cpu-time]``; with ``--cpu-time``, for a machine
that others use too, the time is that of this process's one thread.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import steelyard as sy
from benchmarks import measure
from benchmarks.__main__ import machine

HEAD = ("", "ms", "÷ MONAI", "÷ copy", "memory")


def formula(logits: Tensor, target: Tensor) -> Tensor:
    """Dice and cross-entropy by gather and scatter: what a careful user writes."""
    log_p = logits.log_softmax(1)
    p = log_p.exp().flatten(2)
    index = target.flatten(1)
    own = p.gather(1, index.unsqueeze(1)).squeeze(1)
    nothing = p.new_zeros(p.shape[:2])
    both = nothing.scatter_add(1, index, own)
    true = nothing.scatter_add(1, index, torch.ones_like(own))
    dice = 1 - 2 * both / (p.sum(2) + true)
    return dice.mean() + F.nll_loss(log_p, target)


def dice_and_cross_entropy() -> tuple[Tensor, dict[str, Callable[[Tensor], Tensor]]]:
    monai = __import__("monai.losses").losses
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 21, 512, 512, generator=generator)
    target = torch.randint(0, 21, (4, 512, 512), generator=generator)
    theirs = monai.DiceCELoss(softmax=True, to_onehot_y=True, smooth_nr=0, smooth_dr=0)
    ours, compiled = sy.DiceCELoss(), torch.compile(formula)
    return logits, {
        "MONAI DiceCELoss": lambda z: theirs(z, target.unsqueeze(1)),
        "gather and scatter": lambda z: formula(z, target),
        "gather and scatter, torch.compile": lambda z: compiled(z, target),
        "steelyard DiceCELoss": lambda z: ours(z, target),
    }


def sigmoid_dice() -> tuple[Tensor, dict[str, Callable[[Tensor], Tensor]]]:
    monai = __import__("monai.losses").losses
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(8, 1, 512, 512, generator=generator)
    target = (torch.rand(logits.shape, generator=generator) < 0.3).float()
    theirs = monai.DiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=0)
    ours = sy.DiceLoss(activation="sigmoid")
    return logits, {
        "MONAI DiceLoss": lambda z: theirs(z, target),
        "steelyard DiceLoss": lambda z: ours(z, target),
    }


def rows(logits: Tensor, losses: dict[str, Callable[[Tensor], Tensor]], budget: float) -> Any:
    """One row per loss, all with the value and gradient of the first."""
    leaf = logits.requires_grad_()

    def forget() -> None:
        leaf.grad = None

    def step(loss: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def call() -> None:
            loss(leaf).backward()
            forget()  # here: it may cost much, and none is to pay for the gradient of another

        return call

    values, gradients = {}, {}
    for name, loss in losses.items():
        value = loss(leaf)
        values[name], gradients[name] = float(value.detach()), torch.autograd.grad(value, leaf)[0]
    first = next(iter(losses))
    for name in losses:
        assert abs(values[name] - values[first]) < 1e-4 * abs(values[first]), (name, values)
        largest = float(gradients[first].abs().max())
        assert (gradients[name] - gradients[first]).abs().max() < 1e-3 * largest, name
    gradients.clear()
    calls: dict[str, Callable[[], object]] = {name: step(loss) for name, loss in losses.items()}
    into = torch.empty_like(leaf)
    calls["copy into existing memory"] = lambda: into.copy_(leaf.detach())
    times = measure.seconds(calls, budget)
    for name, each in times.items():
        taken = measure.peak_bytes(calls[name], forget) if name in losses else None
        memory = "" if taken is None else f"{taken / leaf.nbytes:.2f}"
        copy = each / times["copy into existing memory"]
        yield name, f"{1e3 * each:.3g}", f"{each / times[first]:.2f}", f"{copy:.1f}", memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regions", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="per problem")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, by its own clock")
    asked = parser.parse_args()
    if asked.cpu_time:
        torch.set_num_threads(1)
        time.perf_counter = time.process_time
    print(machine("cpu"), "\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for problem in (dice_and_cross_entropy, sigmoid_dice):
        logits, losses = problem()
        print(f"| **{'×'.join(map(str, logits.shape))}** |" + " |" * (len(HEAD) - 1))
        for row in rows(logits, losses, asked.seconds):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
