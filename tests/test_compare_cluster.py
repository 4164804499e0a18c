"""Work elsewhere: processes here, and a real Dask cluster on loopback that loses a worker."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool

import joblib
import psutil
import pytest

from steelyard.compare import cluster as cluster_module
from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import load_digits
from steelyard.compare.tables.runner import Silence, run_study
from steelyard.compare.tables.study import Study

# Six groups: one for each seed.
STUDY = Study(("cross-entropy", "post-hoc", "focal"), seeds=6, draws=2, epochs=4, hidden=8, group=6)
DATA = load_digits()


def without_times(results):
    return {key: value for key, value in results.items() if key != "times"}


@pytest.fixture(scope="module")
def here():
    return without_times(run_study(DATA, STUDY))


@pytest.mark.slow
def test_processes_give_the_same_results(here):
    assert without_times(run_study(DATA, STUDY, workers=2)) == here


COMMAND = "compare --loss focal --seeds 8 --draws 2 --epochs 2000 --group 8 --workers 2 --out"
SCRIPT = """
import signal, sys, _steelyard
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests
sys.exit(_steelyard.main())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs signals")
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGKILL", "SIGHUP", "Ctrl-C"])
def test_every_ending_ends_the_workers(ending, tmp_path):
    """Whoever waits for the command's output waits for all who hold it."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *COMMAND.split(), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = []
    while len(workers) < 3:  # and a tracker of joblib's
        assert process.poll() is None
        time.sleep(0.05)
        workers = psutil.Process(process.pid).children(recursive=True)
    time.sleep(0.5)
    if ending == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(getattr(signal, ending))
    printed, said = process.communicate(timeout=60)
    assert printed == ""
    assert "Traceback" not in said
    assert not psutil.wait_procs(workers, timeout=5)[1]


def test_a_worker_that_is_killed_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise BrokenProcessPool("a process was terminated abruptly")

    monkeypatch.setattr(joblib, "Parallel", lambda **_: fail)
    with pytest.raises(StudyError, match="a worker process ended before its work was done"):
        run_study(DATA, STUDY, tmp_path, workers=2)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """`dask scheduler` and two `dask worker` processes, ended when the test ends."""

    def __init__(self, folder):
        self.address = f"tcp://127.0.0.1:{free_port()}"
        host, port = self.address.removeprefix("tcp://").split(":")
        common = [sys.executable, "-m", "dask"]
        self.processes = [
            self.start(*common, "scheduler", "--host", host, "--port", port, "--no-dashboard")
        ]
        worker = [*common, "worker", self.address, "--nthreads", "1", "--no-dashboard"]
        # Without a nanny: what is killed stays dead.
        self.processes += [
            self.start(*worker, "--no-nanny", "--local-directory", str(folder / str(i)))
            for i in range(2)
        ]

    def start(self, *command):
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, stdout=quiet, stderr=quiet)

    def wait(self):
        from distributed import Client

        with Client(self.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)

    def kill_a_worker(self):
        self.processes[1].kill()

    def close(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed")
    running = Cluster(tmp_path)
    try:
        running.wait()
        yield running
    finally:
        running.close()


class KillOne(Silence):
    """Watches a study, and kills one of the cluster's workers when the first group is done."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.groups = 0

    def finished(self, group, cells):
        self.groups += 1
        if self.groups == 1:
            self.cluster.kill_a_worker()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of distributed's own threads
def test_a_cluster_that_loses_a_worker_gives_the_same_results(here, cluster):
    watcher = KillOne(cluster)
    found = run_study(DATA, STUDY, watcher=watcher, backend="dask", address=cluster.address)
    assert watcher.groups == 6
    assert cluster.processes[1].poll() is not None
    assert without_times(found) == here


class Forgetful:
    """In the place of joblib.Parallel: runs one call each time, and loses the others' results."""

    def __init__(self, **_options):
        pass

    def __call__(self, calls):
        function, arguments, keywords = calls[0]
        yield function(*arguments, **keywords)
        if len(calls) > 1:
            raise CancelledError


def test_a_result_lost_with_its_worker_is_computed_again(monkeypatch):
    monkeypatch.setattr(joblib, "Parallel", Forgetful)
    study = Study(("cross-entropy", "focal"), seeds=2, draws=1, epochs=2, hidden=4, group=2)
    monkeypatch.setattr(cluster_module, "_ATTEMPTS", 2)
    found = run_study(DATA, study, workers=2)
    assert without_times(found) == without_times(run_study(DATA, study))
    monkeypatch.setattr(cluster_module, "_ATTEMPTS", 1)
    with pytest.raises(CancelledError):
        run_study(DATA, study, workers=2)


def test_a_scheduler_that_is_not_there_is_one_sentence():
    pytest.importorskip("distributed")
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(StudyError, match=f"no Dask scheduler answers at {address}"):
        run_study(DATA, STUDY, backend="dask", address=address)


class Ray:
    """In the place of Ray: its tasks run when they are waited for, the last one first."""

    class exceptions:  # noqa: N801
        class RayTaskError(Exception):
            cause: Exception

    def __init__(self, gpus=0):
        self.gpus, self.running, self.asked = gpus, False, None

    def is_initialized(self):
        return self.running

    def init(self, address, **_options):
        if address == "nowhere:1":
            raise ConnectionError("ray cannot connect\nto nowhere")
        self.running = True

    def shutdown(self):
        self.running = False

    def cluster_resources(self):
        return {"CPU": 2.0} | ({"GPU": float(self.gpus)} if self.gpus else {})

    def put(self, kept):
        return (kept,)

    def remote(self, num_gpus):
        self.asked = num_gpus

        def asked_for(work):
            task = Silence()
            task.remote = lambda kept, *call: (work, *kept, *call)
            return task

        return asked_for

    def wait(self, waiting):
        return waiting[-1:], waiting[:-1]

    def get(self, task):
        work, *arguments = task
        try:
            return work(*arguments)
        except Exception as error:
            failed = self.exceptions.RayTaskError()
            failed.cause = error
            raise failed from error


def on_ray(monkeypatch, ray, work, calls, address=None):
    monkeypatch.setattr(cluster_module, "import_module", {"ray": ray}.__getitem__)
    return list(cluster_module.run_parallel(work, 12, calls, 2, "ray", address))


@pytest.mark.parametrize("gpus", [0, 3])
def test_ray_gives_results_as_they_come_in(monkeypatch, gpus):
    ray = Ray(gpus)
    assert on_ray(monkeypatch, ray, divmod, [(5,), (7,)]) == [(1, 5), (2, 2)]
    assert ray.asked == min(1, gpus)
    assert not ray.running


def test_ray_that_runs_already_goes_on(monkeypatch):
    ray = Ray()
    ray.running = True
    assert on_ray(monkeypatch, ray, divmod, [(5,)]) == [(2, 2)]
    assert ray.running


def test_what_goes_wrong_on_ray_is_what_went_wrong(monkeypatch):
    ray = Ray()
    with pytest.raises(ZeroDivisionError):
        on_ray(monkeypatch, ray, divmod, [(0,)])
    assert not ray.running
    with pytest.raises(
        StudyError, match=r"^no Ray cluster answers at nowhere:1 \(ray cannot .*\)$"
    ):
        on_ray(monkeypatch, ray, divmod, [(5,)], "nowhere:1")
