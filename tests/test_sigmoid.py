"""The sigmoid family: known values, PyTorch's own inputs, missing labels, and errors."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import C
from table_sigmoid import SIGMOID_TABLE, SigmoidRow
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import steelyard as sy

NAN, INF = float("nan"), float("inf")
each_row = pytest.mark.parametrize("row", SIGMOID_TABLE, ids=lambda row: row.id)


def random_cells(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, dtype=torch.float64, generator=g)
    return logits, (torch.rand(shape, dtype=torch.float64, generator=g) < 0.3).double()


# Known values.


def test_sigmoid_focal_values() -> None:
    logits, target = torch.eye(2, dtype=torch.float64), F.one_hot(torch.tensor([0, 1]))
    loss = sy.SigmoidFocalLoss(alpha=0.25, gamma=2, reduction="sum")
    assert loss(logits, target).item() / 2 == pytest.approx(0.13562961, abs=1e-8)
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    value = loss(logits, F.one_hot(torch.tensor([2, 1]), 3))
    assert value.item() / 2 == pytest.approx(1.10251057, abs=1e-6)


@pytest.mark.parametrize(("clip", "expected"), [(0.05, 7.6169), (0.0, 10.2372)])
def test_asymmetric_values(clip: float, expected: float) -> None:
    logits = torch.tensor([[5.0, -5.0, 0.0], [5.0, -5.0, 0.0]])
    target = torch.tensor([[1, 0, 1], [0, 1, 0]])
    loss = sy.AsymmetricLoss(gamma_pos=1, gamma_neg=4, clip=clip, reduction="sum")
    assert loss(logits, target).item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 300), ({"pos_weight": [0.1, 0.2]}, 136.6667), ({"weight": [0.1, 0.9]}, 176.667)],
)
def test_bce_values(options: dict[str, Any], expected: float) -> None:
    logits = torch.tensor([[-200.0, 100.0], [500.0, -1000.0], [300.0, -300.0]])
    target = torch.tensor([[1, 0], [0, 1], [1, 0]])
    assert sy.BCEWithLogitsLoss(**options)(logits, target).item() == pytest.approx(
        expected, rel=1e-5
    )


# PyTorch's own inputs.


def as_ours(options: dict[str, Any], logits: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """PyTorch's options as options and arguments of the call; a weight there may be per cell."""
    options, call = dict(options), {}
    weight = options.get("weight")
    if weight is not None:
        options["weight"] = weight.detach().abs()
        if weight.ndim > 1:
            call["sample_weight"] = options.pop("weight").expand(logits.shape)
    if options.get("pos_weight") is not None:
        options["pos_weight"] = options["pos_weight"].detach().abs()
    return options, call


def agree(options: dict[str, Any], logits: Tensor, target: Tensor) -> None:
    theirs_options = {
        k: v.detach().abs() if isinstance(v, Tensor) else v for k, v in options.items()
    }
    options, call = as_ours(options, logits)
    results = []
    for module, given in (
        (nn.BCEWithLogitsLoss(**theirs_options), {}),
        (sy.BCEWithLogitsLoss(**options), call),
    ):
        leaves = [logits.detach().clone().requires_grad_(), target.detach().clone()]
        leaves[1].requires_grad_()
        value = module(*leaves, **given)
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
        results.append([value, *torch.autograd.grad(value, leaves, upstream)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


def test_bce_on_pytorchs_module_inputs() -> None:
    (info,) = [info for info in module_db if info.module_cls is nn.BCEWithLogitsLoss]
    torch.manual_seed(0)
    samples = list(info.module_inputs_func(info, "cpu", torch.float64, True, True))
    assert len(samples) >= 6
    for sample in samples:
        agree(sample.constructor_input.kwargs, *sample.forward_input.args)


def test_bce_on_pytorchs_functional_inputs() -> None:
    (op,) = [op for op in op_db if op.name == "nn.functional.binary_cross_entropy_with_logits"]
    torch.manual_seed(0)
    samples = [s for s in op.sample_inputs("cpu", torch.float64, True) if s.input.ndim]
    assert len(samples) >= 20
    for sample in samples:
        agree(sample.kwargs, sample.input, sample.args[0])


def test_a_state_dict_of_pytorchs_gives_its_weights() -> None:
    theirs = nn.BCEWithLogitsLoss(torch.tensor([1.0, 2.0]), pos_weight=torch.tensor([3.0, 4.0]))
    ours = sy.BCEWithLogitsLoss()
    ours.load_state_dict(theirs.state_dict())
    logits, target = random_cells(5, 2)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))
    assert "weight=[1.0, 2.0], pos_weight=[3.0, 4.0]" in repr(ours)
    assert not ours.state_dict()


# One class, missing labels, dtypes.


