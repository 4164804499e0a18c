"""What mistakes cost: the matrix as it is given, the decisions by it, and a study of it."""

import itertools
import json
import re

import numpy as np
import pytest
import torch

import steelyard as sy
from steelyard import compare
from steelyard.cli import main
from steelyard.compare.costs import fitted_costs, plain_costs, read_costs
from steelyard.compare.decisions import cheapest
from steelyard.compare.study import StudyError
from steelyard.report import render

CLASSES = ("a", "b", "c")
BY_NAME = {"c": {"b": 1, "a": 2}, "a": {"b": 3, "c": 4}, "b": {"a": 5, "c": 6, "b": -1}}
IN_ORDER = ((0.0, 3.0, 4.0), (5.0, -1.0, 6.0), (2.0, 1.0, 0.0))
FRAUD = {"fraud": {"honest": 100}, "honest": {"fraud": 5}}


def payments(rows=400):
    rng = np.random.default_rng(0)
    fraud = rng.random(rows) < 0.1
    features = rng.normal(size=(rows, 3)) + 1.2 * fraud[:, None]
    return features, np.where(fraud, "fraud", "honest")


def test_names_may_come_in_any_order_and_what_is_right_may_be_left_out():
    assert fitted_costs(plain_costs(BY_NAME), CLASSES) == IN_ORDER
    for matrix in (IN_ORDER, np.array(IN_ORDER), torch.tensor(IN_ORDER)):
        assert fitted_costs(plain_costs(matrix), CLASSES) == IN_ORDER
    numbers = {0: {1: 5}, 1: {0: 100}}
    assert fitted_costs(plain_costs(numbers), ("0", "1")) == ((0.0, 5.0), (100.0, 0.0))


def test_truth_values_may_be_written_as_python_does():
    costs = {True: {False: 100}, False: {True: 5}}
    assert fitted_costs(plain_costs(costs), ("false", "true")) == ((0.0, 5.0), (100.0, 0.0))
    twice = {"B": {"a": 1}, "b": {"a": 1}, "a": {"b": 1}}
    with pytest.raises(StudyError, match="costs name 'B', which is no class"):
        fitted_costs(plain_costs(twice), ("a", "b"))
    with pytest.raises(StudyError, match="costs name 'B', which is no class"):
        fitted_costs(plain_costs({"B": {"a": 1}}), ("a", "bb"))


def test_files_and_texts(tmp_path):
    table = tmp_path / "costs.csv"
    table.write_text(",b,a,c\nc,1,2,0\na,3,0,4\nb,-1,5,6\n")
    text = tmp_path / "costs.json"
    text.write_text(json.dumps(BY_NAME))
    for given in (str(table), str(text), json.dumps(BY_NAME), json.dumps(IN_ORDER)):
        assert fitted_costs(plain_costs(read_costs(given)), CLASSES) == IN_ORDER


@pytest.mark.parametrize(
    ("costs", "text"),
    [
        ({"a": {"d": 1}}, "costs name 'd', which is no class; the classes are 'a', 'b', 'c'"),
        ({"a": {"b": 1}}, "costs lack what it costs to decide 'c' where 'a' is true"),
        ({"a": 1}, "costs of 'a' are 1; expected decisions by name, as in {"),
        (BY_NAME | {"a": {"b": "x", "c": 4}}, "deciding 'b' where 'a' is true costs 'x'; expected"),
        (BY_NAME | {"a": {"b": np.nan, "c": 4}}, "deciding 'b' where 'a' is true costs nan"),
        ([[0, 1], [1, 0]], "costs have shape (2, 2), and there are 3 classes (a, b, c); expected"),
        (np.zeros((3, 3)), "every decision costs the same; expected mistakes to cost more"),
        (1 - np.array(IN_ORDER), "deciding 'a' where it is true costs 1, and deciding 'c' there"),
        ("costs", "costs are 'costs', which is no matrix of numbers; expected a row for each"),
    ],
)
def test_a_matrix_that_does_not_fit(costs, text):
    with pytest.raises(StudyError, match=re.escape(text)):
        fitted_costs(plain_costs(costs), CLASSES)


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "could not be read: No such file"), ("{a: 1}", "costs in costs.json are no JSON: ")],
)
def test_a_file_that_cannot_be_read(content, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / "costs.json").write_text(content)
    with pytest.raises(StudyError, match=text):
        read_costs("costs.json")


