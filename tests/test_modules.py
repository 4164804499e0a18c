"""Losses as nn.Modules: devices, dtypes, state_dicts, copies, signatures."""

import copy
import inspect
import io
import pickle
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from table import TABLE, C, Row
from torch import nn

import steelyard as sy
from steelyard.losses import counted, softmax

WEIGHT = [0.25, 1.0, 2.0, 0.0, 7e4]  # 7e4 is beyond float16
OPTIONS = ("weight", "ignore_index", "label_smoothing", "reduction", "mean_over", "empty", "engine")
each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
LOGITS = torch.randn(6, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2, 3, 4, -100])


def value_of(loss: nn.Module) -> float:
    return float(loss(LOGITS, TARGET))


@each_row
def test_buffers_follow_the_device(row: Row) -> None:
    loss = row.build(weight=WEIGHT)
    assert "weight" in dict(loss.named_buffers())
    loss.to("meta")
    assert {buffer.device.type for buffer in loss.buffers()} == {"meta"}
    vectors = [v for v in loss.form if isinstance(v, torch.Tensor)]
    assert all(vector.device.type == "meta" for vector in vectors)


@each_row
def test_weights_meet_the_logits_where_those_are(row: Row) -> None:
    """Neither a module that was not moved nor a weight from elsewhere is an error."""
    logits = torch.randn(6, C, device="meta", requires_grad=True)
    target = torch.zeros(6, dtype=torch.long, device="meta")
    for weight in (WEIGHT, torch.ones(C), torch.ones(C, device="meta")):
        assert row.build(weight=weight)(logits, target).device.type == "meta"
        value = row.function(logits, target, **row.arguments, weight=weight)
        assert value.device.type == "meta"


@each_row
@pytest.mark.parametrize("change", ["half", "bfloat16", "float", "double"])
def test_a_change_of_dtype_leaves_the_vectors_alone(row: Row, change: str) -> None:
    loss = row.build(weight=WEIGHT)
    before = value_of(loss)
    kept = {name: (b.dtype, b.tolist()) for name, b in loss.named_buffers()}
    getattr(loss, change)()
    assert {name: (b.dtype, b.tolist()) for name, b in loss.named_buffers()} == kept
    assert value_of(loss) == before
    nn.Sequential(nn.Linear(2, C), loss).to(torch.bfloat16)
    assert value_of(loss) == before


@each_row
def test_state_dict_has_no_weight_and_wants_none(row: Row) -> None:
    weighted, plain = row.build(weight=WEIGHT), row.build()
    assert not weighted.state_dict()
    before = value_of(weighted)
    assert str(weighted.load_state_dict(plain.state_dict(), strict=True)) == (
        "<All keys matched successfully>"
    )
    assert value_of(weighted) == before
    # PyTorch's own is a persistent buffer: to add a weight later breaks old checkpoints.
    with pytest.raises(RuntimeError, match="Missing key"):
        nn.CrossEntropyLoss(torch.ones(C)).load_state_dict(nn.CrossEntropyLoss().state_dict())


@each_row
def test_a_weight_found_in_a_state_dict_is_taken_over(row: Row) -> None:
    pytorch = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    expected = row.build()
    expected = expected.with_weight(pytorch.weight)
    for weight in (None, WEIGHT, {1: 3.0}):
        loss = row.build(weight=weight)
        loss.load_state_dict(pytorch.state_dict(), strict=True)
        assert value_of(loss) == value_of(expected)
        assert "weight=[1.0, 2.0, 3.0, 4.0, 5.0]" in repr(loss)
    assert loss.weight is not pytorch.weight


def test_a_weight_is_found_in_nested_modules() -> None:
    def model(loss: nn.Module) -> nn.Module:
        return nn.ModuleDict({"net": nn.Sequential(nn.Linear(3, 4), loss), "loss": loss})

    theirs = model(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0])))
    ours = model(sy.CrossEntropyLoss())
    assert {"net.1.weight", "loss.weight"} <= set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    loss: Any = ours["loss"]
    assert loss.weight.tolist() == [1, 2, 3, 4]
    with pytest.raises(RuntimeError, match=r"Unexpected key.*elsewhere"):
        ours.load_state_dict(theirs.state_dict() | {"net.1.elsewhere": torch.ones(1)})


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (torch.tensor([1.0, float("nan")]), "loss.weight: weight of class 1 is nan"),
        (torch.tensor([1.0, -1.0]), "loss.weight: weight of class 1 is -1.0"),
        (torch.ones(3), "loss.weight has 3 values, but this loss's weight has 2"),
    ],
)
def test_a_bad_weight_in_a_state_dict_is_named(found: torch.Tensor, text: str) -> None:
    model = nn.ModuleDict({"loss": sy.CrossEntropyLoss([1.0, 2.0])})
    with pytest.raises(RuntimeError, match=text):
        model.load_state_dict({"loss.weight": found})
    loss: Any = model["loss"]
    assert loss.weight.tolist() == [1, 2]