@each_row
def test_one_logit_per_position_is_one_class(row: SigmoidRow) -> None:
    arguments = {name: v for name, v in row.arguments.items() if not isinstance(v, list)}
    if "class_counts" in row.arguments:
        arguments["class_counts"] = [30]
    logits, target = random_cells(7)
    target[2] = -1
    samples = torch.rand(7, dtype=torch.float64)
    for reduction in ("mean", "sum", "none"):
        loss = row.module(**arguments, pos_weight=3.0, reduction=reduction)
        flat = loss(logits, target, samples)
        column = loss(logits[:, None], target[:, None], samples)
        torch.testing.assert_close(flat, column if column.ndim < 2 else column.squeeze(1))
        assert flat.shape == ((7,) if reduction == "none" else ())
    assert loss.denominator(target, samples) == loss.denominator(target[:, None], samples)


@each_row
def test_one_number_is_that_number_for_every_class(row: SigmoidRow) -> None:
    logits, target = random_cells(4, C)
    for number in (2, 2.0, torch.tensor(2.0), torch.tensor([2.0])):
        loss = row.build(weight=number, pos_weight=number)
        listed = row.build(weight=[2.0] * C, pos_weight=[2.0] * C)
        torch.testing.assert_close(loss(logits, target), listed(logits, target))


@pytest.mark.parametrize("over", [None, "weight", "position", "positive"])
def test_missing_labels_are_in_no_mean(over: Any) -> None:
    """Others multiply the loss by a mask and divide by all cells."""
    logits, target = random_cells(64, C)
    missing = torch.rand(64, C) < 0.4
    loss = sy.BCEWithLogitsLoss(mean_over=over, pos_weight=3.0)
    value = loss(logits, target.masked_fill(missing, -1))
    each = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=torch.tensor(3.0), reduction="none"
    )
    kept = ~missing
    divisor = {
        None: kept.sum(),
        "weight": (1 + 2 * target)[kept].sum(),
        "position": kept.any(1).sum(),
        "positive": target[kept].sum(),
    }[over]
    torch.testing.assert_close(value, each[kept].sum() / divisor)
    assert not torch.allclose(value, (each * kept).mean())


def test_smoothing_is_half_to_each_side() -> None:
    logits, target = random_cells(16, C)
    value = sy.bce_with_logits_loss(logits, target, label_smoothing=0.2)
    expected = F.binary_cross_entropy_with_logits(logits, 0.8 * target + 0.1)
    torch.testing.assert_close(value, expected)


@each_row
def test_a_sum_beyond_float16(row: SigmoidRow) -> None:
    logits, target = random_cells(40_000, C)
    half = logits.half().requires_grad_()
    for reduction in ("sum", "mean"):
        loss = row.build(reduction=reduction)
        value = loss(half, target.half())
        assert value.dtype == torch.float32
        wide = loss(half.detach().double(), target)
        torch.testing.assert_close(value.double(), wide, rtol=1e-5, atol=0)


def test_class_vectors_lie_along_dimension_one() -> None:
    """PyTorch broadcasts them against the last dimension: here that is no class."""
    logits, target = random_cells(2, 3, 4)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ours = sy.BCEWithLogitsLoss(pos_weight=weight)(logits, target)
    theirs = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight.view(3, 1))
    torch.testing.assert_close(ours, theirs)


def test_the_clip_stops_no_other_gradient() -> None:
    """Published code adds 1e-8 to p under a clamp, whose gradient is 0 for confident mistakes."""
    logits = torch.tensor([[-30.0, -25.0], [30.0, -3.5]], requires_grad=True)
    target = torch.tensor([[1, 1], [0, 0]])
    sy.asymmetric_loss(logits, target, reduction="sum").backward()
    assert logits.grad is not None
    # p ≈ 0 where it should be 1: all of the gradient. p = 0.0293 < clip where it should be 0: none.
    torch.testing.assert_close(logits.grad[0], torch.tensor([-1.0, -1.0]))
    assert logits.grad[1, 1] == 0
    assert torch.is_grad_enabled()
    with torch.no_grad():
        sy.asymmetric_loss(logits, target)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0])
def test_focal_at_saturation_has_no_nan(gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4, 100.0, -100.0, 0.0]], requires_grad=True)
    for target in (torch.ones(1, 5), torch.zeros(1, 5)):
        (gradient,) = torch.autograd.grad(
            sy.sigmoid_focal_loss(logits, target, gamma=gamma), logits
        )
        assert gradient.isfinite().all()


def test_distribution_balanced_leaves_the_logits_alone() -> None:
    logits, target = random_cells(4, C)
    before = logits.clone()
    sy.distribution_balanced_loss(logits, target, class_counts=[9, 8, 7, 6, 5], total=20)
    assert torch.equal(logits, before)


