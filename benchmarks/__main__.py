"""One command, one table: every peer in the same process, in turns, checked before it is timed."""

import argparse
import importlib.metadata
import os
import platform
import warnings
from collections.abc import Callable

import torch

from benchmarks.measure import peak_bytes, seconds
from benchmarks.peers import Loss, Peer, Problem, exact, peers

SHAPES = ("16384x1000", "4096x32000", "4x21x512x512", "262144x19", "65536x10", "1024x10", "256x100")
HEAD = ("", "ms", "÷ F.cross_entropy", "÷ copy", "memory", "forward alone")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="N x C, or N x C x d…")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--seconds", type=float, default=20.0, help="per size")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    print(machine(asked.device), "\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for text in asked.shapes:
        shape = tuple(map(int, text.split("x")))
        problem = Problem.of(shape, asked.device, getattr(torch, asked.dtype))
        for row in rows(problem, asked.only, asked.seconds):
            print("| " + " | ".join(row) + " |", flush=True)


def machine(device: str) -> str:
    versions = [f"torch {torch.__version__}"]
    for name in (
        "steelyard",
        "kornia",
        "monai",
        "pytorch-focalloss",
        "triton",
        "liger-kernel",
        "quack-kernels",
    ):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if device == "cuda":
        where = torch.cuda.get_device_name()
    else:
        features = torch.backends.cpu.get_cpu_capability()
        where = f"{platform.machine()} {features}, {torch.get_num_threads()} threads"
        where += f" of {os.cpu_count()}"
    return f"{where}; Python {platform.python_version()}; {', '.join(versions)}"


def rows(problem: Problem, only: str, budget: float) -> list[tuple[str, ...]]:
    """The table's rows for one size."""
    calls: dict[str, Callable[[], object]] = {}
    absent: dict[str, str] = {}
    alone: dict[str, Loss] = {}
    for peer in peers():
        if only not in peer.name and peer.name != "F.cross_entropy":
            continue
        try:
            alone[peer.name] = checked(peer, problem)
            calls[peer.name] = step(alone[peer.name], problem)
            calls[peer.name]()
        except Exception as error:
            absent[peer.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
            calls.pop(peer.name, None)
    into = torch.empty_like(problem.logits)
    calls["copy into existing memory"] = lambda: into.copy_(problem.logits.detach())
    times = seconds(calls, budget)
    size = problem.logits.numel() * problem.logits.element_size()
    copy, base = times["copy into existing memory"], times["F.cross_entropy"]
    title = "×".join(map(str, problem.shape))
    found = [(f"**{title}**", *[""] * (len(HEAD) - 1))]
    for name, each in times.items():
        memory = ["", ""]
        if name in alone:
            both = peak_bytes(calls[name], problem.forget)
            with torch.no_grad():
                forward = peak_bytes(lambda name=name: alone[name](problem), problem.forget)
            memory = ["–" if m is None else f"{m / size:.2f}" for m in (both, forward)]
        found.append(
            (name, f"{1e3 * each:.3g}", f"{each / base:.2f}", f"{each / copy:.1f}", *memory)
        )
    found += [(name, why, *[""] * (len(HEAD) - 2)) for name, why in absent.items()]
    return found


def step(loss: Loss, problem: Problem) -> Callable[[], object]:
    """Forward and backward."""

    def call() -> None:
        problem.forget()
        loss(problem).backward()

    return call


def checked(peer: Peer, problem: Problem) -> Loss:
    """The peer's loss, once it has shown on a part of the problem that it is right."""
    part = problem.part()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if peer.kind:
            loss = peer.build(part)
            value, gradient = exact(peer.kind, part)
            found = loss(part)
            found.backward()
            grain = 1e-4 if part.logits.dtype is torch.float32 else 2e-2
            torch.testing.assert_close(found.double(), value, rtol=grain, atol=0)
            largest = float(gradient.abs().max())
            torch.testing.assert_close(
                part.logits.grad.double(), gradient, rtol=grain, atol=grain * largest
            )
        return peer.build(problem)


if __name__ == "__main__":
    main()
