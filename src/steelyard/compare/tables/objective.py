"""The library's own losses, stacked: one call evaluates those of many trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor

import steelyard as sy
from steelyard.compare.study import Candidate
from steelyard.losses import SoftmaxLoss
from steelyard.losses.forms import Form
from steelyard.losses.positions import evaluate

_FILL = {"weight": 1.0, "scale": 1.0, "bias": 0.0, "margin": 0.0}  # what an absent vector means


def stack_order(
    candidates: Sequence[Candidate], losses: Sequence[SoftmaxLoss | sy.DeferredReweighting]
) -> list[int]:
    """The order in which trials stack: linear heads before cosine ones, equal tails together."""
    tails = [_current(loss).form.tail for loss in losses]
    return sorted(
        range(len(losses)), key=lambda i: (candidates[i].head == "cosine", tails.index(tails[i]))
    )


class Objective:
    """The losses of S seeds × T trials as one function of their logits.

    Trials are to come in `stack_order`: each run of equal tails becomes one vmapped call of the
    contract's own `evaluate`.
    """

    def __init__(
        self,
        losses: Sequence[Sequence[SoftmaxLoss | sy.DeferredReweighting]],
        classes: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.losses = losses
        self.starts = {
            loss.start for row in losses for loss in row if isinstance(loss, sy.DeferredReweighting)
        }
        self._like = torch.empty(0, classes, device=device, dtype=dtype)
        self._parts = self._stack()

    def set_epoch(self, epoch: int) -> None:
        """Bring deferred weights into force when their epoch comes."""
        if epoch in self.starts:
            for row in self.losses:
                for loss in row:
                    if isinstance(loss, sy.DeferredReweighting):
                        loss.set_epoch(epoch)
            self._parts = self._stack()

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of every trial, (S, T), from logits (S, T, C, B) and targets (S, B)."""
        target = target.unsqueeze(1)  # (S, 1, B): one sample, whose B rows are its positions
        values = [part(logits.unsqueeze(2), target) for part in self._parts]
        return values[0] if len(values) == 1 else torch.cat(values, 1)

    def _stack(self) -> list[_Part]:
        current = [[_current(loss) for loss in row] for row in self.losses]
        parts, start = [], 0
        for _, run in groupby(current[0], key=lambda loss: loss.form.tail):
            stop = start + len(list(run))
            parts.append(_Part(slice(start, stop), [r[start:stop] for r in current], self._like))
            start = stop
        return parts


class _Part:
    """Neighbouring trials with one tail: their class vectors stacked to (S, t, C)."""

    def __init__(self, where: slice, losses: Sequence[Sequence[SoftmaxLoss]], like: Tensor) -> None:
        self.where = where
        forms = [[loss.form for loss in row] for row in losses]
        self.tail, self.options = forms[0][0].tail, losses[0][0].options
        self.vectors = {
            name: torch.stack([torch.stack([_vector(f, name, like) for f in row]) for row in forms])
            for name in _FILL
            if any(getattr(form, name) is not None for row in forms for form in row)
        }
        self.vectors["label_smoothing"] = like.new_tensor(
            [[loss.options.label_smoothing for loss in row] for row in losses]
        )
        if forms[0][0].parameter is not None:
            self.vectors["parameter"] = like.new_tensor([[f.parameter for f in r] for r in forms])
        self.smooths = bool(self.vectors["label_smoothing"].any())
        over_trials = torch.vmap(self._one, in_dims=(0, 0, None))
        self.over_seeds = over_trials if len(losses) == 1 else torch.vmap(over_trials)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = logits[:, self.where]
        if logits.shape[0] > 1:
            return self.over_seeds(self.vectors, logits, target)
        vectors = {name: tensor[0] for name, tensor in self.vectors.items()}
        return self.over_seeds(vectors, logits[0], target[0]).unsqueeze(0)

    def _one(self, vectors: dict[str, Tensor], logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one trial: logits (1, C, B), target (1, B)."""
        given: dict[str, Any] = dict(vectors)
        smoothing = given.pop("label_smoothing")
        options = replace(self.options, label_smoothing=smoothing if self.smooths else 0.0)
        return evaluate(Form(self.tail, **given), options, logits, target)


def _current(loss: SoftmaxLoss | sy.DeferredReweighting) -> SoftmaxLoss:
    return cast("SoftmaxLoss", loss.current if isinstance(loss, sy.DeferredReweighting) else loss)


def _vector(form: Form, name: str, like: Tensor) -> Tensor:
    vector: Tensor | None = getattr(form, name)
    if vector is None:
        return like.new_full((like.shape[1],), _FILL[name])
    return vector.to(like)
