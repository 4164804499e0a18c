"""The statistics against SciPy and the literature, and the sentences they allow."""

import math

import numpy as np
import pytest
from scipy import stats

from steelyard.compare import results
from steelyard.compare.evidence import RepeatedSplits, compare, interval, p_value
from steelyard.compare.results import verdict_of
from steelyard.compare.verdict import Measure, judge

TITLES = {"cross-entropy": "Cross-entropy", "la": "Logit-adjusted", "focal": "Focal"}


def test_without_overlap_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.7, 0.05, 8), rng.normal(0.68, 0.05, 8)
    assert p_value(a - b, 0.0) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)


def test_overlap_widens_as_nadeau_and_bengio_say():
    # Ten 90/10 splits: the variance of the mean is (1/10 + 1/9)·s², not s²/10.
    d = np.array([0.02, 0.03, -0.01, 0.04, 0.01, 0.02, 0.00, 0.03, 0.02, 0.01])
    t = d.mean() / math.sqrt((1 / 10 + 1 / 9) * d.var(ddof=1))
    assert p_value(d, 1 / 9) == pytest.approx(2 * stats.t.sf(t, 9), rel=1e-12)


def test_interval_agrees_with_scipy_and_leaves_out_failures():
    values = [0.7, 0.8, None, 0.75, 0.9]
    known = [v for v in values if v is not None]
    found = interval(values, 0.0)
    expected = stats.t.interval(0.95, 3, np.mean(known), stats.sem(known))
    assert (found.low, found.high) == pytest.approx(expected)
    assert interval([None, None], 0.3).mean is None
    assert interval([0.5], 0.3).low is None


def test_the_interval_of_the_difference_excludes_zero_when_p_is_below_five_percent():
    for shift in np.linspace(0, 0.05, 30):
        d = np.array([-0.01, 0.0, 0.02, 0.01, -0.02]) + shift
        found = interval(d.tolist(), 0.3)
        assert (found.low > 0 or found.high < 0) == (p_value(d, 0.3) < 0.05)


def test_no_spread_proves_nothing():
    assert p_value(np.zeros(5), 0.3) == 1.0
    assert p_value(np.full(5, 0.1), 0.3) == 1.0
    assert p_value(np.array([0.1]), 0.3) is None


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e9])
def test_what_is_left_of_rounding_is_no_difference(size):
    """Of costs of any size: neither a mean of 5e-18 nor a spread that makes it significant."""
    base = [size * value for value in (0.2, 0.1, 0.3, 0.7, 0.9)]
    around = [0.1, -0.2, 0.3, -0.1, -0.1]  # their sum is 3e-17
    scores = {
        "cross-entropy": base,
        "la": [b + size * d for b, d in zip(base, around, strict=True)],
        "focal": [b + size * 1e-14 * k for k, b in enumerate(base)],
        "vs": [b + size * 1e-3 for b in base],
        "ldam": [b + size * 1e-9 * k for k, b in enumerate(base)],
    }
    la, focal, vs, ldam = compare(RepeatedSplits(scores, 0.3), "cross-entropy", -1)
    assert la.difference.mean == 0
    assert la.difference.low == -la.difference.high < 0
    assert focal.difference.to_dict() == {"mean": 0, "std": 0, "low": 0, "high": 0}
    assert vs.difference.mean == pytest.approx(1e-3 * size)
    assert {c.judgement for c in (la, focal, vs)} == {"no detectable difference"}
    assert ldam.difference.mean > 0
    alike = interval([size * (0.1 + 0.2), size * 0.3, size * 0.3], 0.3)
    assert alike.std == 0
    assert alike.low == alike.high == alike.mean


def test_one_pair_has_one_judgement():
    """Holm's correction of the pair depends on the others: against the best, two are clearer."""
    base = [0.70, 0.72, 0.68, 0.74, 0.71]
    best = [b + d for b, d in zip(base, [0.05, 0.09, 0.06, 0.10, 0.04], strict=True)]
    below = [b - 0.07 - 0.001 * (i % 2) for i, b in enumerate(best)]
    scores = {"cross-entropy": base, "focal": below, "vs": below, "la": best}
    evidence = RepeatedSplits(scores, 0.25)
    assert {c.judgement for c in compare(evidence, "cross-entropy")} == {"no detectable difference"}
    assert compare(evidence, "la")[0].judgement == "worse"
    found = judge(
        evidence,
        TITLES | {"vs": "Vector scaling"},
        "cross-entropy",
        Measure("accuracy", "accuracy"),
    )
    assert found.recommended == "cross-entropy"
    assert found.tied == ("cross-entropy", "la")
    assert "may be luck" in found.sentences[-1]


