"""Trainings in other processes: workers here, a Dask cluster on loopback, ranks in step."""

import threading

import pytest
import torch
import torch.nn.functional as F
from network_cases import Keeping, blobs, line_of, network, problem_of, sgd
from ranks import run_ranks
from test_compare_cluster import Cluster
from test_networks_study import LOSSES, SPACE, study, without_times

from steelyard import compare
from steelyard.compare.study import StudyError
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.work import run_line


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


class Halting(torch.nn.Module):
    def forward(self, _):
        raise RuntimeError("no such layer")


@pytest.mark.slow
def test_an_error_in_a_worker_is_one_sentence(tmp_path):
    with pytest.raises(StudyError) as caught:
        study(network=Halting, losses=["focal"], head=None, workers=2, out=tmp_path, optimizer=one)
    assert "failed: RuntimeError: no such layer" in str(caught.value)


def one(parameters, learning_rate, weight_decay):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)


LINE = ("cross-entropy", "deferred-weighted")


def trained_parameters(losses, micro=None, batch_size=16):
    """Parameters of some candidates after training, and the validation score of each."""
    loop = Keeping()
    problem, plan = problem_of(
        losses, train=blobs(101), loop=loop, micro_batch=micro, batch_size=batch_size
    )
    found = {}
    ranks = Ranks.here()
    names = [loss if isinstance(loss, str) else loss[0] for loss in losses]
    for line in {line_of(problem, plan, name).key: [name] for name in names}.values():
        for outcome in run_line(problem, plan, line_of(problem, plan, *line), None, ranks):
            assert outcome.status == "done", outcome.reason
            found[outcome.run.method] = outcome.score, outcome.curve
    parameters = {
        name: [p.detach().numpy() for p in model.parameters()]
        for name, model in loop.networks.items()
    }
    return parameters, found


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


def whole_study():
    found = compare.networks(
        network,
        train=blobs(150),
        test=blobs(89, seed=5),
        losses=LOSSES,
        head="3",
        optimizer=sgd,
        space=SPACE,
        epochs=3,
        batch_size=32,
        draws=2,
        seeds=2,
        progress=False,
    )
    return [
        (
            entry["name"],
            [trial["options"] for cell in entry["seeds"] for trial in cell["trials"]],
            [sum(map(sum, cell["confusion"])) for cell in entry["seeds"]],
            entry["scores"]["accuracy"]["values"],
        )
        for entry in found.results["candidates"]
    ]


@pytest.mark.slow
def test_three_ranks_run_one_study_and_score_a_prime_number_of_rows_once():
    expected = whole_study()
    for entries in run_ranks(whole_study, 3, timeout=200):
        assert entries == expected
    assert {rows for _, _, sums, _ in expected for rows in sums} == {89}
