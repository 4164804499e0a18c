"""Losses of several labels per row: everybody in turns in one process, each checked before."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import steelyard as sy
from benchmarks.__main__ import machine
from benchmarks.measure import peak_bytes, seconds

Loss = Callable[[Tensor, Tensor], Tensor]


def torchvision_focal(z: Tensor, t: Tensor) -> Tensor:
    """The formula of torchvision.ops.sigmoid_focal_loss, α = 0.25 and γ = 2."""
    p = torch.sigmoid(z)
    nll = F.binary_cross_entropy_with_logits(z, t, reduction="none")
    p_t = p * t + (1 - p) * (1 - t)
    alpha_t = 0.25 * t + 0.75 * (1 - t)
    return (alpha_t * nll * (1 - p_t) ** 2).mean()


def published_asymmetric(z: Tensor, t: Tensor) -> Tensor:
    """The formula of the published "optimised" asymmetric loss, γ 1 and 4, clip 0.05."""
    absent = 1 - t
    p = torch.sigmoid(z)
    q = (1 - p + 0.05).clamp(max=1)
    value = t * p.clamp(min=1e-8).log() + absent * q.clamp(min=1e-8).log()
    with torch.no_grad():
        weight = torch.pow(1 - p * t - q * absent, 1 * t + 4 * absent)
    return -(value * weight).sum()


def peers(pos_weight: Tensor) -> dict[str, Loss]:
    focal = sy.SigmoidFocalLoss(alpha=0.25, gamma=2)
    asymmetric = sy.AsymmetricLoss(reduction="sum")
    bce = sy.BCEWithLogitsLoss(pos_weight=pos_weight)
    return {
        "F.binary_cross_entropy_with_logits, pos_weight": lambda z, t: (
            F.binary_cross_entropy_with_logits(z, t, pos_weight=pos_weight)
        ),
        "steelyard BCE, pos_weight": bce,
        "torchvision's focal formula": torchvision_focal,
        "torchvision's focal formula, torch.compile": torch.compile(torchvision_focal),
        "steelyard sigmoid focal": focal,
        "steelyard sigmoid focal, the user's torch.compile": torch.compile(
            lambda z, t: focal(z, t)
        ),
        "published asymmetric": published_asymmetric,
        "published asymmetric, torch.compile": torch.compile(published_asymmetric),
        "steelyard asymmetric": asymmetric,
        "steelyard asymmetric, the user's torch.compile": torch.compile(
            lambda z, t: asymmetric(z, t)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labels", description=__doc__)
    parser.add_argument("--shape", default="16384x1000", help="N x C")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    n, c = map(int, asked.shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    z = (2 * torch.randn(n, c, generator=generator)).requires_grad_()
    t = (torch.rand(n, c, generator=generator) < 0.03).float()
    named = peers(1 + torch.rand(c, generator=generator))
    losses = {name: loss for name, loss in named.items() if asked.only in name}

    def forget() -> None:
        z.grad = None

    def step(loss: Loss) -> Callable[[], object]:
        def call() -> None:
            forget()
            loss(z, t).backward()

        return call

    calls = {name: step(loss) for name, loss in losses.items()}
    into = torch.empty_like(z)
    calls["copy into existing memory"] = lambda: into.copy_(z.detach())
    times = seconds(calls, asked.seconds)
    print(machine("cpu"), "\n\n| | ms | memory |\n|---|---|---|")
    for name, each in times.items():
        peak = peak_bytes(calls[name], forget) if name in losses else None
        memory = "–" if peak is None else f"{peak / (4 * z.numel()):.2f}"
        print(f"| {name} | {1e3 * each:.3g} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
