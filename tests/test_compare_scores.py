"""Scores of two classes and of an order in a study: the numbers, and choosing by them."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from steelyard import compare
from steelyard._units import shown
from steelyard.compare.decisions import Decided
from steelyard.compare.scores import TITLES, Scoring, score_predictions
from steelyard.compare.study import StudyError
from steelyard.compare.tables.shape import Shape
from steelyard.compare.tables.stack import Networks
from steelyard.compare.tables.study import Study
from steelyard.compare.tables.train import Rows
from steelyard.compare.tables.trained import selecting_scores

QUICK = {"losses": ["cross-entropy"], "seeds": 1, "draws": 2, "epochs": 2, "hidden": 4}


def table(classes=2, rows=300):
    rng = np.random.default_rng(0)
    labels = rng.choice(classes, rows, p=[0.9, 0.1] if classes == 2 else [0.6, 0.3, 0.1])
    features = rng.normal(size=(rows, 3)) + labels[:, None]
    return features, np.array(["yes", "no", "odd"] if classes == 3 else ["no", "yes"])[labels]


@pytest.mark.parametrize("positive", [0, 1])
def test_a_cell_holds_what_scikit_learn_says(positive):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 2, generator=generator).round(decimals=1)
    labels = (torch.rand(200, generator=generator) < 0.2).long()
    scoring = Scoring(2, positive, at=0.5)
    found = score_predictions(Decided(logits), labels, np.array([160, 40]), scoring)["scores"]
    assert set(found) == {*TITLES, *scoring.selectable}
    y = (labels == positive).numpy()
    ranks = (logits[:, positive].double() - logits[:, 1 - positive].double()).numpy()
    p = logits.double().softmax(1)[:, positive].numpy()
    guess = (logits.argmax(1) == positive).numpy()
    precision, recall, _ = sk.precision_recall_curve(y, ranks)
    expected = {
        "average_precision": sk.average_precision_score(y, ranks),
        "roc_auc": sk.roc_auc_score(y, ranks),
        "f1": sk.f1_score(y, guess),
        "matthews": sk.matthews_corrcoef(y, guess),
        "brier": sk.brier_score_loss(y, p),
        "recall_at_precision": recall[:-1][precision[:-1] >= 0.5].max(initial=0),
        "precision_at_recall": precision[:-1][recall[:-1] >= 0.5].max(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_more_classes_have_the_macro_forms():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 3, generator=generator)
    labels = torch.randint(3, (200,), generator=generator)
    found = score_predictions(Decided(logits), labels, np.array([50, 80, 70]), Scoring(3))["scores"]
    p, y = logits.double().softmax(1).numpy(), labels.numpy()
    expected = {
        "average_precision": sk.average_precision_score(y, p),
        "roc_auc": sk.roc_auc_score(y, p, multi_class="ovr"),
        "matthews": sk.matthews_corrcoef(y, p.argmax(1)),
        "brier": sk.brier_score_loss(y, p, labels=[0, 1, 2]),
    }
    assert set(found) == {*TITLES, *expected}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_every_score_chooses_by_the_validation_rows(classes):
    generator = torch.Generator().manual_seed(1)
    networks = Networks.initial([0, 1], 3, 3, Shape(4, 0, 5, 1, classes), "cpu", torch.float32)
    features = torch.randn(2, 150, 4, generator=generator)
    labels = torch.randint(classes, (2, 150), generator=generator)
    costs = (1 - np.eye(classes) + np.tri(classes, k=-1)).tolist()
    scoring, counts = Scoring(classes, 0, at=0.4, costs=costs), np.full(classes, 50)
    scale = torch.tensor([[1.0, 2.0, 3.0]] * 2)
    logits = scale[..., None, None] * networks.logits(features).detach()  # (S, T, C, B)
    for name in scoring.selectable:
        found = selecting_scores(name, scoring, networks, Rows(features, labels), scale)
        for s in range(2):
            for t in range(3):
                said = Decided(logits[s, t].T)
                expected = score_predictions(said, labels[s], counts, scoring)
                assert found[s, t] == pytest.approx(expected["scores"][name], abs=1e-6), name


@pytest.mark.parametrize("select", ["average_precision", "f1", "recall_at_precision"])
def test_a_study_of_two_classes_chooses_by_what_it_is_told(select):
    results = compare.run(*table(), **QUICK, select=select, at=0.5).results
    assert results["verdict"]["score"] == select
    assert select in results["comparisons"]
    plain, moved = results["candidates"][:2]
    for name in ("average_precision", "roc_auc"):  # a moved threshold ranks as it did
        if plain["seeds"][0]["chosen"] == moved["seeds"][0]["chosen"]:
            assert moved["scores"][name]["values"] == pytest.approx(plain["scores"][name]["values"])
    titles = {score["name"]: score["title"] for score in results["scores"]}
    assert titles["recall_at_precision"] == "recall at 50 % precision"


def test_the_positive_class_is_the_rarer_unless_it_is_named():
    study = Study(("cross-entropy",))
    assert study.scoring(["no", "yes"], [90, 10]).positive == 1
    assert study.scoring(["no", "yes"], [10, 90]).positive == 0
    named = Study(("cross-entropy",), positive="no")
    assert named.scoring(["no", "yes"], [90, 10]).positive == 0


def test_a_score_of_both_classes_needs_rows_of_both_to_choose_by():
    features, labels = table()
    rare = np.flatnonzero(labels == "yes")[2:]  # two are left: one trains, one tests
    data = np.delete(features, rare, 0), np.delete(labels, rare)
    with pytest.raises(StudyError, match="the rarer class has no row left to choose by"):
        compare.run(*data, **QUICK, select="average_precision")
    assert compare.run(*data, **QUICK).results["candidates"]


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (2, {"positive": "maybe"}, "positive is 'maybe'; choose from: 'no', 'yes'"),
        (3, {"positive": "yes"}, "positive is 'yes', and there are 3 classes"),
        (3, {"select": "f1"}, "select is 'f1', which is for two classes, and there are 3; choose"),
        (2, {"select": "few_shot"}, "select is 'few_shot'; choose from: balanced_accuracy, "),
        (2, {"select": "mean_cost"}, "select='mean_cost' needs to know what mistakes cost"),
        (2, {"at": 0.0}, "at is 0.0; it is a precision or a recall, as in 0.9"),
    ],
)
def test_refusals(classes, options, message):
    with pytest.raises(StudyError, match=message):
        compare.run(*table(classes), **QUICK, **options)


def test_the_positive_class_is_found_in_any_case_if_there_is_one_such():
    def position(positive, *classes):
        return Study(("cross-entropy",), positive=positive).scoring(classes, (5, 9)).positive

    for name in ("True", True, "TRUE", "true"):
        assert position(name, "false", "true") == 1
    assert position("Yes", "YES", "Yes") == 1
    with pytest.raises(StudyError, match="positive is 'yes'; choose from: 'YES', 'Yes'"):
        position("yes", "YES", "Yes")


@pytest.mark.parametrize("select", ["macro_f1", "average_precision"])
def test_a_tuned_decision_is_what_its_lines_of_code_do(select):
    """On one draw it is the baseline's network, with biases from the validation rows."""
    options = QUICK | {"losses": ["tuned-decision"], "draws": 1, "epochs": 20, "select": select}
    results = compare.run(*table(), **options).results
    by_name = {entry["name"]: entry for entry in results["candidates"]}
    plain, tuned = by_name["cross-entropy"], by_name["tuned-decision"]
    score = "f1" if select == "average_precision" else select
    assert (
        f'biases = sy.tune_biases(validation_logits, validation_labels, "{score}")' in tuned["code"]
    )
    order = [entry["scores"]["roc_auc"]["values"] for entry in (plain, tuned)]
    assert order[0] == pytest.approx(order[1])
    validation = [entry["seeds"][0]["trials"][0]["validation"] for entry in (plain, tuned)]
    assert validation[1] >= validation[0] - 1e-12
    assert tuned["seeds"][0]["curve"]["validation"] is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.00123456, "0.001235"),
        (3.88, "3.88"),
        (999.96, "1000"),
        (54321.4, "54,321"),
        (-2e6, "-2,000,000"),
    ],
)
def test_costs_of_any_size_have_no_exponent(value, words):
    assert shown("mean_cost", value) == words


@pytest.mark.parametrize(
    ("score", "value", "words"),
    [
        ("mean_cost", 0.0, "0"),
        ("mean_cost", -0.0, "0"),
        ("balanced_accuracy", -4e-4, "0.0"),
        ("balanced_accuracy", 4e-4, "0.0"),
        ("balanced_accuracy", -6e-4, "-0.1"),
        ("log_loss", -1e-5, "0.000"),
        ("mean_cost", -0.02, "-0.02"),
        ("mean_cost", 2000.0, "+2,000"),
    ],
)
def test_a_change_that_reads_as_zero_has_no_sign(score, value, words):
    assert shown(score, value, change=True) == words
