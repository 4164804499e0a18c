"""Segmentation: logits (N, C, H, W), masks (N, H, W), 255 where nobody knows the class.

Made-up images: a bright square (class 1) on a dark ground (class 0), with a few small specks
(class 2) a little brighter than the square. As in Pascal VOC, the pixels around each object carry
the label 255. They are left out of the counts, the weights, the loss and the score.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import steelyard as sy

UNKNOWN = 255
NAMES = ("ground", "square", "speck")
BRIGHTNESS = torch.tensor([0.0, 0.8, 1.4])
SIZE = 48


def pictures(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) and masks (N, H, W), uint8 as image files hold them."""

    def place(side: int) -> tuple[slice, slice]:
        row, column = torch.randint(1, SIZE - side, (2,), generator=generator).tolist()
        return slice(row, row + side), slice(column, column + side)

    masks = torch.zeros(number, SIZE, SIZE, dtype=torch.uint8)
    for mask in masks:
        mask[place(20)] = 1
        for _ in range(3):
            mask[place(3)] = 2
    noise = torch.randn(masks.shape, generator=generator)
    images = BRIGHTNESS[masks.long()] + 0.35 * noise
    return images.unsqueeze(1), masks.masked_fill(edges(masks), UNKNOWN)


def edges(masks: Tensor) -> Tensor:
    """Pixels of the ground that touch an object."""
    objects = (masks > 0).float().unsqueeze(1)
    return (F.max_pool2d(objects, 3, stride=1, padding=1).squeeze(1) > 0) & (masks == 0)


def train(loss: nn.Module, images: Tensor, masks: Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss(network(images), masks).backward()
        optimizer.step()
    return network


def scores(logits: Tensor, masks: Tensor) -> list[tuple[float, float, float]]:
    """Recall, precision and intersection over union of each class, over the known pixels."""
    known = masks != UNKNOWN
    truth, found = masks[known], logits.argmax(1)[known]
    result = []
    for c in range(3):
        is_c, said_c = truth == c, found == c
        both = int((is_c & said_c).sum())
        union = int((is_c | said_c).sum())
        result.append((both / int(is_c.sum()), both / max(int(said_c.sum()), 1), both / union))
    return result


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    images, masks = pictures(16, generator)
    unseen, truth = pictures(16, generator)

    counts = sy.count_classes(masks, num_classes=3, ignore_index=UNKNOWN)
    weight = sy.class_weights(counts, "sqrt")
    print(sy.ClassCounts(counts.counts, names=NAMES))
    print("weights ∝ 1/√n:", [round(w, 3) for w in weight.tolist()], "\n")

    print(f"{'':20}" + "".join(f"{name:>24}" for name in NAMES))
    print(f"{'':20}" + f"{'recall':>10}{'precis.':>8}{'IoU':>6}" * 3)
    for name, loss in {
        "cross-entropy": sy.CrossEntropyLoss(ignore_index=UNKNOWN),
        "weighted": sy.CrossEntropyLoss(weight, ignore_index=UNKNOWN),
        "weighted, focal": sy.FocalLoss(weight=weight, ignore_index=UNKNOWN),
    }.items():
        logits = train(loss, images, masks)(unseen)
        cells = (f"{r:10.3f}{p:8.3f}{i:6.3f}" for r, p, i in scores(logits, truth))
        print(f"{name:20}" + "".join(cells))

    print("The specks are found once the loss knows how rare they are; the price is false alarms.")

    logits = torch.randn(16, 3, SIZE, SIZE, generator=generator)
    logits.masked_fill_((masks == UNKNOWN).unsqueeze(1), float("nan")).requires_grad_()
    loss_value = sy.focal_loss(logits, masks, weight=weight, ignore_index=UNKNOWN)
    (gradient,) = torch.autograd.grad(loss_value, logits)
    print(
        f"\nWith NaN logits at every unknown pixel the loss is still {loss_value:.4f}, and "
        f"{int(gradient.isnan().sum())} gradients are NaN."
    )


if __name__ == "__main__":
    main()
