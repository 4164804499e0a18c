"""Real processes on loopback, joined by gloo: what one machine can show of several."""

import os
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist

# A fork server imports once what every process of a test run needs: DDP alone takes seconds.
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch._dynamo", "mean_cases"])


def run_ranks(
    work: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60
) -> list[Any]:
    """Call ``work(*args)`` in ``world_size`` ranks; their results in order.

    What a rank raises is raised here, with its traceback; a rank that died returns None.
    """
    with tempfile.TemporaryDirectory() as directory:
        ranks = []
        for rank in range(world_size):
            here, there = CONTEXT.Pipe(duplex=False)
            process = CONTEXT.Process(
                target=_rank,
                args=(rank, world_size, f"{directory}/store", timeout, there, work, args),
            )
            process.start()
            there.close()
            ranks.append((process, here))
        try:
            return _collect([here for _, here in ranks], monotonic() + timeout + 30)
        finally:
            for process, here in ranks:
                here.close()
                process.kill()
                process.join()


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    results: list[Any] = [None] * len(pipes)
    open_pipes = dict(zip(pipes, range(len(pipes)), strict=True))
    while open_pipes:
        ready = wait(open_pipes, timeout=max(0, deadline - monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {sorted(open_pipes.values())} did not finish")
        for pipe in ready:
            rank = open_pipes.pop(pipe)
            try:
                error, results[rank] = pipe.recv()
            except EOFError:  # it was killed
                continue
            if error:
                raise AssertionError(f"rank {rank} of {len(pipes)}:\n{error}")
    return results


def _rank(
    rank: int,
    world_size: int,
    store: str,
    timeout: float,
    pipe: Connection,
    work: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    # What torchrun tells its processes, for the trainers that ask.
    here = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
    }
    os.environ.update({name: str(value) for name, value in here.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1", OMP_NUM_THREADS="1")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        result = work(*args)
        pipe.send((None, result))
        dist.destroy_process_group()
    except Exception:
        pipe.send((traceback.format_exc(), None))
