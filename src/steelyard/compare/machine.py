"""Where a study runs: device, processes, memory, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import joblib
import torch
from threadpoolctl import threadpool_limits

import steelyard as sy
from steelyard._text import first_line
from steelyard.compare.given import check_whole
from steelyard.compare.study import StudyError

BACKENDS = ("local", "dask", "ray")
_PACKAGES = ("numpy", "scikit-learn", "skrub", "polars", "scipy")
_PROCESS = 400 * 2**20  # bytes that a worker takes before it trains anything
_START = 7  # seconds until a process has read its libraries; results do not depend on it
_UNKNOWN = 4 * 2**30
_CGROUP = Path("/sys/fs/cgroup")


def check_backend(workers: int | None, backend: str, address: str | None) -> None:
    """Raise a StudyError unless the three go together."""
    if workers is not None:
        check_whole("workers", workers)
    if backend not in BACKENDS:
        raise StudyError(f"backend is {backend!r}; choose from: {', '.join(BACKENDS)}")
    if backend == "dask" and not address:
        raise StudyError(
            "a dask backend needs its scheduler: address (--address), as in tcp://HOST:8786"
        )
    if backend == "local" and address:
        raise StudyError(
            "address (--address) belongs to a cluster; say which: backend (--backend) dask or ray"
        )


def fitting_workers(device: str, each: int) -> int:
    """As many processes as there are cores, and memory for; one where they would share a GPU.

    Args:
        device: where they train.
        each: bytes that one takes to train.
    """
    if torch.device(device).type != "cpu":
        return 1
    cores: int = joblib.cpu_count()
    return max(1, min(cores, free_memory(device) // 2 // (each + _PROCESS)))


def processes_pay(seconds: float, workers: int) -> bool:
    """Whether so many processes end a work sooner than this one alone.

    Args:
        seconds: that this process would take.
        workers: processes, each of which has to start.
    """
    return seconds - seconds / workers > _START


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, in PyTorch, NumPy and scikit-learn; more cores are for more groups.

    Sums come out the same whatever the machine, and small operations do not wait for each other
    where another program wants a core too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def check_device(device: str) -> None:
    """Raise a StudyError unless torch can compute there."""
    try:
        torch.zeros(1, device=device).item()  # a meta tensor has no number
    except (RuntimeError, AssertionError) as error:
        raise StudyError(f"device {device!r} cannot be used here: {first_line(error)}") from error


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, so that a result can be placed."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - only where metadata was stripped
            installed[package] = "unknown"
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {
        "steelyard": sy.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **installed,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "device": where,
    }


def free_memory(device: str) -> int:
    """Bytes that can still be taken on a device, a container's limit included."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_in_system(), _free_in_container())


def in_words(size: int) -> str:
    """Bytes as a person reads them."""
    size = -(-size // 2**20)
    return f"{size:,} MB" if size < 10_000 else f"{-(-size // 1024):,} GB"


def _free_in_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):  # what caches hold can be taken
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return _UNKNOWN


def _free_in_container() -> int:
    """What the control group leaves; a program that takes more is killed."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        taken = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(map(str.split, (_CGROUP / "memory.stat").read_text("ascii").splitlines()))
        return max(0, limit - taken + int(stat["inactive_file"]))  # that cache can be taken
    except (OSError, ValueError, KeyError):  # no control group, or its limit is "max"
        return 2**63
