"""The text of every error: what was given, what was expected, how to mend it."""

import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from table import COUNTS, TABLE, C, Row
from torch import Tensor, nn

import steelyard as sy
from steelyard.losses.positions import KEYWORDS

NAN, INF = float("nan"), float("inf")
LOGITS = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 2])
each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)


def raises(error: type[Exception], text: str) -> Any:
    return pytest.raises(error, match=re.escape(text))


WEIGHTS: list[tuple[Any, type[Exception], str]] = [
    ([1.0, -2.0, 1.0], ValueError, "weight of class 1 is -2.0: expected finite numbers ≥ 0"),
    ([1.0, NAN, 1.0], ValueError, "weight of class 1 is nan: expected finite numbers ≥ 0"),
    ([1.0, 1.0, INF], ValueError, "weight of class 2 is inf: expected finite numbers ≥ 0"),
    (torch.tensor([1, -1]), ValueError, "weight of class 1 is -1.0"),
    ({1: -1.0}, ValueError, "weight of class 1 is -1.0"),
    (torch.ones(3, 1), ValueError, "weight has shape (3, 1), expected one number per class"),
    (torch.tensor(2.0), ValueError, "weight has shape (), expected one number per class"),
    (torch.ones(3) * 1j, TypeError, "weight is complex: expected real numbers"),
    (2.0, TypeError, "weight=2.0 cannot be read as one number per class: give a tensor, an array"),
    ("balanced", TypeError, "weight='balanced' cannot be read as one number per class"),
    ([[1.0], [1.0, 2.0]], TypeError, "cannot be read as one number per class"),
    ({"cat": 2.0}, TypeError, "weight has the key 'cat': the keys of a dict are class indices"),
    ({"cat": 2.0}, TypeError, "[numbers[name] for name in class_counts.names]"),
    ({-1: 2.0}, TypeError, "weight has the key -1: the keys of a dict are class indices 0, 1, 2"),
    ({0: "two"}, TypeError, "weight of class 0 is 'two': expected a number"),
    ({0: None}, TypeError, "weight of class 0 is None: expected a number"),
    (sy.ClassCounts([9, 1]), TypeError, "class_weights(counts) makes them"),
    (
        [1.0, 1.0, 1e39],
        ValueError,
        "weight of class 2 is 1e+39: expected finite numbers ≥ 0, at most 3.4e+38",
    ),
    (torch.tensor([1, 1, 1e39], dtype=torch.float64), ValueError, "weight of class 2 is 1e+39"),
    ({0: 1e39}, ValueError, "weight of class 0 is 1e+39: expected finite numbers ≥ 0, at most"),
    ([1, 1, 10**400], ValueError, "has a number that floats do not hold: expected finite numbers"),
    ({0: 10**400}, ValueError, "weight of class 0 is 1000000000"),
    ({0: torch.ones(2)}, TypeError, "weight of class 0 is tensor([1., 1.]): expected a number"),
    ({2**24: 1.0}, ValueError, "weight has the key 16777216, which is too large to be a class in"),
    ({1: 2.0, torch.tensor(1): 3.0}, ValueError, "weight has two numbers for one class: {1: 2.0, "),
    ({1.0, 2.0, 3.0}, TypeError, "weight={1.0, 2.0, 3.0} cannot be read as one number per class"),
    (b"abc", TypeError, "weight=b'abc' cannot be read as one number per class"),
    ([1, None, 2], TypeError, "weight=[1, None, 2] cannot be read as one number per class"),
    (pd.Series([1, None, 2], dtype="Float64"), TypeError, "cannot be read as one number per class"),
    (np.array(["1", "2", "3"]), TypeError, "cannot be read as one number per class"),
    (np.float32(2), ValueError, "weight has shape (), expected one number per class"),
    ([1j, 1, 1], TypeError, "cannot be read as one number per class"),
]


