"""What is done to logits after training, against problems whose answer is known."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import steelyard as sy

COUNTS = [700, 250, 50]
# p(class | cell) of four cells, and how often a cell occurs: a problem small enough to solve.
CELLS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
POSTERIOR = torch.tensor(
    [[0.9, 0.08, 0.02], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.05, 0.15, 0.8]], dtype=torch.float64
)
PRIOR = CELLS @ POSTERIOR
POPULATION = [int(n) for n in (PRIOR * 1000).round()]


def solve(loss: sy.SoftmaxLoss) -> Tensor:
    """The logits (cells, C) that minimise the expected loss over the population."""
    logits = torch.zeros_like(POSTERIOR, requires_grad=True)
    samples = CELLS[:, None].expand_as(POSTERIOR).mul(POSTERIOR).flatten()
    target = torch.arange(3).repeat(4)
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss(logits.repeat_interleave(3, 0), target, sample_weight=samples)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return logits.detach()


def test_adjust_logits_subtracts_the_log_prior() -> None:
    logits = torch.randn(5, 3, 4, dtype=torch.float64)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    for tau in (0.0, 1.0, 2.5, -1.0):
        expected = logits - tau * prior.log()[:, None]
        torch.testing.assert_close(sy.adjust_logits(logits, COUNTS, tau), expected)
    torch.testing.assert_close(
        sy.adjust_logits(logits[0, :, 0], COUNTS), logits[0, :, 0] - prior.log()
    )
    counted = sy.ClassCounts(COUNTS)
    assert torch.equal(sy.adjust_logits(logits, counted), sy.adjust_logits(logits, COUNTS))


def test_adjust_logits_takes_an_absent_class_as_one_example_and_says_so() -> None:
    logits = torch.zeros(1, 3, dtype=torch.float64)
    expected = -torch.tensor([[0.8, 0.1, 0.1]], dtype=torch.float64).log()
    text = (
        "1 of 3 classes does not occur: 1. adjust_logits takes a count of 0 as 1 and raises such a "
        "class the most, so that it may win nearly everywhere: leave it out of logits and counts, "
        "adjust_logits(logits[:, occurs], counts[occurs]) with occurs = counts > 0"
    )
    for tau in (1.0, torch.tensor(1.0)):
        with pytest.warns(UserWarning, match=re.escape(text)):
            torch.testing.assert_close(sy.adjust_logits(logits, [8, 0, 1], tau), expected)
    named = sy.ClassCounts([8, 0, 0], names=["ant", "bee", "cat"])
    with pytest.warns(UserWarning, match="2 of 3 classes do not occur: 'bee', 'cat'"):
        sy.adjust_logits(logits, named)
    # It undoes a loss, which takes a count of 0 as 1 too: nothing is raised.
    torch.testing.assert_close(sy.adjust_logits(logits, [8, 0, 1], -1), -expected)
    assert torch.equal(sy.adjust_logits(logits, [8, 0, 1], 0), logits)


def test_counts_of_several_labels_move_log_odds() -> None:
    counts = sy.ClassCounts([10, 500, 0], total=[1000, 800, 1000])
    bias = sy.SigmoidLogitAdjustedLoss(class_counts=counts, tau=0.5).form.bias
    odds = [math.log(10 / 990), math.log(500 / 300), math.log(1 / 1000)]
    logits = torch.randn(4, 3, 2, dtype=torch.float64)
    learnt = sy.adjust_logits(logits, counts, tau=-0.5)
    torch.testing.assert_close(learnt, logits + 0.5 * torch.tensor(odds).double()[:, None])
    torch.testing.assert_close(learnt, logits + bias[:, None])
    with pytest.warns(UserWarning, match="1 of 3 classes does not occur: 2"):
        torch.testing.assert_close(sy.adjust_logits(learnt, counts, tau=0.5), logits)


def test_one_logit_for_each_of_n_positions() -> None:
    """(N,) is one class, as in the losses of several labels."""
    counts, logits = sy.ClassCounts([1], total=[5]), torch.zeros(3)
    expected = torch.full((3,), math.log(4))
    torch.testing.assert_close(sy.adjust_logits(logits, counts), expected)
    with pytest.raises(ValueError, match="class_counts has 3 values, but logits have C = 1 class"):
        sy.adjust_logits(logits, sy.ClassCounts([1, 2, 3], total=[5, 5, 5]))


def test_weighted_cross_entropy_learns_w_times_p_and_unweight_gives_p_back() -> None:
    weight = torch.tensor([1.0, 2.0, 10.0], dtype=torch.float64)
    learnt = solve(sy.CrossEntropyLoss(weight))
    q = weight * POSTERIOR
    torch.testing.assert_close(learnt.softmax(1), q / q.sum(1, keepdim=True), rtol=1e-6, atol=1e-8)
    for given in (weight, weight.tolist(), {1: 2, 2: 10}, weight.numpy()):
        p = sy.unweight_logits(learnt, given).softmax(1)
        torch.testing.assert_close(p, POSTERIOR, rtol=1e-6, atol=1e-8)


def test_adjusting_afterwards_is_what_the_adjusted_loss_learns() -> None:
    """Both give the balanced posterior, p(class | cell) / prior."""
    balanced = POSTERIOR / PRIOR
    balanced = balanced / balanced.sum(1, keepdim=True)
    counts = [int(n) for n in (PRIOR * 10**6).round()]
    afterwards = sy.adjust_logits(solve(sy.CrossEntropyLoss()), counts)
    torch.testing.assert_close(afterwards.softmax(1), balanced, rtol=1e-5, atol=1e-7)
    for loss in (
        sy.LogitAdjustedLoss(class_counts=counts),
        sy.BalancedSoftmaxLoss(class_counts=counts),
        sy.VSLoss(class_counts=counts, gamma=0.0),
    ):
        torch.testing.assert_close(solve(loss).softmax(1), balanced, rtol=1e-5, atol=1e-7)


def test_vector_scaling_gives_p_back_whatever_its_gamma() -> None:
    counts = [int(n) for n in (PRIOR * 10**6).round()]
    loss = sy.VSLoss(class_counts=counts, gamma=0.4, tau=0.7)
    scaled = loss.form.scale * solve(loss)
    p = sy.adjust_logits(scaled, counts, tau=-0.7).softmax(1)
    torch.testing.assert_close(p, POSTERIOR, rtol=1e-5, atol=1e-7)


def test_balanced_weights_are_the_adjustment_with_tau_one() -> None:
    """Weighted cross-entropy with balanced weights learns the balanced posterior as well."""
    counts = [int(n) for n in (PRIOR * 10**6).round()]
    weight = sy.class_weights(counts, "balanced", dtype=torch.float64)
    weighted = solve(sy.CrossEntropyLoss(weight)).softmax(1)
    adjusted = solve(sy.LogitAdjustedLoss(class_counts=counts)).softmax(1)
    torch.testing.assert_close(weighted, adjusted, rtol=1e-5, atol=1e-7)
    back = sy.unweight_logits(weighted.log(), weight).softmax(1)
    torch.testing.assert_close(back, POSTERIOR, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_inputs(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 3, 2, 2).to(dtype)
    kept = logits.clone()
    wide = torch.promote_types(dtype, torch.float32)
    for result in (sy.adjust_logits(logits, COUNTS), sy.unweight_logits(logits, [1, 2, 3])):
        assert result.dtype == wide
        assert result.shape == logits.shape
        assert torch.equal(logits, kept)


def test_gradients_pass() -> None:
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: sy.adjust_logits(z, COUNTS, 0.7), logits)
    assert torch.autograd.gradcheck(lambda z: sy.unweight_logits(z, [1.0, 2.0, 3.0]), logits)


def test_probabilities_in_the_place_of_logits_are_told() -> None:
    text = (
        "logits are ≥ 0 and sum to 1 over the classes, as probabilities do: give the logits from "
        "before the softmax, or probabilities.log()"
    )
    p, labels = POSTERIOR.float(), torch.tensor([0, 1, 2, 0])
    calls: list[Callable[[Tensor], object]] = [
        lambda logits: sy.adjust_logits(logits, COUNTS),
        lambda logits: sy.unweight_logits(logits, [1, 2, 3]),
        lambda logits: sy.fit_temperature(logits, labels),
    ]
    for call in calls:
        for given in (p, p.half()):
            with pytest.warns(UserWarning, match=re.escape(text)):
                call(given)
        call(p.log())
        call(p * 1.011)  # 0.01 is what rounding may do
    for given in (p * 1.009, p[:2]):
        with pytest.warns(UserWarning, match="as probabilities do"):
            sy.adjust_logits(given, COUNTS)
    sy.adjust_logits(torch.eye(3), COUNTS)
    sy.adjust_logits(p[:1], COUNTS)  # one row may be like that by chance
    sy.adjust_logits(p, sy.ClassCounts([1, 2, 3], total=[9, 9, 9]))
