"""A head and its loss in one, beside the two steps: time and memory beyond the gradients.

``python -m benchmarks.linear``: every peer in the same process, in turns.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import steelyard as sy
from benchmarks.__main__ import machine
from benchmarks.measure import peak_bytes, seconds, seconds_and_peak

SHAPES = ("4096x256x32000", "8192x512x8192", "2048x1024x128000")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="N x D x C")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--seconds", type=float, default=30.0, help="per size")
    parser.add_argument("--rounds", type=int, default=3, help="at least so many")
    parser.add_argument("--once", action="store_true", help="one call of each")
    asked = parser.parse_args()
    print(machine("cpu"), "\n")
    print(
        "| | s | ÷ two steps | memory beyond the gradients, MB | ÷ logits |\n|---|---|---|---|---|"
    )
    for text in asked.shapes:
        n, d, c = map(int, text.split("x"))
        features = torch.randn(n, d, requires_grad=True)
        weight = (torch.randn(c, d) / d**0.5).requires_grad_()
        target = torch.randint(c, (n,))
        class_weight = torch.rand(c) + 0.5
        inputs = (features, weight)

        def forget(inputs: tuple[Tensor, ...] = inputs) -> None:
            for tensor in inputs:
                tensor.grad = None

        def step(loss: Callable[[], Tensor], forget: Callable[[], None] = forget):
            def call() -> None:
                forget()
                loss().backward()

            return call

        calls = {
            name: step(loss)
            for name, loss in peers(features, weight, target, class_weight).items()
            if asked.only in name or name == TWO_STEPS
        }
        some = slice(64) if asked.once else slice(n)
        checked(peers(features[some], weight, target[some], class_weight))
        if asked.once:
            found = {name: seconds_and_peak(each, forget) for name, each in calls.items()}
        else:
            times = seconds(calls, asked.seconds, at_least=asked.rounds)
            found = {name: (each, peak_bytes(calls[name], forget)) for name, each in times.items()}
        gradients = 4 * (features.numel() + weight.numel())
        print(f"| **{text.replace('x', '×')}** | | | | |")
        for name, (each, beyond) in found.items():
            memory = ["–", "–"]
            if beyond is not None:
                extra = max(0, beyond - gradients)
                memory = [f"{extra / 2**20:.0f}", f"{extra / (4 * n * c):.3f}"]
            ratio = each / found[TWO_STEPS][0]
            print(f"| {name} | {each:.2f} | {ratio:.2f} | {memory[0]} | {memory[1]} |", flush=True)


TWO_STEPS = "F.linear + F.cross_entropy"


def peers(
    features: Tensor, weight: Tensor, target: Tensor, class_weight: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """Losses that are to be compared; the first three are the same number."""
    counts = torch.randint(1, 10_000, (len(weight),))
    ours = {
        "linear_loss, cross-entropy": sy.CrossEntropyLoss(class_weight),
        "linear_loss, focal": sy.FocalLoss(weight=class_weight),
        "linear_loss, logit-adjusted": sy.LogitAdjustedLoss(class_counts=counts),
        "linear_loss, smoothing": sy.CrossEntropyLoss(class_weight, label_smoothing=0.1),
    }
    found: dict[str, Callable[[], Tensor]] = {
        TWO_STEPS: lambda: F.cross_entropy(F.linear(features, weight), target, class_weight)
    }
    if hasattr(F, "linear_cross_entropy"):  # torch 2.13
        found["F.linear_cross_entropy, chunked"] = lambda: chunked(
            features, weight, target, class_weight
        )
    for name, loss in ours.items():
        found[name] = lambda loss=loss: sy.linear_loss(loss, features, weight, target)
    return found


def chunked(features: Tensor, weight: Tensor, target: Tensor, class_weight: Tensor) -> Tensor:
    from torch.nn import LinearCrossEntropyOptions

    return F.linear_cross_entropy(
        features, weight, target, weight=class_weight, options=LinearCrossEntropyOptions()
    )


def checked(losses: dict[str, Callable[[], Tensor]]) -> None:
    """Refuse to time what is wrong."""
    first, *others = list(losses.values())[:3]
    expected = first()
    for loss in others:
        torch.testing.assert_close(loss(), expected, rtol=1e-4, atol=0)


if __name__ == "__main__":
    main()
