"""Every score against scikit-learn, SciPy, torchmetrics or a count by hand."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torchmetrics.classification import MulticlassCalibrationError

from steelyard.metrics import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    evaluate,
    evaluate_stack,
    geometric_mean,
    macro_f1,
    precision,
    recall,
    reliability_bins,
    worst_class_recall,
)
from steelyard.metrics.calibration import reliability_of_class

SHARES = [0.7, 0.2, 0.08, 0.02]


def draw(seed, rows=800, classes=4, sharpness=2.0):
    """Imbalanced targets, and logits that know something about them."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor(SHARES[:classes])
    target = torch.multinomial(shares, rows, replacement=True, generator=generator)
    logits = sharpness * torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), target] += sharpness
    return logits, target


def quiet(score, *args, **options):
    with warnings.catch_warnings():  # scikit-learn warns of what is undefined
        warnings.simplefilter("ignore")
        return score(*args, **options)


def by_scikit_learn(logits, target):
    p = logits.double().softmax(1).numpy()
    y, y_hat = target.numpy(), p.argmax(1)
    labels = np.arange(logits.shape[1])
    per_class = quiet(sk.recall_score, y, y_hat, labels=labels, average=None)
    present = np.isin(labels, y)
    return {
        "accuracy": sk.accuracy_score(y, y_hat),
        "balanced_accuracy": quiet(sk.balanced_accuracy_score, y, y_hat),
        "macro_f1": sk.f1_score(y, y_hat, average="macro"),
        "worst_class_recall": per_class[present].min(),
        "geometric_mean": gmean(per_class[present]),
        "log_loss": sk.log_loss(y, p, labels=labels),
        "recall": [r if here else None for r, here in zip(per_class, present, strict=True)],
    }


def assert_equal_scores(scores, expected):
    for name, value in expected.items():
        # None, the undefined, becomes NaN
        found = np.array(getattr(scores, name), dtype=float)
        np.testing.assert_allclose(found, np.array(value, dtype=float), rtol=1e-12, err_msg=name)


class TestAgainstOthers:
    @pytest.mark.parametrize("seed", range(4))
    def test_scikit_learn(self, seed):
        logits, target = draw(seed)
        scores = evaluate(logits, target).scores
        assert_equal_scores(scores, by_scikit_learn(logits, target))
        expected = sk.precision_score(target, logits.argmax(1), average=None)
        assert scores.precision == pytest.approx(expected.tolist(), rel=1e-12)

    def test_scikit_learn_with_a_class_absent_from_the_test_set(self):
        logits, target = draw(0)
        target[target == 2] = 0  # class 2 is still predicted: F1 0, but no recall
        scores = evaluate(logits, target).scores
        assert_equal_scores(scores, by_scikit_learn(logits, target))
        assert scores.recall[2] is None
        assert scores.precision[2] == 0.0

    def test_scikit_learn_with_a_class_neither_there_nor_predicted(self):
        logits, target = draw(1)
        target[target == 2] = 0
        logits[:, 2] = -20.0
        scores = evaluate(logits, target).scores
        assert_equal_scores(scores, by_scikit_learn(logits, target))
        assert scores.recall[2] is None
        assert scores.precision[2] is None

    @pytest.mark.parametrize("sharpness", [0.3, 2.0, 6.0])
    def test_torchmetrics_calibration(self, sharpness):
        logits, target = draw(2, sharpness=sharpness)
        theirs = MulticlassCalibrationError(num_classes=4, n_bins=15, norm="l1")
        expected = theirs(logits.double().softmax(1), target).item()
        assert evaluate(logits, target).scores.calibration_error == pytest.approx(
            expected, abs=1e-6
        )

    def test_scikit_learn_reliability_diagram(self):
        logits, target = draw(3)
        confidence, prediction = logits.double().softmax(1).max(1)
        correct = prediction == target
        share, mean = calibration_curve(correct, confidence, n_bins=15)
        bins = evaluate(logits, target).reliability
        filled = bins.count > 0
        assert bins.accuracy[filled].tolist() == pytest.approx(share.tolist(), rel=1e-12)
        assert bins.confidence[filled].tolist() == pytest.approx(mean.tolist(), rel=1e-12)
        assert bins.count.sum() == len(target)

    def test_scikit_learn_confusion_matrix(self):
        logits, target = draw(4)
        expected = sk.confusion_matrix(target, logits.argmax(1))
        confusion = evaluate(logits, target).confusion
        assert confusion.dtype == torch.int64
        assert confusion.tolist() == expected.tolist()


