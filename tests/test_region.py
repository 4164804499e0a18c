"""The region family against its naive formulas, published values, and its own promises."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from region_table import REGIONS, RegionRow
from table import C
from torch import Tensor

import steelyard as sy

WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.0, 5.0], dtype=torch.float64)
SHAPES = {"N-d1-d2": (3, 3, 4), "N-d": (2, 6), "N": (5,)}

each_row = pytest.mark.parametrize("row", REGIONS, ids=lambda row: row.id)
each_row_and_engine = pytest.mark.parametrize(
    ("row", "engine"),
    [(row, engine) for row in REGIONS for engine in row.family.engines if engine != "auto"],
    ids=lambda value: getattr(value, "id", value),
)
with_sums = pytest.mark.parametrize(
    "row", [row for row in REGIONS if row.of_sums], ids=lambda row: row.id
)
both_activations = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])


def make(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Logits, targets by form, and sample weights; class 4 is absent, and 3 in some images."""
    g = torch.Generator().manual_seed(seed)
    full = (shape[0], C, *shape[1:])
    logits = 2 * torch.randn(full, generator=g, dtype=torch.float64)
    index = torch.randint(0, 4, shape, generator=g)
    index[0] = index[0].clamp(max=2)
    index.view(-1)[:2] = 1  # something to ignore
    share = torch.rand(full, generator=g, dtype=torch.float64).softmax(1)
    share = share / share.sum(1, keepdim=True)
    share[:, 4] = 0
    cells = (torch.rand(full, generator=g) < 0.4).double()
    cells[:, 4] = 0
    soft = cells * torch.rand(full, generator=g, dtype=torch.float64)
    masked = cells.clone()
    masked.view(-1)[::3] = -1
    targets = {"index": index, "share": share, "cells": cells, "soft": soft, "masked": masked}
    return logits, targets, torch.rand(shape, generator=g, dtype=torch.float64)


def forms_of(activation: str) -> list[str]:
    return ["index", "share"] if activation == "softmax" else ["index", "cells", "soft", "masked"]


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


A = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]], dtype=torch.float64)
A_TARGET = torch.tensor([[[[1, 0], [1, 1]]]])
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


def refusal(kind: type[Exception], call: Any) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_what_cannot_be_exact_is_refused_with_the_way_out() -> None:
    y, logits = torch.tensor([[0, 1, 1]]), torch.randn(1, 2, 3)
    batch, image = sy.DiceLoss(per="batch"), sy.DiceLoss()
    way_out = (
        "per='batch' is one ratio over all images, not a sum over parts of them, so no "
        "denominator makes parts exact: add up loss.statistics(logits, target) over micro-batches "
        "and ranks, and give the sum to each part, loss(logits, target, totals=…)"
    )
    model = torch.nn.Linear(1, 1)
    assert refusal(ValueError, lambda: batch.denominator(y)) == way_out
    assert refusal(ValueError, lambda: sy.step_denominator(batch, y)) == way_out
    assert refusal(ValueError, lambda: sy.ExactMean(batch)) == way_out
    assert refusal(ValueError, lambda: image(logits, y, totals=torch.ones(3, 2))) == (
        "statistics and totals are for per='batch'; with per='image' every image stands by itself, "
        "and denominator= makes parts exact"
    )
    assert refusal(ValueError, lambda: image.statistics(logits, y)).startswith("statistics and")
    sorts = (
        "LovaszLoss with per='batch' sorts the pixels of all images together, and no sums over "
        "parts tell their order: only per='image' is exact over micro-batches and ranks"
    )
    lovasz = sy.LovaszLoss(per="batch")
    for call in (
        lambda: lovasz(logits, y, totals=torch.ones(3, 2)),
        lambda: lovasz.statistics(logits, y),
        lambda: lovasz.denominator(y),
        lambda: sy.ExactMean(lovasz),
    ):
        assert refusal(ValueError, call) == sorts
    assert refusal(ValueError, lambda: batch(logits, y, totals=torch.ones(2, 3))) == (
        "totals are of shape (2, 3), expected the shape (3, 2) of loss.statistics(logits, target)"
    )
    assert refusal(ValueError, lambda: sy.DiceLoss(absent="count").denominator(y)) == (
        "absent='count' counts every class, and class indices do not tell how many there are: "
        "give the loss weight=torch.ones(C)"
    )
    assert model is not None


def test_integers_that_may_be_either_are_refused() -> None:
    loss = sy.DiceLoss(activation="sigmoid")
    text = refusal(ValueError, lambda: loss.denominator(torch.ones(2, 3, 4, dtype=torch.long)))
    assert text == (
        "a target of integers, shape (2, 3, 4), may be class indices, or 0 and 1 for each class: "
        "here give what is 0 and 1 as target.bool() or target.float(), class indices as "
        "F.one_hot(target, C).movedim(-1, 1).bool()"
    )