@pytest.mark.parametrize(("weight", "error", "text"), WEIGHTS, ids=lambda v: None)
def test_weight(weight: Any, error: type[Exception], text: str) -> None:
    with raises(error, text):
        sy.CrossEntropyLoss(weight)
    with raises(error, text):
        sy.focal_loss(LOGITS, TARGET, weight=weight)
    with raises(error, text):
        sy.DeferredReweighting(sy.CrossEntropyLoss(), weight, start=1)
    with raises(error, text):
        sy.unweight_logits(LOGITS, weight)


@each_row
def test_weight_of_another_length(row: Row) -> None:
    """As soon as it can be known: from class counts at once, else from the first logits."""
    at_once = "class_counts" in row.arguments or isinstance(row.arguments.get("gamma"), list)
    text = f"the loss has {C} classes" if at_once else f"logits have C = {C} classes"
    for weight in ([1.0, 2.0], [1.0] * (C + 1)):
        with raises(ValueError, f"weight has {len(weight)} values, but {text}"):
            row.build(weight=weight)(torch.randn(4, C), torch.zeros(4, dtype=torch.long))


def test_weight_dict_beyond_the_classes() -> None:
    text = "weight names class 7, but logits have C = 3 classes (0 to 2)"
    with raises(ValueError, text):
        sy.CrossEntropyLoss({7: 2.0})(LOGITS, TARGET)
    with raises(ValueError, text):
        sy.unweight_logits(LOGITS, {7: 2.0})


def test_class_counts_of_another_length() -> None:
    text = (
        "class_counts has 2 values, but logits have C = 3 classes (dimension 1, or the only one): "
    )
    text += "give one value per class; labels are counted by count_classes"
    for loss in (sy.LogitAdjustedLoss, sy.BalancedSoftmaxLoss, sy.LDAMLoss, sy.VSLoss):
        with raises(ValueError, text):
            loss(class_counts=[9, 1])(LOGITS, TARGET)
    with raises(ValueError, text):
        sy.adjust_logits(LOGITS, [9, 1])
    with raises(ValueError, "gamma has 2 values, but logits have C = 3 classes"):
        sy.FocalLoss(gamma=[1.0, 2.0])(LOGITS, TARGET)


def test_class_counts_of_several_labels_are_not_for_a_softmax() -> None:
    counts = sy.count_classes(torch.tensor([[1, 0, 0], [1, 1, 0]]), multi_label=True)
    for loss in (sy.LogitAdjustedLoss, sy.BalancedSoftmaxLoss, sy.LDAMLoss, sy.VSLoss):
        with raises(
            ValueError,
            "class_counts are of several labels (multi_label=True), and a softmax has one class "
            "per position: SigmoidLogitAdjustedLoss takes them; one-hot labels are counted as "
            "class indices, count_classes(labels.argmax(1))",
        ):
            loss(class_counts=counts)


OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"reduction": "bogus"},
        ValueError,
        "reduction='bogus' is not known: choose one of 'mean', 'sum', 'none'",
    ),
    ({"reduction": None}, ValueError, "reduction=None is not known"),
    ({"mean_over": "n"}, ValueError, "mean_over='n' is not known: choose one of None, 'weight', "),
    ({"empty": 0}, ValueError, "empty=0 is not known: choose one of 'zero', 'nan'"),
    ({"engine": "warp"}, ValueError, "engine='warp' is not known: choose one of 'auto', 'refer"),
    ({"ignore_index": 1.5}, TypeError, "ignore_index=1.5 is not an integer: give a class index"),
    ({"ignore_index": None}, TypeError, "ignore_index=None is not an integer"),
    ({"label_smoothing": 1.5}, ValueError, "label_smoothing=1.5 is not in [0, 1]"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing=-0.1 is not in [0, 1]"),
    ({"label_smoothing": NAN}, ValueError, "label_smoothing=nan is not in [0, 1]"),
    ({"label_smoothing": None}, TypeError, "label_smoothing=None is not a number"),
    ({"label_smoothing": "0.1"}, TypeError, "label_smoothing='0.1' is not a number"),
    ({"label_smoothing": 0.1j}, TypeError, "label_smoothing=0.1j is not a number"),
    ({"ignore_index": 2**63}, ValueError, "ignore_index=9223372036854775808 does not fit 64 bits"),
    ({"alpha": 0.25}, TypeError, "has no keyword 'alpha': class weights are `weight`"),
    ({"class_weight": [1]}, TypeError, "has no keyword 'class_weight': class weights are `weight`"),
    ({"pos_weight": [1]}, TypeError, "has no keyword 'pos_weight': class weights are `weight`"),
    ({"smoothing": 0.1}, TypeError, "has no keyword 'smoothing': it is `label_smoothing`"),
    ({"ignore_label": 1}, TypeError, "has no keyword 'ignore_label': it is `ignore_index`"),
    ({"size_average": True}, TypeError, "has no keyword 'size_average': `reduction` has replaced"),
    ({"reduce": False}, TypeError, "has no keyword 'reduce': `reduction` has replaced it"),
    ({"lable_smoothing": 0.1}, TypeError, "has no keyword 'lable_smoothing'. Its keywords are "),
]


@each_row
@pytest.mark.parametrize(("options", "error", "text"), OPTIONS, ids=lambda v: None)
def test_options(row: Row, options: dict[str, Any], error: type[Exception], text: str) -> None:
    if options.keys() & row.arguments.keys():
        pytest.skip("the loss has this keyword")
    with raises(error, text):
        row.build(**options)
    logits = torch.randn(2, C)
    with raises(error, text):
        row.function(logits, TARGET, **row.arguments, **options)


def test_arguments_without_a_name() -> None:
    every = "weight, ignore_index, label_smoothing, reduction, mean_over, empty, engine"
    for loss, given, text in [
        (
            sy.FocalLoss,
            (2.0,),
            "FocalLoss() takes its arguments by name, as in FocalLoss(gamma=2.0). Its keywords are "
            f"gamma, {every}",
        ),
        (sy.FocalLoss, (torch.ones(3),), "by name, as in FocalLoss(gamma=…). Its keywords are ga"),
        (
            sy.ClassBalancedLoss,
            ([9, 1], 0.99),
            "by name, as in ClassBalancedLoss(class_counts=…). Its keywords are class_counts, beta",
        ),
        (
            sy.FocalLoss,
            (LOGITS, TARGET),
            "FocalLoss() takes its arguments by name; logits and target go into the call, "
            "FocalLoss(…)(logits, target). Its keywords are gamma",
        ),
        (
            sy.CrossEntropyLoss,
            ([1.0, 2.0], "sum"),
            "CrossEntropyLoss() takes all but the first of its arguments by name. Its keywords are "
            f"{every}",
        ),
        (sy.CrossEntropyLoss, (LOGITS, TARGET), "the call, CrossEntropyLoss(…)(logits, target)"),
        (sy.LogitAdjustedLoss, ([9, 1],), "as in LogitAdjustedLoss(class_counts=…)"),
        (sy.AsymmetricLoss, (4, 1), "as in AsymmetricLoss(gamma_pos=…). Its keywords are gamma_"),
        (sy.DiceLoss, ("sigmoid",), "as in DiceLoss(smooth=…)"),
        (sy.DiceCELoss, (0.5, 0.5), "as in DiceCELoss(dice=…)"),
    ]:
        with raises(TypeError, text):
            loss(*given)


@each_row
def test_unknown_keyword_lists_the_known_ones(row: Row) -> None:
    options = "weight, ignore_index, label_smoothing, reduction, mean_over, empty, engine"
    given = [n for n in inspect.signature(row.module).parameters if n not in KEYWORDS.defaults]
    own = "".join(f"{name}, " for name in given)
    text = f"{row.module.__name__}() has no keyword 'bogus'. Its keywords are {own}{options}"
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        row.build(bogus=1)
    text = f"{row.function.__name__}() has no keyword 'bogus'. Its keywords are {own}{options}"
    with pytest.raises(TypeError, match=f"^{re.escape(text)}, sample_weight, denominator$"):
        row.function(LOGITS, TARGET, **row.arguments, bogus=1)
    with raises(TypeError, "'sample_weight': it belongs to the call, loss(logits, target, …)"):
        row.build(sample_weight=torch.ones(2))


