"""Which epoch's network counts: the last one, or the best on validation rows, for all alike."""

import copy

import pytest
import torch
from network_cases import Keeping, Noisy, blobs, dropping, line_of, problem_of, same_parameters, sgd

from steelyard.compare.study import StudyError
from steelyard.compare.training.loading import Loader
from steelyard.compare.training.problem import PlainLoop
from steelyard.compare.training.work import run_line

OVERLAPPING = {"train": Noisy(blobs(150, spread=2.0)), "factory": dropping, "epochs": 10}


class Epochs(PlainLoop):
    """Keeps the network of every epoch."""

    def __call__(self, trial):
        self.kept[trial.candidate] = seen = []
        end = trial._end

        def ending(epoch):
            end(epoch)
            seen.append(copy.deepcopy(model))

        trial._end = ending
        prepare = trial.prepare

        def preparing(network):
            nonlocal model
            model = prepare(network)
            return model

        model = None
        trial.prepare = preparing
        return super().__call__(trial)


def loop_of_epochs():
    loop = Epochs(dropping, sgd)
    object.__setattr__(loop, "kept", {})
    return loop


def trained(names, folder, **options):
    problem, plan = problem_of(list(names), **OVERLAPPING | options)
    line = line_of(problem, plan, *names)
    return problem, plan, list(run_line(problem, plan, line, folder))


def accuracy(problem, plan, network):
    """Of the validation rows, computed here."""
    rows = problem.split(plan, 0).validation
    network.eval()
    samples = Loader(problem.validating.dataset, 0, "train")([rows], 0)
    ((features, labels),) = list(samples)
    return float((network(features).argmax(1) == labels).double().mean())


def test_the_best_epoch_counts_where_it_is_asked_for(tmp_path):
    loop = loop_of_epochs()
    # Not augmented: what is scored here is what was scored there.
    given = {"train": blobs(400, spread=2.0), "select": "accuracy"}
    name = "weighted-cross-entropy"  # gives away accuracy as it learns
    _, _, (last,) = trained([name], tmp_path, **given)
    problem, plan, (best,) = trained([name], tmp_path, loop=loop, keep="best", **given)
    scores = [accuracy(problem, plan, network) for network in loop.kept[name]]
    assert best.score == pytest.approx(max(scores))
    assert last.score == pytest.approx(scores[-1])
    assert best.score > last.score
    assert best.curve == last.curve  # looking changes nothing
    assert best.test != last.test


@pytest.mark.parametrize("names", [("cross-entropy", "deferred-weighted"), ("ldam", "ldam-drw")])
def test_a_fork_keeps_the_best_of_its_trunk_too(tmp_path, names):
    loop = Keeping(dropping)
    trained(names, tmp_path, loop=loop, keep="best")
    for name in names:
        alone = Keeping(dropping)
        trained([name], tmp_path, loop=alone, keep="best")
        assert same_parameters(loop.networks[name], alone.networks[name])


class KilledError(BaseException):
    """As when a process ends: nothing may catch it."""


def test_a_killed_training_remembers_its_best_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("steelyard.compare.training.checkpoints._SHARE", 1e9)  # one each epoch
    whole = trained(["focal"], None, keep="best")[2]

    def dying(share):
        if share == 0.9:
            raise KilledError

    problem, plan = problem_of(["focal"], keep="best", **OVERLAPPING)
    line = line_of(problem, plan, "focal")
    with pytest.raises(KilledError):
        list(run_line(problem, plan, line, tmp_path, tick=lambda _, share: dying(share)))
    (state,) = (torch.load(path) for path in tmp_path.iterdir())
    assert state["epochs"] == 9
    assert state["best"]["score"] > 0
    resumed = list(run_line(problem, plan, line, tmp_path))
    assert [one.test for one in resumed] == [one.test for one in whole]


def test_there_is_no_third_choice():
    with pytest.raises(StudyError, match=r"^keep is 'median'; choose last or best$"):
        problem_of(["focal"], keep="median")
