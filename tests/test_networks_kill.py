"""Ten times kill -9, at moments that nobody chose, and the same results as if nothing had been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STUDY = """
import sys
import torch
from steelyard import compare
from network_cases import Noisy, blobs, dropping, sgd

torch.set_num_threads(1)
compare.networks(
    dropping, train=Noisy(blobs(400)), test=blobs(200, seed=5), head="3", optimizer=sgd,
    losses=["balanced-softmax", "ldam", "ldam-drw", "deferred-sampling", "tau-normalised"],
    space={"learning_rate": (0.02, 0.5, 0.1)}, epochs=30, batch_size=16, draws=2, seeds=3,
    name="blobs", out=sys.argv[1],
)
"""


def results(folder):
    found = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in found.items() if key != "times"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_kills_leave_the_results_as_they_would_have_been(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }

    def start(folder):
        return subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    whole = start("whole")
    lines = []
    begun = time.monotonic()
    for line in whole.stderr:
        if not lines and "seed" in line:
            begun = time.monotonic()
        lines.append(line)
    took = time.monotonic() - begun
    assert whole.wait() == 0
    whole.stderr.close()
    dice = random.Random(0)
    kills = 0
    while kills < 10:
        process = start("killed")
        for line in process.stderr:
            if "points cannot" in line:  # the rehearsal is over: trainings begin
                break
        time.sleep(dice.uniform(0, took / 8))
        if process.poll() is not None:
            process.stderr.close()
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        kills += 1
    assert kills >= 5
    last = start("killed")
    last.stderr.read()
    assert last.wait() == 0
    last.stderr.close()
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not (tmp_path / "killed" / "checkpoints").exists()
