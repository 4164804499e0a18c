"""Sums over regions in plain torch, part by part; see :mod:`steelyard.ops.parts`."""

import torch
from torch import Tensor

from steelyard.ops import region
from steelyard.ops.parts import Place, cut
from steelyard.ops.problem import compute_dtype
from steelyard.ops.region import Overlap, Slopes


def forward(
    logits: Tensor,
    overlap: Overlap,
    *,
    differentiate: bool,  # noqa: ARG001
) -> tuple[tuple[Tensor, ...], None]:
    """I, P, L and the masses of the targets, (N, C) or (1, C); nothing is kept for backward."""
    n, classes, _ = logits.shape
    totals = logits.new_zeros(6, 1 if overlap.batch else n, classes, dtype=compute_dtype(logits))
    for place in cut(logits):
        both, predicted, logs, masses = region.sums(place.of(logits), _overlap_at(place, overlap))
        logs = torch.zeros_like(both) if logs is None else logs
        totals[:, _items(place, overlap)] += torch.stack([both, predicted, logs, *masses])
    return tuple(totals), None


def backward(logits: Tensor, overlap: Overlap, kept: None, slopes: Slopes) -> Tensor:  # noqa: ARG001
    """The gradient by the logits."""
    result = torch.empty_like(logits)
    for place in cut(logits):
        with torch.enable_grad():
            leaf = place.of(logits).detach().requires_grad_()
            found = region.sums(leaf, _overlap_at(place, overlap))
        # L is there, and has a slope, where it was asked for.
        sums = [each for each in found[:3] if isinstance(each, Tensor)]
        by_sums = [each[_items(place, overlap)] for each in slopes if each is not None]
        place.of(result).copy_(torch.autograd.grad(sums, leaf, by_sums)[0])
    return result


def _items(place: Place, overlap: Overlap) -> slice:
    """Which of the sums a part adds to."""
    return slice(0, 1) if overlap.batch else place.items


def _overlap_at(place: Place, overlap: Overlap) -> Overlap:
    samples = overlap.sample_weight
    return overlap._replace(
        target=place.of(overlap.target),
        sample_weight=None if samples is None else place.of(samples),
    )