ARGUMENTS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: sy.FocalLoss(gamma=-1), ValueError, "gamma=-1 is not in [0, inf)"),
    (lambda: sy.FocalLoss(gamma=NAN), ValueError, "gamma=nan is not in [0, inf)"),
    (lambda: sy.FocalLoss(gamma=INF), ValueError, "gamma=inf is not in [0, inf)"),
    (lambda: sy.FocalLoss(gamma=torch.tensor(-1.0)), ValueError, "gamma=-1.0 is not in [0, inf)"),
    (lambda: sy.FocalLoss(gamma=[1, -2]), ValueError, "gamma of class 1 is -2.0: expected finite"),
    (lambda: sy.FocalLoss(gamma="2"), TypeError, "gamma='2' cannot be read as one number per"),
    (lambda: sy.FocalLoss(gamma=None), TypeError, "gamma=None cannot be read as one number per"),
    (lambda: sy.FocalLoss(gamma={2: 1.0}), TypeError, "gamma={2: 1.0} is a dict, and the classes"),
    (lambda: sy.FocalLoss(gamma=1e39), ValueError, "gamma=1e+39 is infinite in float32: expected"),
    (
        lambda: sy.FocalLoss(gamma=[1, 1e39]),
        ValueError,
        "gamma of class 1 is 1e+39: expected",
    ),
    (lambda: sy.PolyLoss(epsilon=-1.1), ValueError, "epsilon=-1.1 is not in [-1, inf)"),
    (lambda: sy.GeneralizedCrossEntropyLoss(q=0), ValueError, "q=0 is not in (0, 1]"),
    (lambda: sy.GeneralizedCrossEntropyLoss(q=1.1), ValueError, "q=1.1 is not in (0, 1]"),
    (lambda: sy.SymmetricCrossEntropyLoss(alpha=-1), ValueError, "alpha=-1 is not in [0, inf)"),
    (lambda: sy.SymmetricCrossEntropyLoss(beta=NAN), ValueError, "beta=nan is not in [0, inf)"),
    (
        lambda: sy.SymmetricCrossEntropyLoss(log_zero=1),
        ValueError,
        "log_zero=1 is not in (-inf, 0]",
    ),
    (lambda: sy.LogitAdjustedLoss(class_counts=COUNTS, tau=INF), ValueError, "tau=inf is not in "),
    (lambda: sy.LogitAdjustedLoss(class_counts=COUNTS, tau="1"), TypeError, "tau='1' is not a num"),
    (lambda: sy.VSLoss(class_counts=COUNTS, tau=NAN), ValueError, "tau=nan is not in (-inf, inf)"),
    (lambda: sy.VSLoss(class_counts=COUNTS, gamma=-1), ValueError, "gamma=-1 is not in [0, inf)"),
    (lambda: sy.LDAMLoss(class_counts=COUNTS, scale=0), ValueError, "scale=0 is not in (0, inf)"),
    (lambda: sy.LDAMLoss(class_counts=COUNTS, max_margin=-1), ValueError, "max_margin=-1 is not"),
    (lambda: sy.ClassBalancedLoss(class_counts=COUNTS, beta=1), ValueError, "expected 0 ≤ beta"),
    (lambda: sy.ClassBalancedLoss(class_counts=COUNTS, gamma=-1), ValueError, "gamma=-1 is not"),
]


@pytest.mark.parametrize(("build", "error", "text"), ARGUMENTS, ids=lambda v: None)
def test_own_arguments(build: Callable[[], object], error: type[Exception], text: str) -> None:
    with raises(error, text):
        build()


