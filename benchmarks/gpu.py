"""A GPU in one command: tests, peers, launches, a head of 128,000 classes, and the block sizes.

``python -m benchmarks.gpu`` writes ``gpu.json`` and ``gpu.md``, the tables for docs/speed.md, and
says in one line each what it could not do. Without a GPU it rehearses on the CPU, on tiny sizes
whose times mean nothing.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import steelyard as sy
from benchmarks import linear, peers
from benchmarks.__main__ import checked, machine, step
from benchmarks.measure import peak_bytes, seconds
from steelyard.ops.cuda import blocks, proof

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
TESTS = Path(__file__).parent.parent / "tests"
HEAD, TINY_HEAD = (8192, 4096, 128000), (64, 16, 50)
DTYPES = (torch.float32, torch.bfloat16)
# A gradient's floor reads the logits twice and writes once; a copy reads and writes once.
FLOOR = 1.5
# What a constant has to win by, or its loss is noise.
CLEARLY = 0.95
COPY, FIRST = "copy into existing memory", "F.cross_entropy"


class Run:
    """What was found and what was not, and how long there is left.

    Args:
        out: the folder to write to.
        minutes: for everything.
        device: "cuda", or "cpu" for a rehearsal.
    """

    def __init__(self, out: Path, minutes: float, device: str) -> None:
        self.out, self.device = out, device
        self.end = time.monotonic() + 60 * minutes
        self.missing: list[str] = []
        self.found: dict[str, Any] = {
            "machine": machine(device),
            "rehearsal": device == "cpu",
            "missing": self.missing,
        }

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def miss(self, what: str, why: object) -> None:
        """Say what could not be done, in one line."""
        if isinstance(why, ModuleNotFoundError):  # at every size: said once
            line = f"{what.split(',')[0]}: {why.name} is not installed"
        else:
            text = str(why).strip().splitlines() or [""]
            kind = f"{type(why).__name__}: " if isinstance(why, Exception) else ""
            line = f"{what}: {kind}{text[0][:160]}"
        if line not in self.missing:
            self.missing.append(line)
            print(line, flush=True)

    def stage(self, name: str, work: Callable[["Run"], Any]) -> None:
        """Do one thing, and write down what there is by then."""
        print(f"{name} … {self.left():.0f} s left", flush=True)
        try:
            self.found[name] = work(self)
        except Exception as error:  # the other stages are to run all the same
            self.miss(name, error)
        self.write()

    def write(self) -> None:
        """Both files, as far as they go."""
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.found, indent=1, ensure_ascii=False)
        (self.out / "gpu.json").write_text(text + "\n", encoding="utf-8")
        (self.out / "gpu.md").write_text(markdown(self.found), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--minutes", type=float, default=6.0, help="for everything")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="per size, timing alone")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    asked = parser.parse_args(arguments)
    run = Run(asked.out, asked.minutes, asked.device)
    if run.device == "cpu":
        run.miss("everything", "no CUDA device: a rehearsal on the CPU, whose times mean nothing")
    run.stage("tests", tests)
    run.stage("proof", first_use)
    run.stage("launches", lambda run: launches(run, asked.only))
    run.stage("sizes", lambda run: list(sizes(run, asked.seconds, asked.only)))
    run.stage("head", lambda run: head(run, asked.seconds))
    run.stage("heuristic", heuristic)
    print(markdown(run.found))
    print(f"Written: {run.out / 'gpu.json'}, {run.out / 'gpu.md'}")


def tests(run: Run) -> dict[str, Any] | None:
    """Those that need a GPU."""
    if run.device == "cpu":
        run.miss("tests", "those of a GPU need one; make test runs the kernels by the interpreter")
        return None
    limit = max(1.0, min(180.0, run.left() / 2))
    cases = [str(path) for path in sorted(TESTS.glob("triton_*_cases.py"))]
    workers = str(min(8, os.cpu_count() or 1))  # most of the time compiles kernels
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-n", workers, *cases],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        env=os.environ | {"TRITON_INTERPRET": "0"},
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        run.miss("tests", f"failed, see gpu.json: {lines[-1] if lines else done.stderr[-200:]}")
    return {"returncode": done.returncode, "output": lines[-60:]}


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


def sizes(run: Run, budget: float, only: str = "") -> Iterator[dict[str, Any]]:
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
    run: Run, name: str, problem: peers.Problem, budget: float, only: str
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


def first_use(run: Run) -> dict[str, Any] | None:
    """What the first call of a variant costs, its proof and without."""
    if run.device == "cpu":
        run.miss("proof", "the kernels need a GPU")
        return None
    problem, took = problem_of((4096, 1000), run.device, torch.float32), {}
    call = step(lambda p: sy.focal_loss(p.logits, p.target), problem)
    for name in ("with its compilation", "when it is compiled", "again"):
        if name != "again":
            proof.forget()
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        took[name] = 1e3 * (time.perf_counter() - start)
    refused = proof.refusal(problem.logits.device)
    if refused is not None:
        run.miss("kernels", refused)
    return {"ms": took, "refused": refused}


def launches(run: Run, only: str = "") -> dict[str, float]:
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


def head(run: Run, budget: float) -> dict[str, dict[str, float | None]]:
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


def alternatives(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[str, blocks.Heuristic]]:
    """Other constants, one halved or doubled, that cut this size in another way."""
    classes, places = shape[1], int(torch.Size(shape[2:]).numel())
    usual = blocks.HEURISTIC
    cut = blocks.Blocks.of(classes, places, itemsize)
    for name in usual._fields:
        for value in (getattr(usual, name) // 2, getattr(usual, name) * 2):
            other = usual._replace(**{name: value})
            if blocks.Blocks.of(classes, places, itemsize, other) != cut:
                yield f"{name}={value}", other


def lost(times: dict[str, float], usual: float) -> list[str]:
    """Which constants are clearly beaten, and by how much."""
    return [
        f"{name} takes {each / usual:.2f} of the time"
        for name, each in sorted(times.items(), key=lambda pair: pair[1])
        if each < CLEARLY * usual
    ]


def heuristic(run: Run) -> list[dict[str, Any]] | None:
    """Whether other block sizes are faster."""
    if run.device == "cpu":
        run.miss("heuristic", "the kernels need a GPU")
        return None
    found, setting = [], os.environ.get(proof.SETTING)
    os.environ[proof.SETTING] = "0"  # each is compared with the usual one here
    try:
        for classes, shape in SHAPES.items():
            for dtype in DTYPES:
                name = f"C = {classes}, {str(dtype).removeprefix('torch.')}"
                if run.left() < 15:
                    run.miss(f"heuristic, {name}", f"{run.left():.0f} s were left")
                    continue
                times, usual = tried(run, name, problem_of(shape, run.device, dtype))
                found.append({"name": name, "usual": usual, "times": times})
                for line in lost(times, usual):
                    print(f"{name}: {line}", flush=True)
    finally:
        if setting is None:
            del os.environ[proof.SETTING]
        else:
            os.environ[proof.SETTING] = setting
    return found


def tried(run: Run, size: str, problem: peers.Problem) -> tuple[dict[str, float], float]:
    """The time of every alternative, and the usual one's."""
    loss = sy.FocalLoss(gamma=peers.GAMMA, weight=problem.weight, engine="triton")
    call = step(lambda p: loss(p.logits, p.target), problem)

    def gradient() -> Tensor:
        call()
        assert problem.logits.grad is not None
        return problem.logits.grad

    right, calls = gradient().clone(), {"usual": call}
    rules = dict(alternatives(problem.shape, problem.logits.element_size()))
    for name, rule in rules.items():
        try:
            blocks.HEURISTIC = rule
            torch.testing.assert_close(gradient(), right, rtol=1e-2, atol=1e-6)
        except Exception as error:  # more than the device has room for, say
            run.miss(f"{name}, {size}", error)
            continue
        finally:
            blocks.HEURISTIC = blocks.Heuristic()

        def other(rule: blocks.Heuristic = rule) -> None:
            blocks.HEURISTIC = rule
            try:
                call()
            finally:
                blocks.HEURISTIC = blocks.Heuristic()

        calls[name] = other
    times = seconds(calls, 0.5, at_least=5)
    usual = times.pop("usual")
    return times, usual


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def markdown(found: dict[str, Any]) -> str:
    """The tables for docs/speed.md."""
    lines = [found["machine"], ""]
    if found["rehearsal"]:
        lines += ["**A rehearsal on the CPU: these times mean nothing.**", ""]
    if found.get("sizes"):
        lines += [
            "| | ms | ÷ F.cross_entropy | share of copy | GB/s | memory |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for size in found["sizes"]:
            lines.append(f"| **{size['name']}** | | | | | |")
            for peer, row in size["peers"].items():
                lines.append("| " + " | ".join([peer, *map(_number, row.values())]) + " |")
        lines.append("")
    if found.get("launches"):
        n, classes = LAUNCH
        lines += [f"| {n}×{classes}, host alone | µs |", "|---|--:|"]
        lines += [f"| {peer} | {each:.0f} |" for peer, each in found["launches"].items()]
        lines.append("")
    if found.get("head"):
        size = "×".join(map(str, TINY_HEAD if found["rehearsal"] else HEAD))
        lines += [f"| {size} | ms | MB beyond the gradients |", "|---|--:|--:|"]
        for peer, row in found["head"].items():
            lines.append("| " + " | ".join([peer, *map(_number, row.values())]) + " |")
        lines.append("")
    if found.get("proof"):
        took = ", ".join(f"{name} {ms:.1f} ms" for name, ms in found["proof"]["ms"].items())
        lines += [f"First use of a kernel: {took}.", ""]
    for size in found.get("heuristic") or []:
        lines += [f"* {size['name']}: {line}" for line in lost(size["times"], size["usual"])]
    lines += [f"* Not done: {line}" for line in found["missing"]]
    return "\n".join(lines).rstrip() + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
