"""The lines of a verdict, pasted into a script with the same data and seed, give its numbers.

The script knows the study's rows, network and recipe and writes them in plain PyTorch; the loss and
the decision are the pasted lines alone. In float32 it adds in another order than the study's stack,
so logits differ in the seventh digit. Of these rows none is so close to being decided otherwise.
"""

import math
import re

import numpy as np
import pytest
import torch
from test_compare_costs import FRAUD, payments
from test_compare_train import Plain

from steelyard import compare, metrics
from steelyard.compare.scores import of_probabilities
from steelyard.compare.tables.data import from_any
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.study import Study
from steelyard.compare.tables.train import rate_factor

OPTIONS = {
    "seeds": 5, "draws": 2, "epochs": 6, "network": "small", "hidden": 8, "batch_size": 32,
    "references": [], "costs": FRAUD,
}  # fmt: skip
LOSSES = ["tuned-decision", "balanced-softmax", "class-balanced", "vs", "focal"]


def pasted(code, seed, dtype):
    """Run the lines of a candidate; what they leave, and the labels of the test rows."""
    part = prepare(from_any(*payments()), seed, 0.2, 0.2)
    parts = (part.train, part.test, part.validation)
    features = [torch.from_numpy(p.features).to(dtype) for p in parts]
    labels = torch.from_numpy(part.train.labels)
    before, recipe, after = re.split(r"(# trained by [^\n]*)\n", code)
    rate, decay = map(float, re.findall(r"(?:rate|decay) ([\d.e-]+)", recipe))
    scope = {"train_labels": part.train.labels}
    exec(before, scope)
    shape = Study(("cross-entropy",), network="small", hidden=8).shape(part.width, 0, 2)
    model = Plain(shape, cosine=False).to(dtype)
    model.start(shape, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    steps = math.ceil(len(labels) / 32)
    for epoch in range(6):
        order = np.random.default_rng([seed, 2, epoch]).permutation(len(labels))
        for k, rows in enumerate(np.array_split(order, steps)):
            optimiser.param_groups[0]["lr"] = rate * rate_factor(epoch * steps + k, 6 * steps)
            optimiser.zero_grad()
            scope["loss"](model(features[0][rows]), labels[rows]).backward()
            optimiser.step()
    with torch.no_grad():
        scope["logits"] = model(features[1])
        scope["validation_logits"] = model(features[2])
    scope["validation_labels"] = torch.from_numpy(part.validation.labels)
    exec(after, scope)
    return scope, torch.from_numpy(part.test.labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("select", "dtype"),
    [("mean_cost", "float64"), ("macro_f1", "float64"), ("macro_f1", "float32")],
)
def test_pasted_lines_give_the_reported_scores(select, dtype):
    study = compare.run(*payments(), losses=LOSSES, select=select, dtype=dtype, **OPTIONS)
    assert study.code in [entry["code"] for entry in study.results["candidates"]]
    for entry in study.results["candidates"]:
        cell = best_cell(entry, select)
        scope, truth = pasted(entry["code"], cell["seed"], getattr(torch, dtype))
        cells = metrics.confusion_matrix(scope["decision"], truth, 2)
        found = {
            "mean_cost": metrics.mean_cost(cells, study.results["costs"]),
            "macro_f1": metrics.macro_f1(cells),
            "balanced_accuracy": metrics.balanced_accuracy(cells),
            "accuracy": metrics.accuracy(cells),
        }
        repaired = of_probabilities(scope["probabilities"].log(), truth)
        found |= {f"{name}_tempered": value for name, value in repaired.items()}
        expected = {name: cell["scores"][name] for name in found}
        assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, abs=1e-6)
        assert scope["temperature"] == pytest.approx(cell["temperature"], rel=1e-6)


def best_cell(entry, select):
    """The seed whose draw the lines have: the best validation score, the first of equals."""
    sign = -1 if select == "mean_cost" else 1
    return max(entry["seeds"], key=lambda cell: sign * cell["trials"][cell["chosen"]]["validation"])