@each_row
@pytest.mark.parametrize("way", ["pickle", "deepcopy", "torch.save", "state_dict", "share_memory"])
def test_copies_compute_the_same(row: Row, way: str) -> None:
    loss = row.build(weight=WEIGHT, ignore_index=2, label_smoothing=0.1, reduction="sum")
    if way == "pickle":
        copied = pickle.loads(pickle.dumps(loss))
    elif way == "deepcopy":
        copied = copy.deepcopy(loss)
    elif way == "torch.save":
        buffer = io.BytesIO()
        torch.save(loss, buffer)
        buffer.seek(0)
        copied = torch.load(buffer, weights_only=False)
    elif way == "state_dict":
        buffer = io.BytesIO()
        torch.save(nn.Sequential(loss).state_dict(), buffer)
        buffer.seek(0)
        copied = copy.deepcopy(loss)
        nn.Sequential(copied).load_state_dict(torch.load(buffer), strict=True)
    else:
        copied = copy.deepcopy(loss).share_memory()
        assert all(buffer.is_shared() for buffer in copied.buffers())
    target = TARGET.where(TARGET >= 0, 2)
    assert torch.equal(copied(LOGITS, target), loss(LOGITS, target))
    assert repr(copied) == repr(loss)
    assert copied.options == loss.options
    for ours, theirs in zip(loss.buffers(), copied.buffers(), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()


def test_the_users_weight_is_copied() -> None:
    given = torch.tensor([1.0, 2.0, 3.0])
    loss = sy.CrossEntropyLoss(given)
    given.mul_(10)
    assert loss.weight is not None
    assert loss.weight.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"weight requires a gradient.*nn\.Parameter.*detach"):
        sy.CrossEntropyLoss(given.requires_grad_())


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (sy.CrossEntropyLoss(), "CrossEntropyLoss()"),
        (
            sy.CrossEntropyLoss([1, 2], ignore_index=2),
            "CrossEntropyLoss(weight=[1, 2], ignore_index=2)",
        ),
        (sy.FocalLoss(), "FocalLoss(gamma=2.0)"),
        (
            sy.LDAMLoss(class_counts=[9, 1], reduction="sum"),
            "LDAMLoss(class_counts=[9, 1], max_margin=0.5, scale=30.0, reduction='sum')",
        ),
        (
            sy.BalancedSoftmaxLoss(class_counts=sy.ClassCounts([9, 1], names=["a", "b"])),
            "BalancedSoftmaxLoss(class_counts=ClassCounts([9, 1]))",
        ),
        (sy.CrossEntropyLoss(pl.Series([1, 2])), "CrossEntropyLoss(weight=[1, 2])"),
        (sy.CrossEntropyLoss((np.float32(1), 2)), "CrossEntropyLoss(weight=(1.0, 2))"),
        (sy.CrossEntropyLoss(torch.tensor([0.37, 37.0])), "CrossEntropyLoss(weight=[0.37, 37.0])"),
        (sy.CrossEntropyLoss(torch.ones(2).to_sparse()), "CrossEntropyLoss(weight=[1.0, 1.0])"),
        (
            sy.CrossEntropyLoss([Fraction(1, 2)] * 7),
            "CrossEntropyLoss(weight=[0.5, 0.5, 0.5, 0.5, 0.5, … 7 classes])",
        ),
        (
            sy.CrossEntropyLoss(torch.ones(1000)),
            "CrossEntropyLoss(weight=[1, 1, 1, 1, 1, … 1000 classes])",
        ),
    ],
)
def test_repr(loss: nn.Module, text: str) -> None:
    assert repr(loss) == text