def test_holm_by_hand():
    base = [0.5] * 5
    scores = {
        "cross-entropy": base,
        "la": [0.60, 0.61, 0.59, 0.60, 0.62],
        "focal": [0.52, 0.53, 0.49, 0.51, 0.52],
    }
    la, focal = compare(RepeatedSplits(scores, 0.3), "cross-entropy")
    assert la.p_holm == pytest.approx(2 * la.p)
    assert focal.p_holm == pytest.approx(max(2 * la.p, focal.p))
    assert (la.judgement, focal.judgement) == ("better", "no detectable difference")


def test_pairs_are_by_seed_and_failures_drop_their_pair():
    scores = {"cross-entropy": [0.5, 0.6, None, 0.7], "la": [0.6, None, 0.9, 0.8]}
    (la,) = compare(RepeatedSplits(scores, 0.3), "cross-entropy")
    assert la.seeds == 2
    assert la.difference.mean == pytest.approx(0.1)
    assert la.judgement == "too few seeds"
    (nothing,) = compare(
        RepeatedSplits({"cross-entropy": [0.5], "la": [None]}, 0.3), "cross-entropy"
    )
    assert nothing.judgement == "failed"


def verdict(**scores):
    named = {name.replace("_", "-"): values for name, values in scores.items()}
    measure = Measure("balanced_accuracy", "balanced accuracy")
    return judge(RepeatedSplits(named, 0.3), TITLES, "cross-entropy", measure)


def test_a_clear_winner_in_words():
    found = verdict(
        cross_entropy=[0.50, 0.51, 0.49, 0.50, 0.52],
        la=[0.60, 0.61, 0.60, 0.61, 0.62],
        focal=[0.40, 0.41, 0.38, 0.41, 0.42],
    )
    assert found.recommended == found.best == "la"
    assert found.sentences == (
        "Better than tuned cross-entropy in balanced accuracy: Logit-adjusted (+10.4 points, "
        "95 % interval +9.3 to +11.5).",
        "Worse than tuned cross-entropy in balanced accuracy: Focal (-10.0 points, 95 % interval "
        "-11.4 to -8.6).",
        "Highest mean balanced accuracy: Logit-adjusted (60.8 %).",
        "Use Logit-adjusted.",
    )


def test_nothing_to_tell_apart_recommends_the_simplest():
    found = verdict(
        cross_entropy=[0.50, 0.55, 0.45, 0.50, 0.52], focal=[0.51, 0.54, 0.47, 0.49, 0.53]
    )
    assert found.recommended == "cross-entropy"
    assert found.sentences == (
        "No candidate can be told from tuned cross-entropy in balanced accuracy.",
        "Highest mean balanced accuracy: Focal (50.8 %).",
        "Use Cross-entropy: the simplest that cannot be told from it.",
        "The lead of Focal (+0.4 points, 95 % interval -2.2 to +3.0) may be luck; more seeds can "
        "tell.",
    )


def test_the_simplest_of_the_best_must_itself_beat_the_baseline():
    found = verdict(
        cross_entropy=[0.50, 0.51, 0.49, 0.50, 0.52],
        la=[0.70, 0.52, 0.75, 0.50, 0.60],  # tied with the best, but not shown to be better
        focal=[0.62, 0.63, 0.61, 0.62, 0.65],
    )
    assert set(found.tied) == {"la", "focal"}
    assert found.recommended == "focal"


def test_less_is_better_of_a_cost():
    """A candidate that costs less wins, and one that costs more is worse."""
    named = {
        "cross-entropy": [2.0, 2.1, 1.9, 2.0, 2.2],
        "la": [1.0, 1.1, 1.0, 1.1, 1.2],
        "focal": [3.0, 3.1, 2.8, 3.1, 3.2],
    }
    found = judge(
        RepeatedSplits(named, 0.3), TITLES, "cross-entropy", Measure("mean_cost", "mean cost")
    )
    assert found.recommended == found.best == "la"
    assert found.tied == ("la",)
    assert found.sentences == (
        "Better than tuned cross-entropy in mean cost: Logit-adjusted (-0.96 per row, 95 % "
        "interval -1.068 to -0.8525).",
        "Worse than tuned cross-entropy in mean cost: Focal (+1 per row, 95 % interval +0.8612 to "
        "+1.139).",
        "Lowest mean cost: Logit-adjusted (1.08 per row).",
        "Use Logit-adjusted.",
    )
    judged = compare(RepeatedSplits(named, 0.3), "cross-entropy", -1)
    assert [c.judgement for c in judged] == ["better", "worse"]


