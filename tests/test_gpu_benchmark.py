"""``make gpu`` where there is no GPU: a rehearsal of the same command."""

import gc
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_peers
from steelyard.ops.cuda import blocks


@pytest.fixture
def run(tmp_path: Path) -> gpu.Run:
    return gpu.Run(tmp_path, 1.0, "cpu")


def test_it_runs_to_its_end_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # half a second each, in a process of tests
    given = ["--device", "cpu", "--seconds", "0.01", "--only", "cross-entropy"]
    gpu.main([*given, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["rehearsal"]
    assert [size["name"] for size in found["sizes"]] == [
        f"C = {classes}, {dtype}" for classes in gpu_peers.TINY for dtype in ("float32", "bfloat16")
    ]
    for size in found["sizes"]:
        assert set(size["peers"]) == {
            gpu_peers.COPY,
            gpu_peers.FIRST,
            "steelyard cross-entropy",
            "steelyard cross-entropy, smoothing",
        }
        assert size["peers"][gpu_peers.FIRST]["÷ F.cross_entropy"] == 1
        assert size["peers"][gpu_peers.COPY]["share of copy"] == 1
    assert found["launches"]["steelyard cross-entropy"] > 0
    assert "linear_loss, focal" in found["head"]
    # One line for each thing that could not be done.
    for line in (
        "everything: no CUDA device: a rehearsal on the CPU, whose times mean nothing",
        "tests: those of a GPU need one; make test runs the kernels by the interpreter",
        "proof: the kernels need a GPU",
        "heuristic: the kernels need a GPU",
        "Liger cross-entropy: liger_kernel is not installed",
        "QuACK cross-entropy: quack is not installed",
        "Liger: liger_kernel is not installed",
        "CCE: cut_cross_entropy is not installed",
    ):
        assert found["missing"].count(line) == 1
        assert line in printed.splitlines()
    table = (tmp_path / "gpu.md").read_text()
    assert "**A rehearsal on the CPU: these times mean nothing.**" in table
    assert "| **C = 19 spatial, bfloat16** | | | | | |" in table
    assert "| 64×16×50 | ms | MB beyond the gradients |" in table
    assert table in printed


def test_what_there_is_no_time_for_is_said(run: gpu.Run) -> None:
    run.end -= 100
    assert list(gpu.sizes(run, 1.0)) == []
    assert len(run.missing) == 2 * len(gpu_peers.TINY)
    assert run.missing[0].startswith("C = 2, float32: -")
    assert run.missing[0].endswith(" s were left")


def test_a_stage_that_fails_is_one_line(run: gpu.Run) -> None:
    def fail(_: gpu.Run) -> None:
        raise RuntimeError("out of luck\nand more")

    run.stage("luck", fail)
    assert run.missing == ["luck: RuntimeError: out of luck"]
    assert json.loads((run.out / "gpu.json").read_text())["missing"] == run.missing


def test_the_table_of_a_gpu(run: gpu.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.found |= {
        "rehearsal": False,
        "proof": {"ms": {"with its compilation": 900.0, "again": 0.5}, "refused": None},
        "heuristic": [
            {"name": "C = 2, float32", "usual": 2.0, "times": {"of_rows=2048": 1.5, "x": 2.1}}
        ],
    }
    table = gpu.markdown(run.found)
    assert "rehearsal" not in table
    assert "First use of a kernel: with its compilation 900.0 ms, again 0.5 ms." in table
    assert "* C = 2, float32: of_rows=2048 takes 0.75 of the time\n" in table
    assert gpu.lost({"a": 0.96, "b": 0.94, "c": 0.5}, 1.0) == [
        "c takes 0.50 of the time",
        "b takes 0.94 of the time",
    ]


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("shape", gpu.SHAPES.values(), ids=gpu.SHAPES)
def test_the_alternatives_are_others(shape: tuple[int, ...], itemsize: int) -> None:
    places = torch.Size(shape[2:]).numel()
    usual = blocks.Blocks.of(shape[1], places, itemsize)
    others = dict(gpu.alternatives(shape, itemsize))
    assert 1 <= len(others) <= 8
    for rule in others.values():
        assert blocks.Blocks.of(shape[1], places, itemsize, rule) != usual
        assert sum(a != b for a, b in zip(rule, blocks.HEURISTIC, strict=True)) == 1


def test_the_heuristic_as_on_a_gpu(run: gpu.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kernels of any speed: here the reference stands for them."""
    monkeypatch.setattr(gpu, "SHAPES", {"2": (64, 2)})
    monkeypatch.setattr(gpu.sy, "FocalLoss", lambda engine, **options: _focal(**options))
    run.device = "cuda"
    monkeypatch.setattr(gpu, "problem_of", lambda shape, device, dtype: _problem(shape, dtype))
    found = gpu.heuristic(run)
    assert found is not None
    assert [size["name"] for size in found] == ["C = 2, float32", "C = 2, bfloat16"]
    assert set(found[0]["times"]) == {"of_rows=512", "of_rows=2048"}
    assert blocks.Heuristic() == blocks.HEURISTIC


_focal, _problem_of = gpu.sy.FocalLoss, gpu.problem_of


def _problem(shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    return _problem_of(shape, "cpu", dtype)


@pytest.mark.parametrize("returncode", [0, 1])
def test_the_tests_of_a_gpu(returncode: int, run: gpu.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], returncode, "one\n1 failed, 2 passed\n", "")
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command) or done)
    run.device = "cuda"
    found = gpu.tests(run)
    assert [Path(each).name for each in commands[0][-3:]] == [
        "triton_kernel_cases.py",
        "triton_loss_cases.py",
        "triton_proof_cases.py",
    ]
    assert found == {"returncode": returncode, "output": ["one", "1 failed, 2 passed"]}
    assert run.missing == ["tests: failed, see gpu.json: 1 failed, 2 passed"] * returncode


def test_the_sizes_are_those_that_are_promised() -> None:
    assert [shape[1] for shape in gpu.SHAPES.values()] == [2, 19, 100, 1000, 4000, 32000, 128000]
    assert gpu.HEAD == (8192, 4096, 128000)
    assert gpu.LAUNCH == (256, 100)
    assert (torch.float32, torch.bfloat16) == gpu.DTYPES
    assert (gpu_peers.FLOOR, gpu.CLEARLY) == (1.5, 0.95)
