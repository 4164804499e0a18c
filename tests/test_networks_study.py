"""Whole studies with the user's own network: what they cost, choose, keep, say and refuse."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import (
    LOSSES,
    STUDY_SPACE,
    blobs,
    network,
    problem_of,
    sgd,
    study,
    without_times,
)
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import TensorDataset

from steelyard import compare
from steelyard._results import read_results
from steelyard.compare.evidence import Comparison, Interval
from steelyard.compare.study import StudyError
from steelyard.compare.training import api, rehearsal, results, work
from steelyard.compare.training.course import Course
from steelyard.compare.training.evaluation import Predictions
from steelyard.compare.training.kept import TrialStore
from steelyard.compare.training.methods import METHODS, choose
from steelyard.compare.training.plan import draw_options
from steelyard.compare.training.riders import ridden
from steelyard.report import render


@pytest.fixture(scope="module")
def finished():
    return study()


def test_a_candidate_costs_draws_plus_seeds_minus_one_trainings(monkeypatch):
    count = []
    run = work._run

    def counted(*args):
        count.append(args[2].method)
        return run(*args)

    monkeypatch.setattr(work, "_run", counted)
    study(losses=["focal"], draws=3, seeds=4)
    for name in ("cross-entropy", "weighted-cross-entropy", "focal"):
        assert count.count(name) == 3 + 4 - 1
    assert set(count) == {"cross-entropy", "weighted-cross-entropy", "focal"}
    count.clear()
    study(losses=["focal"], draws=2, seeds=3, tune="every")
    assert count.count("focal") == 2 * 3


def test_draws_are_shared_and_do_not_depend_on_the_other_candidates():
    problem, plan = problem_of(LOSSES, draws=5)
    drawn = {m.name: draw_options(plan, m, 0) for m in problem.methods}
    for options in drawn.values():
        for k in range(5):
            assert options[k]["learning_rate"] == drawn["cross-entropy"][k]["learning_rate"]
    assert drawn["ldam"] == drawn["ldam-drw"]
    fewer, _ = problem_of(["ldam"], draws=5)
    assert draw_options(plan, fewer.method("ldam"), 0) == drawn["ldam"]
    assert drawn["cross-entropy"][0] == {
        "learning_rate": 0.1,
        "weight_decay": 1e-3,
        "label_smoothing": 0.0,
    }
    low, high = (f([o["learning_rate"] for o in drawn["ldam"]]) for f in (min, max))
    assert 0.02 <= low < high <= 0.5


def test_results_hold_every_candidate_on_every_seed(finished):
    found = finished.results
    names = [entry["name"] for entry in found["candidates"]]
    assert names[:4] == ["cross-entropy", "post-hoc", "tau-normalised", "weighted-cross-entropy"]
    assert set(names) == {*LOSSES, "cross-entropy", "post-hoc", "weighted-cross-entropy"}
    assert found["kind"] == "networks"
    assert found["data"]["test"] == "fixed"
    for entry in found["candidates"]:
        assert [cell["seed"] for cell in entry["seeds"]] == [0, 1]
        first, second = entry["seeds"]
        assert len(first["trials"]) == 2
        assert [trial["draw"] for trial in second["trials"]] == [first["chosen"]]
        assert second["chosen"] == first["chosen"]
        best = max(first["trials"], key=lambda t: (t["validation"], -t["draw"]))
        assert first["chosen"] == best["draw"]
    assert set(found["times"]["trainings"]) == set(names) - {"post-hoc", "tau-normalised"}
    frame = finished.to_pandas()
    assert len(frame) == 2 * len(names)
    other = copy.deepcopy(found)
    (trial,) = other["candidates"][0]["seeds"][1]["trials"]
    trial["draw"] = other["candidates"][0]["seeds"][1]["chosen"] = 1
    assert compare.Comparison(other).to_pandas().equals(frame)
    json.dumps(found, allow_nan=False)


def test_a_report_shows_them(finished):
    found = json.loads(json.dumps(finished.results))
    read_results(found)
    page = render(found)
    assert "Every candidate trains your network with as many draws" in page
    assert "one test set judges all seeds" in page
    assert "for other seeds and other test rows of the same kind" in page
    assert "Would show" in page
    assert "One training" in page
    assert "IoU and Dice of each class" not in page


def test_forks_change_nothing_but_the_time(finished):
    assert without_times(study(forks=False)) == without_times(finished)


def test_a_stopped_study_goes_on_to_the_same_results(finished, tmp_path, monkeypatch):
    kept = TrialStore.keep
    stops = iter([3, 1, 5])

    def stopping(left):
        def keep(self, outcome):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            kept(self, outcome)

        return keep

    for number in stops:
        monkeypatch.setattr(TrialStore, "keep", stopping([number]))
        with pytest.raises(KeyboardInterrupt):
            study(out=tmp_path)
    monkeypatch.setattr(TrialStore, "keep", kept)
    resumed = study(out=tmp_path)
    assert without_times(resumed) == without_times(finished)
    on_disk = json.loads((tmp_path / "results.json").read_text())
    assert on_disk == json.loads(json.dumps(resumed.results))
    assert not (tmp_path / "checkpoints").exists()


def test_another_study_does_not_go_on_in_the_same_folder(tmp_path):
    study(out=tmp_path, losses=["focal"], seeds=1, draws=1)
    with pytest.raises(StudyError, match="holds another study") as caught:
        study(out=tmp_path, losses=["focal"], seeds=1, draws=1, epochs=6)
    assert "epochs was 5, now 6" in str(caught.value)
    with pytest.raises(StudyError, match="data was"):
        study(out=tmp_path, losses=["focal"], seeds=1, draws=1, test=blobs(90, seed=6))
    with pytest.raises(StudyError, match="source was"):
        study(out=tmp_path, losses=["focal"], seeds=1, draws=1, network=nn.Identity)


def test_test_rows_have_no_say(finished, tmp_path):
    """A feature that gives the class away on test rows alone changes the scores, not the choice."""
    giving = blobs(90, seed=5)
    features, labels = giving.tensors
    planted = TensorDataset(features + 9 * F.one_hot(labels, 4), labels.flip(0))
    other = study(test=planted, out=tmp_path)
    for a, b in zip(finished.results["candidates"], other.results["candidates"], strict=True):
        assert a["code"] == b["code"]
        for one, two in zip(a["seeds"], b["seeds"], strict=True):
            assert one["trials"] == two["trials"]
            assert one["chosen"] == two["chosen"]
            assert one["curve"] == two["curve"]
    scores = [
        [entry["scores"]["accuracy"]["mean"] for entry in found.results["candidates"]]
        for found in (finished, other)
    ]
    assert scores[0] != scores[1]


def test_test_predictions_of_unchosen_draws_are_dropped_unread(tmp_path, monkeypatch):
    read = []
    predictions = TrialStore.predictions

    def watched(self, run, part):
        read.append((run.method, run.seed, run.draw, part))
        return predictions(self, run, part)

    monkeypatch.setattr(TrialStore, "predictions", watched)
    found = study(out=tmp_path, losses=["focal"])
    chosen = {e["name"]: e["seeds"][0]["chosen"] for e in found.results["candidates"]}
    for name, _, draw, part in read:
        assert part == "validation" or draw == chosen[name]
    with TrialStore(tmp_path) as store:
        rows = store._database.execute("SELECT key FROM trial WHERE test IS NULL").fetchall()
    assert len(rows) == 3  # one of two draws of each trained candidate on the first seed


def test_riders_read_the_logits_of_cross_entropy():
    logits = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    said = Predictions(logits=logits)
    counts = np.array([90, 9, 1])
    adjusted = ridden(METHODS["post-hoc"], {"tau": 1.5}, 0, said, counts, None).logits
    assert adjusted == pytest.approx(logits - 1.5 * np.log(counts / 100), abs=1e-5)
    head = nn.Linear(5, 3)
    features = torch.randn(20, 5)
    z = head(features).detach()
    norms = head.weight.detach().norm(dim=1)
    given = {"norms": norms.tolist(), "bias": head.bias.tolist()}
    for tau in (0.0, 0.7, 1.0):
        found = ridden(
            METHODS["tau-normalised"], {"tau": tau}, 0, Predictions(logits=z.numpy()), counts, given
        ).logits
        by_hand = features @ (head.weight.detach() / norms[:, None] ** tau).T
        assert found == pytest.approx(by_hand.numpy(), abs=1e-5)


def test_a_carved_test_set_is_judged_by_repeated_splits():
    found = study(test=None, test_share=0.25, losses=["focal"], seeds=3).results
    assert found["data"]["test"] == "carved"
    differences = next(c for c in found["comparisons"]["accuracy"] if c["candidate"] == "focal")
    by_name = {e["name"]: e["scores"]["accuracy"]["values"] for e in found["candidates"]}
    d = np.array(by_name["focal"]) - np.array(by_name["cross-entropy"])
    split = found["data"]["split"]
    error = d.std(ddof=1) * math.sqrt(1 / 3 + split["test"] / split["train"])
    assert differences["difference"]["high"] - d.mean() == pytest.approx(4.302653 * error)


def test_a_group_is_never_on_two_sides_of_a_study():
    groups = np.random.default_rng(0).integers(0, 40, 150)
    problem, plan = problem_of(["focal"], train=blobs(150))
    from dataclasses import replace

    problem = replace(problem, groups=groups, testing=problem.training)
    plan = replace(plan, test=0.2)
    for seed in range(20):
        split = problem.split(plan, seed)
        sides = [set(groups[rows]) for rows in (split.train, split.validation, split.test)]
        assert sum(map(len, sides)) == len(set.union(*sides))


def shuffled_study(k):
    rng = np.random.default_rng(k)

    def rows(number):
        labels = rng.choice(3, number, p=[0.6, 0.3, 0.1])
        labels[:3] = range(3)
        return TensorDataset(torch.tensor(rng.normal(size=(number, 4))), torch.tensor(labels))

    return compare.networks(
        network,
        train=rows(120),
        test=rows(120),
        losses=["balanced-softmax", "focal", "deferred-weighted"],
        optimizer=sgd,
        space=STUDY_SPACE,
        epochs=4,
        batch_size=32,
        draws=2,
        seeds=5,
        progress=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_labels_without_meaning_have_no_winner():
    winners = 0
    for k in range(20):
        rows = shuffled_study(k).results["comparisons"]["balanced_accuracy"]
        winners += any(row["judgement"] == "better" for row in rows)
    assert winners <= 1


def test_a_rehearsal_says_what_a_study_will_take(capsys):
    study(progress=True, losses=["focal"], seeds=5)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(
        "18 trainings of 5 epochs: 3 losses × 2 draws on the first seed, then the chosen draw on "
        "4 more. About "
    )
    assert said[1].startswith("On disk: at most ")
    counts = np.bincount(blobs(90, seed=5).tensors[1])
    se = math.sqrt((0.1 / counts).sum() / 9 / 5)
    smallest = 100 * (2.776445 + 0.940965) * se
    assert said[2] == (
        f"With 5 seeds and 90 test rows, differences below about {smallest:.1f} points cannot be "
        "expected to show."
    )
    assert said[3].startswith("cross-entropy, seed 0, draw 0: ")
    assert "balanced accuracy on validation (1 of 18, about" in said[3]


def test_unclear_comes_with_the_difference_that_would_show(finished):
    found = study(losses=["focal"], seeds=5).results
    unclear = [
        c
        for c in found["comparisons"]["balanced_accuracy"]
        if c["judgement"] == "no detectable difference"
    ]
    assert unclear
    assert all(c["detectable"] > 0 for c in unclear)
    assert any(s.startswith("Unclear means: with 5 seeds") for s in found["verdict"]["sentences"])


def test_few_validation_rows_are_a_note(finished):
    notes = finished.results["data"]["notes"]
    assert any("fewer than 10 validation rows" in note for note in notes)
    assert results._FEW_ROWS == 10
    assert rehearsal._DISAGREEMENT == 0.1
    assert api._CARVED == 0.2


def own_loop(trial):
    model = trial.prepare(network())
    optimizer = sgd(model.parameters(), trial.learning_rate, trial.weight_decay)
    for epoch in trial.epochs(model, optimizer):
        for inputs, target in trial.batches(epoch):
            trial.loss(model(inputs), target).backward()
            trial.step(optimizer)
    return model


def test_the_users_own_loop_gives_the_same_results(finished):
    found = compare.trainings(
        own_loop,
        train=blobs(150),
        test=blobs(90, seed=5),
        losses=LOSSES,
        head="3",
        space=STUDY_SPACE,
        epochs=5,
        batch_size=32,
        draws=2,
        seeds=2,
        progress=False,
    )
    assert without_times(found) == without_times(finished)


def test_the_deciding_numbers_of_the_protocol():
    from dataclasses import fields

    from steelyard.compare.training.plan import DEFERRED_FROM, Plan

    defaults = {f.name: f.default for f in fields(Plan)}
    assert defaults["seeds"] == 5
    assert defaults["draws"] == 4
    assert defaults["tune"] == "once"
    assert defaults["validation"] == 0.15
    assert defaults["select"] == "balanced_accuracy"
    assert DEFERRED_FROM == (4, 5)
    assert [m.name for m in choose(["focal"], None)] == [
        "cross-entropy",
        "post-hoc",
        "weighted-cross-entropy",
        "focal",
    ]
    course = Course(problem_of(["focal"], seeds=5, draws=8)[1], choose(["focal"], None))
    assert course.trainings() == 3 * (8 + 5 - 1)


def test_predictions_stay_for_scores_that_come_later(tmp_path):
    study(out=tmp_path, losses=["focal"])
    with TrialStore(tmp_path) as store:
        outcome = next(o for o in store.outcomes() if o.run.method == "focal" and o.run.seed == 1)
        said = store.predictions(outcome.run, "test")
    assert said.logits.shape == (90, 3)
    kept = {(k.candidate, k.seed, k.draw): k for k in compare.predictions(tmp_path)}
    assert np.array_equal(kept["focal", 1, outcome.run.draw].test.logits, said.logits)
    assert sum(k.test is None for k in kept.values()) == 3
    with pytest.raises(StudyError, match=r"holds no study: there is no study\.sqlite"):
        next(compare.predictions(tmp_path / "nowhere"))
    found = json.loads((tmp_path / "results.json").read_text())
    focal = next(e for e in found["candidates"] if e["name"] == "focal")
    labels = blobs(90, seed=5).tensors[1].numpy()
    accuracy = (said.logits.argmax(1) == labels).mean()
    assert focal["seeds"][1]["scores"]["accuracy"] == pytest.approx(accuracy)


def test_the_order_of_rows_is_that_of_cross_entropys_kept_logits(tmp_path, monkeypatch):
    monkeypatch.setattr("steelyard.compare.results._CHANCE", 1.0)  # whatever it learnt
    found = study(out=tmp_path, losses=["focal"])
    labels = blobs(90, seed=5).tensors[1].numpy()
    areas = [
        roc_auc_score(labels == c, log_softmax(kept.test.logits, 1)[:, c])
        for kept in compare.predictions(tmp_path)
        if kept.candidate == "cross-entropy" and kept.test is not None
        for c in range(3)
    ]
    assert len(areas) == 2 * 3
    assert f"and ROC AUC {np.mean(areas):.2f}: the network has learnt nothing" in found.verdict


def test_the_verdict_says_what_would_have_been_found_of_whom():
    def found(name, judgement, detectable):
        nothing = Interval(None, None, None, None)
        return Comparison(name, 5, nothing, None, None, judgement, detectable)

    unclear = "no detectable difference"
    titles = {"a": "Focal", "b": "LDAM, deferred weights", "c": "Poly-1"}
    rows = [found("a", unclear, 0.079), found("b", unclear, 0.0104), found("c", "better", 0.02)]
    assert results._detectable(rows, titles, 5) == [
        "Unclear means: with 5 seeds and these test rows, four of five studies would find a "
        "difference from cross-entropy of 7.9 points (Focal) and 1.0 points (LDAM, deferred "
        "weights)."
    ]
    assert results._detectable(rows[2:], titles, 5) == []


def test_the_lines_say_what_networks_were_trained_with(finished):
    def recipe(found, name="cross-entropy"):
        entry = next(e for e in found.results["candidates"] if e["name"] == name)
        return entry["code"].splitlines()[2]

    warm = "a warm-up of 5 % of the steps and a cosine to zero"
    assert recipe(finished) == f"# 5 epochs, 32 rows a step, {warm}"
    short = {"losses": ["focal-head-only"], "seeds": 1, "draws": 1, "epochs": 1}
    plain = study(optimizer=None, space=None, schedule="constant", **short)
    assert recipe(plain) == "# AdamW, 1 epoch, 32 rows a step, a constant learning rate"
    assert recipe(plain, "focal-head-only") == (
        "# the last layer alone, on what cross-entropy's network gives it: AdamW, 30 epochs, "
        f"256 rows a step, {warm}"
    )
    own = study(schedule=lambda step, steps: 1.0, **short)
    assert recipe(own) == "# 1 epoch, 32 rows a step, your schedule"