def test_class_balanced_per_sample_is_a_sample_weight() -> None:
    """The published code: softmax-style labels, the class weight of the sample on all its cells."""
    logits, _ = random_cells(8, 3)
    y = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])
    w = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    ours = sy.sigmoid_focal_loss(
        logits, F.one_hot(y, 3), sample_weight=w[y], gamma=0, reduction="sum"
    )
    theirs = F.binary_cross_entropy_with_logits(
        logits, F.one_hot(y, 3).double(), weight=w[y][:, None].expand(8, 3), reduction="sum"
    )
    torch.testing.assert_close(ours, theirs)


def test_logit_adjusted_with_one_class_is_the_bias_of_the_prior() -> None:
    logits, target = random_cells(9)
    ours = sy.sigmoid_logit_adjusted_loss(logits, target, class_counts=[10], total=1000)
    theirs = F.binary_cross_entropy_with_logits(logits + math.log(0.01 / 0.99), target)
    torch.testing.assert_close(ours, theirs)


def test_classes_never_or_always_there_count_once() -> None:
    loss = sy.SigmoidLogitAdjustedLoss(class_counts=[0, 5, 10], total=10)
    expected = [math.log(1 / 10), 0.0, math.log(10 / 1)]
    torch.testing.assert_close(loss.form.bias, torch.tensor(expected, dtype=torch.float64))


def test_zlpr_is_additive_over_positions_and_bce_of_one_class() -> None:
    logits, target = random_cells(6, C)
    loss = sy.ZLPRLoss(reduction="sum")
    parts = sum(loss(z[None], t[None]) for z, t in zip(logits, target, strict=True))
    torch.testing.assert_close(loss(logits, target), parts)
    one = sy.zlpr_loss(logits[:, 0], target[:, 0])
    torch.testing.assert_close(one, sy.bce_with_logits_loss(logits[:, 0], target[:, 0]))


# Errors.

LOGITS = torch.zeros(2, 3)
TARGET = torch.tensor([[1, 0, 1], [0, 0, 1]])


def raises(error: type[Exception], text: str) -> Any:
    return pytest.raises(error, match=re.escape(text))


CALLS: list[tuple[Any, Any, type[Exception], str]] = [
    ([[1.0]], TARGET, TypeError, "logits are a list, expected a floating-point tensor"),
    (torch.tensor(1.0), TARGET, ValueError, "expected (N, C), (N, C, d1, …) or (N,)"),
    (LOGITS, [[1, 0, 1]], TypeError, "target is a list, expected a tensor"),
    (LOGITS, TARGET * 1j, TypeError, "target is torch.complex64, expected numbers in [0, 1]"),
    (
        LOGITS,
        torch.tensor([0, 2]),
        ValueError,
        "target has shape (2,) and logits (2, 3): expected one number in [0, 1] for each logit: "
        "class indices become 0 and 1 by F.one_hot(target, 3), and are what the losses of the "
        "softmax family take",
    ),
    (
        torch.zeros(2, 3, 4),
        torch.zeros(2, 4),
        ValueError,
        "by F.one_hot(target, 3).movedim(-1, 1)",
    ),
    (torch.zeros(2, 1), torch.zeros(2), ValueError, "use target.unsqueeze(1)"),
    (torch.zeros(2), torch.zeros(2, 1), ValueError, "use target.squeeze(1)"),
    (torch.zeros(2, 3, 4), torch.zeros(2, 4, 3), ValueError, "use target.movedim(-1, 1)"),
    (
        LOGITS,
        2 * TARGET,
        ValueError,
        "target[0, 0] is 2: expected 0, 1 or ignore_index=-1 in a target of integers; soft targets "
        "are floating-point numbers, class indices become 0 and 1 by F.one_hot",
    ),
    (LOGITS, TARGET - 100, ValueError, "if it marks missing labels, give ignore_index=-99"),
    (LOGITS, (TARGET - 1).to(torch.uint8), ValueError, "target[0, 1] is 255: expected 0, 1 or"),
    (LOGITS, TARGET - 100.0, ValueError, "if it marks missing labels, give ignore_index=-99"),
    (LOGITS, TARGET * NAN, ValueError, 'missing labels, give ignore_index=float("nan")'),
    (LOGITS, TARGET * 2.0, ValueError, "is 2.0: expected numbers in [0, 1], or ignore_index=-1"),
]


@pytest.mark.parametrize(("logits", "target", "error", "text"), CALLS, ids=lambda v: None)
def test_call(logits: Any, target: Any, error: type[Exception], text: str) -> None:
    for loss in (sy.BCEWithLogitsLoss(), sy.ZLPRLoss()):
        with raises(error, text):
            loss(logits, target)