class TestByHand:
    # 90 of 100 rows are class 0; the model finds 89 of them, 1 of 8 and 0 of 2
    CONFUSION = torch.tensor([[89, 1, 0], [7, 1, 0], [2, 0, 0]])

    def test_the_accurate_but_useless_model(self):
        assert accuracy(self.CONFUSION).item() == pytest.approx(0.90)
        assert recall(self.CONFUSION).tolist() == pytest.approx([89 / 90, 1 / 8, 0.0])
        assert balanced_accuracy(self.CONFUSION).item() == pytest.approx((89 / 90 + 1 / 8) / 3)
        assert worst_class_recall(self.CONFUSION).item() == 0.0
        assert geometric_mean(self.CONFUSION).item() == 0.0
        assert precision(self.CONFUSION)[:2].tolist() == pytest.approx([89 / 98, 1 / 2])
        assert precision(self.CONFUSION)[2].isnan()
        f1 = [2 * 89 / (2 * 89 + 1 + 9), 2 / (2 + 1 + 7), 0.0]
        assert macro_f1(self.CONFUSION).item() == pytest.approx(sum(f1) / 3)

    def test_everything_is_float64(self):
        logits, target = draw(0)
        bins = evaluate(logits.half(), target).reliability
        found = [bins.confidence, bins.accuracy, bins.calibration_error()]
        scores = (accuracy, balanced_accuracy, macro_f1, worst_class_recall, geometric_mean)
        found += [score(self.CONFUSION) for score in (*scores, recall, precision)]
        assert {tensor.dtype for tensor in found} == {torch.float64}

    def test_no_rows_are_undefined(self):
        empty = torch.zeros(3, 3, dtype=torch.long)
        for score in (accuracy, balanced_accuracy, macro_f1, worst_class_recall, geometric_mean):
            assert score(empty).isnan()

    def test_shot_groups(self):
        target = torch.tensor([0, 0, 1, 1, 2, 2, 3])
        logits = 5.0 * torch.eye(5)[[0, 0, 1, 2, 2, 0, 3]]
        scores = evaluate(logits, target, groups=((0,), (), (1, 2, 3, 4))).scores
        assert scores.many_shot_recall == 1.0
        assert scores.medium_shot_recall is None  # an empty group
        assert scores.few_shot_recall == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)  # no row of 4
        none_there = evaluate(logits, target, groups=((0,), (4,), (1, 2, 3))).scores
        assert none_there.medium_shot_recall is None
        without = evaluate(logits, target).scores
        assert without.many_shot_recall is without.few_shot_recall is None

    def test_reliability_bins_hold_their_upper_edge(self):
        confidence = torch.tensor([0.25, 0.25, 0.2500001, 0.5, 1.0], dtype=torch.float64)
        correct = torch.tensor([True, False, True, True, False])
        bins = reliability_bins(confidence, correct, bins=4)
        assert bins.count.tolist() == [2, 2, 0, 1]
        assert bins.accuracy[[0, 1, 3]].tolist() == [0.5, 1.0, 0.0]
        assert bins.accuracy[2].isnan()
        expected = 2 / 5 * 0.25 + 2 / 5 * (1 - 0.37500005) + 1 / 5 * 1.0
        assert bins.calibration_error().item() == pytest.approx(expected)
        assert bins.to_dict()["confidence"][2:] == [None, 1.0]

    def test_a_perfectly_calibrated_model(self):
        logits = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log().expand(400, 2)
        target = (torch.arange(400) % 4 == 0).long()
        assert evaluate(logits, target).scores.calibration_error == pytest.approx(0, abs=1e-12)


class TestLogLoss:
    def test_far_out_logits_are_not_clipped(self):
        # p of the true class underflows to 0 in every precision; its logarithm does not
        logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
        loss = evaluate(logits, torch.tensor([1, 0])).scores.log_loss
        assert loss == pytest.approx((2e4 + math.log(3)) / 2, rel=1e-15)

    def test_confident_and_right(self):
        logits = torch.tensor([[40.0, 0.0]], dtype=torch.float64)
        loss = evaluate(logits, torch.tensor([0])).scores.log_loss
        assert loss == pytest.approx(math.log1p(math.exp(-40)), rel=1e-3, abs=1e-16)

    def test_classes_ruled_out(self):
        logits = torch.tensor([[0.0, 1.0, -torch.inf]])
        scores = evaluate(logits, torch.tensor([1])).scores
        assert scores.log_loss == pytest.approx(math.log(1 + math.exp(-1)))
        assert evaluate(logits, torch.tensor([2])).scores.log_loss == math.inf

    def test_log_probabilities_serve_as_logits(self):
        logits, target = draw(0)
        a = evaluate(logits.double(), target).scores
        b = evaluate(logits.double().log_softmax(1), target).scores
        assert b.log_loss == pytest.approx(a.log_loss, rel=1e-12)
        assert b.recall == a.recall


