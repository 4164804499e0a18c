"""A GPU in one command: tests, peers, launches, a head of 128,000 classes, and the block sizes.

``python -m benchmarks.gpu`` writes ``gpu.json`` and ``gpu.md``, the tables for docs/speed.md, and
says in one line each what it could not do. Without a GPU it rehearses on the CPU, on tiny sizes
whose times mean nothing.
"""

import argparse
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
from benchmarks.__main__ import machine, step
from benchmarks.gpu_peers import (
    DTYPES,
    HEAD,
    LAUNCH,
    SHAPES,
    TINY_HEAD,
    head,
    launches,
    problem_of,
    sizes,
)
from benchmarks.measure import seconds
from benchmarks.peers import GAMMA, Problem
from steelyard.ops.cuda import blocks, proof

TESTS = Path(__file__).parent.parent / "tests"
# What a constant has to win by, or its loss is noise.
CLEARLY = 0.95


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


def tried(run: Run, size: str, problem: Problem) -> tuple[dict[str, float], float]:
    """The time of every alternative, and the usual one's."""
    loss = sy.FocalLoss(gamma=GAMMA, weight=problem.weight, engine="triton")
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
