"""What an epoch reads where classes are drawn evenly, or rows are made between rows."""

import numpy as np
import pytest

from steelyard import compare
from steelyard.compare.candidates import build_loss, candidate
from steelyard.compare.code import Told, python_lines
from steelyard.compare.tables.prepare import Part
from steelyard.compare.tables.sampler import Sampler

COUNTS = (600, 60, 12, 4, 1)
RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat(np.arange(5), COUNTS))
PART = Part(RNG.normal(size=(len(LABELS), 3)).astype(np.float32), LABELS)


def sampler(name, start=0, part=PART):
    return Sampler(3, part, candidate(name), start)


@pytest.mark.parametrize("name", ["balanced-sampling", "smote"])
def test_every_class_is_as_frequent_as_any_other(name):
    read = [sampler(name)(epoch).rows for epoch in range(60)]
    assert {len(rows) for rows in read} == {len(LABELS)}
    shares = np.bincount(LABELS[np.concatenate(read)]) / (60 * len(LABELS))
    assert shares == pytest.approx([0.2] * 5, abs=0.01)


def test_within_a_class_every_row_is_as_frequent_as_any_other():
    read = np.concatenate([sampler("balanced-sampling")(epoch).rows for epoch in range(200)])
    times = np.bincount(read, minlength=len(LABELS))[LABELS == 1]
    assert times.min() > 0.75 * times.mean()
    assert times.max() < 1.25 * times.mean()


def test_deferred_sampling_reads_all_rows_until_it_sets_in():
    deferred = sampler("deferred-sampling", start=4)
    plain = sampler("cross-entropy")
    for epoch in range(4):
        assert (deferred(epoch).rows == plain(epoch).rows).all()
        assert sorted(deferred(epoch).rows) == list(range(len(LABELS)))
    assert (deferred(4).rows == sampler("balanced-sampling")(4).rows).all()


def test_smote_reads_points_between_a_row_and_one_of_its_five_nearest_of_its_class():
    rows, others, shares = sampler("smote")(0)
    assert (LABELS[rows] == LABELS[others]).all()
    assert 0 <= shares.min() < shares.max() < 1
    made = shares > 0
    # A class filled up to 600 rows would hold so many of its own.
    for c, count in enumerate(COUNTS):
        assert made[LABELS[rows] == c].mean() == pytest.approx(1 - count / 600, abs=0.1)
    for row, other in set(zip(rows[made].tolist(), others[made].tolist(), strict=True)):
        same = np.flatnonzero((LABELS[row] == LABELS) & (np.arange(len(LABELS)) != row))
        if not len(same):  # alone in its class: it stays as it is
            assert other == row
            continue
        distance = ((PART.features[same] - PART.features[row]) ** 2).sum(1)
        assert other in same[np.argsort(distance)[:5]]


def test_all_five_neighbours_are_met():
    lone = int(np.flatnonzero(LABELS == 2)[0])
    met = set()
    for epoch in range(40):
        rows, others, _ = sampler("smote")(epoch)
        met |= set(others[rows == lone].tolist())
    assert len(met) == 5


def test_an_epoch_depends_on_seed_and_epoch_alone():
    one, two = sampler("smote"), sampler("smote")
    one(0)
    for a, b in zip(one(5), two(5), strict=True):
        assert (a == b).all()
    assert not (one(5).rows == one(6).rows).all()


def test_sampling_alone_decides_and_no_weights_set_in():
    item = candidate("deferred-sampling")
    options = {"label_smoothing": 0.0}
    loss = build_loss(item, options, np.array([9, 3]), start=1)
    assert type(loss).__name__ == "CrossEntropyLoss"
    lines = python_lines(item, options, Told("# trained"))
    assert "class_weights" not in lines
    assert "# from epoch 4 * epochs // 5 on, batches in which every" in lines
    assert "SMOTE" in python_lines(candidate("smote"), options, Told("# trained"))


def test_a_study_has_them_beside_the_others():
    names = ["balanced-sampling", "deferred-sampling", "smote"]
    options = {"seeds": 1, "draws": 1, "epochs": 10, "hidden": 8, "references": []}
    found = compare.run(PART.features[LABELS < 4], LABELS[LABELS < 4], losses=names, **options)
    entries = {entry["name"]: entry for entry in found.results["candidates"]}
    assert [name for name in entries if name in names] == names
    losses = [entries[name]["seeds"][0]["curve"]["train_loss"] for name in names]
    plain = entries["cross-entropy"]["seeds"][0]["curve"]["train_loss"]
    assert losses[1][:8] == pytest.approx(plain[:8], rel=1e-5)  # the same until four fifths
    assert abs(losses[1][8] - plain[8]) > 0.1
    assert abs(losses[0][0] - plain[0]) > 0.05
    assert losses[2] != losses[0]
