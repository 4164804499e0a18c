"""The arithmetic of losses of regions, by hand and by explain."""

import itertools

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
