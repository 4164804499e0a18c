"""Who is compared on a GPU: losses at every size, launches, and a head of 128,000 classes."""

import importlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import steelyard as sy
from benchmarks import linear, peers
from benchmarks.__main__ import checked, step
from benchmarks.measure import peak_bytes, seconds

if TYPE_CHECKING:
    from benchmarks.gpu import Run

SHAPES = {
    "2": (2**22, 2),
    "19 spatial": (16, 19, 512, 512),
    "100": (2**18, 100),
    "1,000": (2**16, 1000),
    "4,000": (2**15, 4000),
    "32,000": (2**13, 32000),
    "128,000": (2**12, 128000),
}
TINY = {"2": (64, 2), "19 spatial": (2, 19, 4, 4)}
LAUNCH = (256, 100)
HEAD, TINY_HEAD = (8192, 4096, 128000), (64, 16, 50)
DTYPES = (torch.float32, torch.bfloat16)
# A gradient's floor reads the logits twice and writes once; a copy reads and writes once.
FLOOR = 1.5
COPY, FIRST = "copy into existing memory", "F.cross_entropy"


def problem_of(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> peers.Problem:
    """Logits, targets of which a tenth is ignored, and weights, made where they are used."""
    torch.manual_seed(0)
    positions = shape[:1] + shape[2:]
    target = torch.randint(shape[1], positions, device=device)
    target[torch.rand(positions, device=device) < 0.1] = peers.IGNORE
    weight = torch.rand(shape[1], device=device) + 0.5
    total = weight[target.clamp(min=0)][target != peers.IGNORE].sum()
    logits = torch.randn(shape, device=device, dtype=dtype).mul_(2).requires_grad_()
    return peers.Problem(shape, logits, target, weight, total)


def who() -> Iterator[peers.Peer]:
    """The peers of a GPU, the measure of all first."""
    focal, cross = peers.tutorial_focal, peers.cross_entropy
    smooth = peers.ours(sy.CrossEntropyLoss, label_smoothing=0.1)
    yield peers.Peer(FIRST, "cross-entropy", lambda _: cross)
    yield peers.Peer("tutorial focal, torch.compile", "focal", peers.compiled(focal))
    yield peers.Peer("Liger cross-entropy", "cross-entropy", peers.liger)
    yield peers.Peer("QuACK cross-entropy", "cross-entropy", peers.quack)
    yield peers.Peer("steelyard cross-entropy", "cross-entropy", peers.ours(sy.CrossEntropyLoss))
    yield peers.Peer("steelyard focal", "focal", peers.ours(sy.FocalLoss, gamma=peers.GAMMA))
    yield peers.Peer("F.cross_entropy, smoothing", "", peers.smoothed)
    yield peers.Peer("steelyard cross-entropy, smoothing", "", smooth)


def sizes(run: "Run", budget: float, only: str = "") -> Iterator[dict[str, Any]]:
    """Time, share of the copy's bandwidth and memory of every peer, at every size."""
    shapes = TINY if run.device == "cpu" else SHAPES
    for classes, shape in shapes.items():
        for dtype in DTYPES:
            name = f"C = {classes}, {str(dtype).removeprefix('torch.')}"
            if run.left() < 10 * budget:
                run.miss(name, f"{run.left():.0f} s were left")
                continue
            try:
                problem = problem_of(shape, run.device, dtype)
                yield {
                    "name": name,
                    "shape": shape,
                    "peers": compared(run, name, problem, budget, only),
                }
            except Exception as error:
                run.miss(name, error)
            problem = None  # before the next one takes its memory


def compared(
    run: "Run", name: str, problem: peers.Problem, budget: float, only: str
) -> dict[str, dict[str, float | None]]:
    """One size."""
    calls: dict[str, Callable[[], object]] = {}
    for peer in who():
        if only not in peer.name and peer.name != FIRST:
            continue
        try:
            call = step(checked(peer, problem), problem)
            call()
            calls[peer.name] = call
        except Exception as error:
            run.miss(f"{peer.name}, {name}", error)
    into = torch.empty_like(problem.logits, requires_grad=False)
    calls[COPY] = lambda: into.copy_(problem.logits.detach())
    times = seconds(calls, budget, at_least=5)
    size = problem.logits.numel() * problem.logits.element_size()
    rows: dict[str, dict[str, float | None]] = {}
    for peer, each in times.items():
        memory = None if peer == COPY else peak_bytes(calls[peer], problem.forget)
        rows[peer] = {
            "ms": 1e3 * each,
            "÷ F.cross_entropy": each / times[FIRST] if FIRST in times else None,
            "share of copy": (1.0 if peer == COPY else FLOOR) * times[COPY] / each,
            "GB/s": 2e-9 * size / each if peer == COPY else 2e-9 * FLOOR * size / each,
            "memory": None if memory is None else memory / size,
        }
    return rows


def launches(run: "Run", only: str = "") -> dict[str, float]:
    """How long the host is busy with one small step, in µs, by itself."""
    problem, found = problem_of(LAUNCH, run.device, torch.float32), {}
    for peer in who():
        if only not in peer.name:
            continue
        try:
            call = step(peer.build(problem), problem)
            for _ in range(20):
                call()
        except Exception as error:
            run.miss(f"{peer.name}, launches", error)
            continue
        rounds = []
        for _ in range(5):
            _wait(run.device)
            start = time.perf_counter()
            for _ in range(50):
                call()
            rounds.append((time.perf_counter() - start) / 50)
        found[peer.name] = 1e6 * min(rounds)
    return found


def head(run: "Run", budget: float) -> dict[str, dict[str, float | None]]:
    """The last layer and its loss in one."""
    n, d, classes = TINY_HEAD if run.device == "cpu" else HEAD
    dtype = torch.float32 if run.device == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    features = torch.randn(n, d, device=run.device, dtype=dtype, requires_grad=True)
    weight = torch.randn(classes, d, device=run.device, dtype=dtype).mul_(d**-0.5).requires_grad_()
    target = torch.randint(classes, (n,), device=run.device)
    class_weight = torch.rand(classes, device=run.device, dtype=dtype) + 0.5
    inputs = features, weight

    def forget() -> None:
        features.grad = weight.grad = None

    def stepped(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            forget()
            loss().backward()

        return call

    def liger() -> Tensor:
        module = importlib.import_module("liger_kernel.transformers.functional")
        return module.liger_fused_linear_cross_entropy(
            features, weight, target, ce_weight=class_weight
        )

    def cce() -> Tensor:
        module = importlib.import_module("cut_cross_entropy")
        return module.linear_cross_entropy(features, weight, target)

    losses = linear.peers(features, weight, target, class_weight)
    losses |= {"Liger, fused linear": liger, "CCE, without class weights": cce}
    calls = {}
    for name, loss in losses.items():
        try:
            call = stepped(loss)
            call()
            calls[name] = call
        except Exception as error:
            run.miss(f"{name}, head", error)
        forget()
    times = seconds(calls, min(10 * budget, max(0.0, run.left() / 3)), at_least=3)
    gradients = sum(each.numel() * each.element_size() for each in inputs)
    found: dict[str, dict[str, float | None]] = {}
    for name, each in times.items():
        peak = peak_bytes(calls[name], forget)
        beyond = None if peak is None else max(0, peak - gradients) / 2**20
        found[name] = {"ms": 1e3 * each, "MB beyond the gradients": beyond}
    return found


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
