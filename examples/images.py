"""Compare losses with your own network: small images, long-tailed classes.

    steelyard compare examples/images.py      # trains, and writes a report
    python examples/images.py                 # trains, and prints the table

The images are scikit-learn's digits (8 × 8, ten classes). The training images are made
long-tailed; the test images stay balanced, and are the same for every seed.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from steelyard import compare

RATIO = 50  # of the most frequent class to the rarest
HELD_OUT = 60  # test images of each class


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Training images (N, 1, 8, 8), long-tailed, and balanced test images."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    train, test = [], []
    for c in range(10):
        rows = shuffled[labels[shuffled] == c]
        kept = max(2, int((len(rows) - HELD_OUT) * RATIO ** (-c / 9)))
        test.append(rows[:HELD_OUT])
        train.append(rows[HELD_OUT : HELD_OUT + kept])
    target = torch.tensor(labels)
    return tuple(  # type: ignore[return-value]
        TensorDataset(images[rows], target[rows])
        for rows in (np.concatenate(train), np.concatenate(test))
    )


def network() -> nn.Module:
    """Two convolutions and a linear head; called anew for every training."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def sgd(parameters, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, learning_rate, momentum=0.9, weight_decay=weight_decay)


def main() -> None:
    train, test = digits()
    study = compare.networks(
        network,
        train=train,
        test=test,
        validation=0.2,
        losses=["balanced-softmax", "focal", "deferred-weighted", "tau-normalised", "ldam-drw"],
        head="9",  # the last layer: an attribute's name, or a place in nn.Sequential
        optimizer=sgd,
        space={"learning_rate": (0.02, 0.5, 0.1), "weight_decay": (1e-5, 1e-2, 5e-4)},
        epochs=30,
        batch_size=64,
        draws=4,
        seeds=5,
        name="digits, long-tailed",
        unit="images",
        out="digits-study",
    )
    print(study)


if __name__ == "__main__":
    main()
