"""Work on several processes or machines: through joblib, or as Ray's tasks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from importlib import import_module
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend import resource_tracker as lokys_tracker

from _steelyard import end_with_parent
from steelyard._text import first_line
from steelyard.compare.study import StudyError

Result = TypeVar("Result")
_ATTEMPTS = 3


def run_parallel(
    work: Callable[..., Result],
    shared: Any,
    calls: Sequence[tuple[Any, ...]],
    workers: int,
    backend: str,
    address: str | None,
) -> Iterator[Result]:
    """Yield ``work(shared, *call)`` of each call as it comes in, in any order.

    What is shared travels once: local processes map its arrays from a file, a Dask cluster keeps
    a copy on every worker, Ray one on every machine. A worker of theirs that dies is replaced by
    another: its calls run again.

    Raises:
        StudyError: the cluster's library cannot be imported, the cluster cannot be reached, or a
            process here ended before its work was done.
    """
    if backend == "ray":
        yield from _on_ray(work, shared, calls, address)
        return
    with ExitStack() as stack:
        if backend == "dask":
            client = stack.enter_context(_dask_client(address))
            stack.enter_context(joblib.parallel_config("dask", client=client, scatter=[shared]))
        else:
            stack.enter_context(_processes(workers))
        left = dict(enumerate(calls))
        for attempt in range(_ATTEMPTS):
            parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
            numbered = [
                joblib.delayed(_numbered)(work, shared, number, call)
                for number, call in left.items()
            ]
            try:
                with _ctrl_c_reaches_only_us():
                    results = parallel(numbered)
                for number, result in results:
                    del left[number]
                    yield result
                return
            except BrokenProcessPool as error:
                raise StudyError(
                    "a worker process ended before its work was done, as happens where memory "
                    "runs out; try fewer workers, or less at a time. What was finished before is "
                    "kept"
                ) from error
            except CancelledError:  # a worker died with a result that nobody had fetched yet
                if attempt == _ATTEMPTS - 1:
                    raise


def _numbered(
    work: Callable[..., Result], shared: Any, number: int, call: tuple[Any, ...]
) -> tuple[int, Result]:
    return number, work(shared, *call)


@contextmanager
def _processes(workers: int) -> Iterator[None]:
    """Processes on this machine that end with this block, however it ends, and with this one."""
    options: dict[str, Any] = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
    with joblib.parallel_config("loky", n_jobs=workers, **options):
        try:
            yield
        finally:
            get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def _ctrl_c_reaches_only_us() -> Iterator[None]:
    """Start processes that a terminal's Ctrl-C passes by; their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    for tracker in (resource_tracker, lokys_tracker):
        tracker.ensure_running()  # when they start, they lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _dask_client(address: str | None) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise StudyError(_needs("dask", "dask[distributed]", error)) from error
    try:
        return Client(address, timeout=5, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise StudyError(f"no Dask scheduler answers at {address}") from error


def _on_ray(
    work: Callable[..., Result], shared: Any, calls: Sequence[tuple[Any, ...]], address: str | None
) -> Iterator[Result]:
    # Ray's own tasks, for its joblib backend cannot give results as they come in.
    try:
        ray = import_module("ray")  # by name: no dependency, not even of the type checker
    except ImportError as error:
        raise StudyError(_needs("ray", "ray", error)) from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StudyError(
                f"no Ray cluster answers at {address} ({first_line(error)})"
            ) from error
    try:
        # Ray hides the GPUs from a task that asks for none.
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task, kept = ray.remote(num_gpus=gpus)(work), ray.put(shared)
        waiting = [task.remote(kept, *call) for call in calls]
        while waiting:
            (ready,), waiting = ray.wait(waiting)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
    finally:
        if ours:
            ray.shutdown()


def _needs(backend: str, requirement: str, error: ImportError) -> str:
    return f"--backend {backend} needs pip install {requirement!r} ({first_line(error)})"
