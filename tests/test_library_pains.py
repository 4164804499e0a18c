"""What breaks in other loss libraries, and what their users keep asking for.

One test for each pain, named after it.
"""

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import grad_of, make
from table import COUNTS, TABLE, C, Row, naive_loss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import steelyard as sy

each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
WEIGHT = [0.5, 1.0, 2.0, 4.0, 8.0]


def tutorial_focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """The loss of many tutorials: p comes from the weighted cross-entropy."""
    weighted = F.cross_entropy(logits, target, weight, reduction="none")
    return (1 - torch.exp(-weighted)) ** gamma * weighted


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_p_is_not_weighted(gamma: float) -> None:
    logits, target = make(16, dtype=torch.float64)
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    p = logits.softmax(1)[torch.arange(16), target]
    expected = weight[target] * (1 - p) ** gamma * -p.log()
    ours = sy.focal_loss(logits, target, gamma=gamma, weight=weight, reduction="none")
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(tutorial_focal(logits, target, weight, gamma), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_with_gamma_zero_and_weights_is_weighted_cross_entropy(
    reduction: Any, smoothing: float
) -> None:
    logits, target = make(16, dtype=torch.float64)
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
    ours = sy.focal_loss(logits, target, gamma=0, weight=weight, **options)
    expected = F.cross_entropy(logits, target, weight, **options)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_focal_p_is_not_detached() -> None:
    """∂ℓ/∂z_j = [γ(1−p)^(γ−1) p ln p − (1−p)^γ] (δ_jy − p_j), by hand from the definition."""
    gamma = 2.0
    logits, target = make(16, dtype=torch.float64)
    p = logits.softmax(1)
    own = p.gather(1, target[:, None])
    factor = gamma * (1 - own) ** (gamma - 1) * own * own.log() - (1 - own) ** gamma
    expected = factor * (F.one_hot(target, C) - p)
    ours = grad_of(lambda z: sy.focal_loss(z, target, gamma=gamma, reduction="sum"), logits)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 1.0, 1.5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_gamma_below_one_has_finite_gradient_at_p_one(
    gamma: float, dtype: torch.dtype, smoothing: float
) -> None:
    logits = torch.tensor([[800.0, -800.0, 0.0]], dtype=dtype)
    target = torch.tensor([0])
    if gamma < 1:
        theirs = grad_of(
            lambda z: tutorial_focal(z.float(), target, torch.ones(3), gamma).sum(), logits
        )
        assert theirs.isnan().any()
    for t in (target, F.one_hot(target, 3).to(dtype)):
        grad = grad_of(
            lambda z, t=t: sy.focal_loss(z, t, gamma=gamma, label_smoothing=smoothing), logits
        )
        assert grad.isfinite().all()
    per_class = grad_of(lambda z: sy.focal_loss(z, target, gamma=[gamma, 2.0, 0.0]), logits)
    assert per_class.isfinite().all()


def test_multiclass_focal_is_not_one_against_the_rest() -> None:
    """A softmax loss does not change when all logits move together; a sigmoid one does."""
    logits, target = make(8, dtype=torch.float64)
    moved = sy.focal_loss(logits + 3, target)
    torch.testing.assert_close(moved, sy.focal_loss(logits, target))
    one_hot = F.one_hot(target, C).double()
    rest = [F.binary_cross_entropy_with_logits(z, one_hot) for z in (logits, logits + 3)]
    assert not torch.isclose(*rest)


def test_alpha_per_class_is_weight_and_one_alpha_is_nothing() -> None:
    logits, target = make(8, dtype=torch.float64)
    same = sy.focal_loss(logits, target, weight=[0.25] * C)
    torch.testing.assert_close(same, sy.focal_loss(logits, target))
    with pytest.raises(TypeError, match="class weights are `weight`"):
        sy.FocalLoss(alpha=0.25)  # type: ignore[call-arg]


@each_row
@pytest.mark.parametrize("form", ["index", "probabilities"])
def test_label_smoothing_is_not_ignored(row: Row, form: str) -> None:
    logits, target = make(8, dtype=torch.float64)
    if form == "probabilities":
        target = F.one_hot(target, C).double()
    for smoothing in (0.1, 1.0):
        value = row.build(label_smoothing=smoothing)(logits, target)
        torch.testing.assert_close(
            value, naive_loss(row, logits, target, label_smoothing=smoothing)
        )
        assert not torch.isclose(value, row.build()(logits, target))


@each_row
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 4)])
def test_reduction_none_has_the_targets_shape_and_zeros_where_ignored(
    row: Row, shape: tuple[int, ...]
) -> None:
    logits, target = make(*shape)
    target.view(-1)[::3] = -100
    rows = row.build(reduction="none", weight=WEIGHT)(logits, target)
    assert rows.shape == target.shape
    assert (rows[target == -100] == 0).all()
    assert (rows[target != -100] > 0).all()
    single = row.build(reduction="none")(torch.zeros(C), torch.tensor(1))
    assert single.shape == ()