@pytest.fixture
def stack():
    trials = [draw(seed, rows=120) for seed in range(5)]
    logits, target = (torch.stack(part) for part in zip(*trials, strict=True))
    return logits, target


class TestStack:
    def test_a_stack_is_its_trials(self, stack):
        logits, target = stack
        groups = [((0,), (1, c % 2 + 2), (3 - c % 2,)) for c in range(5)]
        for i, found in enumerate(evaluate_stack(logits, target, groups)):
            alone = evaluate(logits[i], target[i], groups[i])
            assert found.scores == alone.scores
            assert torch.equal(found.confusion, alone.confusion)
            assert found.reliability.to_dict() == alone.reliability.to_dict()
            assert_equal_scores(found.scores, by_scikit_learn(logits[i], target[i]))

    def test_one_test_set_for_all(self, stack):
        logits, target = stack
        shared = evaluate_stack(logits, target[0])
        repeated = evaluate_stack(logits, target[:1].repeat(5, 1))
        assert [e.scores for e in shared] == [e.scores for e in repeated]

    def test_scores_of_a_batch_of_confusion_matrices(self, stack):
        logits, target = stack
        prediction = logits.argmax(-1)
        confusion = confusion_matrix(prediction[None], target[None], 4)
        assert confusion.shape == (1, 5, 4, 4)
        for score in (accuracy, balanced_accuracy, macro_f1, worst_class_recall, geometric_mean):
            batched = score(confusion)
            assert batched.shape == (1, 5)
            assert batched[0].tolist() == [score(one).item() for one in confusion[0]]

    def test_predictions_meet_one_target(self, stack):
        logits, target = stack
        prediction = logits.argmax(-1)
        confusion = confusion_matrix(prediction, target[0], 4)
        assert confusion[3].tolist() == sk.confusion_matrix(target[0], prediction[3]).tolist()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_logits_on_a_gpu(self, stack):
        logits, target = stack
        for there, here in zip(
            evaluate_stack(logits.cuda(), target.cuda()),
            evaluate_stack(logits, target),
            strict=True,
        ):
            assert there.confusion.tolist() == here.confusion.tolist()
            assert there.scores.log_loss == pytest.approx(here.scores.log_loss, rel=1e-12)

    def test_inputs_are_left_alone(self, stack):
        logits, target = stack
        before = logits.clone(), target.clone()
        evaluate_stack(logits.requires_grad_(), target.to(torch.int16))
        assert torch.equal(logits.detach_(), before[0])
        assert torch.equal(target, before[1])


class TestProperties:
    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40),
        st.permutations(range(4)),
    )
    def test_scores_do_not_depend_on_the_names_of_classes(self, pairs, order):
        target, prediction = torch.tensor(pairs).T
        order = torch.tensor(order)
        confusion = confusion_matrix(prediction, target, 4)
        renamed = confusion_matrix(order[prediction], order[target], 4)
        for score in (accuracy, balanced_accuracy, macro_f1, worst_class_recall, geometric_mean):
            assert score(renamed).item() == pytest.approx(score(confusion).item(), abs=1e-12)
        assert worst_class_recall(confusion) <= geometric_mean(confusion) + 1e-12
        assert geometric_mean(confusion) <= balanced_accuracy(confusion) + 1e-12
        assert recall(renamed)[order].tolist() == pytest.approx(
            recall(confusion).tolist(), nan_ok=True
        )

    @given(st.lists(st.tuples(st.floats(1e-9, 1), st.booleans()), min_size=1, max_size=60))
    def test_calibration_error_by_a_loop(self, rows):
        expected = 0.0
        for b in range(15):
            lower, upper = (np.linspace(0, 1, 16)[b + i] for i in (0, 1))
            inside = [(p, hit) for p, hit in rows if lower < p <= upper]
            expected += abs(sum(hit - p for p, hit in inside)) / len(rows)
        confidence, correct = zip(*rows, strict=True)
        bins = reliability_bins(
            torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct)
        )
        assert bins.calibration_error().item() == pytest.approx(expected, abs=1e-12)


class TestResults:
    def test_they_are_json(self):
        logits, target = draw(0)
        target[target == 3] = 0
        found = evaluate(logits, target, groups=((0, 1), (), (2, 3)))
        text = json.dumps([found.scores.to_dict(), found.reliability.to_dict()], allow_nan=False)
        scores, bins = json.loads(text)
        assert scores == found.scores.to_dict()
        assert scores["recall"][3] is None
        assert scores["medium_shot_recall"] is None
        assert len(bins["count"]) == 15

    def test_they_are_frozen(self):
        scores = evaluate(*draw(0)).scores
        with pytest.raises(AttributeError):
            scores.accuracy = 1.0


