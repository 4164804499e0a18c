"""Values that other libraries' own tests expect, by the conversions that docs/losses.md names.

They come from MONAI's tests of its Dice, Tversky, generalised Dice and DiceCE losses, from
segmentation_models_pytorch's and kornia's of theirs, without those that need unequal ε or an
activation that is neither softmax nor sigmoid.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import steelyard as sy

SURE = 60.0  # the logit of a probability of 1
LIKE_MONAI: dict[str, Any] = {"absent": "count"}
SIGMOID: dict[str, Any] = {**LIKE_MONAI, "activation": "sigmoid"}

ONE = [[[[1.0, -1.0], [-1.0, 1.0]]], [[[1.0, -1.0], [-1.0, 1.0]]]]
ONE_TARGET = [[[[1.0, 1.0], [1.0, 1.0]]], [[[1.0, 0.0], [1.0, 0.0]]]]
TWO = [[[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
TWO_TARGET = [[1, 0, 0], [1, 1, 0]]
HARD = [[[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [0, 1, 0]]]
HARD_TARGET = [[0, 0, 1], [0, 1, 0]]
SOFT = [[[[0.3, 0.4], [0.7, 0.9]]], [[[0.99, 0.1], [0.5, 0.3]]]]
E4 = {"smooth": 1e-4}


def logit(probabilities: Any) -> Tensor:
    """Logits of probabilities, hard ones too."""
    return torch.tensor(probabilities, dtype=torch.float64).logit().clamp(-SURE, SURE)


MONAI = {
    "dice, two images": (sy.DiceLoss(**E4, **SIGMOID), ONE, ONE_TARGET, 0.416657),
    "dice, soft_label": (sy.DiceLoss(**E4, **SIGMOID), logit(SOFT), SOFT, 0.0),
    "dice, sigmoid": (sy.DiceLoss(**E4, **SIGMOID), TWO, TWO_TARGET, 0.435050),
    "dice, softmax, sum": (
        sy.DiceLoss(**E4, **LIKE_MONAI, reduction="sum"), TWO, TWO_TARGET, 1.534853),
    "dice, no background": (
        sy.DiceLoss(weight={0: 0}, **LIKE_MONAI), SURE * torch.tensor(HARD), HARD_TARGET, 0.0),
    # MONAI asks four digits of its Tversky loss.
    "tversky, two images": (sy.TverskyLoss(**E4, **SIGMOID), ONE, ONE_TARGET, (0.416657, 4e-5)),
    "tversky, batch": (
        sy.TverskyLoss(smooth=1e-5, per="batch", **SIGMOID), TWO, TWO_TARGET, 0.422979),
    "tversky, sum": (
        sy.TverskyLoss(**E4, **SIGMOID, reduction="sum"), TWO, TWO_TARGET, (1.74013, 2e-4)),
    "tversky, none": (
        sy.TverskyLoss(**E4, **LIKE_MONAI, reduction="none"), TWO, TWO_TARGET,
        [[0.210961, 0.295339], [0.599952, 0.428547]]),
    # Without ε, whose part in MONAI's numbers is below 7e-5.
    "generalized": (
        sy.GeneralizedDiceLoss(activation="sigmoid"), ONE, ONE_TARGET, (0.416597, 7e-5)),
    "generalized, sigmoid": (
        sy.GeneralizedDiceLoss(activation="sigmoid"), TWO, TWO_TARGET, (0.469964, 7e-5)),
    "generalized, softmax": (sy.GeneralizedDiceLoss(), TWO, TWO_TARGET, (0.414507, 7e-5)),
    "generalized, none": (
        sy.GeneralizedDiceLoss(reduction="none"), TWO, TWO_TARGET, ([0.273476, 0.555539], 7e-5)),
    "generalized, simple": (
        sy.GeneralizedDiceLoss(weighting="simple"),
        [[[0.0, 10, 10, 10], [10, 0, 0, 0]]], [[1, 1, 0, 0]], 0.250023),
    "generalized, nothing": (
        sy.GeneralizedDiceLoss(weight={0: 0}), SURE * torch.tensor(HARD), [[0, 0, 0]] * 2, 0.0),
    # Of one class MONAI gives `weight` to its cross-entropy, as pos_weight, and not to Dice.
    "dice-ce, sigmoid": (
        sy.CompoundLoss([
            (1.0, sy.DiceLoss(smooth=1e-5, **SIGMOID)),
            (1.0, sy.BCEWithLogitsLoss(pos_weight=0.5)),
        ]),
        [[[0.8, 0.6, 0.0]], [[0.0, 0.0, 0.9]]],
        [[[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]], 1.445239),
}  # fmt: skip

BATCH: dict[str, Any] = {"per": "batch", "activation": "sigmoid"}
SMP = {
    "dice, half": (sy.DiceLoss(**BATCH), logit([[[1, 1, 0, 0.0]]]), [[[1, 1, 1, 1]]], 1 / 3),
    "dice, wrong": (sy.DiceLoss(**BATCH), logit([[[1, 0, 1.0]]]), [[[0, 1, 0]]], 1.0),
    "dice, nothing": (sy.DiceLoss(**BATCH), logit([[[1, 1, 1.0]]]), [[[0, 0, 0]]], 0.0),
    "tversky": (sy.TverskyLoss(**BATCH), logit([[[1, 1, 0, 0.0]]]), [[[1, 1, 1, 1]]], 1 / 3),
    "jaccard": (sy.JaccardLoss(**BATCH), logit([[[1, 1, 0, 0.0]]]), [[[1, 1, 1, 1]]], 0.5),
    "jaccard, classes": (
        sy.JaccardLoss(per="batch"), SURE * torch.tensor([[[1, 0, 1, 0], [0, 1, 0, 1]]]),
        [[1, 1, 0, 0]], 2 / 3),
    "jaccard, labels": (
        sy.JaccardLoss(**BATCH), logit([[[0, 1, 1, 0.0], [0, 1, 1, 0]]]),
        [[[1, 1, 0, 0], [1, 1, 0, 0]]], 2 / 3),
}  # fmt: skip

FIXTURE = torch.Generator().manual_seed(1206)
KORNIA_LOGITS = 2 * torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=FIXTURE)
KORNIA_TARGET = torch.randint(0, 3, (2, 4, 6), generator=FIXTURE)
KORNIA_TARGET[1, :, :2] = 2
P = torch.tensor([[[0.5, 0.25, 0.125, 0.5], [0.25, 0.5, 0.125, 0.25], [0.25, 0.25, 0.75, 0.25]]])
FIRST_OF_FOUR = torch.tensor([[[100.0, 0, 0, 0], [0, 100, 100, 100]]])
MICRO: dict[str, Any] = {"weighting": "uniform", "absent": "count"}
KORNIA = {
    **{
        f"tversky {a} {b}": (
            sy.TverskyLoss(alpha=a, beta=b), KORNIA_LOGITS, KORNIA_TARGET, (value, 1e-7))
        for a, b, value in (
            (0.3, 0.7, 0.6015094950), (0.7, 0.3, 0.5990951811), (0.5, 0.5, 0.6037325821))
    },
    "tversky, absent": (
        sy.TverskyLoss(alpha=0.3, beta=0.7, reduction="none"), P.log(), [[0, 1, 1, 0]],
        [[1 - 1 / (1 + 0.3 * 0.375 + 0.7), 1 - 0.625 / (0.625 + 0.3 * 0.5 + 0.7 * 1.375), 0]]),
    "tversky, ignored": (
        sy.TverskyLoss(), FIRST_OF_FOUR, [[0, 0, -100, -100]], 1 / 3),
    "dice, micro": (
        sy.GeneralizedDiceLoss(**MICRO), [[[10.0, 10, 10, 1], [1, 1, 1, 10]]], [[0, 0, 0, 0]],
        1 - (3 * math.e**10 + math.e) / (math.e + math.e**10) / 4),
    "dice, micro, ignored": (
        sy.GeneralizedDiceLoss(**MICRO), FIRST_OF_FOUR, [[0, 0, -100, -100]], 0.5),
}  # fmt: skip

ROWS = {
    f"{source}: {name}": row
    for source, rows in (("MONAI", MONAI), ("SMP", SMP), ("kornia", KORNIA))
    for name, row in rows.items()
}


@pytest.mark.parametrize(("loss", "logits", "target", "expected"), ROWS.values(), ids=ROWS)
def test_gives_what_others_expect_of_theirs(
    loss: Any, logits: Any, target: Any, expected: Any
) -> None:
    expected, grain = expected if isinstance(expected, tuple) else (expected, 2e-6)
    found = loss(torch.as_tensor(logits).double(), torch.as_tensor(target))
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=grain)