def preferring(name="expected-cost", **scores):
    named = {name.replace("_", "-"): values for name, values in scores.items()}
    titles = TITLES | {"expected-cost": "Least expected cost"}
    measure = Measure("mean_cost", "mean cost")
    return judge(RepeatedSplits(named, 0.3), titles, "cross-entropy", measure, name)


def test_what_decides_by_the_costs_is_taken_where_it_is_tied_with_the_best():
    scores = {
        "cross_entropy": [2.0, 2.1, 1.9, 2.0, 2.2],
        "expected_cost": [1.0, 2.0, 0.9, 2.3, 1.4],  # tied with the best, not shown to be better
        "la": [1.2, 1.35, 1.1, 1.2, 1.4],
    }
    found = preferring(**scores)
    assert (found.best, found.recommended) == ("la", "expected-cost")
    assert found.sentences[-3:] == (
        "Lowest mean cost: Logit-adjusted (1.25 per row).",
        "Use Least expected cost: it decides by your costs, and cannot be told from "
        "Logit-adjusted.",
        "The lead of Logit-adjusted (-0.27 per row, 95 % interval -1.41 to +0.8697) may be luck; "
        "more seeds can tell.",
    )
    assert preferring(name=None, **scores).recommended == "la"
    dear = scores | {"expected_cost": [1.7, 1.8, 1.65, 1.7, 1.9]}  # better, but not the best
    assert preferring(**dear).recommended == "la"


def test_four_seeds_give_no_verdict():
    found = verdict(cross_entropy=[0.5] * 4, la=[0.6] * 4)
    assert found.recommended is None
    assert found.sentences[0] == (
        "No verdict: 4 seeds, and it takes 5 to tell a difference from luck."
    )


def test_a_study_in_which_everything_failed_says_so():
    found = verdict(cross_entropy=[None] * 5, la=[None] * 5)
    assert found.sentences == ("No candidate finished a single seed.",)


def test_false_alarms_stay_below_five_percent():
    """Eight candidates that are all the baseline plus noise, in splits that share rows."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        shared = rng.normal(0, 0.02, (9, 1)) * 0.5  # what overlapping splits have in common
        scores = 0.7 + shared + rng.normal(0, 0.02, (9, 5))
        named = {"cross-entropy": scores[0].tolist()} | {
            f"c{i}": scores[i].tolist() for i in range(1, 9)
        }
        alarms += any(
            c.judgement == "better" for c in compare(RepeatedSplits(named, 1 / 3), "cross-entropy")
        )
    assert alarms <= 0.05 * 200


def differences(p, overlap=0.3):
    """Five differences to a baseline whose corrected resampled t-test has exactly this p."""
    noise = np.array([-0.01, 0.0, 0.02, 0.01, -0.02])
    t = -stats.t.ppf(p / 2, len(noise) - 1)
    return t * noise.std(ddof=1) * math.sqrt(1 / len(noise) + overlap) + noise


def judged_at(**p):
    base = np.full(5, 0.5)
    scores = {"cross-entropy": base.tolist()}
    scores |= {name: (base + differences(value)).tolist() for name, value in p.items()}
    return {c.candidate: c for c in compare(RepeatedSplits(scores, 0.3), "cross-entropy")}


def test_the_level_is_five_percent():
    assert judged_at(a=0.0499)["a"].judgement == "better"
    assert judged_at(a=0.0501)["a"].judgement == "no detectable difference"
    (low, high) = (interval(differences(p).tolist(), 0.3).low for p in (0.0499, 0.0501))
    assert low > 0 > high


def test_the_correction_is_holms_and_no_other():
    """Bonferroni gives 0.03, 0.12, 0.135; Hochberg 0.03, 0.045, 0.045; Šidák's Holm 0.0297, …."""
    found = judged_at(a=0.01, b=0.04, c=0.045)
    corrected = [found[name].p_holm for name in "abc"]
    assert corrected == pytest.approx([0.03, 0.08, 0.08], rel=1e-9)
    assert [found[name].judgement for name in "abc"] == [
        "better",
        *["no detectable difference"] * 2,
    ]
    # Three of 0.017 would each pass alone; the first to be tested pays for all three.
    assert {c.judgement for c in judged_at(a=0.017, b=0.017, c=0.017).values()} == {
        "no detectable difference"
    }


