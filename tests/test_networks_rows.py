"""Rows: what their targets hold, which are set apart, and what a network says of each once."""

import tracemalloc

import numpy as np
import pytest
import torch
from network_cases import Noisy, blobs, masks, part, problem_of
from network_ranks import linear, predicted, score_in_ranks
from ranks import run_ranks
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from steelyard import metrics
from steelyard.compare.study import StudyError
from steelyard.compare.training.batches import call, logits_of, parted
from steelyard.compare.training.carve import carve, checked_groups
from steelyard.compare.training.evaluation import Marks, Predictions, predict
from steelyard.compare.training.loading import Loader
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.targets import class_names, read_targets


class Labelled(Dataset):
    """Keeps its labels as torchvision's do, and counts how often it is asked for a sample."""

    classes = ("cat", "dog", "eel")

    def __init__(self, labels, shift=0):
        self.targets, self.shift, self.asked = list(labels), shift, 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        self.asked += 1
        return torch.zeros(2), self.targets[row] + self.shift


def test_labels_at_hand_spare_the_samples():
    labels = np.arange(3000) % 3
    data = Labelled(labels)
    targets = read_targets(data, "train", -100, None)
    assert data.asked < 10
    assert targets.kind == "classes"
    assert np.array_equal(targets.labels, labels)
    assert class_names(Subset(data, [0, 1]), 3) == ("cat", "dog", "eel")
    assert class_names(data, 4) == ("0", "1", "2", "3")
    both = ConcatDataset([data, Subset(data, [2, 1])])
    assert read_targets(both, "train", -100, None).labels[-2:].tolist() == [2, 1]


def test_labels_that_the_samples_contradict_are_not_believed():
    shifted = Labelled([0, 1, 0, 1], shift=1)
    assert read_targets(shifted, "train", -100, None).labels.tolist() == [1, 2, 1, 2]


def test_ignored_rows_and_positions_hold_nothing():
    data = TensorDataset(torch.zeros(4, 1), torch.tensor([0, -100, 2, 2]))
    targets = read_targets(data, "train", -100, 4)
    assert targets.labels.tolist() == [0, -1, 2, 2]
    assert targets.counts().tolist() == [1, 0, 2, 0]
    held = read_targets(masks(), "train", 255, None)
    assert held.kind == "masks"
    assert held.counts().sum() == 12 * 30


def refused(data, **given):
    with pytest.raises(StudyError) as caught:
        read_targets(data, "train", given.get("ignore_index", -100), given.get("classes"))
    return str(caught.value)


def test_targets_that_are_none_are_refused():
    zeros = torch.zeros(3, 1)
    assert refused([]) == "train has no rows"
    assert "target of row 0 is torch.float32" in refused(TensorDataset(zeros, zeros[:, 0]))
    assert "row 2 has class 7; expected 0 to 2" in refused(
        TensorDataset(zeros, torch.tensor([0, 1, 7])), classes=3
    )
    assert "every target is the ignored class 1" in refused(
        TensorDataset(zeros, torch.ones(3, dtype=torch.long)), ignore_index=1
    )
    assert "has the keys 'x', 'y'" in refused([{"x": 1, "y": 2}])
    assert "a sample is a Tensor" in refused(torch.zeros(3))
    assert "one class, a mask (H, W) or a sequence (T)" in refused(
        TensorDataset(zeros, torch.zeros(3, 1, 2, 2, dtype=torch.long))
    )


