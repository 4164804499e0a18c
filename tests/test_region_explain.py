"""The arithmetic of losses of regions, by hand and by explain."""

import itertools

import pytest
import torch
from region_cases import (
    A_TARGET,
    WEIGHT,
    A,
    both_activations,
    each_row,
    forms_of,
    make,
)
from region_table import RegionRow

import steelyard as sy


def test_a_dice_by_hand() -> None:
    worked = sy.explain(sy.DiceLoss(activation="sigmoid"), A, A_TARGET)
    assert str(worked).splitlines() == [
        "DiceLoss(activation='sigmoid')",
        "item  I         P         T         ratio                loss      weight  contribution",
        "0, 0  1.731059  2.000000  3.000000  3.462117 / 5.000000  0.307577  1       0.307577",
        "",
        "mean = (0.307577) / 1 = 0.307577 / 1 = 0.307577",
    ]


@each_row
@both_activations
def test_every_value_is_explained(row: RegionRow, activation: str) -> None:
    logits, targets, samples = make((3, 4))
    for form, reduction in itertools.product(forms_of(activation), ("mean", "sum", "none")):
        loss = row.build(activation=activation, weight=WEIGHT, reduction=reduction, ignore_index=-1)
        worked = sy.explain(loss, logits, targets[form], samples)
        assert worked._repr_html_().count("<tr>") == len(worked.cells) + 1
        assert worked.to_dict()["reduction"] == reduction
        value = loss(logits, targets[form], samples)
        found = torch.tensor(worked.result, dtype=torch.float64).view(value.shape)
        torch.testing.assert_close(found, value)


def test_a_sum_of_losses_by_hand() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
    loss = sy.CompoundLoss([(1.0, sy.CrossEntropyLoss()), (0.5, sy.DiceLoss(weight=[1.0, 3.0]))])
    worked = sy.explain(loss, logits, torch.tensor([[0, 1, 1]]))
    p = logits.double().softmax(1)[0]
    entropy = -(p[0, 0].log() + p[1, 1].log() + p[1, 2].log()) / 3
    both = [p[0, 0], p[1, 1] + p[1, 2]]
    dice = [1 - 2 * i / (q.sum() + t) for i, q, t in zip(both, p, (1, 2), strict=True)]
    overlap = (dice[0] + 3 * dice[1]) / 4
    assert worked.result == pytest.approx(float(entropy + 0.5 * overlap), rel=1e-12)
    assert [part["result"] for part in worked.to_dict()["parts"]] == pytest.approx(
        [float(entropy), float(overlap)], rel=1e-12
    )
    assert str(worked).splitlines()[-1] == (
        f"CompoundLoss = 1·{entropy:.6f} + 0.5·{overlap:.6f} = {entropy + 0.5 * overlap:.6f}"
    )
    assert worked._repr_html_().count("<table>") == 2


def test_a_part_of_a_sum_by_the_denominators_of_the_whole() -> None:
    logits, target = torch.randn(2, 3, 8, dtype=torch.float64), torch.randint(3, (2, 8))
    loss = sy.DiceCELoss(dice=2.0)
    over = sy.step_denominator(loss, [target, target])
    worked = sy.explain(loss, logits, target, denominator=over)
    assert worked.result == pytest.approx(float(loss(logits, target)) / 2, rel=1e-12)
    assert [part.denominator for part in worked.parts] == over.tolist()