@pytest.mark.parametrize(
    "row", [row for row in TABLE if "class_counts" in row.arguments], ids=lambda row: row.id
)
def test_class_counts(row: Row) -> None:
    for counts, error, text in [
        ([9, -1], ValueError, "class 1 has -1; expected whole numbers ≥ 0"),
        ([0.9, 0.1], ValueError, "class 0 has 0.9; expected whole numbers ≥ 0"),
        ([0, 0], ValueError, "all 2 counts are zero"),
        (7, TypeError, "is an int; expected a tensor, array or list"),
    ]:
        with raises(error, text):
            row.module(class_counts=counts)
    with raises(TypeError, "class_counts"):
        row.module()


CALLS: list[tuple[Any, Any, type[Exception], str]] = [
    ([[1.0, 2.0]], TARGET, TypeError, "logits are a list, expected a floating-point tensor"),
    (LOGITS.long(), TARGET, TypeError, "logits are a torch.int64 tensor, expected a floating-poin"),
    (TARGET, LOGITS, TypeError, "tensor (N, C, …) or (C,): they are the first argument"),
    (
        TARGET.float(),
        LOGITS,
        ValueError,
        ": logits are the first argument, the target is the secon",
    ),
    (LOGITS[:, 0], TARGET, ValueError, ": one logit for two classes is for sy.BCEWithLogitsLoss"),
    (torch.tensor(1.0), TARGET, ValueError, "logits have shape (), expected (N, C), (N, C, d1, …)"),
    (LOGITS[:, :0], TARGET, ValueError, "logits have shape (2, 0), expected"),
    (LOGITS, [0, 2], TypeError, "target is a list, expected a tensor: torch.as_tensor(…)"),
    (LOGITS, TARGET.float(), TypeError, "class indices are integers, use target.long()"),
    (LOGITS[0], TARGET[0].float(), TypeError, "class indices are integers, use target.long()"),
    (LOGITS, TARGET > 0, TypeError, "target is torch.bool, expected class indices"),
    (LOGITS, LOGITS.long(), ValueError, "integers of 0 and 1 are several labels for sy"),
    (
        LOGITS,
        torch.tensor([0, 1, 2]),
        ValueError,
        "target has shape (3,) and logits (2, 3): expected class indices of shape (2,) or "
        "probabilities of shape (2, 3)",
    ),
    (LOGITS, TARGET[:, None], ValueError, "use target.squeeze(1)"),
    (
        torch.randn(2, 3, 4, 4),
        torch.zeros(2, 1, 4, 4, dtype=torch.long),
        ValueError,
        "use target.squeeze(1)",
    ),
    (
        torch.randn(2, 7, 3),
        torch.zeros(2, 7, dtype=torch.long),
        ValueError,
        "the class dimension is 1, use logits.movedim(-1, 1)",
    ),
    (LOGITS, torch.tensor([0, 3]), IndexError, "target[1] is 3, outside [0, C) with C = 3 classes"),
    (
        LOGITS[0],
        torch.tensor(-7),
        IndexError,
        "is -7, outside [0, C) with C = 3 classes, and not ignore_index=-100: give",
    ),
    (LOGITS[:, :1], torch.tensor([0, 1]), IndexError, "for two classes is for sy.BCEWithLogitsLos"),
    (LOGITS[:, :1], LOGITS[:, :1] * 0, ValueError, "target[0, 0] is 0 for the only class, and the"),
]


@pytest.mark.parametrize(("logits", "target", "error", "text"), CALLS, ids=lambda v: None)
def test_call(logits: Any, target: Any, error: type[Exception], text: str) -> None:
    for loss in (sy.CrossEntropyLoss(), sy.FocalLoss(label_smoothing=0.1)):
        with raises(error, text):
            loss(logits, target)
        with raises(error, text):
            sy.explain(loss, logits, target)