@pytest.mark.parametrize(
    "number", [Decimal("0.5"), Fraction(1, 2), np.float16(0.5), np.array(0.5), torch.tensor(0.5)]
)
def test_numbers_of_any_type(number: Any) -> None:
    """Tensors multiply Python's numbers alone."""
    losses: list[tuple[Any, dict[str, Any]]] = [
        (sy.CrossEntropyLoss, {"label_smoothing": number}),
        (sy.FocalLoss, {"gamma": number}),
        (sy.PolyLoss, {"epsilon": number}),
        (sy.GeneralizedCrossEntropyLoss, {"q": number}),
        (sy.SymmetricCrossEntropyLoss, {"alpha": number, "beta": number}),
        (sy.LogitAdjustedLoss, {"class_counts": [9, 1, 1, 1, 1], "tau": number}),
        (sy.LDAMLoss, {"class_counts": [9, 1, 1, 1, 1], "max_margin": number, "scale": number}),
        (sy.VSLoss, {"class_counts": [9, 1, 1, 1, 1], "gamma": number, "tau": number}),
        (sy.ClassBalancedLoss, {"class_counts": [9, 1, 1, 1, 1], "beta": number}),
    ]
    for module, arguments in losses:
        plain = {k: 0.5 if v is number else v for k, v in arguments.items()}
        assert value_of(module(**arguments)) == pytest.approx(value_of(module(**plain)), rel=1e-15)
    loss = sy.CrossEntropyLoss()
    assert torch.equal(
        loss(LOGITS, TARGET, denominator=number), loss(LOGITS, TARGET, denominator=0.5)
    )


def test_weights_and_sample_weights_of_any_dtype() -> None:
    samples = torch.tensor([1, 0, 1, 1, 1, 0])
    expected = sy.CrossEntropyLoss([1, 0, 1, 1, 0])(LOGITS, TARGET, samples.double())
    for dtype in (torch.bool, torch.uint8, torch.uint64, torch.float16, torch.float8_e4m3fn):
        weight = torch.tensor([1, 0, 1, 1, 0]).to(dtype)
        value = sy.CrossEntropyLoss(weight)(LOGITS, TARGET, samples.to(dtype))
        assert value == expected, dtype
    sparse = sy.CrossEntropyLoss(torch.tensor([1.0, 0, 1, 1, 0]).to_sparse())
    assert sparse(LOGITS, TARGET, samples.double().to_sparse()) == expected


@each_row
def test_short_reprs_can_be_typed_in(row: Row) -> None:
    loss = row.build(weight=WEIGHT, label_smoothing=0.1, mean_over="count")
    again = eval(repr(loss), vars(sy))
    assert value_of(again) == value_of(loss)


@each_row
def test_signatures_are_real(row: Row) -> None:
    module = inspect.signature(row.module).parameters
    function = inspect.signature(row.function).parameters
    assert list(function)[:2] == ["logits", "target"]
    assert list(function)[-2:] == ["sample_weight", "denominator"]
    assert [n for n in list(function)[2:-2] if n not in OPTIONS] == [
        n for n in module if n not in OPTIONS
    ]
    for name in OPTIONS:
        assert name in module, name
        assert function[name].default == module[name].default, name
    for name in list(function)[2:]:
        assert function[name].kind is inspect.Parameter.KEYWORD_ONLY, name
        assert function[name].annotation is not inspect.Parameter.empty, name
    for name, parameter in module.items():
        positional = row.module is sy.CrossEntropyLoss and name == "weight"
        assert (parameter.kind is inspect.Parameter.KEYWORD_ONLY) != positional, name
        if name not in OPTIONS:
            assert function[name].default == parameter.default, name
    assert "Args:" in (row.function.__doc__ or "")
    assert "Example:" in (row.function.__doc__ or "")


def test_the_signature_is_that_of_each_loss() -> None:
    """Every option given by its name is taken, on every public loss of the softmax room."""
    defaults = {name: inspect.signature(sy.FocalLoss).parameters[name].default for name in OPTIONS}
    for name in (*softmax.__all__, *counted.__all__):
        signature = inspect.signature(getattr(sy, name))
        assert {n: signature.parameters[n].default for n in OPTIONS} == defaults, name


