"""Small networks and data for the tests of studies with the user's own network."""

import json

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from steelyard import compare
from steelyard.compare.training import methods as known
from steelyard.compare.training.lines import plan_lines
from steelyard.compare.training.plan import Plan, Run, cosine, draw_options, read_space
from steelyard.compare.training.problem import Part, PlainLoop, Problem
from steelyard.compare.training.targets import read_targets

SPACE = read_space({"learning_rate": (0.02, 0.5, 0.1), "weight_decay": 1e-3}, own_optimizer=True)
STUDY_SPACE = {"learning_rate": (0.02, 0.5, 0.1), "weight_decay": (1e-5, 1e-2, 5e-4)}
LOSSES = ["balanced-softmax", "ldam", "ldam-drw", "tau-normalised", "deferred-sampling"]


def blobs(rows=60, classes=3, seed=0, dtype=torch.float64, spread=1.0):
    """Long-tailed Gaussian blobs: (features (N, 4), labels (N,))."""
    rng = np.random.default_rng(seed)
    share = 0.4 ** np.arange(classes)
    labels = np.sort(rng.choice(classes, rows, p=share / share.sum()))
    labels[:classes] = np.arange(classes)
    centres = np.random.default_rng(1).normal(size=(classes, 4))
    features = centres[labels] + spread * rng.normal(size=(rows, 4))
    return TensorDataset(torch.tensor(features, dtype=dtype), torch.tensor(labels))


class Noisy(Dataset):
    """Blobs that are augmented: every look at a row adds noise from all three generators."""

    def __init__(self, base):
        self.base = base

    def __len__(self):
        return len(self.base)

    def __getitem__(self, row):
        import random

        features, label = self.base[row]
        noise = torch.randn(4, dtype=features.dtype) + np.random.rand() + random.random()  # noqa: NPY002
        return features + 0.1 * noise, int(label)


def network(dropout=0.0, classes=3):
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, classes)
    ).double()


def dropping():
    return network(dropout=0.3)


def sgd(parameters, learning_rate, weight_decay):
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=0.9)


def part(name, dataset, ignore_index=-100, classes=None):
    return Part(name, dataset, read_targets(dataset, name, ignore_index, classes))


def problem_of(losses, train=None, test=None, factory=network, loop=None, head="3", **options):
    """A problem and its plan."""
    chosen = known.choose(losses, head)
    given = {"epochs": 5, "batch_size": 16, "draws": 2, "seeds": 2, "validation": 0.2} | options
    plan = Plan(tuple(m.name for m in chosen), SPACE, **given)
    training = part("train", blobs() if train is None else train, plan.ignore_index)
    testing = part("test", blobs(seed=9) if test is None else test, plan.ignore_index)
    problem = Problem(
        loop or PlainLoop(factory, sgd),
        chosen,
        training,
        training,
        testing,
        cosine,
        head=head,
    )
    return problem, plan


def run_of(problem, plan, name, seed=0, draw=0):
    return Run(name, seed, draw, draw_options(plan, problem.method(name), plan.first_seed)[draw])


def line_of(problem, plan, *names, seed=0, draw=0):
    runs = [run_of(problem, plan, name, seed, draw) for name in names]
    (line,) = plan_lines(runs, {method.name: method for method in problem.methods})
    return line


class Keeping:
    """A loop that keeps the networks it trained, by candidate."""

    def __init__(self, factory=network):
        self.loop = PlainLoop(factory, sgd)
        self.networks = {}

    def __call__(self, trial):
        trained = self.loop(trial)
        self.networks[trial.candidate] = trained
        return trained


def same_parameters(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def masks(rows=12, classes=4, size=6, seed=0, ignore=255):
    rng = np.random.default_rng(seed)
    target = rng.choice(classes, (rows, size, size), p=[0.7, 0.2, 0.07, 0.03])
    target[:, 0] = ignore
    images = torch.tensor(target[:, None] + rng.normal(0, 0.7, (rows, 1, size, size))).float()
    return TensorDataset(images, torch.tensor(target))


def study(**given):
    options = {
        "train": blobs(150),
        "test": blobs(90, seed=5),
        "losses": LOSSES,
        "head": "3",
        "optimizer": sgd,
        "space": STUDY_SPACE,
        "epochs": 5,
        "batch_size": 32,
        "draws": 2,
        "seeds": 2,
        "progress": False,
    }
    return compare.networks(given.pop("network", network), **options | given)


def without_times(found):
    return json.dumps({k: v for k, v in found.results.items() if k != "times"}, sort_keys=True)