NOT_PROBABILITIES: list[tuple[list[float], str]] = [
    (
        [1.0, 1.0, 1.0],
        "the probabilities of target[1] sum to 3: expected 1 over the class dimension",
    ),
    (
        [0.0, -1.0, 1.0],
        "target[1, 1] is -1.0: probabilities are numbers ≥ 0; a position that is not",
    ),
    ([0.0, NAN, 1.0], "target[1, 1] is nan: probabilities are numbers ≥ 0"),
    ([-100.0, 1.0, 0.0], "target[1, 0] is -100.0: probabilities are numbers ≥ 0"),
]


@pytest.mark.parametrize(("row", "text"), NOT_PROBABILITIES, ids=lambda v: None)
def test_targets_that_cannot_be_probabilities(row: list[float], text: str) -> None:
    target = torch.tensor([[0.0, 1.0, 0.0], row])
    with raises(ValueError, text):
        sy.CrossEntropyLoss()(LOGITS, target)
    with raises(ValueError, "sy.BCEWithLogitsLoss"):
        sy.FocalLoss()(LOGITS[:, :, None], target[:, :, None])
    # What a position of weight 0 holds is nobody's business.
    sy.CrossEntropyLoss()(LOGITS, target, sample_weight=torch.tensor([1.0, 0.0]))


def test_what_may_be_probabilities_passes() -> None:
    loss = sy.CrossEntropyLoss()
    loss(LOGITS, torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.3, 0.3]]))  # masked, and cut off
    loss(LOGITS, torch.tensor([[0.9, 0.8, 0.9], [1.0, 1.0, 0.5]]))  # PyTorch takes such sums too
    many = torch.randn(4, 5000).softmax(1)
    loss(torch.randn(4, 5000).half(), many.half())
    loss(torch.randn(4, 5000).bfloat16(), many.bfloat16())
    large = torch.zeros(2, 2, 200, 200)
    large[0, :, 0, 0] = 1.0  # the first positions of an image too large to look at
    with raises(ValueError, "target[0, 0, 0] sum to 2"):
        loss(torch.zeros(2, 2, 200, 200), large)


@pytest.mark.parametrize(
    ("loss", "wrong"), [(sy.CrossEntropyLoss(), 1.0), (sy.BCEWithLogitsLoss(), 1.011)]
)
def test_how_far_a_target_is_looked_at_and_how_closely(loss: Any, wrong: float) -> None:
    logits, target = torch.zeros(2000, 4), torch.eye(4).repeat(500, 1)
    target[1024] = wrong  # behind the first 4,096 numbers
    loss(logits, target)
    target[1020, 0] = 1.009
    loss(logits, target)
    target[1020] = wrong
    with raises(ValueError, "target[1020"):
        loss(logits, target)