@each_row
def test_an_unknown_reduction_is_refused(row: Row) -> None:
    with pytest.raises(ValueError, match="reduction='bogus' is not known: choose one of 'mean'"):
        row.build(reduction="bogus")


@each_row
def test_sum_is_a_sum_and_mean_counts_positions_once(row: Row) -> None:
    """Not a mean over C × pixels, nor over ignored pixels too."""
    logits, target = make(2, 4, 4, dtype=torch.float64)
    target[0, :2] = 255
    rows = row.build(reduction="none", ignore_index=255)(logits, target)
    total = row.build(reduction="sum", ignore_index=255)(logits, target)
    torch.testing.assert_close(total, rows.sum())
    mean = row.build(ignore_index=255)(logits, target)
    own = torch.ones(C).double() if row.own_weight is None else row.own_weight
    kept = target != 255
    torch.testing.assert_close(mean, rows.sum() / own[target[kept]].sum())
    over_count = row.build(ignore_index=255, mean_over="count")(logits, target)
    torch.testing.assert_close(over_count, rows.sum() / int(kept.sum()))


@each_row
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_unused_ignore_index_changes_nothing(row: Row, reduction: str) -> None:
    logits, target = make(8)
    for unused in (255, -1, C + 2):
        value = row.build(ignore_index=unused, reduction=reduction)(logits, target)
        assert torch.equal(value, row.build(reduction=reduction)(logits, target))


@each_row
def test_all_ignored_does_not_crash_backward(row: Row) -> None:
    logits, target = make(2, 3)
    logits.requires_grad_()
    for reduction in ("mean", "sum"):
        row.build(ignore_index=7, reduction=reduction)(
            logits, torch.full_like(target, 7)
        ).backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@each_row
def test_class_weights_do_not_stay_on_the_cpu(row: Row) -> None:
    loss = row.build(weight=WEIGHT).to("meta")
    assert loss.form.weight is not None
    assert loss.form.weight.device.type == "meta"


