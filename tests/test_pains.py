"""What breaks in PyTorch: one test for each pain, named after it.

Where it is cheap a test first shows the pain in PyTorch itself.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import grad_of, make
from table import TABLE, C, Row
from torch import Tensor, nn

each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
NAN = float("nan")
WEIGHT = [0.5, 1.0, 2.0, 4.0, 8.0]


@each_row
@pytest.mark.parametrize("container", [list, tuple, np.array, lambda w: dict(enumerate(w))])
def test_weight_as_list_or_array_is_accepted(row: Row, container: Callable[[Any], Any]) -> None:
    logits, target = make(8)
    with pytest.raises(TypeError):
        F.cross_entropy(logits, target, weight=container(WEIGHT))
    expected = row.build(weight=torch.tensor(WEIGHT))(logits, target)
    torch.testing.assert_close(row.build(weight=container(WEIGHT))(logits, target), expected)


@each_row
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.float64, torch.float16, torch.bfloat16]
)
def test_weight_of_any_dtype_is_accepted(row: Row, dtype: torch.dtype) -> None:
    logits, target = make(8)
    weight = torch.tensor([1, 2, 3, 4, 5], dtype=dtype)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        F.cross_entropy(logits, target, weight)
    F.cross_entropy(logits, logits.softmax(1), weight)  # and here it is accepted
    expected = row.build(weight=weight.float())(logits, target)
    torch.testing.assert_close(row.build(weight=weight)(logits, target), expected)


@each_row
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_weight_with_half_precision_logits_is_accepted(
    row: Row, dtype: torch.dtype
) -> None:
    logits, target = make(8, dtype=dtype)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        F.cross_entropy(logits, target, torch.tensor(WEIGHT))
    value = row.build(weight=WEIGHT)(logits, target)
    torch.testing.assert_close(value, row.build(weight=WEIGHT)(logits.float(), target))


@each_row
@pytest.mark.parametrize("bad", [-1.0, NAN, math.inf])
def test_negative_and_nan_weights_are_refused(row: Row, bad: float) -> None:
    weight = [1.0, 1.0, bad, 1.0, 1.0]
    logits, target = make(8)
    F.cross_entropy(logits, target, torch.tensor(weight))  # accepted
    with pytest.raises(ValueError, match=f"weight of class 2 is {bad}"):
        row.build(weight=weight)


@each_row
def test_half_does_not_make_a_weight_infinite(row: Row) -> None:
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 7e4])
    assert nn.CrossEntropyLoss(weight).half().weight.isinf().any()  # type: ignore[union-attr]
    loss = row.build(weight=weight)
    logits, target = make(8)
    before = loss(logits, target)
    assert torch.equal(loss.half()(logits, target), before)


@each_row
def test_a_weight_added_later_does_not_break_a_strict_load(row: Row) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        nn.CrossEntropyLoss(torch.ones(2)).load_state_dict(nn.CrossEntropyLoss().state_dict())
    row.build(weight=WEIGHT).load_state_dict(row.build().state_dict(), strict=True)
    row.build().load_state_dict(nn.CrossEntropyLoss(torch.ones(C)).state_dict(), strict=True)


@each_row
def test_a_weight_of_the_wrong_length_is_refused(row: Row) -> None:
    """Some libraries clamp the class index; linear_cross_entropy takes a longer one silently."""
    logits, target = make(8)
    for length in (C - 1, C + 1, 1, 0):
        with pytest.raises(ValueError, match=f"weight has {length} values"):
            row.build(weight=torch.ones(length))(logits, target)


@each_row
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_both_target_forms_have_the_same_mean(row: Row, smoothing: float) -> None:
    """PyTorch divides by Σ w[y] for class indices, by N for probabilities."""
    logits, target = make(8, dtype=torch.float64)
    one_hot = F.one_hot(target, C).double()
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    by_index, by_share = (
        F.cross_entropy(logits, t, weight, label_smoothing=smoothing) for t in (target, one_hot)
    )
    assert by_share / by_index > 2
    loss = row.build(weight=weight, mean_over="weight", label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, target), rtol=1e-12, atol=1e-12)


@each_row
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_everything_ignored_is_zero(row: Row, smoothing: float) -> None:
    logits, target = make(4)
    target = torch.full_like(target, -100)
    assert F.cross_entropy(logits, target).isnan()
    loss = row.build(weight=WEIGHT, label_smoothing=smoothing)
    assert loss(logits, target) == 0
    assert (grad_of(lambda z: loss(z, target), logits) == 0).all()
    faithful = row.build(weight=WEIGHT, label_smoothing=smoothing, empty="nan")
    assert faithful(logits, target).isnan()


@each_row
def test_only_classes_of_zero_weight_is_zero(row: Row) -> None:
    logits, _ = make(4)
    target, weight = torch.ones(4, dtype=torch.long), torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    assert F.cross_entropy(logits, target, weight).isnan()
    assert grad_of(lambda z: F.cross_entropy(z, target, weight), logits).isnan().any()
    loss = row.build(weight=weight)
    assert loss(logits, target) == 0
    assert (grad_of(lambda z: loss(z, target), logits) == 0).all()


@each_row
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nan_logits_in_an_ignored_row_do_not_poison(row: Row, smoothing: float) -> None:
    logits, target = make(4)
    target[2] = -100
    logits[2] = NAN
    theirs = grad_of(lambda z: F.cross_entropy(z, target, label_smoothing=smoothing), logits)
    assert theirs[2].isnan().all()
    loss = row.build(label_smoothing=smoothing)
    kept = torch.tensor([0, 1, 3])
    torch.testing.assert_close(loss(logits, target), loss(logits[kept], target[kept]))
    grad = grad_of(lambda z: loss(z, target), logits)
    assert (grad[2] == 0).all()
    assert grad.isfinite().all()


@each_row
def test_mean_of_fp16_is_right_above_65504_positions(row: Row) -> None:
    logits, target = make(70_000, dtype=torch.float16)
    assert not F.cross_entropy(logits, target).isfinite()
    expected = naive_mean(row, logits, target)
    assert float(row.build()(logits, target)) == pytest.approx(expected, rel=1e-5)


@each_row
def test_mean_of_bf16_is_right_at_100000(row: Row) -> None:
    logits, target = make(100_000, dtype=torch.bfloat16)
    exact = F.cross_entropy(logits.double(), target)
    assert abs(F.cross_entropy(logits, target).double() / exact - 1) > 1e-3
    value = row.build()(logits, target)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(naive_mean(row, logits, target), rel=1e-5)


def naive_mean(row: Row, logits: Tensor, target: Tensor) -> float:
    """The mean of a row's formula over class indices (N,), all at once in float64."""
    one_hot = F.one_hot(target, C).double()
    weight = torch.ones(C).double() if row.own_weight is None else row.own_weight
    losses = (row.losses(logits.double(), one_hot) * one_hot).sum(1)
    return float((weight[target] * losses).sum() / weight[target].sum())