class TestBadInput:
    @pytest.mark.parametrize(
        ("logits", "target", "error", "text"),
        [
            (torch.ones(3, 2).long(), torch.zeros(3).long(), TypeError, "logits are torch.int64"),
            (torch.ones(3, 2), torch.zeros(3), TypeError, r"target is torch.float32.*target\.long"),
            (torch.ones(3, 2), torch.zeros(4).long(), ValueError, r"target \(4,\); expected"),
            (torch.ones(3), torch.zeros(3).long(), ValueError, r"logits have shape \(3,\)"),
            (torch.ones(0, 2), torch.zeros(0).long(), ValueError, "there is nothing to score"),
            (torch.ones(3, 2), torch.tensor([0, 1, 2]), IndexError, r"target 2 at position \(2,\)"),
            (torch.ones(3, 2), torch.tensor([0, -1, 1]), IndexError, r"target -1 at position \(1,"),
        ],
    )
    def test_shapes_and_values(self, logits, target, error, text):
        with pytest.raises(error, match=text):
            evaluate(logits, target)

    @pytest.mark.parametrize(
        ("prediction", "target", "error", "text"),
        [
            ([0, 1], [0, 255], ValueError, r"target holds 255, outside \[0, 2\): leave out rows"),
            ([0, 1], [-1, 1], ValueError, r"target holds -1, outside \[0, 2\)"),
            ([2, 1], [0, 1], ValueError, r"prediction holds 2, outside \[0, 2\)"),
            ([0.5, 1.0], [0, 1], TypeError, "prediction is torch.float32, expected class indices"),
            ([0, 1, 1], [0, 1], ValueError, r"shape \(3,\) and target \(2,\), expected one class"),
        ],
    )
    def test_what_no_confusion_matrix_counts(self, prediction, target, error, text):
        with pytest.raises(error, match=text):
            confusion_matrix(torch.tensor(prediction), torch.tensor(target), 2)
        with pytest.raises(TypeError, match="prediction is a list, expected a tensor"):
            confusion_matrix(prediction, target, 2)

    def test_indices_of_one_byte_are_counted_like_others(self):
        target = torch.tensor([20, 0, 20], dtype=torch.uint8)
        assert confusion_matrix(target, target, 21)[20, 20] == 2

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_model_that_diverged_names_its_trial(self, bad):
        logits = torch.zeros(3, 4, 2)
        logits[1, 2, 0] = bad
        with pytest.raises(ValueError, match=rf"logits of trial 1, row 2 are \[{bad}, 0\.0\]"):
            evaluate_stack(logits, torch.zeros(4, dtype=torch.long))

    def test_groups_that_do_not_fit(self):
        logits, target = draw(0)
        with pytest.raises(ValueError, match="groups name class 4, logits have 4 classes"):
            evaluate(logits, target, groups=((0,), (1,), (2, 4)))
        with pytest.raises(ValueError, match="groups for 2 trials, logits for 1: one for each"):
            evaluate_stack(logits[None], target, groups=[((0,), (), ())] * 2)


class TestReliabilityOfClass:
    def test_bins_hold_as_many_rows_and_the_error_is_that_of_a_loop(self):
        rng = np.random.default_rng(0)
        probability = torch.tensor(rng.beta(0.5, 20, 601))
        there = torch.tensor(rng.random(601) < 0.05)
        bins = reliability_of_class(probability, there)
        assert len(bins.count) == 15
        assert set(bins.count.tolist()) <= {40, 41}
        parts = np.split(np.argsort(probability.numpy()), [k * 601 // 15 for k in range(1, 15)])
        error = 0.0
        for part, mean, share in zip(parts, bins.confidence, bins.accuracy, strict=True):
            assert mean.item() == pytest.approx(probability[part].mean().item(), rel=1e-12)
            assert share.item() == pytest.approx(there[part].double().mean().item(), rel=1e-12)
            error += len(part) / 601 * abs(mean - share).item()
        assert bins.calibration_error().item() == pytest.approx(error, rel=1e-12)

    def test_one_probability_for_every_row_is_one_bin(self):
        """So the order of the rows decides nothing, and never is as wrong as the class is rare."""
        there = torch.tensor([True] * 3 + [False] * 297)
        for probability, error in ((0.0, 0.01), (0.01, 0.0), (0.5, 0.49)):
            bins = reliability_of_class(torch.full((300,), probability).double(), there)
            assert bins.count.max() == 300
            assert bins.calibration_error().item() == pytest.approx(error, abs=1e-9)
        assert reliability_of_class(torch.tensor([0.2, 0.9]).double(), there[:2]).count.sum() == 2
