"""Decisions against a search through everything that could be decided."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk

import steelyard as sy
from steelyard import _biases, metrics
from steelyard._biases import SCORES

BY_SCIKIT_LEARN = {
    "f1": lambda y, y_hat: sk.f1_score(y, y_hat, zero_division=0),
    "balanced_accuracy": sk.balanced_accuracy_score,
    "macro_f1": lambda y, y_hat: sk.f1_score(y, y_hat, average="macro", labels=[0, 1]),
    "matthews": sk.matthews_corrcoef,
    "accuracy": sk.accuracy_score,
}


def problem(seed, rows=60, classes=2, decimals=None):
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor([0.75, 0.2, 0.05][:classes])
    labels = torch.multinomial(shares, rows, True, generator=generator)
    labels[:classes] = torch.arange(classes)
    logits = torch.randn(rows, classes, generator=generator) + shares.log()
    logits[torch.arange(rows), labels] += 1.5
    return logits if decimals is None else logits.round(decimals=decimals), labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3])
def test_the_least_expected_cost_by_loops(seed, classes):
    logits, _ = problem(seed, classes=classes)
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randn(classes, classes + 1, generator=generator)  # one decision is no class
    p = logits.softmax(1)
    found = sy.decide(p, costs)
    for row, k in zip(p.double().tolist(), found.tolist(), strict=True):
        expected = [
            sum(row[c] * costs[c, j].double().item() for c in range(classes))
            for j in range(classes + 1)
        ]
        assert expected[k] == pytest.approx(min(expected), abs=1e-12)
    assert sy.decide(p[0], costs) == found[0]
    maps = p.T.reshape(1, classes, 6, 10)
    assert torch.equal(sy.decide(maps, costs.tolist()).flatten(), found)


def test_costs_are_read_in_float64():
    p = torch.tensor([[0.5, 0.5]])
    assert sy.decide(p, [[0, 1], [1 + 2**-40, 0]]).tolist() == [1]
    assert sy.decide(p, np.array([[0, 1], [1 - 2**-40, 0]])).tolist() == [0]


def test_equal_costs_are_the_most_probable_class():
    logits, _ = problem(0, classes=3)
    assert torch.equal(sy.decide(logits.softmax(1), 1 - torch.eye(3)), logits.argmax(1))
    assert sy.decide(torch.tensor([[0.5, 0.5]]), [[0, 1], [1, 0]]).tolist() == [0]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("score", BY_SCIKIT_LEARN)
@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_no_threshold_scores_better(seed, score, decimals):
    logits, labels = problem(seed, decimals=decimals)
    p = logits.softmax(1)[:, 1]
    threshold = sy.tune_threshold(p, labels, score)
    expected = BY_SCIKIT_LEARN[score]
    tried = [0.0, *p.tolist(), 2.0]
    best = max(expected(labels.numpy(), (p >= t).numpy().astype(int)) for t in tried)
    found = expected(labels.numpy(), (p >= threshold).numpy().astype(int))
    assert found == pytest.approx(best, abs=1e-12)


def test_a_threshold_lies_between_rows_and_near_one_half():
    p = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert sy.tune_threshold(p, torch.tensor([False, True])) == 0.5
    assert sy.tune_threshold(p, torch.tensor([False, False]), "accuracy") == 0.875
    assert sy.tune_threshold(torch.tensor([1.0, 1.0]), torch.tensor([0, 0]), "accuracy") == np.inf
    # Neighbouring numbers have nothing in between.
    low = torch.tensor(0.3)
    high = torch.nextafter(low, torch.tensor(1.0))
    threshold = sy.tune_threshold(torch.stack([low, high]), torch.tensor([0, 1]))
    assert ((torch.stack([low, high]) >= threshold) == torch.tensor([False, True])).all()


def scored(logits, biases, labels, score):
    guess = (logits + biases).argmax(1)
    return score(metrics.confusion_matrix(guess, labels, logits.shape[1])[None]).nan_to_num(-1)[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("score", ["balanced_accuracy", "macro_f1", "matthews", "accuracy"])
@pytest.mark.parametrize("decimals", [None, 1])
def test_two_classes_get_the_best_threshold(seed, score, decimals):
    logits, labels = problem(seed, decimals=decimals)
    biases = sy.tune_biases(logits, labels, score)
    rate = getattr(metrics, score)
    gaps = logits[:, 0].double() - logits[:, 1].double()
    edges = [-100.0, *(gaps + 1e-9).tolist(), *(gaps - 1e-9).tolist(), 100.0]
    best = max(
        scored(logits.double(), torch.tensor([0.0, b], dtype=torch.float64), labels, rate)
        for b in edges
    )
    assert scored(logits, biases, labels, rate).item() == pytest.approx(best.item(), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("score", ["balanced_accuracy", "macro_f1", "worst_class_recall"])
def test_no_single_bias_leads_further_up(seed, score):
    logits, labels = problem(seed, rows=40, classes=3)
    rate = getattr(metrics, score)
    biases = sy.tune_biases(logits, labels, score)
    found = scored(logits, biases, labels, rate)
    assert found >= scored(logits, torch.zeros(3), labels, rate)
    for c in range(3):
        rivals = (logits.double() + biases).clone()
        rivals[:, c] = -torch.inf
        margins = rivals.amax(1) - logits[:, c].double()
        for b in [-100.0, 100.0, *(margins + 1e-9).tolist(), *(margins - 1e-9).tolist()]:
            other = biases.clone()
            other[c] = b
            assert scored(logits, other, labels, rate) <= found + 1e-12
    # Everything that two biases can decide: the peak is close to the summit, or is it.
    steps = torch.linspace(-4, 4, 41)
    summit = max(
        scored(logits, torch.tensor([0.0, a, b]), labels, rate)
        for a, b in itertools.product(steps.tolist(), steps.tolist())
    )
    assert found >= 0.93 * summit


def test_where_there_are_too_many_to_try_they_lie_evenly(monkeypatch):
    logits, labels = problem(0, rows=2000, classes=3)
    rate = metrics.balanced_accuracy
    exact = scored(logits, sy.tune_biases(logits, labels), labels, rate)
    monkeypatch.setattr(_biases, "_CELLS", 6 * 40)  # forty thresholds of two thousand
    coarse = scored(logits, sy.tune_biases(logits, labels), labels, rate)
    assert scored(logits, torch.zeros(3), labels, rate) < coarse <= exact + 0.01
    assert coarse >= exact - 0.02


@pytest.mark.parametrize("name", sorted(SCORES))
def test_a_score_by_name_is_found_as_its_function_is(name):
    """By name counts of C numbers are compared, by a function whole matrices."""
    logits, labels = problem(2, rows=200, classes=3)
    logits[::7, 2] = -torch.inf
    found = sy.tune_biases(logits, labels, name)
    assert torch.equal(found, sy.tune_biases(logits, labels, lambda cells: SCORES[name](cells)))
    assert found.count_nonzero()


def test_a_cost_is_a_score_too():
    logits, labels = problem(3)
    costs = torch.tensor([[0.0, 1.0], [20.0, 0.0]])
    p = logits.softmax(1)[:, 1]
    threshold = sy.tune_threshold(p, labels, lambda c: -metrics.mean_cost(c, costs))
    paid = [costs[labels, (p >= t).long()].mean().item() for t in [0, threshold, *p.tolist(), 2]]
    assert paid[1] == min(paid)


def test_a_search_begins_where_it_is_told_and_leaves_out_what_is_ignored():
    logits, labels = problem(1, classes=3)
    prior = -torch.tensor([0.75, 0.2, 0.05]).log()
    found = sy.tune_biases(logits, labels, start=prior)
    rate = metrics.balanced_accuracy
    assert scored(logits, found, labels, rate) >= scored(logits, prior, labels, rate)
    assert prior.dtype == torch.float32  # and is not changed
    more = torch.cat([logits, torch.full((5, 3), 7.0)])
    void = torch.cat([labels, torch.full((5,), 255)])
    assert torch.equal(sy.tune_biases(more, void, start=prior, ignore_index=255), found)
    maps, masks = logits.T.reshape(1, 3, 6, 10), labels.view(1, 6, 10)
    assert torch.equal(sy.tune_biases(maps, masks, start=prior), found)
    assert sy.fit_temperature(more, void, ignore_index=255) == sy.fit_temperature(maps, masks)


def test_a_class_that_is_ruled_out_stays_out():
    logits = torch.tensor([[0.0, -torch.inf, 1.0], [0.5, 0.0, -torch.inf], [0.0, 0.2, 0.1]])
    labels = torch.tensor([0, 1, 2])
    biases = sy.tune_biases(logits, labels)
    assert biases.isfinite().all()
    assert scored(logits, biases, labels, metrics.balanced_accuracy) >= 2 / 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.2, 1.0, 8.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_no_temperature_has_less_log_loss(seed, scale, classes):
    logits, labels = problem(seed, classes=classes)
    logits = scale * logits

    def loss(log_t):
        return torch.nn.functional.cross_entropy(logits.double() / np.exp(log_t), labels).item()

    found = sy.fit_temperature(logits, labels)
    best = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-12})
    assert loss(np.log(found)) <= best.fun + 1e-12
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)


@pytest.mark.parametrize("weight", [[1.0, 4.0, 20.0], {2: 0.25}])
@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_beside_class_weights_has_less_log_loss(seed, weight):
    logits, labels = problem(seed, rows=300, classes=3)
    w = torch.tensor([1.0, 1.0, 0.25] if isinstance(weight, dict) else weight).double()
    logits = 3 * (logits.double() + w.log())

    def loss(log_t):
        unweighted = logits / np.exp(log_t) - w.log()
        return torch.nn.functional.cross_entropy(unweighted, labels).item()

    found = sy.fit_temperature(logits, labels, weight=weight)
    best = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-12})
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)
    assert abs(found - sy.fit_temperature(logits, labels)) > 0.01
    assert sy.fit_temperature(logits, labels, weight=[1, 1, 1]) == sy.fit_temperature(
        logits, labels
    )


def test_temperatures_have_ends():
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Rows that are all right would have a model that is wholly sure, and wrong once without end.
    assert sy.fit_temperature(right, torch.tensor([0, 1])) == 1
    assert sy.fit_temperature(100 * right, torch.tensor([0, 1])) == 1
    assert sy.fit_temperature(right, torch.tensor([1, 0])) == 1e3
    with_rule = torch.tensor([[0.0, -torch.inf], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert sy.fit_temperature(with_rule, torch.tensor([0, 0, 0, 1])) == pytest.approx(
        1 / np.log(2), rel=1e-9
    )


P, Y = torch.tensor([0.2, 0.8]), torch.tensor([0, 1])
Z, COSTS = torch.zeros(2, 2), torch.tensor([[0.0, 5.0], [100.0, 0.0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sy.decide(Y, [[0, 1], [1, 0]]), TypeError, "probabilities are torch.int64"),
        (lambda: sy.decide(P, [[0, 1]]), ValueError, r"costs have shape \(1, 2\), and there are 2"),
        (lambda: sy.decide(P, [0, 1]), ValueError, r"costs have shape \(2,\)"),
        (lambda: sy.decide(P, [[0, np.inf], [1, 0]]), ValueError, "costs hold NaN or infinity"),
        (lambda: sy.decide(3 * P, [[0, 1], [1, 0]]), ValueError, r"go through \.softmax\(1\)"),
        (lambda: sy.decide(P - 1, [[0, 1], [1, 0]]), ValueError, "are negative or do not sum"),
        (
            lambda: sy.decide(P, {"fraud": 5}),
            TypeError,
            "costs are a dict, no matrix of numbers; expected a row for each true class and a "
            r"column for each decision, both in the order of the class indices, as in \[\[0, 5\], ",
        ),
        (lambda: sy.decide(P, None), TypeError, "costs are a NoneType, no matrix of numbers"),
        (lambda: sy.decide(P, "costs.csv"), TypeError, "costs are a str, no matrix of numbers"),
        (lambda: sy.decide(P, [[0, 5], [1]]), TypeError, "costs are a list, no matrix of numbers"),
        (lambda: sy.decide(P, [["0"], ["5"]]), TypeError, "costs are a list, no matrix of numbers"),
        (
            lambda: sy.decide(P, COSTS * 1j),
            TypeError,
            "costs are a torch.complex64 tensor, no matr",
        ),
        (
            lambda: sy.decide(P, pd.DataFrame([[0, 5], [100, 0]])),
            TypeError,
            r"costs are a DataFrame, .* Of a data frame in that order it is costs\.to_numpy\(\)",
        ),
        (
            lambda: sy.decide(P, 0.5),
            ValueError,
            r"costs have shape \(\), .*; a threshold t of class c needs no costs: .*\[:, c\] >= t",
        ),
        (
            lambda: sy.decide(P, torch.eye(3)),
            ValueError,
            r"costs have shape \(3, 3\), and there are",
        ),
        (
            lambda: sy.decide(torch.tensor([0.1, 0.2, 0.9]), COSTS),
            ValueError,
            r"there are 3 classes.*two classes .* two columns: torch\.stack\(\[1 - p, p\], -1\)",
        ),
        (lambda: sy.decide(P[:, None], COSTS), ValueError, "there is 1 class;.*have two columns"),
        (
            lambda: sy.decide(P[0], COSTS),
            ValueError,
            r"have shape \(\); expected \(N, C\), \(N, C, ",
        ),
        (
            lambda: sy.decide(P.numpy(), COSTS),
            TypeError,
            r"probabilities are an ndarray; expected a tensor: torch\.as_tensor",
        ),
        (lambda: sy.tune_threshold([0.2], Y), TypeError, "probabilities are a list; expected a te"),
        (lambda: sy.tune_threshold(P, [0, 1]), TypeError, "labels are a list; expected a tensor"),
        (lambda: sy.tune_threshold(P, Y, 2), ValueError, "there is no score 2; choose from: acc"),
        (lambda: sy.tune_threshold(P, Y, ["f1"]), ValueError, r"there is no score \['f1'\]; cho"),
        (
            lambda: sy.tune_biases(Z.numpy(), Y),
            TypeError,
            "logits are an ndarray; expected a tensor",
        ),
        (lambda: sy.tune_biases(Z, Y.numpy()), TypeError, "labels are an ndarray; expected a tens"),
        (lambda: sy.tune_biases(Z, Y, start=[0, 0]), TypeError, "start is a list; expected a ten"),
        (lambda: sy.fit_temperature(Z.tolist(), Y), TypeError, "logits are a list; expected a te"),
        (lambda: sy.tune_threshold(Y, Y), TypeError, "probabilities are torch.int64"),
        (lambda: sy.tune_threshold(P, P), TypeError, "labels are torch.float32"),
        (lambda: sy.tune_threshold(P, Y[:1]), ValueError, r"shape \(2,\) and labels \(1,\)"),
        (lambda: sy.tune_threshold(3 * P, Y), ValueError, r"not all in \[0, 1\]; logits go"),
        (lambda: sy.tune_threshold(P, 2 * Y), ValueError, "labels are not all 0 or 1"),
        (lambda: sy.tune_threshold(P, Y, "f2"), ValueError, "no score 'f2'; choose from: acc"),
        (lambda: sy.tune_threshold(P, Y, lambda c: c), ValueError, "one number for each"),
        (lambda: sy.tune_biases(Z, P), TypeError, "labels are torch.float32"),
        (lambda: sy.tune_biases(Y, Y), TypeError, "logits are torch.int64"),
        (lambda: sy.tune_biases(Z, Y[:1]), ValueError, r"\(2, 2\) and labels \(1,\); expected"),
        (lambda: sy.tune_biases(Z, Y - 100), IndexError, "label -99 is outside 0..1"),
        (lambda: sy.tune_biases(Z, Y, ignore_index=1, start=P[:1]), ValueError, r"shape \(1,\)"),
        (lambda: sy.tune_biases(Z / 0, Y), ValueError, "logits hold NaN"),
        (lambda: sy.fit_temperature(Z[:0], Y[:0]), ValueError, "no rows to choose by"),
        (
            lambda: sy.tune_threshold(torch.rand(3), torch.tensor([1, 0, -1])),
            ValueError,
            r"labels hold -1: leave out rows without a label, as in known = labels >= 0, "
            r"sy\.tune_threshold\(probabilities\[known\], labels\[known\]\)",
        ),
        (
            lambda: sy.tune_threshold(P, torch.tensor([1, -1])),
            ValueError,
            "labels are not all 0 or 1; compare them with the positive class first",
        ),
        (
            lambda: sy.tune_biases(Z, Y - 1),
            IndexError,
            "label -1 is outside .* 2 classes: rows without a label are left out by ignore_index=-",
        ),
        (lambda: sy.fit_temperature(Z, Y - 1), IndexError, "are left out by ignore_index=-1"),
        (lambda: sy.fit_temperature(Z, Y + 1), IndexError, "the logits have 2 classes$"),
        (lambda: sy.fit_temperature(Z, Y, weight=[0, 1]), ValueError, "weight of class 0 is 0"),
        (lambda: sy.fit_temperature(Z, Y, weight=[1, 1, 1]), ValueError, "weight has 3"),
        (
            lambda: sy.fit_temperature(torch.tensor([[0, -torch.inf]]), Y[1:]),
            ValueError,
            "a label has the logit −inf",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.bool])
@pytest.mark.parametrize(
    ("logits", "labels"), [((4,), (4,)), ((4, 1), (4,)), ((4, 1), (4, 1)), ((4, 3), (4, 3))]
)
def test_one_logit_and_several_labels_are_told_where_to_go(logits, labels, dtype):
    z, y = torch.zeros(logits), torch.zeros(labels, dtype=dtype)
    told = "; of one logit for two classes, and of several labels, "
    with pytest.raises(ValueError, match=f"{told}sy.fit_platt_scaling fits a scale and a shift of"):
        sy.fit_temperature(z, y)
    with pytest.raises(ValueError, match=f"{told}sy.tune_threshold tunes a threshold of each"):
        sy.tune_biases(z, y)
