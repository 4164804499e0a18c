"""What a candidate costs in accuracy: it is said, and it decides among what is tied."""

import pytest

from steelyard.compare.evidence import RepeatedSplits
from steelyard.compare.prices import prices, said_of_dearer, said_of_price
from steelyard.compare.verdict import Measure, judge

TITLES = {
    "cross-entropy": "Cross-entropy",
    "post-hoc": "Post-hoc logit adjustment",
    "weighted": "Weighted cross-entropy",
    "la": "Logit-adjusted",
}
BASE = [0.50, 0.51, 0.49, 0.50, 0.52]
# All three are better than cross-entropy and cannot be told from each other.
BETTER = {
    "post-hoc": [0.66, 0.64, 0.63, 0.66, 0.64],
    "weighted": [0.68, 0.68, 0.62, 0.70, 0.62],
    "la": [0.64, 0.68, 0.63, 0.65, 0.65],
}


def said(accuracy, select="balanced_accuracy", preferred=None, values=BETTER):
    """The verdict where candidates have these accuracies, and what it says from "Use" on."""
    entries = [
        {"name": name, "title": TITLES[name], "scores": {"accuracy": {"mean": mean}}}
        for name, mean in accuracy.items()
    ]
    values = {"cross-entropy": BASE, **values}
    price, measure = prices(select, entries), Measure(select, "balanced accuracy")
    evidence = RepeatedSplits({name: values[name] for name in accuracy}, 0.3)
    found = judge(evidence, TITLES, "cross-entropy", measure, preferred, price)
    use = next(k for k, sentence in enumerate(found.sentences) if sentence.startswith("Use "))
    return found, [
        *found.sentences[use:],
        *said_of_dearer(found, price, TITLES),
        *said_of_price(found, price, TITLES),
    ]


LEAD = (
    "The lead of Weighted cross-entropy (+1.4 points, 95 % interval -4.1 to +6.9) may be luck; "
    "more seeds can tell."
)


def test_the_simplest_is_taken_where_its_price_is_about_that_of_the_best():
    found, sentences = said({"cross-entropy": 0.9, "post-hoc": 0.8, "weighted": 0.829})
    assert (found.best, found.recommended, found.dearer) == ("weighted", "post-hoc", ())
    assert sentences == [
        "Use Post-hoc logit adjustment: the simplest that cannot be told from it.",
        LEAD,
        "It costs 10.0 points of accuracy: take it only if the rare classes are worth that.",
    ]


def test_what_costs_many_more_points_is_not_taken_for_being_simpler():
    found, sentences = said({"cross-entropy": 0.9, "post-hoc": 0.682, "weighted": 0.872})
    assert (found.best, found.recommended, found.dearer) == ("weighted", "weighted", ("post-hoc",))
    assert found.tied == ("post-hoc", "weighted")  # what the evidence says stays as it is
    assert sentences == [
        "Use Weighted cross-entropy.",
        "Simpler and not told from the best either, but dearer in accuracy: Post-hoc logit "
        "adjustment (21.8 points), where Weighted cross-entropy costs 2.8 points.",
    ]


def test_of_those_that_are_cheap_enough_the_simplest_is_taken():
    order = ("cross-entropy", "post-hoc", "la", "weighted")
    found, sentences = said(dict(zip(order, (0.9, 0.7, 0.9, 0.91), strict=True)))
    assert (found.best, found.recommended, found.dearer) == ("weighted", "la", ("post-hoc",))
    assert sentences[0] == (
        "Use Logit-adjusted: the simplest that cannot be told from it and is not much dearer."
    )
    assert sentences[1].startswith("The lead of Weighted cross-entropy (+1.0 points, 95 % interval")
    assert sentences[2:] == [
        "Simpler and not told from the best either, but dearer in accuracy: Post-hoc logit "
        "adjustment (20.0 points), where Logit-adjusted costs none."
    ]


@pytest.mark.parametrize(("accuracy", "recommended"), [(0.8701, "post-hoc"), (0.8699, "weighted")])
def test_three_points_of_accuracy_decide(accuracy, recommended):
    scores = {"cross-entropy": 0.9, "post-hoc": accuracy, "weighted": 0.9}
    assert said(scores)[0].recommended == recommended


def test_accuracy_that_is_gained_is_no_price():
    """Where test rows are balanced, accuracy is the score itself: luck is not counted twice."""
    found, sentences = said({"cross-entropy": 0.5, "post-hoc": 0.6, "weighted": 0.7})
    assert (found.recommended, sentences[1:]) == ("post-hoc", [LEAD])


def test_a_price_displaces_no_cross_entropy_and_the_dearer_leader_has_its_price():
    tied = {"weighted": [0.50, 0.61, 0.47, 0.50, 0.53]}
    found, sentences = said({"cross-entropy": 0.9, "weighted": 0.85}, values=tied)
    assert (found.best, found.recommended) == ("weighted", "cross-entropy")
    assert sentences[1].startswith("The lead of Weighted cross-entropy (+1.8 points, 95 %")
    assert sentences[2:] == ["It costs no accuracy, Weighted cross-entropy 5.0 points."]
    assert len(said({"cross-entropy": 0.9, "weighted": 0.8701}, values=tied)[1]) == 2


def test_what_decides_by_the_costs_is_taken_at_any_price_and_both_prices_are_said():
    found, sentences = said(
        {"cross-entropy": 0.9, "post-hoc": 0.7, "weighted": 0.869}, preferred="post-hoc"
    )
    assert (found.recommended, found.dearer) == ("post-hoc", ())
    assert sentences[1:] == [
        LEAD,
        "It costs 20.0 points of accuracy, Weighted cross-entropy 3.1 points: take it only if the "
        "rare classes are worth that.",
    ]


def test_where_costs_judge_nothing_has_a_price():
    assert prices("mean_cost", []) == {}
    entries = [{"name": "cross-entropy", "scores": {"accuracy": {"mean": None}}}]
    assert prices("balanced_accuracy", entries) == {}


@pytest.mark.parametrize("seeds", [4, 5])
@pytest.mark.parametrize(
    ("name", "other", "leader"),
    [
        ("balanced_accuracy", 0.61, "Highest mean balanced accuracy among the networks: Logit-"),
        ("balanced_accuracy", 0.59, "Highest mean balanced accuracy: Logit-adjusted (60.0 %)."),
        ("mean_cost", 0.45, "Lowest mean cost among the networks: Cross-entropy (0.5 per row)."),
        ("mean_cost", 0.55, "Lowest mean cost: Cross-entropy (0.5 per row)."),
    ],
)
def test_the_best_is_one_of_the_networks_where_another_model_is_better(name, other, leader, seeds):
    evidence = RepeatedSplits({"cross-entropy": [0.5] * seeds, "la": [0.6] * seeds}, 0.3)
    measure = Measure(name, name.replace("_", " "))
    worse = 0.4 if name == "balanced_accuracy" else 0.7
    found = judge(evidence, TITLES, "cross-entropy", measure, others=(worse, other))
    assert any(sentence.startswith(leader) for sentence in found.sentences)