def verdict_with(
    accuracy: dict[str, float],
    worst: dict[str, float],
) -> list[str]:
    """The sentences where post-hoc adjustment is better by 20 points of balanced accuracy."""
    values = {"cross-entropy": [0.50, 0.51, 0.50, 0.49, 0.50], "post-hoc": [0.7] * 5}
    entries = [
        {"name": name, "title": name, "code": "", "scores": scores, "seeds": []}
        for name in values
        for scores in [
            {
                "balanced_accuracy": {"mean": sum(values[name]) / 5, "values": values[name]},
                "macro_f1": {"mean": 0.5},
                "accuracy": {"mean": accuracy[name]},
                "worst_class_recall": {"mean": worst[name]},
            }
        ]
    ]
    titles = {"balanced_accuracy": "balanced accuracy", "macro_f1": "F1", "accuracy": "accuracy"}
    evidence = RepeatedSplits(values, 0.25)
    said = verdict_of("balanced_accuracy", evidence, entries, titles, "abcd", [9] * 4, lambda: None)
    return said["sentences"]


def test_a_verdict_says_what_it_costs_and_which_class_it_never_finds():
    found = {"cross-entropy": 0.1, "post-hoc": 0.4}
    dear = verdict_with({"cross-entropy": 0.98, "post-hoc": 0.79}, found)
    assert dear[-1] == (
        "It costs 19.0 points of accuracy: take it only if the rare classes are worth that."
    )
    cheap = verdict_with({"cross-entropy": 0.98, "post-hoc": 0.96}, found)
    assert not any("It costs" in sentence for sentence in cheap)
    blind = verdict_with({"cross-entropy": 0.98, "post-hoc": 0.98}, found | {"post-hoc": 0.0})
    assert blind[-1] == "On no seed does it find a single row of the class that it is worst at."


def said_of_chance(mean, area, *matrices, classes=("fraud", "honest")):
    entry = {
        "name": "cross-entropy",
        "scores": {"balanced_accuracy": {"mean": mean}},
        "seeds": [{"status": "failed"}, *({"status": "done", "confusion": m} for m in matrices)],
    }
    return results._chance(entry, classes, lambda: area)


def test_a_study_that_learnt_nothing_says_so():
    assert said_of_chance(0.269, 0.519, classes="abcd") == [
        "Cross-entropy is at chance: balanced accuracy 26.9 %, 1/4, and ROC AUC 0.52: the network "
        "has learnt nothing, so nothing can be said of losses. Look at the data, or try other "
        "learning rates or more epochs."
    ]
    assert said_of_chance(0.271, 0.5, classes="abcd") == []
    assert said_of_chance(None, None) == []
    assert said_of_chance(0.213, None, classes="abcde") == [
        "Cross-entropy is at chance: balanced accuracy 21.3 %, 1/5. Either it has learnt nothing, "
        "or only what does not change its decision. Look at the data, or try other learning rates "
        "or more epochs."
    ]


def test_scores_that_order_the_rows_have_learnt_whatever_the_decision():
    first, second = [[0, 4], [0, 96]], [[0, 5], [0, 95]]
    assert said_of_chance(0.5, 0.89, first, second) == [
        "Cross-entropy decides at chance (balanced accuracy 50.0 %, 1/2): its largest score names "
        "'fraud' for no test row, as happens to rare classes. But its scores order the rows (ROC "
        "AUC 0.89, where 0.50 is chance), so it is the decision that has to move."
    ]
    named = [[1, 3], [2, 94]]
    assert "1/2). But its scores order the rows" in said_of_chance(0.5, 0.521, first, named)[0]
    assert said_of_chance(0.5, 0.79, named) == [
        "Cross-entropy decides at chance (balanced accuracy 50.0 %, 1/2). But its scores order the "
        "rows a little (ROC AUC 0.79, where 0.50 is chance). Either the decision has to move, or "
        "the network is not trained yet: repeat the study with twice the epochs before you believe "
        "its differences."
    ]
    assert "it is the decision" in said_of_chance(0.5, 0.8, named)[0]
    many = [[9, 0, 0], [5, 0, 0], [2, 0, 0]]
    assert (
        "names 2 of 3 classes for no test row" in said_of_chance(1 / 3, 0.8, many, classes="abc")[0]
    )
    assert "1/3). But" in said_of_chance(1 / 3, 0.8, [], classes="abc")[0]  # no matrices are kept
