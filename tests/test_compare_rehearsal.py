"""A study says how long it will take before it begins."""

import numpy as np
import pytest

from steelyard.compare.tables import rehearsal, runner
from steelyard.compare.tables.data import from_any
from steelyard.compare.tables.groups import Group, plan_groups, reference_groups
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.rehearsal import rehearse
from steelyard.compare.tables.study import Study

RNG = np.random.default_rng(0)
DATA = from_any(RNG.normal(size=(1000, 4)), RNG.integers(3, size=1000))
FIRST = prepare(DATA, 0, 0.2, 0.2)
NAMES = ("cross-entropy", "post-hoc", "focal", "smote")


def test_it_is_the_steps_of_every_training_and_the_looks_at_the_validation_rows(monkeypatch):
    monkeypatch.setattr(rehearsal, "_seconds_of_a_step", lambda study, *rest: 0.5)
    study = Study(NAMES, seeds=3, draws=2, epochs=10, batch_size=60)
    groups = [*plan_groups(NAMES, [0, 1, 2], 2, 6), *reference_groups(["boosted-trees"], [0, 1, 2])]
    # 600 rows: 100 steps of 60 rows, and ten looks at 200 rows, 60 of which cost a third of a
    # step. Two draws of three candidates that train, on three seeds; four of them took the 0.5 s.
    assert rehearse(study, FIRST, groups) == pytest.approx(18 * 0.5 / 4 * (100 + 10 * 200 / 60 / 3))
    assert rehearse(study, FIRST, groups[-3:]) == 0


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