PER_CALL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sample_weight": [1, 0]}, TypeError, "sample_weight is a list, expected a tensor"),
    (
        {"sample_weight": torch.ones(3)},
        ValueError,
        "does not broadcast to the positions (2,); one number per class is `weight`",
    ),
    ({"sample_weight": torch.ones(5, 3)}, ValueError, "does not broadcast to the positions (2, 3)"),
    ({"sample_weight": -torch.ones(2, 3)}, ValueError, "sample_weight[0, 0] is -1.0: expected"),
    ({"denominator": -1}, ValueError, "denominator=-1 is not in [0, inf)"),
]


@pytest.mark.parametrize(("call", "error", "text"), PER_CALL, ids=lambda v: None)
def test_per_call(call: dict[str, Any], error: type[Exception], text: str) -> None:
    with raises(error, text):
        sy.BCEWithLogitsLoss()(LOGITS, TARGET, **call)


OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"mean_over": "count"},
        ValueError,
        "mean_over='count' is not known: choose one of None, 'weight', 'position', 'positive'",
    ),
    ({"ignore_index": None}, TypeError, "ignore_index=None is not a number: give the target of"),
    ({"weight": torch.ones(2, 3)}, ValueError, "weights of positions or cells are sample_weight"),
    ({"weight": -1.0}, ValueError, "weight is -1.0: expected a finite number ≥ 0"),
    ({"pos_weight": [1.0, NAN]}, ValueError, "pos_weight of class 1 is nan: expected finite"),
    ({"class_weight": [1]}, TypeError, "has no keyword 'class_weight': class weights are `weight`"),
    ({"label_smoothing": 2}, ValueError, "label_smoothing=2 is not in [0, 1]"),
    ({"bogus": 2}, TypeError, "Its keywords are weight, pos_weight, ignore_index, label_smoothing"),
]


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS, ids=lambda v: None)
def test_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with raises(error, text):
        sy.BCEWithLogitsLoss(**options)
    with raises(error, text):
        sy.bce_with_logits_loss(LOGITS, TARGET, **options)


COUNTED = {"class_counts": [9, 8], "total": 20}
ARGUMENTS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: sy.BCEWithLogitsLoss(alpha=1), TypeError, "is `pos_weight`; the focal α belongs to"),
    (lambda: sy.BCEWithLogitsLoss([1.0, 2.0])(LOGITS, TARGET), ValueError, "weight has 2 values"),
    (lambda: sy.SigmoidFocalLoss(gamma=-1), ValueError, "gamma=-1.0 is not in [0, inf)"),
    (lambda: sy.SigmoidFocalLoss(alpha=-1), ValueError, "alpha=-1.0 is not in [0, 1]"),
    (lambda: sy.SigmoidFocalLoss(alpha=[0.5, 2]), ValueError, "the largest alpha=2.0 is not in [0"),
    (lambda: sy.SigmoidFocalLoss(gamma={0: 1}), TypeError, "the classes left out would have no"),
    (lambda: sy.AsymmetricLoss(gamma_neg=-1), ValueError, "gamma_neg=-1 is not in [0, inf)"),
    (lambda: sy.AsymmetricLoss(gamma_pos=INF), ValueError, "gamma_pos=inf is not in [0, inf)"),
    (lambda: sy.AsymmetricLoss(clip=-0.1), ValueError, "clip=-0.1 is not in [0, 1]"),
    (lambda: sy.AsymmetricLoss(clip=1), ValueError, "clip=1 takes the cost from every negative"),
    (lambda: sy.SigmoidPolyLoss(epsilon=-2), ValueError, "epsilon=-2 is not in [-1, inf)"),
    (lambda: sy.HillLoss(bound=0.5), ValueError, "bound=0.5 is not in [1, inf)"),
    (
        lambda: sy.SigmoidLogitAdjustedLoss(class_counts=[1, 2]),
        ValueError,
        "but not out of how often: give total=",
    ),
    (
        lambda: sy.SigmoidLogitAdjustedLoss(class_counts=[1, 9], total=5),
        ValueError,
        "total of class 1 is 5, but class_counts says that it is there 9 times",
    ),
    (lambda: sy.DistributionBalancedLoss(**COUNTED, kappa=-1), ValueError, "kappa=-1 is not in"),
    (
        lambda: sy.DistributionBalancedLoss(**COUNTED, negative_scale=0),
        ValueError,
        "negative_scale=0 is not in (0, inf)",
    ),
    (
        lambda: sy.zlpr_loss(LOGITS, TARGET, sample_weight=torch.ones(2, 3)),
        ValueError,
        "one number per cell, but the loss is of whole positions: expected one per position (2,)",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ARGUMENTS, ids=lambda v: None)
def test_own_arguments(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with raises(error, text):
        call()