def test_decisions_are_those_of_a_search_ties_too():
    """Every decision of every row, one after the other, in Python's own arithmetic."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(1, 4, (500, 3), generator=generator).double()  # many rows tie
    costs = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    said = cheapest(2.0, costs)(2.0 * weights.log())
    ties = 0
    for row, decision in zip(weights.tolist(), said.decision.tolist(), strict=True):
        expected = [sum(p * costs[c][k] for c, p in enumerate(row)) for k in range(3)]
        ties += expected.count(min(expected)) > 1
        assert expected[decision] == min(expected)
    assert ties > 20
    whole = sy.decide(torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]]), 1 - np.eye(3))
    assert whole.tolist() == [2, 0]
    tied = sy.decide(torch.full((1, 4), 0.25), 1 - np.eye(4))
    assert tied.tolist() == [0]


def test_a_tuned_decision_of_a_cost_is_that_of_a_search():
    """Two classes: no threshold whatever costs less on the rows that it was chosen by."""
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(60, generator=generator) < 0.3).long()
    logits = torch.randn(60, 2, generator=generator) + torch.eye(2)[labels]
    logits = (8 * logits).round() / 8  # sums of eighths are exact, and many rows tie
    costs = [[0, 3], [7, 0]]

    def paid(decision):
        pairs = zip(labels.tolist(), decision.tolist(), strict=True)
        return sum(costs[c][k] for c, k in pairs) / 60

    biases = sy.tune_biases(logits, labels, lambda cells: -sy.metrics.mean_cost(cells, costs))
    margins = (logits[:, 0] - logits[:, 1]).double()
    tried = [*(margins + 1e-6).tolist(), -99.0]
    least = min(paid((margins < t).long()) for t in tried)
    assert paid((logits + biases).argmax(1)) == pytest.approx(least, abs=1e-12)


@pytest.fixture(scope="module")
def study():
    quick = {"seeds": 5, "draws": 2, "epochs": 8, "network": "small", "hidden": 8}
    losses = ["tuned-decision", "focal"]
    return compare.run(*payments(), losses=losses, costs=FRAUD, select="mean_cost", **quick)


def test_a_study_of_costs_is_about_costs(study):
    results = study.results
    assert results["costs"] == [[0.0, 100.0], [5.0, 0.0]]  # fraud before honest
    titles = {score["name"]: score for score in results["scores"]}
    assert titles["mean_cost"]["higher_is_better"] is False
    by_name = {entry["name"]: entry for entry in results["candidates"]}
    assert list(by_name)[:2] == ["cross-entropy", "expected-cost"]
    for entry in by_name.values():
        for cell in entry["seeds"]:
            validated = [trial["validation"] for trial in cell["trials"]]
            assert cell["chosen"] == int(np.argmin(validated))
            paid = np.sum(np.array(cell["confusion"]) * results["costs"])
            cost = cell["scores"]["mean_cost"]
            assert cost == pytest.approx(paid / np.sum(cell["confusion"]), abs=1e-12)
        assert entry["scores"]["mean_cost"]["low"] <= entry["scores"]["mean_cost"]["high"]
    plain, decided = by_name["cross-entropy"], by_name["expected-cost"]
    assert decided["scores"]["mean_cost"]["mean"] < plain["scores"]["mean_cost"]["mean"]
    for a, b in itertools.pairwise([decided["seeds"], plain["seeds"]]):
        for cell, other in zip(a, b, strict=True):
            if cell["chosen"] == other["chosen"]:
                assert cell["scores"]["mean_cost"] == other["scores"]["least_cost"]
    [row] = [
        row for row in results["comparisons"]["mean_cost"] if row["candidate"] == "expected-cost"
    ]
    assert row["difference"]["mean"] < 0
    assert row["judgement"] == "better"
    assert "Better than tuned cross-entropy in mean cost: Least expected cost (-" in study.verdict
    assert "Lowest mean cost" in study.verdict
    assert (
        "costs = [[0, 100], [5, 0]]  # classes 'fraud', 'honest': rows the truth, columns the "
        "decision\n" in decided["code"]
    )
    assert decided["code"].endswith(
        "\ndecision = sy.decide(probabilities, costs)"
        "  # 'fraud' above the threshold 5/(5 + 100) = 0.048"
    )
    assert "# classes: 0 'fraud', 1 'honest'\nclass_counts = " in by_name["post-hoc"]["code"]


def test_the_page_shows_curves_costs_and_repairs(study):
    page = render(json.loads(json.dumps(study.results)))
    pictures = json.loads(re.search(r'id="payload">(.*?)</script>', page)[1])["pictures"]
    names = {entry["name"] for entry in study.results["candidates"]}
    assert set(pictures["rankings"]) == set(pictures["costs"]) == names
    shapes = pictures["costs"]["focal"][0]["figure"]["layout"]["shapes"]
    assert shapes[0]["x0"] == pytest.approx(5 / 105)  # a fraud is worth an alarm from there on
    entry = next(e for e in study.results["candidates"] if e["name"] == "focal")
    *_, curve = pictures["costs"]["focal"][0]["figure"]["data"]
    costs = [cell["cost_curve"]["cost"] for cell in entry["seeds"]]
    assert curve["y"] == pytest.approx(np.mean(costs, axis=0), rel=1e-4)
    *_, mark = pictures["rankings"]["focal"][0]["figure"]["data"]
    recalls = [cell["recall"][0] for cell in entry["seeds"]]
    assert mark["x"] == pytest.approx([np.mean(recalls)], abs=1e-4)
    assert "Calibration as trained, with the shift undone, and with a temperature" in page
    assert "per row above cross-entropy; left is better" in page


def test_repairs_give_probabilities_back(study):
    for entry in study.results["candidates"]:
        scores = entry["scores"]
        known = entry["name"] in ("post-hoc", "tuned-decision", "weighted-cross-entropy")
        assert (scores["log_loss_corrected"]["mean"] is not None) == known
        if entry["name"] == "post-hoc":
            assert scores["log_loss_corrected"]["mean"] < scores["log_loss"]["mean"]
        assert scores["log_loss_tempered"]["mean"] is not None
    assert "Calibration error of its probability of 'fraud': " in study.verdict


def test_without_costs_there_is_nothing_to_decide_by():
    for wrong in ({"select": "mean_cost"}, {"losses": ["expected-cost"]}):
        with pytest.raises(StudyError, match="needs to know what mistakes cost; give costs, or"):
            compare.run(*payments(60), seeds=1, draws=1, epochs=1, **wrong)


def test_the_command_takes_costs(tmp_path, capsys, monkeypatch):
    features, labels = payments(80)
    rows = [",".join([*map(str, x), y]) for x, y in zip(features, labels, strict=True)]
    (tmp_path / "payments.csv").write_text("\n".join(["a,b,c,kind", *rows]))
    monkeypatch.chdir(tmp_path)
    arguments = "compare payments.csv --target kind --loss focal --seeds 1 --draws 1 --epochs 1"
    arguments = [*arguments.split(), "--hidden", "4", "--out", "found", "--costs"]
    assert main([*arguments, '{"fraud": {"honest": 9}}']) == 2
    assert "costs lack what it costs to decide 'fraud'" in capsys.readouterr().err
    assert main([*arguments, json.dumps(FRAUD), "--select", "mean_cost"]) == 0
    assert "Least expected cost" in capsys.readouterr().out
    assert "costs" in json.loads((tmp_path / "found/results.json").read_text())
    assert main([*arguments, json.dumps(FRAUD | {"honest": {"fraud": 6}})]) == 2
    assert "costs was" in capsys.readouterr().err
