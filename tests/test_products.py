"""The products of a head by oneDNN, which a processor of Intel's does not take by itself."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import steelyard as sy
from steelyard.ops import compat
from steelyard.ops.cpu import products

needs_onednn = pytest.mark.skipif(not compat.has_onednn_linear(), reason="this torch has no oneDNN")


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Small products by oneDNN too, in several blocks; the shapes that it was given."""
    monkeypatch.setattr(products, "LARGE", 1)
    monkeypatch.setattr(products, "BLOCK", 100)
    monkeypatch.setattr(products, "mkl_is_slower", lambda: True)
    shapes, linear = [], compat.onednn_linear

    def seen(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append((*x.shape, weight.shape[0]))
        return linear(x, weight, bias)

    monkeypatch.setattr(compat, "onednn_linear", seen)
    return shapes


@needs_onednn
@pytest.mark.parametrize("strided", [False, True])
def test_the_three_products(strided: bool, by_onednn: list[tuple[int, ...]]) -> None:
    n, d, classes = 20, 7, 33
    x = torch.randn(d, n).T if strided else torch.randn(n, d)
    weight, bias, gradient = torch.randn(classes, d), torch.randn(classes), torch.randn(n, classes)
    logits, by_x, by_weight = torch.empty(n, classes), torch.empty_like(x), torch.ones(classes, d)
    for some in (None, bias):
        products.linear(x, weight, some, logits)
        torch.testing.assert_close(logits, torch.nn.functional.linear(x, weight, some))
    products.by_features(gradient, weight, by_x)
    torch.testing.assert_close(by_x, gradient @ weight)
    products.add_by_weight(gradient, x, by_weight)
    torch.testing.assert_close(by_weight, 1 + gradient.T @ x)
    # Five classes are a block of 100 numbers beside 20 rows, and 14 rows one of seven features.
    forward = [(20, 7, 5)] * 6 + [(20, 7, 3)]
    features = [(14, 33, 7), (6, 33, 7)]
    assert by_onednn == [*forward, *forward, *features, *[(5, 20, 7)] * 6, (3, 20, 7)]


@needs_onednn
def test_a_head_of_a_loss(by_onednn: list[tuple[int, ...]]) -> None:
    x, weight = torch.randn(20, 7, requires_grad=True), torch.randn(33, 7, requires_grad=True)
    loss, target = sy.FocalLoss(label_smoothing=0.1), torch.arange(20)
    one = sy.linear_loss(loss, x, weight, target)
    two = loss(x @ weight.T, target)
    torch.testing.assert_close(one, two)
    for mine, other in zip(
        torch.autograd.grad(one, (x, weight)), torch.autograd.grad(two, (x, weight)), strict=True
    ):
        torch.testing.assert_close(mine, other)
    assert len(by_onednn) == 16


@pytest.mark.parametrize(
    "change", ["dtype", "few", "strided weight", "oneDNN turned off", "MKL as fast"]
)
def test_who_does_them(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few products, and what oneDNN has no quick code for, stay with torch's own."""
    monkeypatch.setattr(products, "mkl_is_slower", lambda: change != "MKL as fast")
    dtype = torch.float64 if change == "dtype" else torch.float32
    rows = 1023 if change == "few" else 1024
    x, weight = torch.empty(rows, 512, dtype=dtype), torch.empty(512, 512, dtype=dtype)
    with monkeypatch.context() as turned_off:
        if change == "oneDNN turned off":  # the flag itself is frozen where torch's own tests are
            turned_off.setattr(torch.backends, "mkldnn", SimpleNamespace(enabled=False))
        assert not products.by_onednn(x, weight.T if change == "strided weight" else weight)
    monkeypatch.setattr(products, "mkl_is_slower", lambda: True)
    assert products.by_onednn(torch.empty(1024, 512), torch.empty(512, 512))


@pytest.mark.parametrize(
    ("name", "width", "mkl", "onednn", "slower"),
    [
        ("AMD EPYC", "AVX512", True, True, True),
        ("Intel Xeon Platinum", "AVX512", True, True, False),
        ("AMD EPYC", "AVX2", True, True, False),
        ("AMD EPYC", "AVX512", False, True, False),
        ("AMD EPYC", "AVX512", True, False, False),
        (None, "AVX512", True, True, False),
    ],
)
def test_where_mkl_is_slower(
    name: str | None,
    width: str,
    mkl: bool,
    onednn: bool,
    slower: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name})
    if name is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(torch.backends, "mkl", SimpleNamespace(is_available=lambda: mkl))
    monkeypatch.setattr(compat, "has_onednn_linear", lambda: onednn)
    assert products.mkl_is_slower.__wrapped__() == slower