DEFAULTS: dict[str, dict[str, Any]] = {
    "FocalLoss": {"gamma": 2.0},
    "PolyLoss": {"epsilon": 1.0},
    "GeneralizedCrossEntropyLoss": {"q": 0.7},
    "ClassBalancedLoss": {"beta": 0.9999, "gamma": 0.0},
    "LogitAdjustedLoss": {"tau": 1.0},
    "LDAMLoss": {"max_margin": 0.5, "scale": 30.0},
    "VSLoss": {"gamma": 0.3, "tau": 1.0},
    "SigmoidFocalLoss": {"gamma": 2.0, "alpha": None},
    "AsymmetricLoss": {"gamma_pos": 1.0, "gamma_neg": 4.0, "clip": 0.05},
    "SigmoidPolyLoss": {"epsilon": 1.0, "gamma": 0.0},
    "SigmoidClassBalancedLoss": {"beta": 0.9999, "gamma": 0.0},
    "SigmoidLogitAdjustedLoss": {"tau": 1.0, "total": None},
    "DistributionBalancedLoss": {
        "total": None,
        "kappa": 0.05,
        "negative_scale": 5.0,
        "gamma": 2.0,
    },
    "HillLoss": {"gamma": 2.0, "margin": 1.0, "bound": 1.5},
    "DiceLoss": {"smooth": 0.0, "squared": False},
    "JaccardLoss": {"smooth": 0.0},
    "TverskyLoss": {"alpha": 0.5, "beta": 0.5, "gamma": 1.0, "smooth": 0.0},
    "GeneralizedDiceLoss": {"weighting": "square"},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_papers(name: str) -> None:
    module = getattr(sy, name)
    function = getattr(sy, re.sub("(?<=.)(?=[A-Z][a-z])", "_", name).lower())
    inherited = set(module.keywords.defaults) | set(module.keywords.call)
    for public in (module, function):
        own = {
            p.name: p.default
            for p in inspect.signature(public).parameters.values()
            if p.name not in inherited and p.default is not p.empty
        }
        assert own == DEFAULTS[name], public


@each_row
def test_positional_options_are_refused(row: Row) -> None:
    with pytest.raises(TypeError):
        row.module([1.0] * C, None)
    with pytest.raises(TypeError):
        row.function(LOGITS, TARGET, None)


@each_row
def test_dict_weights_leave_the_others_one(row: Row) -> None:
    named = row.build(weight={1: 3.0, 3: 0.0})
    listed = row.build(weight=[1.0, 3.0, 1.0, 0.0, 1.0])
    assert float(value_of(named)) == pytest.approx(float(value_of(listed)), rel=1e-14)
    samples = torch.rand(6, dtype=torch.float64)
    torch.testing.assert_close(
        named.denominator(TARGET, samples), listed.denominator(TARGET, samples)
    )
    logits = LOGITS.detach().clone().requires_grad_()
    function = row.function(LOGITS, TARGET, **row.arguments, weight={1: 3.0, 3: 0.0})
    assert float(function) == pytest.approx(float(value_of(listed)), rel=1e-14)
    smoothed = row.build(weight={0: 2.0}, label_smoothing=0.3)(logits, TARGET)
    smoothed.backward()
    assert torch.equal(
        smoothed, row.build(weight=[2.0] + [1.0] * 4, label_smoothing=0.3)(logits, TARGET)
    )


@each_row
def test_as_the_last_part_of_a_network(row: Row) -> None:
    """Moves, trains and reports with the model that holds it."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, C))
            self.loss = row.build(weight=[1.0] * C)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.loss(self.net(x), y)
            return result

    torch.manual_seed(0)
    model = Model()
    assert not list(model.loss.parameters())
    x, y = torch.randn(64, 4), torch.arange(64) % C
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(model(x, y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_compiled_calls_take_numbers_that_change() -> None:
    """An annealed gamma, or the denominator of each step, is no graph break."""
    torch._dynamo.reset()
    compiled = torch.compile(sy.focal_loss, fullgraph=True, backend="eager")
    for gamma, denominator in ((1.0, 2.0), (3.0, 3.5), (0.5, 7.0)):
        options: dict[str, Any] = {"gamma": gamma, "denominator": denominator}
        torch.testing.assert_close(
            compiled(LOGITS, TARGET, **options), sy.focal_loss(LOGITS, TARGET, **options)
        )
