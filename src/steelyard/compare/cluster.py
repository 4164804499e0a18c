"""Groups on several processes or machines, through joblib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import joblib

from steelyard.compare.data import Data
from steelyard.compare.group import Cell, Group, timed_group
from steelyard.compare.study import Study, StudyError

_ATTEMPTS = 3


def run_parallel(
    data: Data,
    study: Study,
    groups: Sequence[Group],
    workers: int,
    backend: str,
    address: str | None,
) -> Iterator[tuple[Group, list[Cell], float]]:
    """Yield each group, its cells and its seconds as they come in, in any order.

    The data travels once: local processes map it from a file, a Dask cluster keeps a copy on
    every worker. A Dask worker that dies is replaced by another: its groups run again.

    Raises:
        StudyError: the cluster's library is not installed, or the cluster cannot be reached.
    """
    with ExitStack() as stack:
        if backend == "dask":
            client = stack.enter_context(_dask_client(address))
            stack.enter_context(joblib.parallel_config("dask", client=client, scatter=[data]))
        elif backend == "ray":
            _connect_ray(address)
            stack.enter_context(joblib.parallel_config("ray"))
        else:
            stack.enter_context(joblib.parallel_config("loky", n_jobs=workers))
        left = list(groups)
        for attempt in range(_ATTEMPTS):
            parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
            calls = [joblib.delayed(timed_group)(data, study, group) for group in left]
            try:
                for done in parallel(calls):
                    left.remove(done[0])
                    yield done
                return
            except CancelledError:  # a worker died with a result that nobody had fetched yet
                if attempt == _ATTEMPTS - 1:
                    raise


def _dask_client(address: str | None) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise StudyError("--backend dask needs pip install 'dask[distributed]'") from error
    try:
        return Client(address, timeout=5, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise StudyError(f"no Dask scheduler answers at {address}") from error


def _connect_ray(address: str | None) -> None:
    try:
        # By name: ray is no dependency, not even of the type checker.
        ray, bridge = import_module("ray"), import_module("ray.util.joblib")
    except ImportError as error:
        raise StudyError("--backend ray needs pip install 'ray[default]'") from error
    ray.init(address=address, ignore_reinit_error=True)
    bridge.register_ray()