def test_each_class_gives_its_share_and_keeps_a_row():
    data = blobs(rows=200, classes=4)
    targets = read_targets(data, "train", -100, None)
    stay, apart = carve(targets, np.arange(200), None, 0.2, np.random.default_rng(0))
    assert sorted([*stay, *apart]) == list(range(200))
    whole = np.bincount(targets.labels)
    expected = [min(max(1, round(0.2 * n)), n - 1) for n in whole]
    assert np.bincount(targets.labels[apart], minlength=4).tolist() == expected
    assert (np.bincount(targets.labels[stay], minlength=4) >= 1).all()
    again = carve(targets, np.arange(200), None, 0.2, np.random.default_rng(0))
    assert np.array_equal(again[1], apart)
    other = carve(targets, np.arange(200), None, 0.2, np.random.default_rng(1))
    assert not np.array_equal(other[1], apart)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_never_on_two_sides(seed):
    rng = np.random.default_rng(seed)
    data = blobs(rows=400, classes=5, seed=seed)
    targets = read_targets(data, "train", -100, None)
    groups = rng.integers(0, 60, 400)
    stay, apart = carve(targets, np.arange(400), groups, 0.2, rng)
    assert not set(groups[stay]) & set(groups[apart])
    assert sorted([*stay, *apart]) == list(range(400))
    assert len(apart) / 400 == pytest.approx(0.2, abs=0.06)
    kept = np.bincount(targets.labels[stay], minlength=5)
    assert (kept >= 1).all()
    common = np.bincount(targets.labels)[:3]
    shares = np.bincount(targets.labels[apart], minlength=5)[:3] / common
    assert shares == pytest.approx([0.2] * 3, abs=0.12)


def test_masks_are_carved_so_that_rare_pixels_land_on_both_sides():
    targets = read_targets(masks(rows=80), "train", 255, None)
    _, apart = carve(targets, np.arange(80), None, 0.25, np.random.default_rng(0))
    assert targets.counts(apart) / targets.counts() == pytest.approx([0.25] * 4, abs=0.1)


def test_groups_that_cannot_be_parted_are_refused():
    targets = read_targets(blobs(rows=30), "train", -100, None)
    with pytest.raises(StudyError, match="no 20% of the groups"):
        carve(targets, np.arange(30), np.zeros(30, int), 0.2, np.random.default_rng(0))
    with pytest.raises(StudyError, match="groups has 2 entries and train has 3 rows"):
        checked_groups(["a", "b"], 3)
    assert checked_groups(["b", "a", "b"], 3).tolist() == [0, 1, 0]


def test_validation_comes_from_train_and_test_rows_stay_apart():
    problem, plan = problem_of(None, train=blobs(rows=300), test=None)
    plan = type(plan)(**{**vars(plan), "test": 0.2, "validation": 0.2})
    split = problem.split(plan, 0)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts)) == list(range(300))
    assert [len(p) for p in parts] == pytest.approx([180, 60, 60], abs=4)
    assert not np.array_equal(split.test, problem.split(plan, 1).test)


class Output:
    def __init__(self, logits):
        self.logits = logits


def test_batches_and_outputs_of_every_form():
    x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    assert parted((x, y)) == (x, y)
    inputs, target = parted([x, 2 * x, y])
    assert len(inputs) == 2
    assert target is y
    inputs, target = parted({"input_ids": x, "labels": y})
    assert list(inputs) == ["input_ids"]
    assert call(lambda a, b: (a, b), (1, 2)) == (1, 2)
    assert call(lambda a, b: (a, b), {"b": 1, "a": 2}) == (2, 1)
    assert call(lambda a: a, x) is x
    z = torch.zeros(2, 5, 3)  # (B, T, C)
    tokens = torch.zeros(2, 5, dtype=torch.long)
    for output in (z, Output(z), {"logits": z}):
        assert logits_of(output, tokens, 3).shape == (2, 3, 5)
    assert logits_of(z.movedim(-1, 1), tokens, 3).shape == (2, 3, 5)
    with pytest.raises(StudyError, match="the network gives 4 logits for each position"):
        logits_of(torch.zeros(2, 4), y, 3)
    with pytest.raises(StudyError, match="expected logits, or an output"):
        logits_of("no", y, 3)
    with pytest.raises(StudyError, match=r"of shape \(3, 3\) for targets of shape \(2,\)"):
        logits_of(torch.zeros(3, 3), y, 3)


