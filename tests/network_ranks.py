"""What ranks and workers do with the user's own network: a new process can import it."""

import io
from contextlib import redirect_stderr

import numpy as np
import torch
from network_cases import (
    LOSSES,
    STUDY_SPACE,
    Keeping,
    Noisy,
    blobs,
    line_of,
    network,
    problem_of,
    sgd,
    study,
)
from torch import nn

from steelyard import compare
from steelyard.compare.training.evaluation import predict
from steelyard.compare.training.loading import Loader
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.work import run_line


def linear(classes=3):
    torch.manual_seed(0)
    return nn.Linear(4, classes).double()


def predicted(data, rows, ranks=Ranks(), net=None, batch_size=7):  # noqa: B008
    return predict(
        net or linear(),
        Loader(data, 0, "test"),
        rows,
        "classes",
        3,
        batch_size=batch_size,
        device="cpu",
        ranks=ranks,
    )


def score_in_ranks(rows):
    return predicted(Noisy(blobs(rows=29)), np.arange(rows), Ranks.here()).logits


def trained_parameters(losses, micro=None, batch_size=16):
    """Parameters of some candidates after training, and the validation score of each."""
    loop = Keeping()
    problem, plan = problem_of(
        losses, train=blobs(101), loop=loop, micro_batch=micro, batch_size=batch_size
    )
    found = {}
    ranks = Ranks.here()
    names = [loss if isinstance(loss, str) else loss[0] for loss in losses]
    for line in {line_of(problem, plan, name).key: [name] for name in names}.values():
        for outcome in run_line(problem, plan, line_of(problem, plan, *line), None, ranks):
            assert outcome.status == "done", outcome.reason
            found[outcome.run.method] = outcome.score, outcome.curve
    parameters = {
        name: [p.detach().numpy() for p in model.parameters()]
        for name, model in loop.networks.items()
    }
    return parameters, found


def rehearsed_study():
    """What the study of this rank says before and while it trains."""
    said = io.StringIO()
    with redirect_stderr(said):
        study(losses=["focal"], head=None, draws=1, seeds=1, epochs=1, progress=True)
    return said.getvalue()


def whole_study():
    found = compare.networks(
        network,
        train=blobs(150),
        test=blobs(89, seed=5),
        losses=LOSSES,
        head="3",
        optimizer=sgd,
        space=STUDY_SPACE,
        epochs=3,
        batch_size=32,
        draws=2,
        seeds=2,
        progress=False,
    )
    return [
        (
            entry["name"],
            [trial["options"] for cell in entry["seeds"] for trial in cell["trials"]],
            [sum(map(sum, cell["confusion"])) for cell in entry["seeds"]],
            entry["scores"]["accuracy"]["values"],
        )
        for entry in found.results["candidates"]
    ]


class Halting(torch.nn.Module):
    def forward(self, _):
        raise RuntimeError("no such layer")


def one(parameters, learning_rate, weight_decay):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
