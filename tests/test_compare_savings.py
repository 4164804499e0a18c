"""What a study judged by costs says: what is saved, against cross-entropy and against no model."""

import pytest

from steelyard.compare import results
from steelyard.compare.prices import prices, said_of_price
from steelyard.compare.savings import said_of_savings
from steelyard.compare.verdict import Verdict

COSTS = [[0, 50], [1, 0]]
CLASSES = ("fraud", "honest")
TITLES = {"cross-entropy": "Cross-entropy", "expected-cost": "Least expected cost"}


def entries(**matrices):
    """Candidates with a confusion matrix, or None, for each seed."""
    made = []
    for name, of_seeds in matrices.items():
        name = name.replace("_", "-")
        values = [m and (50 * m[0][1] + m[1][0]) / sum(map(sum, m)) for m in of_seeds]
        cells = [
            {"status": "done", "confusion": m} if m else {"status": "failed"} for m in of_seeds
        ]
        scores = {"mean_cost": {"values": values}}
        made.append({"name": name, "title": TITLES[name], "scores": scores, "seeds": cells})
    return made


HONEST = [[0, 10], [0, 990]]


def said(recommended="expected-cost", **matrices):
    return said_of_savings(recommended, entries(**matrices), COSTS, CLASSES, 0.25)


def found(frauds, alarms):
    return [[frauds, 10 - frauds], [alarms, 990 - alarms]]


def test_cross_entropy_that_calls_every_row_the_same_is_one_rival_with_that():
    assert said(
        cross_entropy=[HONEST] * 5, expected_cost=[found(8, n) for n in (80, 90, 100, 110, 120)]
    ) == [
        "To call every row 'honest' costs 0.5 per row, and plain cross-entropy costs the same. "
        "Least expected cost saves 0.3 per row against both (95 % interval +0.2706 to +0.3294)."
    ]


def test_each_rival_has_its_own_saving_and_an_interval_that_holds_0_may_be_luck():
    assert said(
        cross_entropy=[found(5, n) for n in (30, 40, 50, 60, 70)],
        expected_cost=[found(6, n) for n in (180, 90, 40, 10, 20)],
    ) == [
        "Least expected cost saves 0.032 per row against plain cross-entropy (95 % interval "
        "-0.1252 to +0.1892, and that holds 0: it may be luck).",
        "To call every row 'honest' would cost 0.5 per row. Least expected cost saves 0.232 per "
        "row against that (95 % interval +0.102 to +0.362).",
    ]


def test_what_saves_nothing_is_said_to():
    assert said(
        cross_entropy=[HONEST] * 5, expected_cost=[found(5, n) for n in (230, 240, 250, 260, 270)]
    ) == [
        "To call every row 'honest' costs 0.5 per row, and plain cross-entropy costs the same. "
        "Least expected cost saves nothing against both (0 per row, 95 % interval -0.02945 to "
        "+0.02945)."
    ]
    assert said("cross-entropy", cross_entropy=[HONEST] * 5, expected_cost=[found(2, 200)] * 5) == [
        "To call every row 'honest' costs 0.5 per row, and plain cross-entropy costs the same: it "
        "saves nothing."
    ]
    assert said("cross-entropy", cross_entropy=[found(1, 60)] * 5, expected_cost=[HONEST] * 5) == [
        "To call every row 'honest' would cost 0.5 per row. Cross-entropy saves nothing against "
        "that (-0.01 per row, the same on every seed)."
    ]


def test_the_cheapest_constant_answer_is_a_class_by_what_it_costs_and_not_by_its_rows():
    many = [[20, 10], [0, 970]]  # 30 frauds: to miss all costs 1.5, to suspect all 0.97
    assert said(None, cross_entropy=[many] * 4) == [
        "To call every row 'fraud' would cost 0.97 per row."
    ]


def test_seeds_that_failed_are_left_out():
    some = said(cross_entropy=[HONEST, None, HONEST], expected_cost=[None, HONEST, HONEST])
    assert "saves nothing against both (0 per row, the same on every seed)." in some[0]
    one = said(cross_entropy=[HONEST] * 5, expected_cost=[*[None] * 4, found(8, 50)])
    assert "Least expected cost saves an unknown amount against both." in one[0]
    assert said(cross_entropy=[None] * 5, expected_cost=[None] * 5) == []


@pytest.mark.parametrize("select", ["mean_cost", "balanced_accuracy"])
def test_where_costs_judge_no_points_of_another_score_are_a_price(select):
    names = ("balanced_accuracy", "macro_f1", "accuracy", "worst_class_recall")
    made = [
        {"name": name, "scores": {score: {"mean": mean} for score in names}}
        for name, mean in (("cross-entropy", 0.95), ("expected-cost", 0.9))
    ]
    titles = {name: name for name in names}
    found = Verdict((), "expected-cost", ("expected-cost",), "expected-cost")
    said = [
        *results._price(select, "expected-cost", made, titles),
        *said_of_price(found, prices(select, made), {"expected-cost": "Least expected cost"}),
    ]
    assert len(said) == (0 if select == "mean_cost" else 2)
