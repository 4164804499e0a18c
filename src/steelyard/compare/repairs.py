"""Taking out of a network's logits what its loss has moved them by.

A loss that adds log w or τ·log prior to the logits has its network learn them without it. The
softmax of such a network means other class shares than the data's; one line makes them the data's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

import steelyard as sy
from steelyard.compare.study import Candidate
from steelyard.losses import SoftmaxLoss, tails
from steelyard.losses.forms import Form

Undo = Callable[[Tensor], Tensor]


def undo(item: Candidate, loss: SoftmaxLoss | sy.DeferredReweighting, counts: Any) -> Undo | None:
    """What gives the data's own class shares back; None where no formula does, or nothing has to.

    A cross-entropy of ``scale·z + bias``, weighted by w, has its least mean where the softmax of
    ``scale·z + bias − log w`` is the data's. Margins, other tails and late weights have no such
    formula. Batches in which all classes are as frequent divide the softmax by the prior.

    Args:
        item: the candidate.
        loss: that its network was trained by.
        counts: (C,) its training rows.
    """
    if item.sampling == "balanced" and not item.deferred:
        return partial(sy.adjust_logits, class_counts=counts, tau=-1.0)
    if item.sampling != "plain":
        return None
    if isinstance(loss, sy.DeferredReweighting) or not _is_cross_entropy(loss.form):
        return None
    form = loss.form
    moved = any(vector is not None for vector in (form.weight, form.scale, form.bias))
    ruled_out = form.weight is not None and bool((form.weight == 0).any())
    if form.margin is not None or ruled_out or not moved:
        return None
    return partial(_undo, form)


def _is_cross_entropy(form: Form) -> bool:
    return form.tail is tails.cross_entropy or (form.tail is tails.focal and form.parameter == 0)


def _undo(form: Form, logits: Tensor) -> Tensor:
    """Of logits (n, C)."""
    found = logits.double()
    if form.scale is not None:
        found = form.scale.to(found) * found
    if form.bias is not None:
        found = found + form.bias.to(found)
    if form.weight is not None:
        found = found - form.weight.to(found).log()
    return found


def undo_line(item: Candidate, options: Mapping[str, float], logits: str) -> str:
    """The same as an expression of Python; the logits themselves where nothing is undone."""
    if item.deferred or item.sampling == "smote":
        return logits
    if item.sampling == "balanced":
        return f"sy.adjust_logits({logits}, class_counts, tau=-1)"
    if item.weighted or item.loss == "ClassBalancedLoss":
        return f"sy.unweight_logits({logits}, loss.form.weight)"
    if item.loss == "VSLoss":
        logits = f"loss.form.scale * {logits}"
    elif item.loss not in ("BalancedSoftmaxLoss", "LogitAdjustedLoss"):
        return logits
    return f"sy.adjust_logits({logits}, class_counts, tau={-options.get('tau', 1.0):.12g})"
