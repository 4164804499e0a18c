"""Groups elsewhere: processes here, and a real Dask cluster on loopback that loses a worker."""

import socket
import subprocess
import sys
from concurrent.futures import CancelledError

import joblib
import pytest

from steelyard.compare import cluster as cluster_module
from steelyard.compare.data import load_digits
from steelyard.compare.runner import run_study
from steelyard.compare.study import Study, StudyError

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


class KillOne:
    """Watches a study, and kills one of the cluster's workers when the first group is done."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.groups = 0

    def begin(self, groups, cells):
        pass

    def tick(self, group, share):
        pass

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
