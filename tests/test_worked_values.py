"""Values worked out by hand, which must come out."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import steelyard as sy

TWO_CLASSES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
TWO_TARGET = torch.tensor([0, 1, 0])
THREE_CLASSES = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.2, 0.1], [0.7, 0.3, 0.5], [0.1, 0.5, 0.6]])
THREE_TARGET = torch.tensor([2, 1, 0, 1])


def minus_log_p(logits: list[float], y: int) -> float:
    return math.log(math.fsum(math.exp(z) for z in logits)) - logits[y]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.640535),
        ({"ignore_index": 1}, 0.442058),
        ({"weight": [1, 2]}, 0.739773),
        ({"weight": [2, 1]}, 0.561144),
    ],
)
def test_two_classes(options: dict[str, Any], expected: float) -> None:
    assert sy.cross_entropy_loss(TWO_CLASSES, TWO_TARGET, **options).item() == pytest.approx(
        expected, abs=5e-7
    )
    explained = sy.explain(sy.CrossEntropyLoss(**options), TWO_CLASSES, TWO_TARGET)
    assert explained.result == pytest.approx(expected, abs=5e-7)
    assert f"= {expected:.6f}" in str(explained)


def test_three_classes_one_of_them_ignored() -> None:
    loss = sy.CrossEntropyLoss([2, 1, 2], ignore_index=2)
    assert loss(THREE_CLASSES, THREE_TARGET).item() == pytest.approx(1.040056, abs=5e-7)
    parts = [minus_log_p(THREE_CLASSES.tolist()[i], y) for i, y in ((1, 1), (2, 0), (3, 1))]
    assert parts == pytest.approx([1.315592, 0.911901, 1.020828], abs=5e-7)
    assert (parts[0] + 2 * parts[1] + parts[2]) / (1 + 2 + 1) == pytest.approx(1.040056, abs=5e-7)
    explained = sy.explain(loss, THREE_CLASSES, THREE_TARGET)
    assert explained.denominator == 4
    contributions = [position.contribution for position in explained.positions]
    assert contributions == pytest.approx([0, parts[0], 2 * parts[1], parts[2]], abs=1e-6)
    assert "(1·1.315592 + 2·0.911901 + 1·1.020828) / (1 + 2 + 1)" in str(explained)


TEN = torch.ones(10)
TEN[:3] = 10
SEVEN = torch.ones(7)
SEVEN[4] = 0.5


@pytest.mark.parametrize(
    "weight",
    [
        [1, 1, 1, 2, 1],
        (1, 1, 1, 2, 1),
        np.array([1, 1, 1, 2, 1]),
        np.array([1, 1, 1, 2, 1], dtype=np.float32),
        torch.tensor([1, 1, 1, 2, 1]),
        {3: 2},
        TEN,
        TEN.long(),
        TEN.double(),
        TEN.half(),
        SEVEN,
        SEVEN.tolist(),
    ],
    ids=lambda w: f"{type(w).__name__} {getattr(w, 'dtype', '')}",
)
def test_weights_as_people_write_them(weight: Any) -> None:
    plain = [1.0, 1, 1, 2, 1] if isinstance(weight, dict) else torch.as_tensor(weight).tolist()
    reference = torch.tensor(plain, dtype=torch.float32)
    logits = torch.randn(32, len(reference), generator=torch.Generator().manual_seed(0))
    target = torch.arange(32) % len(reference)
    expected = F.cross_entropy(logits, target, reference)
    torch.testing.assert_close(sy.cross_entropy_loss(logits, target, weight=weight), expected)
    torch.testing.assert_close(sy.CrossEntropyLoss(weight)(logits, target), expected)


PROFILE = [int(5000 * 100 ** (-c / 9)) for c in range(10)]  # head 5000, tail 50


def test_effective_number_weights_of_the_exponential_profile() -> None:
    weight = sy.class_weights(PROFILE, "effective", beta=0.9999, dtype=torch.float64)
    assert weight.sum().item() == pytest.approx(10)
    assert weight[0].item() == pytest.approx(0.05061, abs=5e-6)
    assert weight[-1].item() == pytest.approx(3.99272, abs=5e-6)


def test_ldam_margins_of_the_exponential_profile() -> None:
    loss = sy.LDAMLoss(class_counts=PROFILE)
    margins = loss.form.margin
    assert margins is not None
    assert (margins / 30)[0].item() == pytest.approx(0.15811, abs=5e-6)
    assert (margins / 30)[-1].item() == pytest.approx(0.5)
    # What the margin does, apart from the attribute: the target's cosine is lower by it.
    cosines = torch.tensor([[0.3] + [0.1] * 9])
    lowered = cosines - torch.tensor([0.1581139] + [0.0] * 9)
    torch.testing.assert_close(
        loss(cosines, torch.tensor([0])), F.cross_entropy(30 * lowered, torch.tensor([0]))
    )


def test_balanced_softmax_is_logit_adjustment_with_tau_one() -> None:
    logits = torch.randn(16, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.arange(16) % 10
    torch.testing.assert_close(
        sy.balanced_softmax_loss(logits, target, class_counts=PROFILE),
        sy.logit_adjusted_loss(logits, target, class_counts=PROFILE, tau=1),
        rtol=1e-13,
        atol=1e-13,
    )
