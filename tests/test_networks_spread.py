"""Trainings in other processes: workers here, a Dask cluster on loopback, ranks in step."""

import threading

import pytest
import torch.nn.functional as F
from network_cases import network, study, without_times
from network_ranks import Halting, one, rehearsed_study, trained_parameters, whole_study
from ranks import run_ranks
from test_compare_cluster import Cluster

from steelyard.compare.study import StudyError


@pytest.fixture(scope="module")
def here():
    return without_times(study())


@pytest.mark.slow
def test_workers_give_the_same_results(here, tmp_path):
    assert without_times(study(workers=2, out=tmp_path)) == here


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_results(here, tmp_path):
    pytest.importorskip("distributed")
    cluster = Cluster(tmp_path / "dask")
    try:
        cluster.wait()
        assert without_times(study(backend="dask", address=cluster.address)) == here
    finally:
        cluster.close()


@pytest.mark.slow
def test_ray_gives_the_same_results(here):
    pytest.importorskip("ray")
    assert without_times(study(backend="ray")) == here


def test_what_cannot_be_pickled_is_one_sentence():
    lock = threading.Lock()

    def locked():
        assert lock is not None
        return network()

    with pytest.raises(StudyError) as caught:
        study(network=locked, workers=2)
    assert str(caught.value).startswith(
        "the study cannot be sent to another process, because something in it cannot be pickled "
        "(TypeError: cannot pickle '_thread.lock' object): build it inside the factory"
    )


@pytest.mark.slow
def test_an_error_in_a_worker_is_one_sentence(tmp_path):
    with pytest.raises(StudyError) as caught:
        study(network=Halting, losses=["focal"], head=None, workers=2, out=tmp_path, optimizer=one)
    assert "failed: RuntimeError: no such layer" in str(caught.value)


RANKED = ["weighted-cross-entropy", "ldam-drw", ("mine", F.cross_entropy)]


@pytest.mark.parametrize(("ranks", "micro"), [(2, None), (2, 3), (3, None)])
def test_ranks_train_what_one_process_trains(ranks, micro):
    parameters, found = trained_parameters(RANKED)
    for theirs, their_scores in run_ranks(trained_parameters, ranks, RANKED, micro, timeout=120):
        for name, expected in parameters.items():
            for a, b in zip(expected, theirs[name], strict=True):
                assert abs(a - b).max() < 1e-9
            assert their_scores[name][0] == found[name][0]
            assert their_scores[name][1] == pytest.approx(found[name][1], rel=1e-6)


@pytest.mark.slow
def test_ranks_rehearse_together_and_one_of_them_speaks():
    first, second = run_ranks(rehearsed_study, 2, timeout=120)
    assert first.startswith("3 trainings of 1 epochs: 3 losses × 1 draws on the first seed. About ")
    assert "focal, seed 0, draw 0" in first
    assert second == ""


@pytest.mark.slow
def test_three_ranks_run_one_study_and_score_a_prime_number_of_rows_once():
    expected = whole_study()
    for entries in run_ranks(whole_study, 3, timeout=200):
        assert entries == expected
    assert {rows for _, _, sums, _ in expected for rows in sums} == {89}
