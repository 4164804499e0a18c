"""A torch that lacks what the fast engines use: every loss takes the reference, and says so."""

import pytest
import torch

import steelyard as sy
from steelyard.ops import compat


def test_this_torch_has_everything() -> None:
    assert compat.lacking() is None


@pytest.mark.parametrize("name", compat._USED)
def test_what_this_torch_lacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
    loss = sy.FocalLoss(weight=[1, 2, 3, 4, 5], label_smoothing=0.1)
    expected = loss(logits, target)
    monkeypatch.setitem(compat._torch, name, None)
    choice = sy.explain_engine(logits, target)
    assert choice.engine == "reference"
    assert f"lacks torch.{compat._USED[name]}" in choice.reason
    value = loss(logits, target)
    assert value.grad_fn is not None
    assert value.grad_fn.name() != "_LossesBackward"
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits)
    )
    with pytest.raises(RuntimeError, match=r"engine='blocked' cannot do this: this torch .* lacks"):
        sy.FocalLoss(engine="blocked")(logits, target)


@pytest.mark.parametrize("path", compat._USED.values())
def test_what_is_gone_from_torch_is_found_gone(path: str) -> None:
    assert compat._found(path) is not None
    assert compat._found(path + "_as_it_was") is None
    assert compat._found("_C._no_such_room." + path) is None