PER_CALL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sample_weight": [1, 0]}, TypeError, "sample_weight is a list, expected a tensor"),
    (
        {"sample_weight": torch.ones(3)},
        ValueError,
        "sample_weight has shape (3,), which does not broadcast to the positions (2, 4, 5)",
    ),
    (
        {"sample_weight": torch.ones(2)},
        ValueError,
        "for one weight per sample use sample_weight.view(-1, 1, 1)",
    ),
    (
        {"sample_weight": torch.tensor([[[1.0]], [[-1.0]]])},
        ValueError,
        "sample_weight[1, 0, 0] is -1.0: expected finite numbers ≥ 0",
    ),
    ({"sample_weight": torch.tensor(NAN)}, ValueError, "sample_weight[] is nan: expected finite"),
    (
        {"sample_weight": torch.tensor(1e39, dtype=torch.float64)},
        ValueError,
        "sample_weight[] is 1e+39: expected finite numbers ≥ 0, at most 3.4e+38",
    ),
    ({"sample_weight": torch.tensor(1j)}, TypeError, "sample_weight is complex: expected real num"),
    ({"denominator": torch.tensor(-1.0)}, ValueError, "denominator=-1.0 is not in [0, inf)"),
    ({"denominator": torch.tensor(NAN)}, ValueError, "denominator=nan is not in [0, inf)"),
    ({"denominator": torch.tensor(INF)}, ValueError, "denominator=inf is not in [0, inf)"),
    ({"denominator": torch.tensor(2j)}, TypeError, "denominator is complex: expected a number ≥ 0"),
    ({"denominator": 1e39}, ValueError, "denominator=1e+39 is infinite in float32: expected at mo"),
    (
        {"denominator": torch.tensor(1e39, dtype=torch.float64)},
        ValueError,
        "denominator=1e+39 is infinite in float32: expected at most 3.4e+38",
    ),
    ({"denominator": 10**400}, ValueError, "0000 is infinite in float32"),
    ({"denominator": Fraction(10**400)}, ValueError, "denominator=inf is not in [0, inf)"),
    ({"denominator": np.array([2.0])}, TypeError, "denominator=array([2.]) is not a number"),
    ({"denominator": -1}, ValueError, "denominator=-1 is not in [0, inf)"),
    ({"denominator": NAN}, ValueError, "denominator=nan is not in [0, inf)"),
    ({"denominator": "2"}, TypeError, "denominator='2' is not a number"),
    (
        {"denominator": torch.ones(2)},
        ValueError,
        "denominator has shape (2,), expected a number or a 0-d tensor: sum it first",
    ),
]


@each_row
@pytest.mark.parametrize(("call", "error", "text"), PER_CALL, ids=lambda v: None)
def test_per_call(row: Row, call: dict[str, Any], error: type[Exception], text: str) -> None:
    logits = torch.randn(2, C, 4, 5)
    target = torch.zeros(2, 4, 5, dtype=torch.long)
    with raises(error, text):
        row.build()(logits, target, **call)


@each_row
def test_options_that_contradict(row: Row) -> None:
    logits = torch.randn(2, C)
    with raises(
        ValueError,
        "denominator divides a sum, and reduction='none' makes none: leave one of the two out",
    ):
        row.build(reduction="none")(logits, TARGET, denominator=2)
    with raises(ValueError, "ignore_index=1 has no meaning for a target of probabilities"):
        row.build(ignore_index=1)(logits, logits.softmax(1))


def test_denominator_method_names_a_class_outside() -> None:
    loss = sy.CrossEntropyLoss([1.0, 2.0, 3.0])
    for wrong in (3, -1):
        with raises(IndexError, f"target[1] is {wrong}, outside [0, C) with C = 3 classes"):
            loss.denominator(torch.tensor([0, wrong]))
    with raises(ValueError, "sample_weight has shape (3,)"):
        loss.denominator(torch.tensor([0, 1]), torch.ones(3))


POSTHOC: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (lambda: sy.adjust_logits(LOGITS, [1, 1, 1], tau=NAN), ValueError, "tau=nan is not in (-inf"),
    (lambda: sy.adjust_logits(LOGITS, [0, 0, 0]), ValueError, "all 3 counts are zero"),
    (lambda: sy.adjust_logits([1.0], [1]), TypeError, "logits are a list, expected a floating-poi"),
    (
        lambda: sy.adjust_logits(torch.tensor(1.0), [1]),
        ValueError,
        "logits have shape (), expected",
    ),
    (lambda: sy.unweight_logits(TARGET, [1]), TypeError, "logits are a torch.int64 tensor"),
    (
        lambda: sy.unweight_logits(LOGITS, [1, 0, 1]),
        ValueError,
        "weight of class 1 is 0: training never saw that class, so its probability cannot be given "
        "back: take it out of logits and weight",
    ),
    (lambda: sy.unweight_logits(LOGITS, [1, 1]), ValueError, "weight has 2 values, but logits"),
]


