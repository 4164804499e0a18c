"""Scores of an order, of two classes and of probabilities, against scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from steelyard import metrics


def quiet(score, *args, **options):
    with warnings.catch_warnings():  # scikit-learn warns of what is undefined
        warnings.simplefilter("ignore")
        return score(*args, **options)


def rankings(kind, rows=200, stack=(3, 2)):
    """Ranks (3, 2, N) and which rows are positive, some of it tied, some of it perfect."""
    generator = torch.Generator().manual_seed(len(kind))
    ranks = torch.randn(*stack, rows, generator=generator)
    positive = torch.rand(*stack, rows, generator=generator) < 0.1 + 0.3 * ranks.sigmoid()
    return {
        "free": lambda: (ranks, positive),
        "tied": lambda: ((3 * ranks).round(), positive),
        "all tied": lambda: (torch.zeros_like(ranks), positive),
        "perfect": lambda: (positive.float(), positive),
        "reversed": lambda: (-positive.float() + ranks.round(), positive),
        "infinite": lambda: (torch.where(ranks > 1, torch.inf, ranks), positive),
        "one positive": lambda: (ranks.round(), torch.arange(rows).expand_as(ranks) == 7),
        "integers": lambda: ((2 * ranks).long(), positive.long()),
    }[kind]()


KINDS = ["free", "tied", "all tied", "perfect", "reversed", "infinite", "one positive", "integers"]


def per_ranking(score, ranks, positive):
    """A score of scikit-learn for each ranking of a stack."""
    found = [
        quiet(score, y.numpy().astype(int), np.nan_to_num(r.double().numpy(), posinf=1e9))
        for r, y in zip(ranks.flatten(0, -2), positive.flatten(0, -2), strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64).view(ranks.shape[:-1])


def largest(curve_of, condition, wanted, least):
    """Largest `wanted` over a precision–recall curve where `condition` is at least that."""

    def score(y, ranks):
        curve = dict(zip(("precision", "recall"), curve_of(y, ranks)[:2], strict=True))
        passing = curve[condition][:-1] >= least  # the last point is no threshold
        return curve[wanted][:-1][passing].max(initial=0.0)

    return score


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (metrics.average_precision, sk.average_precision_score),
        (metrics.roc_auc, sk.roc_auc_score),
        (
            lambda r, p: metrics.recall_at_precision(r, p, 0.3),
            largest(sk.precision_recall_curve, "precision", "recall", 0.3),
        ),
        (
            lambda r, p: metrics.recall_at_precision(r, p, 0.9),
            largest(sk.precision_recall_curve, "precision", "recall", 0.9),
        ),
        (
            lambda r, p: metrics.precision_at_recall(r, p, 0.5),
            largest(sk.precision_recall_curve, "recall", "precision", 0.5),
        ),
        (
            lambda r, p: metrics.precision_at_recall(r, p, 1.0),
            largest(sk.precision_recall_curve, "recall", "precision", 1.0),
        ),
    ],
)
def test_rankings_score_as_in_scikit_learn(score, expected, kind):
    ranks, positive = rankings(kind)
    found = score(ranks, positive)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, per_ranking(expected, ranks, positive), rtol=0, atol=1e-9)


def test_what_the_data_leave_undefined_is_nan():
    ranks = torch.tensor([0.1, 0.5, 0.2])
    none, every = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    assert metrics.average_precision(ranks, none).isnan()
    assert metrics.recall_at_precision(ranks, none, 0.5).isnan()
    assert metrics.precision_at_recall(ranks, none, 0.5).isnan()
    assert metrics.roc_auc(ranks, none).isnan()
    assert metrics.roc_auc(ranks, every).isnan()
    assert metrics.average_precision(ranks, every) == 1
    # Precision is never that high: nothing can be found at it.
    assert metrics.recall_at_precision(-ranks, ranks == 0.5, 0.9) == 0


@pytest.mark.parametrize("missing", [None, 2])
def test_one_against_the_rest(missing):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 300, 4, generator=generator).round(decimals=1)
    target = torch.multinomial(torch.tensor([0.6, 0.2, 0.15, 0.05]), 300, True, generator=generator)
    if missing is not None:
        target[target == missing] = 0
    p = logits.double().softmax(-1).numpy()
    y = target.numpy()
    for ours, theirs in (
        (metrics.average_precision, sk.average_precision_score),
        (metrics.roc_auc, sk.roc_auc_score),
    ):
        found = metrics.one_vs_rest(ours, logits, target)
        for t in range(2):
            for c in range(4):
                if c == missing:
                    assert found[t, c].isnan()
                else:
                    assert found[t, c].item() == pytest.approx(theirs(y == c, p[t, :, c]), abs=1e-9)
    if missing is None:
        macro = metrics.one_vs_rest(metrics.roc_auc, logits, target).nanmean(-1)
        expected = [sk.roc_auc_score(y, p[t], multi_class="ovr") for t in range(2)]
        assert macro.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", ["free", "never decided for", "one decision", "one class"])
def test_decisions_score_as_in_scikit_learn(classes, kind):
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(classes, (5, 100), generator=generator)
    guess = torch.where(torch.rand(5, 100, generator=generator) < 0.6, truth, truth.flip(1))
    if kind == "never decided for":
        guess[guess == 1] = 0
    if kind == "one decision":
        guess = torch.zeros_like(guess)
    if kind == "one class":
        truth = torch.zeros_like(truth)
    confusion = metrics.confusion_matrix(guess, truth, classes)
    for k in range(5):
        y, y_hat = truth[k].numpy(), guess[k].numpy()
        assert metrics.matthews(confusion)[k].item() == pytest.approx(
            quiet(sk.matthews_corrcoef, y, y_hat), abs=1e-9
        )
        for positive in range(classes):
            found = metrics.f1(confusion, positive)[k].item()
            if positive in y or positive in y_hat:
                expected = sk.f1_score(y == positive, y_hat == positive)
                assert found == pytest.approx(expected, abs=1e-9)
            else:
                assert np.isnan(found)
        costs = torch.rand(classes, classes, generator=generator)
        assert metrics.mean_cost(confusion, costs)[k].item() == pytest.approx(
            costs[truth[k], guess[k]].double().mean().item(), abs=1e-9
        )


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_brier_score_is_scikit_learns(classes):
    generator = torch.Generator().manual_seed(classes)
    log_p = torch.randn(3, 50, classes, generator=generator).double().log_softmax(-1)
    target = torch.randint(classes, (50,), generator=generator)
    found = metrics.brier(log_p, target.expand(3, -1))
    for k in range(3):
        p = log_p[k].exp().numpy()
        expected = (
            sk.brier_score_loss(target.numpy(), p[:, 1])
            if classes == 2
            else sk.brier_score_loss(target.numpy(), p, labels=np.arange(classes))
        )
        assert found[k].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.roc_auc(torch.zeros(3), torch.zeros(4)), r"shape \(3,\) and positive"),
        (lambda: metrics.roc_auc(torch.zeros(0), torch.zeros(0)), "one row at least"),
        (lambda: metrics.average_precision(torch.tensor([torch.nan]), torch.ones(1)), "hold NaN"),
        (
            lambda: metrics.roc_auc(torch.zeros(2), torch.tensor([1, -1])),
            r"positive\[1\] is -1, expected bool, or 0 and 1: give target == c",
        ),
        (
            lambda: metrics.average_precision(torch.zeros(1, 2), torch.tensor([[2.0, 1.0]])),
            r"positive\[0, 0\] is 2.0, expected",
        ),
        (
            lambda: metrics.recall_at_precision(torch.ones(1), torch.ones(1), 0),
            r"precision is 0; expected a share in \(0, 1\]",
        ),
        (
            lambda: metrics.precision_at_recall(torch.ones(1), torch.ones(1), 1.1),
            r"recall is 1.1; expected a share in \(0, 1\]",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_brier_score_of_probabilities_without_a_logarithm_is_refused():
    with pytest.raises(ValueError, match="no log-probability is above 0"):
        metrics.brier(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))


def test_curves_are_the_scores_at_every_point():
    generator = torch.Generator().manual_seed(3)
    ranks = torch.randn(80, generator=generator).round(decimals=1)  # with ties
    truth = torch.rand(80, generator=generator) < 0.3
    shares = torch.linspace(0, 1, 31)
    found = metrics.precision_curve(ranks, truth, shares)
    for share, precision in zip(shares[1:].tolist(), found[1:].tolist(), strict=True):
        expected = metrics.precision_at_recall(ranks, truth, share).item()
        assert precision == pytest.approx(expected, abs=1e-12)
    recalls = metrics.roc_curve(ranks, truth, shares)
    alarms, hits, _ = sk.roc_curve(truth.numpy(), ranks.numpy(), drop_intermediate=False)
    for share, recall in zip(shares.double().tolist(), recalls.tolist(), strict=True):
        assert recall == pytest.approx(hits[alarms <= share].max(), abs=1e-12)
    assert metrics.precision_curve(ranks, torch.zeros(80), shares).isnan().all()
    assert metrics.roc_curve(ranks, torch.ones(80), shares).isnan().all()
