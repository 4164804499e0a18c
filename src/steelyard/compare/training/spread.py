"""Lines of trainings in processes of this machine, or on a cluster."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import cloudpickle
import numpy as np
import torch

from steelyard.compare.study import StudyError
from steelyard.compare.training.lines import Line
from steelyard.compare.training.plan import Plan
from steelyard.compare.training.problem import Problem
from steelyard.compare.training.work import Outcome, run_line


class Packed:
    """A problem as bytes: local processes map them from one file, a cluster keeps one copy."""

    def __init__(self, problem: Problem) -> None:
        try:
            data = cloudpickle.dumps(problem)
        except Exception as error:
            raise StudyError(
                "the study cannot be sent to another process, because something in it cannot be "
                f"pickled ({_one_line(error)}): build it inside the factory, or use workers=1"
            ) from error
        self.path = list(sys.path)  # where the modules beside the user's script are
        self.bytes = np.frombuffer(data, dtype=np.uint8)
        self.digest = sha256(data).hexdigest()

    def problem(self) -> Problem:
        """The problem again; the last one is kept for the next line."""
        if self.digest not in _unpacked:
            _unpacked.clear()
            sys.path += [place for place in self.path if place not in sys.path]
            _unpacked[self.digest] = pickle.loads(self.bytes.tobytes())
        return _unpacked[self.digest]


_unpacked: dict[str, Problem] = {}


def run_elsewhere(
    problem: Problem,
    plan: Plan,
    lines: Sequence[Line],
    folder: Path | None,
    workers: int,
    backend: str,
    address: str | None,
    threads: int,
) -> Iterator[Outcome]:
    """Train lines in other processes, and yield what they leave in any order.

    Raises:
        StudyError: the problem cannot be pickled, or the cluster cannot be reached.
    """
    from steelyard.compare.cluster import run_parallel

    place = None if folder is None else folder.resolve()
    calls = [(plan, line, place, threads) for line in lines]
    for outcomes in run_parallel(_outcomes, Packed(problem), calls, workers, backend, address):
        yield from outcomes


def _outcomes(
    packed: Packed, plan: Plan, line: Line, folder: Path | None, threads: int
) -> list[Outcome]:
    torch.set_num_threads(threads)
    if plan.device == "cuda":
        plan = replace(plan, device=f"cuda:{_own_gpu()}")
    return list(run_line(packed.problem(), plan, line, folder))


def _own_gpu() -> int:
    """The GPU of this worker: they are numbered from 1, and each keeps its own."""
    identity = multiprocessing.current_process()._identity
    number = identity[0] - 1 if identity else os.getpid()
    return int(number % torch.cuda.device_count())


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
