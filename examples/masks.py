"""Compare losses on masks with a rare class and a border that nobody labelled.

    steelyard compare examples/masks.py

The images are those of segmentation.py: a square and a few small specks, and around each object a
border with the label 255, which counts nowhere.
"""

import torch
from segmentation import NAMES, UNKNOWN, pictures
from torch import nn
from torch.utils.data import TensorDataset

from steelyard import compare


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, len(NAMES), 3, padding=1)
    )


def images(number: int, seed: int) -> TensorDataset:
    pixels, masks = pictures(number, torch.Generator().manual_seed(seed))
    return TensorDataset(pixels, masks.long())


def main() -> None:
    study = compare.networks(
        network,
        train=images(60, seed=0),
        test=images(40, seed=1),
        losses=["focal", "balanced-softmax"],
        select="mean_iou",
        space={"learning_rate": (1e-3, 3e-2, 1e-2), "weight_decay": 1e-4},
        ignore_index=UNKNOWN,
        classes=NAMES,
        epochs=20,
        batch_size=8,
        draws=3,
        seeds=5,
        name="squares and specks",
        out="masks-study",
    )
    print(study)


if __name__ == "__main__":
    main()