def test_bad_input_is_told_how_to_mend() -> None:
    one, three = torch.randn(2, 1, 4), torch.randn(2, 3, 4)
    mask = torch.ones(2, 4, dtype=torch.long)
    sigmoid = {"activation": "sigmoid"}
    assert refusal(ValueError, lambda: sy.dice_loss(one, mask)) == (
        "logits of shape (2, 1, 4) have one class, and the softmax of one is 1 everywhere: use "
        "activation='sigmoid'"
    )
    assert refusal(ValueError, lambda: sy.dice_loss(one, mask, **sigmoid)) == (
        "target has shape (2, 4) and logits (2, 1, 4): with activation='sigmoid' expected a target "
        "of the logits' shape, or class indices of shape (2, 4): use target.unsqueeze(1)"
    )
    assert refusal(ValueError, lambda: sy.dice_loss(three, mask.float(), **sigmoid)).endswith(
        "class indices of shape (2, 4): class indices are integers, use target.long()"
    )
    assert refusal(ValueError, lambda: sy.dice_loss(one, 255 * mask.unsqueeze(1), **sigmoid)) == (
        "target[0, 0, 0] is 255: a target of the logits' shape is 0 or 1 for each class, or "
        "ignore_index=-100"
    )
    assert refusal(IndexError, lambda: sy.dice_loss(three, 3 * mask, **sigmoid)).startswith(
        "target[0, 0] is 3, outside [0, C) with C = 3 classes"
    )
    assert "negative" not in refusal(ValueError, lambda: sy.DiceLoss(smooth=-1))
    assert refusal(ValueError, lambda: sy.DiceLoss(per="class")) == (
        "per='class' is not known: choose one of 'image', 'batch'"
    )
    assert refusal(ValueError, lambda: sy.GeneralizedDiceLoss(absent="count")) == (
        "absent='count' with weighting='square' would divide by the size of a class that is "
        "absent, which is 0: use absent='skip', or weighting='uniform'"
    )
    assert refusal(TypeError, lambda: sy.DiceLoss(activation="sigmoid", ignore_index="x")) == (
        "ignore_index='x' is not a number: give the target of pixels to ignore, by default -100"
    )
    text = refusal(TypeError, lambda: sy.DiceLoss(include_background=False))
    assert text.startswith(
        "DiceLoss() has no keyword 'include_background': weight={0: 0} leaves class 0 out. Its "
        "keywords are smooth, squared, weight, ignore_index"
    )


def test_a_sum_of_losses_refuses_what_it_cannot_do() -> None:
    y, logits = torch.tensor([[0, 1, 1]]), torch.randn(1, 2, 3)
    loss = sy.CompoundLoss([(1, sy.CrossEntropyLoss()), (2, sy.DiceLoss())])
    assert refusal(ValueError, lambda: sy.ExactMean(loss)) == (
        "CompoundLoss adds means with denominators of their own, and gradients that are added "
        "cannot be divided by several numbers: give every call "
        "denominator=step_denominator(loss, targets)"
    )
    assert refusal(ValueError, lambda: loss(logits, y, totals=torch.ones(3, 2))) == (
        "statistics and totals are for per='batch', and no part has it"
    )
    assert refusal(ValueError, lambda: loss(logits, y, denominator=torch.ones(3))) == (
        "denominator has 3 numbers, but the loss has 2 parts: give loss.denominator(target), or "
        "one number for all"
    )
    batch = sy.DiceCELoss(per="batch")
    totals = batch.statistics(logits, y)
    assert refusal(ValueError, lambda: batch(logits, y, denominator=torch.ones(2))).startswith(
        "DiceCELoss has a part with per='batch' is one ratio over all images"
    )
    assert refusal(ValueError, lambda: batch(logits, y, totals=totals)) == (
        "totals make the part with per='batch' exact, and the others want theirs: give "
        "denominator=step_denominator(loss, targets) too"
    )
    two = sy.CompoundLoss([(1, sy.DiceLoss(per="batch")), (1, sy.JaccardLoss(per="batch"))])
    assert refusal(ValueError, lambda: two.statistics(logits, y)) == (
        "2 parts have per='batch', each with totals of its own: call them one by one, and add "
        "what they give"
    )
    assert refusal(TypeError, lambda: sy.CompoundLoss([sy.DiceLoss()])) == (
        "a part is DiceLoss(), expected a pair (factor, loss), such as (1.0, sy.DiceLoss())"
    )
    assert refusal(TypeError, lambda: sy.CompoundLoss([(1, torch.nn.MSELoss())])) == (
        "a part is (int, MSELoss), expected a number and a loss of steelyard"
    )
    assert refusal(ValueError, lambda: sy.CompoundLoss([])) == (
        "there are no parts: give pairs (factor, loss)"
    )
    assert refusal(ValueError, lambda: sy.DiceCELoss(reduction="none")) == (
        "CrossEntropyLoss has reduction='none', and losses of positions and of regions have no "
        "common shape: give the parts reduction='mean' or 'sum'"
    )


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
