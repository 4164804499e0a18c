"""What losses of regions refuse, and how it is to be mended."""

from typing import Any

import pytest
import torch

import steelyard as sy


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
        "DiceCELoss has a part that denominators alone make wrong: per='batch' is one ratio"
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
    assert refusal(TypeError, lambda: sy.CompoundLoss([(1, sy.DiceLoss)])) == (
        "a part is (int, type), expected a number and a loss of steelyard"
    )
    assert refusal(TypeError, lambda: sy.CompoundLoss(sy.DiceLoss())) == (
        "parts is a DiceLoss, expected pairs (factor, loss): CompoundLoss([(1.0, loss), …])"
    )
    assert refusal(ValueError, lambda: sy.CompoundLoss([])) == (
        "there are no parts: give pairs (factor, loss)"
    )
    assert refusal(ValueError, lambda: sy.DiceCELoss(reduction="none")) == (
        "CrossEntropyLoss has reduction='none', and losses of positions and of regions have no "
        "common shape: give the parts reduction='mean' or 'sum'"
    )
