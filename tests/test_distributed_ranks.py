"""Real ranks, joined by gloo on loopback: mean_cases.py says what each of them does."""

import os
import subprocess
import sys
from pathlib import Path

import mean_cases
import pytest
from ranks import run_ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_gradients_are_those_of_one_big_batch(world_size):
    run_ranks(mean_cases.whole_world, world_size)


def test_the_same_under_torchrun():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(mean_cases.__file__)
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error:::mean_cases",
    }
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2 agrees", "rank 1 of 2 agrees"]


def test_a_group_shares_a_step_and_outsiders_are_refused():
    run_ranks(mean_cases.in_groups, 3)


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_lost_rank_ends_the_others_within_the_timeout(how):
    timeout = 2
    results = run_ranks(mean_cases.lost, 3, how, timeout)
    assert results[1] is None
    for waited, message in (results[0], results[2]):
        assert waited < timeout + 1
        assert "gloo" in message or "Timed out" in message


def test_counting_ten_million_labels_over_ranks_takes_constant_memory():
    for grown, counts in run_ranks(mean_cases.count_ten_million, 2):
        assert grown < 10 * 2**20  # this rank's labels alone are 40 MB
        assert counts == [10**6] * 10
