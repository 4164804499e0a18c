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
    Noisy,
    blobs,
    masks,
    network,
    problem_of,
    sgd,
    study,
    without_times,
)
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from steelyard import compare
from steelyard._results import read_results
from steelyard.compare.study import StudyError
from steelyard.compare.training import api, checkpoints, rehearsal, results, work
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


class Sentences(Dataset):
    """Tokens of different length, padded by the collate function."""

    def __init__(self, rows, seed=0):
        rng = np.random.default_rng(seed)
        self.rows = [torch.tensor(rng.integers(0, 12, rng.integers(4, 9))) for _ in range(rows)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        tokens = self.rows[row]
        return {"tokens": tokens, "labels": (tokens == 11).long() + 2 * (tokens == 3).long()}


def padded(samples):
    from torch.nn.utils.rnn import pad_sequence

    tokens = pad_sequence([s["tokens"] for s in samples], batch_first=True)
    labels = pad_sequence([s["labels"] for s in samples], batch_first=True, padding_value=-100)
    return {"tokens": tokens, "labels": labels}


class Output:
    def __init__(self, logits):
        self.logits = logits


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(12, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        return Output(self.fc(self.embed(tokens)))


def test_tokens_in_dicts_with_padding():
    found = compare.networks(
        Tagger,
        train=Sentences(60),
        test=Sentences(30, seed=1),
        losses=["focal", ("mine", lambda z, y: F.cross_entropy(z, y))],
        space={"learning_rate": (0.01, 0.1, 0.05)},
        optimizer=sgd,
        collate=padded,
        epochs=6,
        batch_size=8,
        draws=1,
        seeds=2,
        progress=False,
    ).results
    assert found["data"]["targets"] == "tokens"
    assert found["data"]["unit"] == "sequences"
    by_name = {entry["name"]: entry for entry in found["candidates"]}
    assert by_name["weighted-cross-entropy"]["scores"]["balanced_accuracy"]["mean"] > 0.9
    plain, mine = by_name["cross-entropy"], by_name["mine"]
    assert plain["scores"]["accuracy"]["values"] == mine["scores"]["accuracy"]["values"]
    matrix = np.array(plain["seeds"][0]["confusion"])
    assert matrix.sum() == sum(len(row) for row in Sentences(30, seed=1).rows)
    iou = matrix.diagonal() / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())
    assert plain["seeds"][0]["iou"] == pytest.approx(iou.tolist())


def test_masks_with_an_ignored_border():

    found = compare.networks(
        lambda: nn.Conv2d(1, 4, 3, padding=1),
        train=masks(rows=40),
        test=masks(rows=20, seed=1),
        losses=["focal"],
        ignore_index=255,
        select="mean_iou",
        space={"learning_rate": (0.01, 0.1, 0.05)},
        optimizer=sgd,
        epochs=2,
        batch_size=8,
        draws=1,
        seeds=2,
        progress=False,
    ).results
    assert found["verdict"]["score"] == "mean_iou"
    assert [score["name"] for score in found["scores"]][:2] == ["balanced_accuracy", "mean_iou"]
    for entry in found["candidates"]:
        for cell in entry["seeds"]:
            assert np.array(cell["confusion"]).sum() == 20 * 30
            assert cell["reliability"] == {"count": [], "confidence": [], "accuracy": []}
        assert len(entry["iou"]) == len(entry["dice"]) == 4
    read_results(json.loads(json.dumps(found)))
    page = render(found)
    assert "IoU and Dice of each class" in page
    assert "test images" in page
    images = found["panel"]["images"]
    assert [image["row"] for image in images] == [0, 1, 2]
    assert images[0]["predictions"].keys() == {"cross-entropy", "weighted-cross-entropy", "focal"}
    assert page.count('<img src="data:image/png;base64,') >= 9
    with pytest.raises(StudyError, match="balanced-sampling needs one class per row"):
        compare.networks(
            nn.Identity, train=masks(), test=masks(), losses=["balanced-sampling"], ignore_index=255
        )


def test_a_head_of_a_thousand_classes():
    def wide():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1000))

    def rows(seed, each):
        labels = torch.arange(1000).repeat(each)
        noise = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(noise, labels)

    found = compare.networks(
        wide,
        train=rows(0, 3),
        test=rows(1, 1),
        losses=["balanced-softmax"],
        head="2",
        epochs=1,
        draws=1,
        seeds=2,
        progress=False,
    ).results
    assert len(found["candidates"][0]["recall"]) == 1000
    assert found["candidates"][0]["seeds"][0]["confusion"] == []
    read_results(json.loads(json.dumps(found)))
    assert "<h2 id=" in render(found)


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