def test_logits_are_those_of_the_rows_in_their_order():
    data, net = blobs(rows=23), linear()
    rows = np.array([5, 2, 22, 9, 0])
    logits = predicted(data, rows, net=net).logits
    direct = net(data.tensors[0][rows]).detach().float().numpy()
    assert logits == pytest.approx(direct)
    assert predicted(data, rows, net=net, batch_size=2).logits == pytest.approx(direct)
    again = Predictions.unpacked(predicted(data, rows, net=net).packed())
    assert np.array_equal(again.logits, logits)


@pytest.mark.parametrize("rows", [23, 2])
def test_three_ranks_score_every_row_once(rows):
    alone = predicted(Noisy(blobs(rows=29)), np.arange(rows)).logits
    for logits in run_ranks(score_in_ranks, 3, rows):
        assert logits == pytest.approx(alone)


def mask_predictions(data, net, rows, ranks=Ranks()):  # noqa: B008
    return predict(
        net,
        Loader(data, 0, "test"),
        rows,
        "masks",
        4,
        batch_size=4,
        device="cpu",
        ranks=ranks,
        ignore_index=255,
    )


def test_a_mask_leaves_the_confusion_matrix_of_its_known_pixels():
    data = masks()
    torch.manual_seed(0)
    net = nn.Conv2d(1, 4, 3, padding=1)
    rows = np.array([3, 0, 11, 5, 6])
    confusion = mask_predictions(data, net, rows).confusion
    for row, found in zip(rows, confusion, strict=True):
        image, target = data[row]
        guess = net(image[None])[0].argmax(0)
        for c in range(4):
            for d in range(4):
                assert found[c, d] == int(((target == c) & (guess == d)).sum())


def test_memory_while_scoring_masks_does_not_grow_with_them():
    def peak(rows):
        data = masks(rows=8, size=64)
        many = Subset(data, np.arange(rows) % 8)
        tracemalloc.start()
        net = nn.Conv2d(1, 4, 1)
        found = mask_predictions(many, net, np.arange(rows)).confusion
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size, found.nbytes

    small, _ = peak(16)
    large, kept = peak(256)
    assert kept == 256 * 16 * 4
    # The loader's list of rows, and a few copies of the matrices; 256 masks alone are 8 MB.
    assert large - small < 6 * kept


@pytest.mark.parametrize("kind", ["classes", "masks"])
def test_every_score_follows_from_the_marks(kind):
    from steelyard.compare.training import statistics

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 90)
    units = np.arange(90) // 2
    if kind == "classes":
        said = Predictions(logits=rng.normal(size=(90, 4)).astype(np.float32))
        marks = Marks.of(said, labels, units)
        matrix = said.matrix(labels)
    else:
        said = Predictions(confusion=rng.integers(0, 9, (90, 4, 4)).astype(np.int32))
        marks = Marks.of(said, None, units)
        matrix = said.matrix(None)
    assert marks.units == 45
    for name in ("balanced_accuracy", "macro_f1", "accuracy", "worst_class_recall"):
        assert statistics.score(name, marks) == pytest.approx(getattr(metrics, name)(matrix).item())
    expected = metrics.geometric_mean(matrix).item()
    assert statistics.score("geometric_mean", marks) == pytest.approx(expected)
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    assert statistics.score("mean_iou", marks) == pytest.approx((hits / union).mean().item())


def test_what_is_kept_in_half_precision_is_only_what_is_large(monkeypatch):
    monkeypatch.setattr("steelyard.compare.training.evaluation._WHOLE", 20)
    assert predicted(blobs(rows=23), np.arange(6)).logits.dtype == np.float32
    assert predicted(blobs(rows=23), np.arange(7)).logits.dtype == np.float16


def test_a_part_knows_its_name():
    assert part("test", blobs()).name == "test"
