"""nn.CrossEntropyLoss swapped for ours on PyTorch's own test inputs.

The inputs are those of PyTorch's test suite, with one change: weights are made ≥ 0, since negative
ones are refused here. Left out is a mean over nothing, NaN in PyTorch and 0 here.
"""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import steelyard as sy


def agree(options: dict[str, Any], logits: Tensor, target: Tensor) -> bool:
    """Assert that both agree in value and gradients; False where they differ by intent."""
    results = []
    for module in (nn.CrossEntropyLoss(**options), sy.CrossEntropyLoss(**options)):
        z = logits.detach().clone().requires_grad_()
        t = target.detach().clone()
        leaves = [z, t.requires_grad_()] if t.is_floating_point() else [z]
        value = module(z, t)
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
        results.append([value, *torch.autograd.grad(value, leaves, upstream)])
    theirs, ours = results
    if theirs[0].isnan().any():
        return False
    torch.testing.assert_close(
        ours, theirs, rtol=1e-12, atol=1e-12, msg=lambda m: f"{options}\n{m}"
    )
    return True


def non_negative(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("weight") is not None:
        return options | {"weight": options["weight"].abs()}
    return options


def module_inputs() -> Iterator[tuple[str, dict[str, Any], Tensor, Tensor]]:
    (info,) = [info for info in module_db if info.module_cls is nn.CrossEntropyLoss]
    for training in (True, False):
        torch.manual_seed(0)
        for sample in info.module_inputs_func(info, "cpu", torch.float64, True, training):
            yield (
                sample.desc,
                non_negative(sample.constructor_input.kwargs),
                *sample.forward_input.args,
            )


def test_module_inputs() -> None:
    cases = list(module_inputs())
    assert len(cases) == 2 * 3 * (5 * 4 + 3 * 5)
    compared = [agree(options, logits, target) for _, options, logits, target in cases]
    assert compared.count(False) <= 2, "only a mean over nothing differs"


def test_functional_sample_inputs() -> None:
    (op,) = [op for op in op_db if op.name == "nn.functional.cross_entropy"]
    torch.manual_seed(0)
    samples = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
    assert len(samples) >= 20
    assert all(agree(non_negative(s.kwargs), s.input, s.args[0]) for s in samples)


def test_bad_module_inputs_are_refused() -> None:
    (info,) = [info for info in module_db if info.module_cls is nn.CrossEntropyLoss]
    if info.module_error_inputs_func is None:
        pytest.skip("this torch has no bad inputs of its own")
    for bad in info.module_error_inputs_func(info, "cpu", torch.float64, True, True):
        sample = bad.module_error_input
        with pytest.raises((TypeError, ValueError, IndexError)):
            # What PyTorch finds at the first call is often found here when the loss is built.
            sy.CrossEntropyLoss(**non_negative(sample.constructor_input.kwargs))(
                *sample.forward_input.args
            )


SHAPES = [(5,), (6, 5), (4, 5, 3), (2, 5, 3, 2), (2, 5, 2, 3, 2)]
WEIGHTS = [None, torch.tensor([0.2, 1.0, 3.0, 0.0, 2.0], dtype=torch.float64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("target_form", ["index", "probabilities"])
def test_every_combination_of_options(shape: tuple[int, ...], target_form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, dtype=torch.float64, generator=generator)
    class_dim = min(1, len(shape) - 1)
    target = torch.randn(shape, dtype=torch.float64, generator=generator).softmax(class_dim)
    if target_form == "index":
        target = target.argmax(class_dim)
    compared = 0
    for weight, ignore, smoothing, reduction in itertools.product(
        WEIGHTS, (-100, 1), (0.0, 0.15, 1.0), ("mean", "sum", "none")
    ):
        if target_form == "probabilities" and ignore >= 0:
            continue  # both refuse it
        options = {"label_smoothing": smoothing, "reduction": reduction, "ignore_index": ignore}
        compared += agree({"weight": weight, **options}, logits, target)
    assert compared >= 18


def test_probabilities_and_an_ignored_class_are_refused_by_both() -> None:
    logits = torch.randn(4, 5)
    for module in (nn.CrossEntropyLoss(ignore_index=1), sy.CrossEntropyLoss(ignore_index=1)):
        with pytest.raises((RuntimeError, ValueError), match="ignore_index"):
            module(logits, logits.softmax(1))


def test_every_argument_of_pytorchs_is_here_but_the_deprecated_ones() -> None:
    theirs = inspect.signature(nn.CrossEntropyLoss).parameters
    ours = inspect.signature(sy.CrossEntropyLoss).parameters
    assert set(theirs) - set(ours) == {"size_average", "reduce"}
    shared = [name for name in theirs if name in ours]
    assert [ours[n].default for n in shared] == [theirs[n].default for n in shared]
    assert next(iter(ours)) == next(iter(theirs)) == "weight"
