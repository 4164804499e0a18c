"""The statistics of networks against plain loops, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import sparse, stats

from steelyard.compare import evidence
from steelyard.compare.evidence import RepeatedSplits
from steelyard.compare.training import statistics
from steelyard.compare.training.evaluation import Marks
from steelyard.compare.training.statistics import resample


def marks_of(labels, guess, classes):
    def hot(values, keep=None):
        matrix = np.zeros((len(labels), classes))
        matrix[np.arange(len(labels)), values] = 1 if keep is None else keep
        return sparse.csr_array(matrix)

    return Marks(hot(labels, labels == guess), hot(labels), hot(guess))


def study(rng, candidates, seeds, rows=120, classes=3, skill=0.7, shift=0.0):
    """Marks of candidates that guess the class with some skill, and the labels."""
    labels = np.sort(rng.choice(classes, rows, p=[0.6, 0.3, 0.1]))
    marks = {}
    for name in candidates:
        better = shift if name != "base" else 0.0
        marks[name] = []
        for _ in range(seeds):
            right = rng.random(rows) < skill + better
            guess = np.where(right, labels, (labels + rng.integers(1, classes, rows)) % classes)
            marks[name].append(marks_of(labels, guess, classes))
    return marks, labels


def fixed(marks, score, labels, **given):
    return resample(marks, labels, [score], **given).tests[score]


def test_the_decisive_numbers():
    assert statistics.REPLICATES == 2000
    assert evidence.POWER == 0.8
    assert statistics.MANY_SEEDS == 10
    assert evidence.LEVEL == 0.05


def by_hand(marks, labels, a, b, replicates, resample_seeds=False):
    """Variance of the mean difference over test rows, or rows and seeds: a plain loop."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(replicates):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in range(3)]
        )
        per_seed = []
        for x, y in zip(marks[a], marks[b], strict=True):
            recalls = [
                np.nanmean(
                    (m.found.toarray()[rows].sum(0) / m.there.toarray()[rows].sum(0)),
                )
                for m in (x, y)
            ]
            per_seed.append(recalls[0] - recalls[1])
        picked = rng.choice(per_seed, len(per_seed)) if resample_seeds else per_seed
        found.append(np.mean(picked))
    return np.var(found, ddof=1)


def test_few_seeds_add_the_variance_over_test_rows_to_that_over_seeds():
    marks, labels = study(np.random.default_rng(0), ["base", "other"], 5)
    test = fixed(marks, "balanced_accuracy", labels)
    paired = test.against("other", "base")
    differences = np.array(test.values["other"]) - np.array(test.values["base"])
    over_rows = by_hand(marks, labels, "other", "base", 2000)
    error = math.sqrt(differences.var(ddof=1) / 5 + over_rows)
    assert paired.difference.mean == pytest.approx(differences.mean())
    half = stats.t.ppf(0.975, 4) * error
    assert paired.difference.high - paired.difference.mean == pytest.approx(half, rel=0.05)
    assert paired.p == pytest.approx(
        2 * stats.t.sf(abs(differences.mean()) / error, 4), rel=0.2, abs=0.01
    )
    expected = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * error
    assert paired.detectable == pytest.approx(expected, rel=0.05)
    assert paired.seeds == 5


def test_many_seeds_are_resampled_with_the_rows():
    marks, labels = study(np.random.default_rng(3), ["base", "other"], 12, shift=0.05)
    paired = fixed(marks, "balanced_accuracy", labels).against("other", "base")
    test = fixed(marks, "balanced_accuracy", labels)
    differences = np.array(test.values["other"]) - np.array(test.values["base"])
    variance = by_hand(marks, labels, "other", "base", 1000, resample_seeds=True)
    width = (paired.difference.high - paired.difference.low) / (2 * 1.96)
    assert width == pytest.approx(math.sqrt(variance), rel=0.1)
    assert paired.difference.low < differences.mean() < paired.difference.high


