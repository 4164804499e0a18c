"""Small objects, and images without any: what an overlap loss sees, and what it does not.

Made-up images on a noisy ground: half of them have a few bright specks, to be found; the other
half have scratches as bright, to be left alone. The network has one sigmoid output. A Dice loss per
image looks only at images with specks, so scratches cost it nothing; over the batch, or with
cross-entropy beside it, they do.
"""

import torch
from torch import Tensor, nn

import steelyard as sy

SIZE = 32


def pictures(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) and masks (N, 1, H, W); every other image has scratches alone."""
    bright = torch.zeros(number, 1, SIZE, SIZE, dtype=torch.bool)
    for i, image in enumerate(bright[:, 0]):
        for row, column in torch.randint(SIZE - 9, (3, 2), generator=generator).tolist():
            height, width = (3, 3) if i % 2 == 0 else (1, 9)
            image[row : row + height, column : column + width] = True
    masks = bright.clone()
    masks[1::2] = False
    noise = torch.randn(masks.shape, generator=generator)
    return 1.5 * bright + 0.4 * noise, masks


def train(loss: nn.Module, images: Tensor, masks: Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss(network(images), masks).backward()
        optimizer.step()
    return network


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    images, masks = pictures(32, generator)
    unseen, truth = pictures(64, generator)
    print(f"{'':24}{'Dice of images with specks':>28}{'false pixels on scratched ones':>32}")
    for name, loss in {
        "cross-entropy": sy.BCEWithLogitsLoss(),
        "Dice per image": sy.DiceLoss(activation="sigmoid"),
        "Dice per batch": sy.DiceLoss(activation="sigmoid", per="batch"),
        "Dice and cross-entropy": sy.DiceCELoss(activation="sigmoid"),
    }.items():
        found = train(loss, images, masks)(unseen) > 0
        hard = torch.where(found, 1e4, -1e4)
        dice = 1 - sy.dice_loss(hard, truth, activation="sigmoid").item()
        empty = ~truth.flatten(1).any(1)
        false = found[empty].float().sum((1, 2, 3)).mean().item()
        print(f"{name:24}{dice:28.3f}{false:32.1f}")

    target = masks[:2]
    logits = torch.zeros(2, 1, SIZE, SIZE)
    print("\nOne value by hand:\n")
    print(sy.explain(sy.DiceLoss(activation="sigmoid"), logits, target))


if __name__ == "__main__":
    main()
