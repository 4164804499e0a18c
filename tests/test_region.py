"""The region family against its naive formulas, published values, and its own promises."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from region_cases import (
    A_TARGET,
    WEIGHT,
    A,
    both_activations,
    each_row,
    each_row_and_engine,
    forms_of,
    make,
    with_sums,
)
from region_table import REGIONS, RegionRow
from table import C
from torch import Tensor

import steelyard as sy

SHAPES = {"N-d1-d2": (3, 3, 4), "N-d": (2, 6), "N": (5,)}


def grad_of(loss: Tensor, logits: Tensor) -> Tensor:
    """The gradient; several values are told apart by different upstream gradients."""
    upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return torch.autograd.grad(loss, logits, upstream)[0]


def some_options(row: RegionRow, form: str, number: int) -> list[dict[str, Any]]:
    """A part of all combinations, another for each row: together they are most of them."""
    ignore = {"index": (-100, 1), "masked": (-1,)}.get(form, (-100,))
    absent = ("skip",) if row.joined is not None else ("skip", "count")
    names = ("per", "absent", "weight", "ignore_index", "label_smoothing", "reduction", "mean_over")
    every = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(
            ("image", "batch"),
            absent,
            (None, WEIGHT),
            ignore,
            (0.0, 0.2),
            ("mean", "sum", "none"),
            (None, "count"),
        )
        if values[-1] is None or values[-2] == "mean"
    ]
    return random.Random(f"{row.id} {form}").sample(every, number)


@each_row_and_engine
@both_activations
@pytest.mark.parametrize("dims", SHAPES)
def test_equals_its_formula(row: RegionRow, engine: str, activation: str, dims: str) -> None:
    logits, targets, samples = make(SHAPES[dims])
    for form in forms_of(activation):
        target = targets[form]
        for i, options in enumerate(some_options(row, form, 8)):
            weights = samples if i % 2 else None
            ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
            build = {**options, "activation": activation}
            loss = row.build(**build, engine=engine)(ours, target, sample_weight=weights)
            naive = row.naive(theirs, target, sample_weight=weights, **build)
            case = f"{form} {build} sample_weight={weights is not None}"
            assert loss.shape == naive.shape, case
            torch.testing.assert_close(
                loss, naive, rtol=1e-10, atol=1e-12, msg=lambda m, case=case: f"{case}\n{m}"
            )
            torch.testing.assert_close(
                grad_of(loss, ours),
                grad_of(naive, theirs),
                rtol=1e-9,
                atol=1e-12,
                msg=lambda m, case=case: f"gradient of {case}\n{m}",
            )


B = torch.tensor([[[-1, 0, 1], [1, 0, -1]], [[0, 0, 0], [0, 0, 0]]], dtype=torch.float64)
B_TARGET = torch.tensor([[1, 0, 0], [1, 1, 0]])


@pytest.mark.parametrize(
    ("build", "published"),
    [
        (lambda: sy.DiceLoss(smooth=1e-6, activation="sigmoid"), "0.307576"),
        (lambda: sy.DiceLoss(smooth=1e-5, squared=True, activation="sigmoid"), "0.178337"),
        (lambda: sy.JaccardLoss(smooth=1e-5, activation="sigmoid"), "0.470451"),
        (lambda: sy.TverskyLoss(alpha=0.3, beta=0.7, activation="sigmoid"), "0.3589"),
        (lambda: sy.TverskyLoss(alpha=0.7, beta=0.3, activation="sigmoid"), "0.247366"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_published_values_of_one_class(build: Any, published: str, dtype: torch.dtype) -> None:
    assert float(build()(A, A_TARGET.to(dtype))) == pytest.approx(
        float(published), abs=10.0 ** (2 - len(published))
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"smooth": 1e-4}, 0.383713),
        (
            {"smooth": 1e-4, "activation": "sigmoid", "reduction": "none"},
            [[0.296529, 0.415136], [0.599976, 0.428559]],
        ),
        ({"smooth": 1e-5, "activation": "sigmoid", "per": "batch"}, 0.422979),
    ],
)
def test_published_values_of_two_classes(options: dict[str, Any], expected: Any) -> None:
    one_hot = F.one_hot(B_TARGET, 2).movedim(-1, 1)
    targets = [B_TARGET, one_hot.double()]
    if "activation" in options:
        targets += [one_hot, one_hot.bool()]
    for target in targets:
        found = sy.dice_loss(B, target, **options)
        wanted = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_lovasz_of_hard_predictions_is_the_jaccard_loss() -> None:
    prediction = F.one_hot(torch.tensor([[1, 0, 2, 0]]), 3).movedim(-1, 1)
    found = sy.lovasz_loss(
        1e4 * prediction.double(), torch.tensor([[0, 1, 2, 0]]), reduction="none"
    )
    torch.testing.assert_close(found, torch.tensor([[2 / 3, 1.0, 0.0]]).double())
    g = torch.Generator().manual_seed(0)
    hard, truth = (torch.randint(0, 3, (2, 50), generator=g) for _ in range(2))
    logits = 1e4 * F.one_hot(hard, 3).movedim(-1, 1).double()
    for per in ("image", "batch"):
        options = {"per": per, "reduction": "none"}
        found = sy.lovasz_loss(logits, truth, **options)
        torch.testing.assert_close(found, sy.jaccard_loss(logits, truth, **options))


def test_a_masked_dice_is_exactly_a_third() -> None:
    third = torch.tensor(1 / 3, dtype=torch.float64)
    mask = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    for shaped in (mask, mask.unsqueeze(1)):
        masked = sy.dice_loss(A, A_TARGET, activation="sigmoid", sample_weight=shaped)
        torch.testing.assert_close(masked, third, rtol=0, atol=1e-15)
    for missing in (-1, math.nan):
        target = A_TARGET.double()
        target[0, 0, 0] = missing
        found = sy.dice_loss(A, target, activation="sigmoid", ignore_index=missing)
        torch.testing.assert_close(found, third, rtol=0, atol=1e-15)


@with_sums
@both_activations
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("absent", ["skip", "count"])
def test_parts_with_totals_are_the_whole(
    row: RegionRow, activation: str, smoothing: float, absent: str
) -> None:
    if row.joined is not None and absent == "count":
        absent = "skip"
    logits, targets, samples = make((7, 4))
    parts = [slice(0, 1), slice(1, 4), slice(4, 4), slice(4, 7)]
    for form in forms_of(activation):
        options = {
            "activation": activation,
            "per": "batch",
            "absent": absent,
            "label_smoothing": smoothing,
            "weight": WEIGHT,
            "ignore_index": 1 if form == "index" else -1,
        }
        target = targets[form].clone()
        if form == "index":
            target[0] = 1  # a part of which nothing counts
        loss = row.build(**options)
        totals = sum(loss.statistics(logits[p], target[p], samples[p]) for p in parts)
        assert totals.dtype == torch.float64
        assert totals.shape == (4 if smoothing else 3, C)
        torch.testing.assert_close(totals, loss.statistics(logits, target, samples))
        leaf = logits.clone().requires_grad_()
        whole = loss(leaf, target, samples)
        wanted = torch.autograd.grad(whole, leaf)[0]
        for p in parts:
            mine = logits[p].clone().requires_grad_()
            value = loss(mine, target[p], samples[p], totals=totals)
            torch.testing.assert_close(value, whole, rtol=1e-12, atol=1e-14)
            grad = torch.autograd.grad(value, mine)[0]
            torch.testing.assert_close(grad, wanted[p], rtol=1e-12, atol=1e-14)


def test_statistics_are_i_p_and_t() -> None:
    loss = sy.DiceLoss(activation="sigmoid", per="batch")
    p = A.sigmoid()
    both, predicted, true = loss.statistics(A, A_TARGET).squeeze(1)
    torch.testing.assert_close(both, (p * A_TARGET).sum())
    torch.testing.assert_close(predicted, p.sum())
    assert true == 3
    assert not loss.statistics(A.clone().requires_grad_(), A_TARGET).requires_grad


@both_activations
@pytest.mark.parametrize("absent", ["skip", "count"])
@pytest.mark.parametrize("mean_over", [None, "count"])
def test_denominators_per_image_add_up(activation: str, absent: str, mean_over: Any) -> None:
    logits, targets, samples = make((5, 4))
    for row in REGIONS:
        if row.joined is not None and absent == "count":
            continue
        for form in forms_of(activation):
            target = targets[form]
            if activation == "sigmoid" and form == "index":
                continue  # see test_integers_that_may_be_either_are_refused
            loss = row.build(
                activation=activation,
                per="image",
                absent=absent,
                mean_over=mean_over,
                weight=WEIGHT,
                ignore_index=-1,
            )
            whole = loss(logits, target, samples)
            parts = [slice(0, 2), slice(2, 2), slice(2, 5)]
            total = sum(loss.denominator(target[p], samples[p]) for p in parts)
            assert total.dtype == torch.float64
            micro = [
                loss(logits[p], target[p], samples[p], denominator=total).double() for p in parts
            ]
            torch.testing.assert_close(torch.stack(micro).sum(), whole, rtol=1e-14, atol=1e-14)


def test_the_denominator_needs_no_weights() -> None:
    loss = sy.DiceLoss()
    assert loss.denominator(torch.tensor([[0, 3, -100], [1, 1, 1]])) == 3
    assert loss.denominator(torch.tensor([[-100, -100]])) == 0
    assert loss.denominator(torch.tensor(4)) == 1
    assert sy.DiceLoss(weight={0: 0}).denominator(torch.tensor([[0, 3, 7]])) == 2
    half = torch.tensor([[1.0, 0.0, 1.0]])
    assert loss.denominator(torch.tensor([[0, 3, 1]]), half) == 2
    assert sy.GeneralizedDiceLoss(weight={0: 0}).denominator(torch.tensor([[0, 3], [0, 0]])) == 1
    one = sy.DiceLoss(activation="sigmoid")
    assert one.denominator(A_TARGET) == 1
    assert one.denominator(torch.zeros_like(A_TARGET)) == 0
    assert sy.DiceLoss(activation="sigmoid", absent="count").denominator(0 * A_TARGET) == 1


def test_absent_classes_cost_nothing_or_count() -> None:
    empty = torch.zeros(1, 1, 2, 2)
    confident = torch.full((1, 1, 2, 2), 10.0, requires_grad=True)
    skipped = sy.dice_loss(confident, empty, activation="sigmoid")
    assert skipped == 0
    assert (torch.autograd.grad(skipped, confident)[0] == 0).all()
    counted = sy.dice_loss(confident, empty, activation="sigmoid", absent="count", smooth=1e-5)
    assert counted > 0.99999
    whole = torch.cat([empty, torch.ones(1, 1, 2, 2)])
    both = torch.cat([confident.detach(), confident.detach()])
    # Over the batch the false positives of the first image count: 2·4 / (8 + 4).
    per_batch = sy.dice_loss(both, whole, activation="sigmoid", per="batch")
    assert float(per_batch) == pytest.approx(1 / 3, abs=1e-4)
    assert float(sy.dice_loss(both, whole, activation="sigmoid")) == pytest.approx(0, abs=1e-4)


def test_nothing_over_nothing_is_no_loss_and_has_no_gradient() -> None:
    for row in REGIONS:
        if row.joined is not None:
            continue
        for absent in ("skip", "count"):
            logits = torch.full((1, 1, 4), -1e4, requires_grad=True)  # p is 0 exactly
            options = {"activation": "sigmoid", "absent": absent, "per": "image"}
            if "smooth" in row.arguments:
                options["smooth"] = 0.0
            loss = row.build(**options)(logits, torch.zeros(1, 1, 4))
            assert loss == 0
            assert (torch.autograd.grad(loss, logits)[0] == 0).all()


@each_row
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_missing_cells_cannot_poison(row: RegionRow, poison: float) -> None:
    logits, targets, _ = make((3, 4), seed=1)
    for missing in (-1, math.nan):
        target = targets["masked"].masked_fill(targets["masked"] == -1, missing)
        ignored = targets["masked"] == -1
        for smoothing in (0.0, 0.1):
            loss = row.build(activation="sigmoid", ignore_index=missing, label_smoothing=smoothing)
            sick = logits.masked_fill(ignored, poison).requires_grad_()
            value = loss(sick, target)
            torch.testing.assert_close(value, loss(logits, target), rtol=0, atol=0)
            (grad,) = torch.autograd.grad(value, sick)
            assert grad.isfinite().all()
            assert (grad[ignored] == 0).all()


@with_sums
def test_sums_beyond_what_float16_holds(row: RegionRow) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 400, 400, generator=g).half()  # T of either class is 80,000
    target = torch.randint(0, 2, (1, 400, 400), generator=g)
    loss = row.build(activation="softmax")
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert value.dtype == torch.float32
    assert leaf.grad.dtype == torch.float16
    assert leaf.grad.isfinite().all()
    torch.testing.assert_close(value.double(), loss(logits.double(), target), rtol=1e-5, atol=0)


@each_row
@both_activations
def test_soft_targets_are_fitted_best_by_themselves(row: RegionRow, activation: str) -> None:
    _, targets, _ = make((2, 6))
    target = targets["share"].clamp(min=0.02)
    target = target / target.sum(1, keepdim=True)
    logits = target.log() if activation == "softmax" else target.logit()
    loss = (
        row.build(activation=activation, smooth=0.0)
        if "smooth" in row.arguments
        else row.build(activation=activation)
    )
    best = loss(logits, target)
    assert float(best) == pytest.approx(0, abs=1e-7)
    g = torch.Generator().manual_seed(3)
    for size in (1e-3, 0.1, 3.0):
        noise = size * torch.randn(logits.shape, generator=g, dtype=torch.float64)
        assert loss(logits + noise, target) > best


def test_the_largest_class_cannot_make_the_weights_of_the_others_infinite() -> None:
    tiny = torch.full((1, 3), 1e-30)
    target = torch.tensor([[0, 1, 1]])
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]], requires_grad=True)
    loss = sy.generalized_dice_loss(logits, target, sample_weight=tiny)
    torch.testing.assert_close(loss, sy.generalized_dice_loss(logits, target))
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_tversky_is_dice_and_jaccard() -> None:
    logits, targets, _ = make((3, 4))
    y = targets["index"]
    half, one = {"alpha": 0.5, "beta": 0.5}, {"alpha": 1.0, "beta": 1.0}
    torch.testing.assert_close(sy.tversky_loss(logits, y, **half), sy.dice_loss(logits, y))
    torch.testing.assert_close(sy.tversky_loss(logits, y, **one), sy.jaccard_loss(logits, y))
    # α is the price of false positives: where nothing is missed, it alone counts.
    over = torch.tensor([[[9.0, 9.0]]]), torch.tensor([[[1, 0]]])
    costs = [
        float(sy.tversky_loss(*over, alpha=a, beta=b, activation="sigmoid"))
        for a, b in ((0.0, 1.0), (1.0, 0.0))
    ]
    assert costs == pytest.approx([0, 0.5], abs=2e-4)


def test_the_scale_of_weights_and_pixels_changes_nothing() -> None:
    logits, targets, samples = make((3, 4))
    for row in REGIONS:
        if "smooth" in row.arguments:
            continue
        loss = row.build(weight=WEIGHT)(logits, targets["index"], samples)
        scaled = row.build(weight=50 * WEIGHT)(logits, targets["index"], 20 * samples)
        torch.testing.assert_close(loss, scaled)


def test_without_background() -> None:
    logits, targets, _ = make((3, 4))
    y = targets["index"]
    each = sy.dice_loss(logits, y, reduction="none")
    present = torch.stack([(y == c).any(1) for c in range(C)], 1)
    present[:, 0] = False
    wanted = each[present].mean()
    for weight in ({0: 0.0}, [0.0, 1, 1, 1, 1]):
        torch.testing.assert_close(sy.dice_loss(logits, y, weight=weight), wanted)


def test_a_sum_of_losses_of_any_family() -> None:
    logits, targets, samples = make((3, 4))
    cells = targets["cells"]
    parts = [
        (0.5, sy.BCEWithLogitsLoss(pos_weight=[1.0, 2, 3, 4, 5])),
        (2.0, sy.LovaszLoss(activation="sigmoid")),
        (1.0, sy.TverskyLoss(activation="sigmoid", beta=0.8, weight=WEIGHT)),
    ]
    loss = sy.CompoundLoss(parts)
    wanted = sum(factor * part(logits, cells, samples) for factor, part in parts)
    torch.testing.assert_close(loss(logits, cells, samples), wanted)
    found = loss.denominator(cells, samples)
    torch.testing.assert_close(
        found, torch.stack([part.denominator(cells, samples) for _, part in parts])
    )
    torch.testing.assert_close(loss(logits, cells, samples, denominator=found), wanted)
