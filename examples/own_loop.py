"""Compare losses with your own training loop, on one process or on many.

    steelyard compare examples/own_loop.py
    torchrun --nproc-per-node 2 examples/own_loop.py

The loop is a plain one with four hooks: `prepare`, `epochs`, `batches` and `step`. They give every
candidate the same initial weights and batches, go on after a kill, and keep the mean exact over
micro-batches and ranks. The data are those of images.py.
"""

import torch
from images import digits, network
from torch import nn

from steelyard import compare


def train(trial: compare.Trial) -> nn.Module:
    model = trial.prepare(network())
    optimizer = torch.optim.SGD(
        model.parameters(), trial.learning_rate, momentum=0.9, weight_decay=trial.weight_decay
    )
    for epoch in trial.epochs(model, optimizer):
        for images, target in trial.batches(epoch):
            trial.loss(model(images), target).backward()
            trial.step(optimizer)
    return model


def main() -> None:
    train_set, test_set = digits()
    study = compare.trainings(
        train,
        train=train_set,
        test=test_set,
        losses=["balanced-softmax", "logit-adjusted"],
        space={"learning_rate": (0.02, 0.5, 0.1), "weight_decay": 5e-4},
        epochs=30,
        batch_size=64,
        draws=4,
        seeds=5,
        name="digits, long-tailed",
        unit="images",
        out="own-loop-study",
    )
    print(study.verdict)


if __name__ == "__main__":
    main()
