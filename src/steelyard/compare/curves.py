"""What pictures keep of a cell's test rows: a few points of each curve, whatever the rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steelyard import metrics
from steelyard._results import CostCurve, Ranking
from steelyard.compare.decisions import Costs

_POINTS = 50
# Rare classes are found or not within the first few alarms: there the points are dense.
RECALLS = torch.linspace(0, 1, _POINTS + 1, dtype=torch.float64)
ALARMS = RECALLS.square()
THRESHOLDS = torch.linspace(-7, 7, _POINTS + 1, dtype=torch.float64).sigmoid()


def ranking(logits: Tensor, labels: Tensor, confusion: Tensor, positive: int) -> Ranking:
    """The best precision at each recall, and the best recall at each share of false alarms.

    Args:
        logits: (n, C).
        labels: (n,).
        confusion: (C, C) of the decision.
        positive: of two classes, the one that is looked for. Of more the curves are the means over
            classes, each against the others.
    """
    classes = logits.shape[1]
    log_p = logits.double().log_softmax(1)
    if classes == 2:
        asked = [(positive, logits[:, positive].double() - logits[:, 1 - positive].double())]
    else:
        asked = [(c, log_p[:, c]) for c in range(classes)]
    precision = [metrics.precision_curve(ranks, labels == c, RECALLS) for c, ranks in asked]
    found = [metrics.roc_curve(ranks, labels == c, ALARMS) for c, ranks in asked]
    kept: Ranking = {
        "recall": _kept(RECALLS),
        "precision": _kept(torch.stack(precision).nanmean(0)),
        "alarms": _kept(ALARMS),
        "found": _kept(torch.stack(found).nanmean(0)),
    }
    if classes == 2:
        rows, said = confusion.double().sum(1), confusion.double().sum(0)
        hits = confusion[positive, positive].double()
        point = [hits / rows[positive], hits / said[positive]]
        point.append((said[positive] - hits) / rows[1 - positive])
        names = ("recall", "precision", "alarms")
        kept["decision"] = dict(zip(names, _kept(torch.stack(point)), strict=True))
    return kept


def cost_curve(logits: Tensor, labels: Tensor, costs: Costs, positive: int) -> CostCurve:
    """Of two classes, the mean cost of each threshold for the probability of the positive one.

    Args:
        logits: (n, 2), whose softmax are probabilities of the data's mix.
        labels: (n,).
        costs: (2, 2).
        positive: the class that a threshold is for.
    """
    p = logits.double().softmax(1)[:, positive]
    said = torch.where(p >= THRESHOLDS[:, None], positive, 1 - positive)  # (K, n)
    cells = metrics.confusion_matrix(said, labels.expand_as(said), 2)
    return {"threshold": _kept(THRESHOLDS), "cost": _kept(metrics.mean_cost(cells, costs))}


def _kept(values: Tensor) -> list[Any]:
    """Five digits: more than a picture can show."""
    return [None if value != value else float(f"{value:.5g}") for value in values.tolist()]
