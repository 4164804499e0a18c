"""What the study of your own network costs beside a bare loop: `python -m benchmarks.networks`.

The same trainings in turns: by the hooks of `compare.networks`, with a checkpoint file, and by a
loop as one would write it. The ratio is the median over the turns, by wall time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import steelyard as sy
from benchmarks.long_tail import Images, ResNet, sgd
from steelyard.compare.training.methods import choose
from steelyard.compare.training.plan import Plan, Run, constant, draw_options, read_space
from steelyard.compare.training.problem import Part, PlainLoop, Problem
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.targets import read_targets
from steelyard.compare.training.work import new_trial

EPOCHS, BATCH, RATE = 8, 64, 0.1


class Digits(Dataset):
    """Images (N, 1, 8, 8) that are shifted by up to a pixel, and labels, at random."""

    def __init__(self, rows: int) -> None:
        self.images, self.targets = torch.rand(rows, 1, 8, 8), torch.arange(rows) % 10

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        top, left = torch.randint(0, 3, (2,)).tolist()
        image = F.pad(self.images[row], (1, 1, 1, 1))[:, top : top + 8, left : left + 8]
        return image, self.targets[row]


def small() -> nn.Module:
    """Two convolutions for digits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def pictures(rows: int) -> Images:
    """Images of CIFAR's size, cropped and flipped."""
    pixels = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8)
    return Images(pixels, torch.arange(rows) % 10, augmented=True)


def problem_of(data: Dataset, network: Callable[[], nn.Module]) -> tuple[Problem, Plan]:
    """The study whose trainings are timed."""
    methods = choose(["focal"], None)
    plan = Plan(
        tuple(method.name for method in methods),
        read_space({"learning_rate": RATE}, own_optimizer=True),
        epochs=EPOCHS,
        batch_size=BATCH,
        draws=1,
        seeds=1,
        validation=0.1,
    )
    part = Part("train", data, read_targets(data, "train", -100, None))
    return Problem(PlainLoop(network, sgd), methods, part, part, part, constant), plan


def by_hooks(problem: Problem, plan: Plan, folder: Path) -> None:
    """One training of cross-entropy as a study trains it."""
    options = draw_options(plan, problem.method("cross-entropy"), 0)[0]
    run = Run("cross-entropy", 0, 0, options)
    split = problem.split(plan, 0)
    trial = new_trial(problem, plan, run, split, Ranks(), checkpoint=folder / "trial.pt")
    problem.train(trial)
    trial.finish()


def bare(problem: Problem, plan: Plan, network: Callable[[], nn.Module]) -> None:
    """The same training without a study."""
    rows = problem.split(plan, 0).train
    model, loss = network(), sy.CrossEntropyLoss()
    optimizer = sgd(model.parameters(), RATE, 0.0)
    loader = DataLoader(Subset(problem.training.dataset, rows.tolist()), BATCH, shuffle=True)
    for _ in range(EPOCHS):
        for inputs, target in loader:
            optimizer.zero_grad()
            loss(model(inputs), target).backward()
            optimizer.step()


def main() -> None:
    """Print a line for each problem."""
    parser = argparse.ArgumentParser(description="compare.networks beside a bare loop")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problems: list[tuple[str, Dataset, Callable[[], nn.Module]]] = [
        ("digits, two convolutions", Digits(2000), small),
        ("CIFAR's size, ResNet-8", pictures(640), lambda: ResNet(1)),
    ]
    for title, data, network in problems:
        problem, plan = problem_of(data, network)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            by_hooks(problem, plan, place)
            times: dict[str, list[float]] = {"hooks": [], "bare": []}
            for turn in range(options.turns):
                # Who comes first changes from turn to turn.
                for name in sorted(times, reverse=turn % 2 == 0):
                    begun = time.perf_counter()
                    if name == "hooks":
                        by_hooks(problem, plan, place)
                    else:
                        bare(problem, plan, network)
                    times[name].append(time.perf_counter() - begun)
        pairs = zip(times["hooks"], times["bare"], strict=True)
        ratio = statistics.median(hooks / loop for hooks, loop in pairs)
        hooks, loop = map(statistics.median, times.values())
        print(f"{title:28} ÷ bare loop {ratio:.3f}  ({hooks:.2f} s, {loop:.2f} s)", flush=True)


if __name__ == "__main__":
    main()
