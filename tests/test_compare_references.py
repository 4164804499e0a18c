"""What is no network: fitted as scikit-learn's user would, judged as the candidates are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import studies
from sklearn import metrics as theirs
from test_compare_protocol import blobs

from steelyard import compare
from steelyard._results import read_results
from steelyard.cli import main
from steelyard.compare.evidence import RepeatedSplits
from steelyard.compare.evidence import compare as compare_all
from steelyard.compare.study import Range
from steelyard.compare.tables.data import from_any
from steelyard.compare.tables.draws import draw_options
from steelyard.compare.tables.groups import reference_groups, run_group
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.references import REFERENCES, choose_references, reference
from steelyard.compare.tables.study import Study
from steelyard.compare.verdict import Measure, said_of_references
from steelyard.report.page import render

NAMES = [item.name for item in REFERENCES]
DATA = from_any(*blobs([120, 40, 12]))
STUDY = Study(("cross-entropy",), tuple(NAMES), seeds=1, draws=3)
QUICK = {"draws": 2, "epochs": 1, "hidden": 4, "losses": ["cross-entropy"], "network": "small"}


@pytest.fixture(scope="module")
def cells():
    found = [cell for g in reference_groups(NAMES, [0]) for cell in run_group(DATA, STUDY, g)]
    return {cell["candidate"]: cell for cell in found}


@pytest.fixture(autouse=True)
def quick_statistics(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels calls it, 0.1 s each time


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)
        return compare.run(*blobs([120, 40, 12]), seeds=5, out=folder, **QUICK)


@pytest.mark.parametrize("name", NAMES)
def test_its_lines_of_python_give_the_test_score_that_it_is_told(cells, name):
    cell, part = cells[name], prepare(DATA, 0, 0.2, 0.2)
    given = {"train_features": part.train.features.astype(float), "train_labels": part.train.labels}
    exec(reference(name).python_lines(cell["trials"][cell["chosen"]]["options"]), given)
    model, test = given["model"], part.test
    guess = model.predict(test.features.astype(float))
    scores = cell["scores"]
    assert scores["balanced_accuracy"] == pytest.approx(
        theirs.balanced_accuracy_score(test.labels, guess), abs=1e-9
    )
    probabilities = model.predict_proba(test.features.astype(float))
    assert scores["log_loss"] == pytest.approx(theirs.log_loss(test.labels, probabilities), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_draw_that_validated_best_is_chosen(cells, name):
    trials = cells[name]["trials"]
    assert len(trials) == STUDY.draws
    assert cells[name]["chosen"] == np.argmax([trial["validation"] for trial in trials])
    assert len({trial["validation"] for trial in trials}) > 1 or name == "logistic-regression"


def test_two_classes_have_log_odds_of_the_second():
    data = from_any(*blobs([150, 30]))
    (group,) = reference_groups(["logistic-regression"], [0])
    (cell,) = run_group(data, replace(STUDY, select="average_precision"), group)
    part = prepare(data, 0, 0.2, 0.2)
    given = {"train_features": part.train.features.astype(float), "train_labels": part.train.labels}
    options = cell["trials"][cell["chosen"]]["options"]
    exec(reference("logistic-regression").python_lines(options), given)
    order = given["model"].predict_proba(part.test.features.astype(float))[:, 1]
    expected = theirs.average_precision_score(part.test.labels == 1, order)
    assert cell["scores"]["average_precision"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("item", REFERENCES, ids=lambda item: item.name)
def test_draw_0_is_scikit_learns_defaults_and_half_of_the_others_are_balanced(item):
    first, *others = draw_options(item.space, 3, 9)
    given = item.keywords(first)
    defaults = item.model().get_params()
    assert {k: v for k, v in given.items() if k not in item.fixed} == {
        r.name: defaults[r.name] for r in item.space if r.name != "balanced"
    }
    assert sum(options["balanced"] for options in others) == 4
    for options in others:
        for r in item.space:
            assert r.low <= options[r.name] <= r.high


def test_what_they_draw_from_is_as_documented():
    """Wide enough to be no straw men, and trees whose leaves are held back on rare classes."""
    spaces = {
        item.name: {r.name: (r.low, r.high, r.scale) for r in item.space} for item in REFERENCES
    }
    switch = (0, 1, "switch")
    assert spaces == {
        "logistic-regression": {"balanced": switch, "C": (0.01, 100, "log")},
        "boosted-trees": {
            "balanced": switch,
            "learning_rate": (0.03, 0.3, "log"),
            "l2_regularization": (0, 2, "linear"),
            "max_iter": (50, 300, "whole"),
            "max_leaf_nodes": (8, 64, "whole"),
            "min_samples_leaf": (5, 50, "whole"),
        },
    }
    assert [dict(item.fixed) for item in REFERENCES] == [
        {"max_iter": 1000},
        {"early_stopping": False},
    ]


def test_whole_numbers_and_switches_are_drawn_as_such():
    assert [Range("leaves", 8, 64, 31, "whole").at(u) for u in (0.0, 0.5, 0.999)] == [8, 23, 64]
    assert [Range("on", 0, 1, 0, "switch").at(u) for u in (0.0, 0.499, 0.5)] == [0, 0, 1]


def test_they_are_in_a_block_of_their_own(study):
    results = study.results
    beside = results["references"]
    assert [entry["name"] for entry in beside["entries"]] == NAMES
    assert {entry["name"] for entry in results["candidates"]}.isdisjoint(NAMES)
    assert beside["against"] == results["verdict"]["recommended"]
    assert [row["candidate"] for row in beside["comparisons"]] == NAMES
    assert results["study"]["references"] == NAMES
    assert set(study.to_pandas()["candidate"]) > set(NAMES)
    text = str(study)
    assert text.index("Weighted cross-entropy") < text.index("Not a network")
    assert text.index("Not a network") < text.index("Gradient-boosted trees")
    page = render(results)
    assert "<h3>Not a network</h3>" in page
    assert page.count("Gradient-boosted trees: lines of Python and all 10 trials") == 1


def test_one_that_learns_what_the_network_cannot_is_named(study):
    """One epoch of four units: anybody is ahead of that."""
    title = {entry["name"]: entry["title"] for entry in study.results["candidates"]}
    against = title[study.results["references"]["against"]]
    assert f"Not a network, and clearly ahead of {against} in balanced accuracy: " in study.verdict


def test_the_level_is_the_studys_and_is_corrected_for_two():
    base = np.array([0.50, 0.52, 0.49, 0.51, 0.50])
    noise = np.array([0.02, -0.01, 0.0, 0.01, -0.02])
    titles = {"net": "The network", "lr": "Lines", "trees": "Trees"}

    def said(shift):
        values = {"net": base, "lr": base, "trees": base + shift + noise}
        found = compare_all(RepeatedSplits({k: v.tolist() for k, v in values.items()}, 0.3), "net")
        (sentence,) = said_of_references(found, titles, "net", Measure("accuracy", "accuracy"))
        return found[1].p, sentence

    p, sentence = said(0.034)
    assert 0.025 < p < 0.05  # alone it would count; of two it does not
    assert sentence.startswith("Neither Lines (0.0 points, the same on every seed) nor Trees (+3.4")
    assert sentence.endswith(") is clearly ahead of The network in accuracy.")
    p, sentence = said(0.04)
    assert p < 0.025
    assert sentence.startswith("Not a network, and clearly ahead of The network in accuracy: Trees")
    assert "Lines" not in sentence


def test_without_a_verdict_nothing_is_said_of_them():
    found = compare.run(*blobs([60, 30]), seeds=2, references=["logistic-regression"], **QUICK)
    assert "not a network" not in found.verdict.lower()
    assert found.results["references"]["comparisons"][0]["judgement"] == "too few seeds"


def test_they_are_stored_and_resumed(study, folder, monkeypatch):
    monkeypatch.setattr("steelyard.compare.tables.runner.timed_group", None)  # nothing is fitted
    again = compare.run(*blobs([120, 40, 12]), seeds=5, out=folder, **QUICK)
    assert again.results == study.results


def test_the_same_fit_twice_is_the_same(cells):
    for group in reference_groups(NAMES, [0]):
        (cell,) = run_group(DATA, STUDY, group)
        assert cell == cells[cell["candidate"]]


def test_none_of_them_can_be_asked_for(tmp_path, capsys):
    found = compare.run(*blobs([60, 30]), seeds=1, references=[], **QUICK)
    assert found.results["references"] == {"against": None, "entries": [], "comparisons": []}
    assert "Not a network" not in str(found) + render(found.results)
    assert choose_references(None) == tuple(NAMES)
    table = tmp_path / "t.csv"
    rows = zip(*blobs([30, 20]), strict=True)
    table.write_text("a,b,y\n" + "".join(f"{x[0]},{x[1]},k{y}\n" for x, y in rows))
    options = "--seeds 1 --draws 1 --epochs 1 --hidden 4 --loss focal --workers 1 --json"
    asked = ["compare", str(table), "--target", "y", "--out", str(tmp_path / "s"), *options.split()]
    assert main([*asked, "--no-references"]) == 0
    assert json.loads(capsys.readouterr().out)["references"]["entries"] == []


def test_a_name_that_is_none_is_refused():
    with pytest.raises(
        compare.StudyError,
        match=r"no reference called 'boosted-tree'\. Did you mean boosted-trees\? Choose from: log",
    ):
        choose_references(["boosted-tree"])
    with pytest.raises(compare.StudyError, match="expected a list of names"):
        choose_references("boosted-trees")


def test_a_script_has_no_references(tmp_path, capsys):
    script = tmp_path / "study.py"
    script.write_text("")
    assert main(["compare", str(script), "--no-references"]) == 2
    assert "--no-references belongs to tables" in capsys.readouterr().err


def test_damaged_references_are_named():
    results = studies.study()
    results["references"] = {"against": "nobody", "entries": [], "comparisons": []}
    with pytest.raises(ValueError, match="candidates lacks 'nobody'"):
        read_results(results)
    row = results["comparisons"]["balanced_accuracy"][0] | {"candidate": "trees"}
    results["references"] = {"against": "focal", "entries": [], "comparisons": [row]}
    with pytest.raises(ValueError, match="references lacks 'trees', which its comparisons name"):
        read_results(results)


def test_progress_is_told_draw_by_draw():
    shares = []
    (group,) = reference_groups(["boosted-trees"], [0])
    run_group(DATA, STUDY, group, shares.append)
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
