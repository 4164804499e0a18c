"""Platt's scaling against scikit-learn's logistic regression without a penalty."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import steelyard as sy


def problem(seed, rows=200, stretch=1.0, move=0.0):
    """Logits (N, 3) of labels that are there in half, a fifth and a twentieth of the rows."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 3, generator=generator).double() - torch.tensor([0.0, 1.5, 3.0])
    there = (torch.rand(rows, 3, generator=generator) < z.sigmoid()).long()
    return stretch * z + move, there


def by_scikit_learn(z, there):
    """Scale and shift of one label: each row once as there and once as not, by Platt's weights."""
    found, missing = there.sum().item(), (1 - there).sum().item()
    aim = np.where(there > 0.5, (found + 1) / (found + 2), 1 / (missing + 2))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(
        np.tile(z.double().numpy(), 2)[:, None],
        np.repeat([1, 0], len(z)),
        sample_weight=np.concatenate([aim, 1 - aim]),
    )
    return model.coef_[0, 0], model.intercept_[0]


def assert_fits(fitted, z, there):
    for c, pair in enumerate(zip(*fitted, strict=True)):
        wanted = by_scikit_learn(z[:, c], there[:, c])
        assert [part.item() for part in pair] == pytest.approx(wanted, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(("stretch", "move"), [(1.0, 0.0), (8.0, 3.0), (0.01, -50.0)])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_logistic_regression(seed, stretch, move):
    z, there = problem(seed, stretch=stretch, move=move)
    assert_fits(sy.fit_platt_scaling(z, there), z, there)


def test_rows_that_are_all_right_or_all_wrong_have_an_end():
    z, there = problem(0, rows=12)
    there = (z > z.median(0).values).long()
    assert_fits(sy.fit_platt_scaling(z, there), z, there)
    scale, _ = sy.fit_platt_scaling(-z, there)
    assert (scale < 0).all()
    far = torch.tensor([1.0, 2.0, 3.0, 100.0])[:, None]
    half = torch.tensor([0, 0, 1, 1])[:, None]
    assert_fits(sy.fit_platt_scaling(far, half), far, half)


def test_logits_that_tell_nothing_have_the_scale_0():
    for z, there in (
        (torch.full((6,), 0.3), torch.tensor([1, 0, 0, 0, 1, 0])),
        (torch.randn(6), torch.ones(6)),
        (torch.randn(6), torch.zeros(6)),
    ):
        scale, shift = sy.fit_platt_scaling(z, there)
        n = int(there.sum())
        mean = (n * (n + 1) / (n + 2) + (6 - n) / (8 - n)) / 6
        assert scale.abs() < 1e-9
        assert (scale * z.mean() + shift).sigmoid().item() == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_forms_and_dimensions_give_the_same(dtype):
    z, there = problem(1)
    z = z.to(dtype)
    wanted = sy.fit_platt_scaling(z.double(), there)
    assert wanted[0].shape == (3,)
    assert wanted[0].dtype == torch.float64
    for cells, target in (
        (z, there),
        (z, there.bool()),
        (z, there.to(torch.uint8)),
        (z.requires_grad_(), there.double()),
        (z.detach().T.reshape(1, 3, 10, 20), there.T.reshape(1, 3, 10, 20)),
    ):
        torch.testing.assert_close(sy.fit_platt_scaling(cells, target), wanted)
    alone = sy.fit_platt_scaling(z[:, 1], there[:, 1])
    assert [part.item() for part in alone] == pytest.approx([part[1].item() for part in wanted])
    assert alone[0].shape == ()


@pytest.mark.parametrize("mark", [-1, 7, float("nan")])
def test_labels_that_are_not_known_count_nowhere(mark):
    z, there = problem(2)
    unknown = torch.arange(600).reshape(200, 3) % 4 == 0
    target = there.double().masked_fill(unknown, mark)
    z = z.masked_fill(unknown, torch.nan)
    fitted = sy.fit_platt_scaling(z, target, ignore_index=mark)
    for c in range(3):
        rows = ~unknown[:, c]
        alone = [part[c].item() for part in fitted]
        assert alone == pytest.approx(by_scikit_learn(z[rows, c], there[rows, c]), rel=1e-8)


def test_soft_labels_are_so_many_rows_of_each_kind():
    z = torch.tensor([2.0, 1.0, 0.0, -1.0])
    soft = torch.tensor([0.75, 0.5, 0.25, 0.25])
    # Platt's numbers of rows are those of the shares, so four times as many rows are another fit.
    scale, shift = sy.fit_platt_scaling(z, soft)
    there, absent = soft.sum(), (1 - soft).sum()
    aim = soft * (there + 1) / (there + 2) + (1 - soft) / (absent + 2)
    p = (scale * z + shift).sigmoid()
    torch.testing.assert_close(p.sum(), aim.sum())
    torch.testing.assert_close((p * z).sum(), (aim * z).sum())


def test_it_mends_a_loss_that_moves_the_logits():
    z, there = problem(3, rows=4000)
    moved = 0.4 * z + 0.7  # as AsymmetricLoss does
    scale, shift = sy.fit_platt_scaling(moved, there)
    torch.testing.assert_close(0.4 * scale, torch.ones(3).double(), rtol=0.15, atol=0)
    mended = (scale * moved + shift).sigmoid()
    assert (mended.mean(0) - there.double().mean(0)).abs().max() < 1e-3


def pixels(images, seed):
    """Features, masks drawn from known probabilities, and those."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 2, 16, 16, generator=generator)
    truth = (features.sum(1, keepdim=True) + features[:, :1] - 2.5).sigmoid()
    return features, (torch.rand(truth.shape, generator=generator) < truth).float(), truth


def test_a_dice_loss_needs_the_shift_as_well_as_the_scale():
    torch.manual_seed(0)
    model = torch.nn.Conv2d(2, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    features, masks, _ = pixels(16, seed=0)
    for _ in range(200):
        optimizer.zero_grad()
        sy.dice_loss(model(features), masks, activation="sigmoid", per="batch").backward()
        optimizer.step()
    (validation, known, _), (test, _, truth) = pixels(32, seed=1), pixels(32, seed=2)
    with torch.no_grad():
        z, logits = model(validation), model(test)
    two_logits = torch.cat([torch.zeros_like(z), z], 1)
    temperature = sy.fit_temperature(two_logits, known[:, 0].long())
    scale, shift = sy.fit_platt_scaling(z, known)
    as_trained, with_temperature, mended = (
        (edited.sigmoid() - truth).abs().mean()
        for edited in (logits, logits / temperature, scale * logits + shift)
    )
    assert mended < 0.02 < 0.06 < with_temperature < as_trained


Z, Y = torch.zeros(4, 2), torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (Y, Y, TypeError, "logits"),
        (Z, Y[:3], ValueError, r"target has shape \(3, 2\) and logits \(4, 2\)"),
        (Z, 2 * Y, ValueError, "expected 0, 1 or ignore_index=-1"),
        (Z, Y * 1.5, ValueError, r"expected numbers in \[0, 1\]"),
        (Z / 0, Y, ValueError, "logits hold NaN or infinity where the label is known: leave"),
        (Z, Y - 1 - Y, ValueError, "label 0 is not known in any row: leave its column out, or"),
        (Z[:0], Y[:0], ValueError, "label 0 is not known in any row"),
    ],
)
def test_refusals(logits, target, error, message):
    with pytest.raises(error, match=message):
        sy.fit_platt_scaling(logits, target)


def test_numbers_outside_are_refused_wherever_they_stand():
    target = torch.zeros(2_000_000)
    target[-1] = 3.0
    with pytest.raises(ValueError, match=r"outside \[0, 1\] that are not ignore_index=-1"):
        sy.fit_platt_scaling(torch.zeros(2_000_000), target)