def test_what_cannot_be_asked_is_refused():
    def refusal(**given):
        with pytest.raises(StudyError) as caught:
            study(**given)
        return str(caught.value)

    assert "there is no loss called 'focall'. Did you mean focal?" in refusal(losses=["focall"])
    assert "ldam needs a cosine head" in refusal(losses=["ldam"], head=None)
    assert "tau-normalised needs the last layer" in refusal(losses=["tau-normalised"], head=None)
    assert "'focal' is in losses twice" in refusal(losses=["focal", ("focal", F.cross_entropy)])
    assert "expected a name, a callable" in refusal(losses=[3])
    assert "needs its learning rates" in refusal(space=None)
    assert "expected low ≤ default ≤ high" in refusal(space={"learning_rate": (1, 2, 3)})
    assert "space has no 'learning_rate'" in refusal(space={"weight_decay": 0.1})
    assert "expected (low, high, default)" in refusal(space={"learning_rate": "fast"})
    assert "there is no option 'epoch'" in refusal(epoch=3)
    assert "seeds is 0; it must be a whole number" in refusal(seeds=0)
    assert "select is 'f1'; choose from: balanced_accuracy" in refusal(select="f1")
    assert "schedule is 'step'; choose from cosine, constant" in refusal(schedule="step")
    assert "the network has no such layer; its layers are: 0, 1, 2, 3" in refusal(head="fc")
    assert "head is '1', a ReLU" in refusal(head="1")
    assert "precision is 'fp16'; choose float32 or bf16" in refusal(precision="fp16")
    assert "class 3 has no row in train: there are 4 classes" in refusal(num_classes=4)
    assert "classes has 2 names and there are 3 classes" in refusal(classes=["a", "b"])
    assert "unaugmented has 9 rows and train has 150" in refusal(unaugmented=blobs(9))
    assert "device 'cuda:9' cannot be used here" in refusal(device="cuda:9")


def test_a_fresh_loss_that_fails_leaves_the_others_in_the_results():
    def nan_loss(logits, target):
        return F.cross_entropy(logits, target) * math.nan

    found = study(losses=[nan_loss]).results
    entry = found["candidates"][-1]
    assert [cell["status"] for cell in entry["seeds"]] == ["failed", "failed"]
    assert entry["seeds"][0]["reason"] == "the training diverged: its loss was nan in epoch 1"
    assert entry["seeds"][1]["reason"] == "no draw of the first seed finished"
    assert len(found["failures"]) == 2
    assert found["candidates"][0]["scores"]["accuracy"]["mean"] is not None


class BrokenLater(Noisy):
    """A row that can be read a few times only."""

    looks = 0

    def __getitem__(self, row):
        type(self).looks += row == 7
        if self.looks > 20:
            raise OSError("the disk is gone")
        return super().__getitem__(row)


def test_a_dataset_that_breaks_keeps_what_was_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(BrokenLater, "looks", 0)
    data = BrokenLater(blobs(150))
    with pytest.raises(StudyError) as caught:
        study(train=data, losses=["focal"], out=tmp_path)
    assert str(caught.value) == "row 7 of train could not be loaded: OSError: the disk is gone"
    assert not (tmp_path / "results.json").exists()
    with TrialStore(tmp_path) as store:
        assert 0 < len(list(store.outcomes())) < 9


def test_a_full_disk_is_one_sentence_and_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoints.write_state({"epochs": 1}, path)

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StudyError) as caught:
        checkpoints.write_state({"epochs": 2}, path)
    assert str(caught.value).startswith(f"{path} could not be written: No space left on device;")
    monkeypatch.undo()
    assert checkpoints.read_state(path) == {"epochs": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(StudyError, match="is no checkpoint that can be read; delete it"):
        checkpoints.read_state(path)


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
