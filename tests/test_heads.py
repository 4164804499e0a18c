"""CosineLinear."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import steelyard as sy


def test_logits_are_cosines() -> None:
    head = sy.CosineLinear(6, 4)
    features = torch.randn(5, 3, 6)
    cosines = head(features)
    expected = F.cosine_similarity(features[..., None, :], head.weight, dim=-1)
    torch.testing.assert_close(cosines, expected)
    assert cosines.shape == (5, 3, 4)
    assert (cosines.abs() <= 1 + 1e-6).all()


def test_lengths_do_not_matter() -> None:
    head = sy.CosineLinear(6, 4)
    features = torch.randn(5, 6)
    cosines = head(features)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.01], [1.0], [7.0], [1e3]]))
    torch.testing.assert_close(head(features * 100), cosines)
    assert sum(p.numel() for p in head.parameters()) == 24, "no bias"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_stays_what_it_is(dtype: torch.dtype) -> None:
    head = sy.CosineLinear(400, 3).to(dtype)
    features = torch.full((2, 400), 6e3, dtype=dtype)  # its squares are beyond float16
    features[1] = 0
    cosines = head(features)
    assert cosines.dtype == dtype
    expected = F.cosine_similarity(features[:1].double(), head.weight.double(), dim=-1)
    torch.testing.assert_close(cosines[0].double(), expected, rtol=0.02, atol=0.002)
    assert (cosines[1] == 0).all()
    cosines.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()


def test_gradient() -> None:
    head = sy.CosineLinear(3, 2).double()
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(head, features)
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(head, {"weight": w}, features), head.weight
    )


def test_state_repr_and_reset() -> None:
    head = sy.CosineLinear(3, 2)
    assert list(head.state_dict()) == ["weight"]
    assert repr(head) == "CosineLinear(in_features=3, out_features=2)"
    other = sy.CosineLinear(3, 2)
    other.load_state_dict(head.state_dict(), strict=True)
    assert torch.equal(other.weight, head.weight)
    other.reset_parameters()
    assert not torch.equal(other.weight, head.weight)


def test_ldam_learns_with_it() -> None:
    """With the cosine head and its margins, three Gaussian classes of 200, 40 and 8 are learnt."""
    torch.manual_seed(0)
    counts = [200, 40, 8]
    target = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    centres = torch.tensor([[2.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]])
    features = centres[target] + 0.6 * torch.randn(len(target), 2)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), sy.CosineLinear(16, 3))
    loss = sy.LDAMLoss(class_counts=counts)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(features), target).backward()
        optimizer.step()
    right = model(features).argmax(1) == target
    assert min(float(right[target == c].float().mean()) for c in range(3)) > 0.8