def test_a_class_keeps_its_rows_in_every_replicate():
    marks, labels = study(np.random.default_rng(0), ["base"], 1, rows=30)
    test = fixed(marks, "balanced_accuracy", labels, replicates=50)
    assert np.isfinite(test.resampled["base"]).all()


@pytest.mark.parametrize("seeds", [5, 12])
def test_no_difference_is_found_where_there_is_none(seeds):
    rejected = 0
    for k in range(100):
        marks, labels = study(np.random.default_rng(k), ["base", "other"], seeds, rows=80)
        p = fixed(marks, "balanced_accuracy", labels, replicates=300).against("other", "base").p
        rejected += p < 0.05
    assert rejected <= 10


def test_a_large_difference_is_found():
    marks, labels = study(np.random.default_rng(0), ["base", "other"], 5, shift=0.2, rows=400)
    assert fixed(marks, "balanced_accuracy", labels).against("other", "base").p < 0.01


def test_seeds_that_failed_are_left_out_in_pairs():
    marks, labels = study(np.random.default_rng(0), ["base", "other"], 6)
    marks["other"][2] = None
    marks["base"][4] = None
    test = fixed(marks, "accuracy", labels)
    assert test.against("other", "base").seeds == 4
    assert test.interval("other").mean == pytest.approx(
        np.mean([v for v in test.values["other"] if v is not None])
    )
    marks["other"] = [None] * 6
    empty = fixed(marks, "accuracy", labels).against("other", "base")
    assert (empty.seeds, empty.p, empty.detectable) == (0, None, None)


def test_one_seed_claims_nothing():
    marks, labels = study(np.random.default_rng(0), ["base", "other"], 1)
    paired = fixed(marks, "accuracy", labels).against("other", "base")
    assert paired.p is None
    assert paired.difference.low is None


def test_two_that_are_the_same_differ_by_nothing():
    marks, labels = study(np.random.default_rng(0), ["base"], 5)
    marks["other"] = marks["base"]
    paired = fixed(marks, "accuracy", labels).against("other", "base")
    assert paired.p == 1.0
    assert paired.difference.mean == 0


def test_carved_test_sets_are_corrected_for_their_overlap():
    rng = np.random.default_rng(0)
    values = {"base": list(rng.normal(0.7, 0.02, 5)), "other": list(rng.normal(0.72, 0.02, 5))}
    paired = RepeatedSplits(values, overlap=0.25).against("other", "base")
    d = np.array(values["other"]) - np.array(values["base"])
    error = d.std(ddof=1) * math.sqrt(1 / 5 + 0.25)
    assert paired.p == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 4))
    assert paired.difference.high == pytest.approx(d.mean() + stats.t.ppf(0.975, 4) * error)
    expected = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * error
    assert paired.detectable == pytest.approx(expected)


def test_classes_by_the_thousand_take_little_memory():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 5000)
    n = len(labels)

    def hot(values, keep=None):
        data = np.ones(n) if keep is None else keep.astype(float)
        return sparse.csr_array((data, values, np.arange(n + 1)), shape=(n, 1000))

    guess = np.where(rng.random(n) < 0.5, labels, rng.integers(0, 1000, n))
    marks = {"base": [Marks(hot(labels, labels == guess), hot(labels), hot(guess))] * 2}
    test = fixed(marks, "macro_f1", labels, replicates=40)
    assert 0 < test.interval("base").mean < 1


def test_recall_has_the_variance_of_its_test_rows():
    marks, labels = study(np.random.default_rng(0), ["base"], 1, rows=400, skill=0.7)
    variance = resample(marks, labels, ["accuracy"]).recall["base"]
    for c in range(3):
        n = (labels == c).sum()
        p = marks["base"][0].found.toarray()[labels == c, c].mean()
        assert variance[c] == pytest.approx(p * (1 - p) / n, rel=0.15)
