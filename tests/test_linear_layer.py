"""A head that is given as the layer that it is: its bias is not forgotten."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import steelyard as sy

N, D, C = 7, 6, 5
close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def problem(bias: bool = True) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    features = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    return features, nn.Linear(D, C, bias, dtype=torch.double), torch.arange(N) % C


def test_it_is_cross_entropy_of_the_layers_logits() -> None:
    for bias in (True, False):
        features, head, target = problem(bias)
        tensors = [features, *head.parameters()]
        one = sy.linear_loss(sy.CrossEntropyLoss(), features, head, target)
        two = F.cross_entropy(head(features), target)
        close(one, two)
        close(torch.autograd.grad(one, tensors), torch.autograd.grad(two, tensors))


def test_weight_and_bias_by_themselves_are_the_same() -> None:
    features, head, target = problem()
    loss = sy.LogitAdjustedLoss(class_counts=[50, 20, 10, 5, 1])
    apart = sy.linear_loss(loss, features, head.weight, target, bias=head.bias)
    assert torch.equal(sy.linear_loss(loss, features, head, target), apart)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_users_graph_it_breaks_nothing() -> None:
    features, head, target = problem()
    torch._dynamo.reset()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, features: Tensor, target: Tensor) -> Tensor:
            return sy.linear_loss(sy.FocalLoss(), features, self.head, target)

    compiled = torch.compile(Model(), backend="aot_eager", fullgraph=True)
    one, two = compiled(features, target), sy.FocalLoss()(head(features), target)
    tensors = [features, *head.parameters()]
    close(one, two)
    close(torch.autograd.grad(one, tensors), torch.autograd.grad(two, tensors))
    torch._dynamo.reset()


def test_a_parametrized_layer_gives_the_weight_that_it_computes() -> None:
    features, head, target = problem()
    normed = nn.utils.parametrizations.weight_norm(head)
    one = sy.linear_loss(sy.CrossEntropyLoss(), features, normed, target)
    two = F.cross_entropy(normed(features), target)
    tensors = [features, *normed.parameters()]
    close(torch.autograd.grad(one, tensors), torch.autograd.grad(two, tensors))


def test_its_engine_is_that_of_its_weight() -> None:
    features, head, target = torch.empty(2048, 64), nn.Linear(64, 1000), torch.zeros(2048).long()
    chosen = sy.explain_engine(features, target, head=head)
    assert chosen == sy.explain_engine(features, target, head=head.weight)
    assert "× 1,000 logits" in chosen.reason


def test_what_is_no_plain_layer_is_refused() -> None:
    class Doubled(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            return 2 * super().forward(features)

    features, head, target = problem()
    loss = sy.CrossEntropyLoss()
    with pytest.raises(ValueError, match=r"bias is given beside a Linear, which brings its own: "):
        sy.linear_loss(loss, features, head, target, bias=head.bias)
    with pytest.raises(TypeError, match="weight is a Doubled, which computes its logits in its ow"):
        sy.linear_loss(loss, features, Doubled(D, C), target)
    with pytest.raises(TypeError, match=r"weight is a CosineLinear, .* \(C, D\), or an nn\.Linear"):
        sy.linear_loss(loss, features, sy.CosineLinear(D, C), target)  # type: ignore[arg-type]