@each_row
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8, torch.int8])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 2)])
def test_targets_of_any_integer_dtype(row: Row, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    logits, target = make(*shape)
    if (dtype, shape) != (torch.uint8, (6,)):
        with pytest.raises(RuntimeError):
            F.cross_entropy(logits, target.to(dtype))
    assert torch.equal(row.build()(logits, target.to(dtype)), row.build()(logits, target))


@each_row
def test_float_class_indices_say_what_to_do(row: Row) -> None:
    logits, target = make(6)
    with pytest.raises(RuntimeError, match="expected target dtype to be Long"):
        F.cross_entropy(logits, target.float())
    with pytest.raises(TypeError, match=re.escape("use target.long()")):
        row.build()(logits, target.float())


@each_row
def test_a_label_out_of_range_is_named(row: Row) -> None:
    logits, target = make(2, 3)
    target[1, 2] = C
    with pytest.raises(IndexError, match=re.escape(f"target[1, 2] is {C}, outside [0, C)")):
        row.build()(logits, target)


@each_row
def test_segmentation_is_deterministic(row: Row) -> None:
    logits, target = make(2, 8, 8)
    loss = row.build(weight=WEIGHT, ignore_index=1)
    torch.use_deterministic_algorithms(True)
    try:
        first = grad_of(lambda z: loss(z, target), logits)
        assert torch.equal(grad_of(lambda z: loss(z, target), logits), first)
    finally:
        torch.use_deterministic_algorithms(False)


@each_row
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_channels_last_is_kept_in_the_gradient(row: Row, smoothing: float) -> None:
    logits, target = make(2, 4, 4)
    layout = torch.channels_last
    leaf = logits.to(memory_format=layout).requires_grad_()
    (theirs,) = torch.autograd.grad(F.cross_entropy(leaf, target), leaf)
    assert not theirs.is_contiguous(memory_format=layout)
    (ours,) = torch.autograd.grad(row.build(label_smoothing=smoothing)(leaf, target), leaf)
    assert ours.is_contiguous(memory_format=layout)


@each_row
def test_vmap_of_weight_smoothing_and_mean(row: Row) -> None:
    logits, target = make(6, dtype=torch.float64)
    logits, target = logits.view(3, 2, C), target.view(3, 2)
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        torch.vmap(lambda z, t: F.cross_entropy(z, t, weight, label_smoothing=0.1))(logits, target)
    loss = row.build(weight=weight, label_smoothing=0.1)
    one_by_one = torch.stack([loss(z, t) for z, t in zip(logits, target, strict=True)])
    torch.testing.assert_close(torch.vmap(loss)(logits, target), one_by_one)


@each_row
def test_micro_batches_of_one_keep_their_weights(row: Row) -> None:
    logits, target = make(8, dtype=torch.float64)
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    micro = [slice(i, i + 1) for i in range(8)]
    plain = grad_of(lambda z: F.cross_entropy(z, target), logits)
    averaged = grad_of(
        lambda z: torch.stack([F.cross_entropy(z[m], target[m], weight) for m in micro]).mean(),
        logits,
    )
    torch.testing.assert_close(averaged, plain)  # in PyTorch the weights have done nothing
    loss = row.build(weight=weight)
    whole = grad_of(lambda z: loss(z, target), logits)
    total = sum(loss.denominator(target[m]) for m in micro)
    ours = grad_of(
        lambda z: torch.stack([loss(z[m], target[m], denominator=total) for m in micro]).sum(),
        logits,
    )
    torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-14)
