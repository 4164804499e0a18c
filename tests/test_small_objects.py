"""What the pages advise for masks of small objects finds them, and what they warn of does not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import steelyard as sy
from steelyard import metrics

ROOT = Path(__file__).parent.parent
TVERSKY = sy.TverskyLoss(alpha=0.3, beta=0.7)


def of_object(loss: torch.nn.Module, logit: float) -> float:
    """The gradient at a pixel of an object of 2×2 pixels, which has this logit everywhere."""
    logits = torch.zeros(1, 2, 16, 16, dtype=torch.double)
    logits[:, 1] = logit
    target = torch.zeros(1, 16, 16, dtype=torch.long)
    target[0, :2, :2] = 1
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits, target), logits)
    return -float(slope[0, 1, 0, 0])


def test_without_a_probability_an_overlap_loss_alone_has_no_gradient() -> None:
    pixels = sy.CrossEntropyLoss()
    assert of_object(TVERSKY, 0.0) > of_object(pixels, 0.0)
    assert of_object(TVERSKY, -16.0) < 1e-3 * of_object(pixels, -16.0)
    both = sy.CompoundLoss([(1, TVERSKY), (1, pixels)])
    assert of_object(both, -16.0) == pytest.approx(of_object(pixels, -16.0), rel=1e-3)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_no_table_advises_it_alone(page: str) -> None:
    table = (ROOT / page).read_text(encoding="utf-8").partition("`DiceCELoss(ignore_index=255)`")[2]
    cell = table.partition("|")[0]
    assert "recipes.md#" in cell
    assert "`TverskyLoss(" not in cell


def images(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 16, 16) of an object of 5×5 pixels each, and in a third one of 2×2."""
    x = torch.randn(n, 3, 16, 16, generator=generator)
    masks = torch.zeros(n, 16, 16, dtype=torch.long)
    for i in range(n):
        a, b, c, d = (
            int(torch.randint(high, (), generator=generator)) for high in (10, 10, 13, 13)
        )
        masks[i, a : a + 5, b : b + 5] = 1
        if i % 3 == 0:
            masks[i, c : c + 2, d : d + 2] = 2
    x[:, 0] += 1.5 * (masks == 1)
    x[:, 1] += 2 * (masks == 2)
    return x, masks


@pytest.mark.slow
def test_beside_cross_entropy_it_finds_small_objects() -> None:
    """Three of the trainings of docs/recipes.md."""
    generator = torch.Generator().manual_seed(1)
    train = [images(8, generator) for _ in range(6)]
    test, truth = images(32, generator)
    weight = sy.class_weights(sy.count_classes(train, num_classes=3), "sqrt")

    def found(loss: torch.nn.Module, seed: int) -> float:
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 3, 3, padding=1),
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for _ in range(80):
            for x, masks in train:
                optimizer.zero_grad()
                loss(network(x), masks).backward()
                optimizer.step()
        with torch.no_grad():
            said = network(test).argmax(1)
        table = metrics.confusion_matrix(said.flatten(), truth.flatten(), 3)
        return float(metrics.recall(table)[2])

    both = sy.CompoundLoss([(1, TVERSKY), (1, sy.CrossEntropyLoss(weight))])
    for seed in range(3):
        assert found(TVERSKY, seed) < 0.1
        assert found(both, seed) > 0.3
