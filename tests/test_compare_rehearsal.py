"""A study says how long it will take before it begins."""

from functools import cache

import numpy as np
import pytest

from steelyard.compare import cluster, machine
from steelyard.compare.tables import rehearsal, runner
from steelyard.compare.tables.data import from_any
from steelyard.compare.tables.draws import draw_options
from steelyard.compare.tables.groups import Group, plan_groups, reference_groups
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.references import reference
from steelyard.compare.tables.rehearsal import rehearse
from steelyard.compare.tables.study import Study

RNG = np.random.default_rng(0)
DATA = from_any(RNG.normal(size=(1000, 4)), RNG.integers(3, size=1000))
FIRST = prepare(DATA, 0, 0.2, 0.2)
NAMES = ("cross-entropy", "post-hoc", "focal", "smote")


def test_it_is_the_steps_of_every_training_and_the_looks_at_the_validation_rows(monkeypatch):
    monkeypatch.setattr(rehearsal, "_seconds_of_a_step", lambda study, *rest: 0.5)
    study = Study(NAMES, seeds=3, draws=2, epochs=10, batch_size=60)
    groups = plan_groups(NAMES, [0, 1, 2], 2, 6)
    # 600 rows: 100 steps of 60 rows, and ten looks at 200 rows, 60 of which cost a third of a
    # step. Two draws of three candidates that train, on three seeds; four of them took the 0.5 s.
    assert rehearse(study, FIRST, groups) == pytest.approx(18 * 0.5 / 4 * (100 + 10 * 200 / 60 / 3))
    assert rehearse(study, FIRST, []) == 0


def test_and_the_iterations_of_every_reference(monkeypatch):
    hands, asked = [0.0], []

    def fit(model, x, y):
        hands[0] += 3 + 0.25 * model.max_iter
        asked.append(model.max_iter)

    trees, line = reference("boosted-trees"), reference("logistic-regression")
    for item in (trees, line):
        monkeypatch.setattr(item.model, "fit", fit)
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: hands[0])
    study = Study(NAMES, draws=3)
    iterations = sum(options["max_iter"] for options in draw_options(trees.space, 0, 3))
    groups = reference_groups(["boosted-trees", "logistic-regression"], [0, 1])
    # An iteration takes 0.25 s, what comes before the second 3.25 s; logistic regression stops
    # after about a hundred.
    found = 2 * (6 * 3.25 + 0.25 * (iterations + 3 * 100))
    assert rehearse(study, FIRST, groups) == pytest.approx(found)
    assert asked == [1, 1, 5] * 2


def test_it_times_real_steps_and_trains_nothing_for_good(monkeypatch):
    seen = []
    before = rehearsal.train

    def counted(networks, objective, rows, rate, decay, plan, after_epoch):
        seen.append((rate.shape, plan.epochs, rows.labels.shape))
        before(networks, objective, rows, rate, decay, plan, after_epoch)

    monkeypatch.setattr(rehearsal, "train", counted)
    study = Study(NAMES, seeds=1, draws=2, hidden=8)
    assert 0 < rehearse(study, FIRST, [Group((0,), ("cross-entropy", "post-hoc", "focal"))]) < 600
    assert seen == [((1, 4), 5, (1, 32))]


@pytest.mark.parametrize(("seconds", "said"), [(60, False), (61, True)])
def test_a_long_study_is_announced_and_a_short_one_is_not(monkeypatch, seconds, said):
    class Watcher:
        def __init__(self):
            self.notes = []

        def note(self, sentence):
            self.notes.append(sentence)

        def begin(self, groups, cells):
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "rehearse", lambda study, first, groups: 2.0 * seconds)
    study = Study(("cross-entropy", "focal"), seeds=2, draws=1, group=1)
    watcher = Watcher()
    with pytest.raises(KeyboardInterrupt):
        runner.run_study(DATA, study, watcher=watcher, workers=2)
    sentence = "about 1:01 min in all, by a few steps that were timed"
    assert (sentence in watcher.notes) == said


@pytest.mark.parametrize(
    ("workers", "seconds", "processes"),
    [(None, 14, 1), (None, 14.1, 2), (2, 0, 2), (1, 1000, 1)],
)
def test_processes_are_started_where_they_save_more_than_their_start(
    monkeypatch, workers, seconds, processes
):
    """Two of them end 14 s of work 7 s sooner, which is what their start takes."""
    asked = []

    def run_parallel(work, shared, calls, number, backend, address):
        asked.append(number)
        return [work(shared, *call) for call in calls]

    monkeypatch.setattr(cluster, "run_parallel", run_parallel)
    monkeypatch.setattr(machine.joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(runner, "rehearse", lambda study, first, groups: seconds)
    study = Study(
        ("cross-entropy", "focal"), seeds=2, draws=1, epochs=1, network="small", hidden=4, group=1
    )
    found = runner.run_study(DATA, study, workers=workers)
    assert asked == [2] * (processes - 1)
    results = {key: value for key, value in found.items() if key != "times"}
    assert results == without_processes(study)


@cache
def without_processes(study):
    found = runner.run_study(DATA, study)
    return {key: value for key, value in found.items() if key != "times"}