class Operations(TorchDispatchMode):
    """Counts what reaches the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


@each_row
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_python_loop_over_targets_or_classes(row: Row, smoothing: float) -> None:
    """The number of operations does not grow with positions (or, in a batch, with anything)."""
    loss = row.build(weight=WEIGHT, ignore_index=1, label_smoothing=smoothing, engine="reference")
    totals = []
    for positions in (3, 300):
        logits, target = make(positions)
        logits.requires_grad_()
        with Operations() as counted:
            loss(logits, target).backward()
        totals.append(counted.seen.total())
    assert totals[0] == totals[1] < 150


@each_row
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("form", ["index", "probabilities"])
def test_nothing_waits_for_the_device(row: Row, smoothing: float, form: str) -> None:
    """Tensors of the meta device hold no values, so an ``.item()`` anywhere would fail."""
    logits = torch.randn(2, C, 3, device="meta", requires_grad=True)
    target = torch.zeros(2, 3, dtype=torch.long, device="meta")
    if form == "probabilities":
        target = torch.zeros(2, C, 3, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        logits.sum().item()
    samples = torch.ones(2, 3, device="meta")
    loss = row.build(weight=WEIGHT, label_smoothing=smoothing)
    total = loss.denominator(target, samples)
    assert total.device.type == "meta"
    for call in ({}, {"sample_weight": samples}, {"denominator": total}):
        loss(logits, target, **call).backward()
    row.function(logits, target, **row.arguments, sample_weight=samples).backward()
    assert logits.grad is not None
    assert logits.grad.shape == logits.shape


@each_row
def test_logits_are_not_overwritten(row: Row) -> None:
    """Some fused kernels write the gradient over the logits, even when none is asked for."""
    logits, target = make(2, 4)
    kept, kept_target = logits.clone(), target.clone()
    loss = row.build(weight=WEIGHT, ignore_index=1)
    for leaf in (logits, logits.clone().requires_grad_()):
        value = loss(leaf, target)
        if value.requires_grad:
            value.backward()
            assert leaf.grad is not None
            assert leaf.grad.data_ptr() != leaf.data_ptr()
        assert torch.equal(leaf.detach(), kept)
    assert torch.equal(target, kept_target)
    assert not hasattr(logits, "grad_fn") or logits.grad_fn is None


@each_row
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 2), (1, 2, 3, 2)])
def test_any_number_of_dimensions(row: Row, shape: tuple[int, ...]) -> None:
    """Fused kernels elsewhere are 2-D only: here (N, C, d…) is its positions as rows."""
    logits, target = make(*shape, dtype=torch.float64)
    flat = logits.movedim(1, -1).reshape(-1, C)
    loss = row.build(weight=WEIGHT, ignore_index=1)
    torch.testing.assert_close(loss(logits, target), loss(flat, target.flatten()))


@pytest.mark.parametrize("beta", [0.9, 1 - 1e-8, 1 - 1e-12])
def test_effective_number_weights_are_not_nan(beta: float) -> None:
    counts = [5000, 50, 0, 1]
    rounded = torch.tensor(beta)  # in float32, as the weights are computed elsewhere
    naive = (1 - rounded) / (1 - rounded ** torch.tensor([5000, 50, 1]))
    assert naive.isnan().any() == (beta > 0.9)
    weight = sy.class_weights(counts, "effective", beta=beta, dtype=torch.float64)
    assert weight.isfinite().all()
    assert weight[2] == 0
    assert weight.sum().item() == pytest.approx(3)
    present = [5000, 50, 1]
    # Σ_{i<n} β^i, the effective number itself, sums without cancelling.
    number = [math.fsum(beta**i for i in range(n)) for n in present]
    expected = torch.tensor([1 / n for n in number], dtype=torch.float64)
    expected = 3 * expected / expected.sum()
    torch.testing.assert_close(weight[[0, 1, 3]], expected, rtol=1e-9, atol=0)
    logits, target = torch.randn(4, 4), torch.tensor([0, 1, 2, 3])
    loss = sy.class_balanced_loss(logits, target, class_counts=counts, beta=beta)
    assert loss.isfinite()


@each_row
def test_pixel_weight_maps(row: Row) -> None:
    logits, target = make(2, 3, 3, dtype=torch.float64)
    maps = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps[0, 0] = 0
    rows = row.build(reduction="none")(logits, target)
    weighted = row.build(reduction="none")(logits, target, sample_weight=maps)
    torch.testing.assert_close(weighted, maps * rows)
    mean = row.build()(logits, target, sample_weight=maps)
    own = torch.ones(C).double() if row.own_weight is None else row.own_weight
    torch.testing.assert_close(mean, (maps * rows).sum() / (maps * own[target]).sum())
    mask = maps > 0.5
    by_mask = row.build()(logits, target, sample_weight=mask)
    ignored = row.build(ignore_index=-1)(logits, target.where(mask, -1))
    torch.testing.assert_close(by_mask, ignored)


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.module is not sy.LDAMLoss], ids=lambda row: row.id
)
def test_mixup_of_targets(row: Row) -> None:
    """The loss of a mixed target is the mixture of the losses (LDAM mixes its margins instead)."""
    logits, target = make(8, dtype=torch.float64)
    first, second = (F.one_hot(t, C).double() for t in (target, target.roll(1)))
    loss = row.build(weight=WEIGHT, reduction="none")
    mixed = loss(logits, 0.3 * first + 0.7 * second)
    torch.testing.assert_close(mixed, 0.3 * loss(logits, first) + 0.7 * loss(logits, second))


def test_how_the_weights_were_computed_is_told() -> None:
    logits, target = make(4)
    loss = sy.ClassBalancedLoss(class_counts=COUNTS, beta=0.99)
    assert repr(loss).startswith("ClassBalancedLoss(class_counts=[900, 300, 90, 20, 4], beta=0.99")
    shown = sy.explain(loss, logits, target).positions[0].terms[0].weight
    weight = sy.class_weights(COUNTS, "effective", beta=0.99, dtype=torch.float64)
    assert shown == pytest.approx(float(weight[target[0]]))
