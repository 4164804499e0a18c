"""Time and memory of one call."""

import ctypes
import gc
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds(
    calls: dict[str, Callable[[], object]], budget: float, at_least: int = 9
) -> dict[str, float]:
    """Median time of each call, taken in turns, so that a busy moment meets them all.

    Each round has an order of its own: who comes right after a call that takes and frees much
    memory may pay for that memory's way back. A call that takes long is repeated inside one turn no
    more than once.
    """
    order, shuffler = list(calls), random.Random(0)
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, min(200, int(0.01 / _seconds(call))))
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(next(iter(found.values()))) < at_least:
        shuffler.shuffle(order)
        for name in order:
            found[name].append(_seconds(calls[name], repeats[name]))
    return {name: statistics.median(times) for name, times in found.items()}


def peak_bytes(call: Callable[[], object], forget: Callable[[], None]) -> int | None:
    """How far memory rises during a second call, as the kernel or the CUDA allocator saw it."""
    call()
    return seconds_and_peak(call, forget)[1]


def seconds_and_peak(
    call: Callable[[], object], forget: Callable[[], None]
) -> tuple[float, int | None]:
    """The time of one call, and how far memory rises during it."""
    forget()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return _seconds(call), torch.cuda.max_memory_allocated() - before
    if not CLEAR.exists():
        return _seconds(call), None
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide what the call takes
    CLEAR.write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    return _seconds(call), max(0, _status("VmHWM") - before)


def _seconds(call: Callable[[], object], times: int = 1) -> float:
    """The time of each of some calls in a row."""
    _wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    _wait()
    return (time.perf_counter() - start) / times


def _status(key: str) -> int:
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