@pytest.mark.parametrize(("call", "error", "text"), POSTHOC, ids=lambda v: None)
def test_posthoc(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with raises(error, text):
        call()


def test_deferred_reweighting() -> None:
    loss, weight = sy.CrossEntropyLoss(), [1.0, 2.0, 3.0]
    wrong: Any = nn.CrossEntropyLoss()
    with raises(TypeError, "loss is a CrossEntropyLoss, expected a loss of steelyard"):
        sy.DeferredReweighting(wrong, weight, start=3)
    with raises(ValueError, "has class weights of its own, so it would be weighted from the first"):
        sy.DeferredReweighting(sy.CrossEntropyLoss(weight), weight, start=3)
    with raises(ValueError, "start=-1 is not in [0, inf)"):
        sy.DeferredReweighting(loss, weight, start=-1)
    nothing: Any = None
    with raises(TypeError, "weight is None: expected one number per class"):
        sy.DeferredReweighting(loss, nothing, start=3)
    with raises(ValueError, "weight has 3 values, but the loss has 5 classes"):
        sy.DeferredReweighting(sy.LDAMLoss(class_counts=COUNTS), weight, start=3)
    deferred = sy.DeferredReweighting(loss, [1.0, 2.0], start=160)
    with raises(ValueError, "weight has 2 values, but logits have C = 3 classes"):
        deferred(LOGITS, TARGET)  # in the first epoch, not in the 160th


def test_explain() -> None:
    loss, probabilities = sy.CrossEntropyLoss(), torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    wrong: Any = nn.CrossEntropyLoss()
    with raises(TypeError, "loss is a CrossEntropyLoss, expected a loss of steelyard"):
        sy.explain(wrong, LOGITS, TARGET)
    probabilities[1, 2] = 0.6
    with raises(ValueError, "the probabilities of target[1] sum to 1.1: expected 1 over the class"):
        sy.explain(loss, LOGITS, probabilities)
    probabilities[0, 1] = -0.5
    with raises(ValueError, "target[0, 1] is -0.5: probabilities are numbers ≥ 0"):
        sy.explain(loss, LOGITS, probabilities)
    probabilities[0, 1] = NAN
    with raises(ValueError, "target[0, 1] is nan: probabilities are numbers ≥ 0"):
        sy.explain(loss, LOGITS, probabilities)
    with raises(ValueError, "engine='warp' is not known: choose one of 'auto', 'reference'"):
        sy.explain_engine(LOGITS, TARGET, engine="warp")
    with raises(TypeError, "use target.long()"):
        sy.explain_engine(LOGITS, TARGET.float())


class Wrong(sy.CrossEntropyLoss):
    """A loss that returns something else than its form says."""

    def forward(self, *arguments: Any, **keywords: Any) -> Tensor:
        return super().forward(*arguments, **keywords) + 1


def test_explain_refuses_arithmetic_that_is_not_the_losss() -> None:
    with raises(RuntimeError, "please report this with the logits and the target"):
        sy.explain(Wrong(), LOGITS, TARGET)


@each_row
def test_nothing_is_changed_after_an_error(row: Row) -> None:
    loss = row.build(weight=torch.ones(C))
    state = {name: value.clone() for name, value in loss.named_buffers()}
    shown = repr(loss)
    logits, target = torch.randn(2, C, requires_grad=True), torch.tensor([0, C + 4])
    kept, kept_target = logits.detach().clone(), target.clone()
    with pytest.raises(IndexError):
        loss(logits, target)
    with pytest.raises(RuntimeError, match="weight has 2 values"):
        loss.load_state_dict({"weight": torch.ones(2)})
    assert repr(loss) == shown
    assert all(torch.equal(value, state[name]) for name, value in loss.named_buffers())
    assert torch.equal(logits.detach(), kept)
    assert torch.equal(target, kept_target)
    assert logits.grad is None
    options: dict[str, Any] = {"alpha": 1, "weight": [1.0] * C}
    with pytest.raises(TypeError):
        row.function(logits, TARGET, **row.arguments, **options)
    assert options == {"alpha": 1, "weight": [1.0] * C}
