"""Plain torch on parts of the logits, where all of them at once would take copies of them.

The engine of an accelerator for what has no kernel there: the definition of a problem and autograd
do one part after another, so that all that is of the logits' size is their gradient. The host waits
for nothing: it queues each part's calls behind those of the part before.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from steelyard.ops.problem import Problem, Reduction, compute_dtype

# The logits of a part: so many that the device takes longer for them than the host for its calls,
# and few beside logits whose memory matters. A part takes ten to thirty times their size.
PART = 2**22

# The gradient of the losses. None in half precision, where the upstream gradient would round it
# once more: done again instead.
Kept = Tensor | None


class Place(NamedTuple):
    """Some positions of some items: a part of tensors (N, …, S), or of (N, …), without places."""

    items: slice
    places: slice | None

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor, a view."""
        part = tensor[self.items]
        return part if self.places is None else part[..., self.places]


def nothing_to_cut(logits: Tensor) -> str | None:
    """Why parts are of no use, if so."""
    if logits.numel() > PART:
        return None
    return f"there are no more than {PART} logits, which is one part"


def cut(logits: Tensor) -> Iterator[Place]:
    """The parts of logits (N, C) or (N, C, S); one, of nothing, where there are none."""
    n, classes = logits.shape[:2]
    most = max(1, PART // max(1, classes))
    if logits.ndim == 2:
        for i in range(0, max(1, n), most):
            yield Place(slice(i, i + most), None)
        return
    size = max(1, logits.shape[2])
    rows, columns = max(1, most // size), min(size, most)
    for i, j in itertools.product(range(0, max(1, n), rows), range(0, size, columns)):
        yield Place(slice(i, i + rows), slice(j, j + columns))


def forward(
    logits: Tensor, problem: Problem, reduction: Reduction, differentiate: bool
) -> tuple[Tensor, Tensor | None, Kept]:
    """The losses, reduced; the divisor of a mean; and what backward wants."""
    shape = logits.shape if problem.per_cell else logits.shape[:1] + logits.shape[2:]
    logits, problem = problem.flat(logits)
    dtype = compute_dtype(logits)
    kept = torch.empty_like(logits) if differentiate and logits.dtype == dtype else None
    losses = logits.new_empty(shape, dtype=dtype) if reduction.kind == "none" else None
    flat = None if losses is None else losses.view(_places(logits, problem))
    totals, divisors = [], []
    for place in cut(logits):
        part = _problem_at(place, problem)
        with torch.set_grad_enabled(kept is not None):
            leaf = place.of(logits).detach().requires_grad_(kept is not None)
            found, share = part.losses(leaf)
            if kept is not None:
                place.of(kept).copy_(torch.autograd.grad(found.sum(), leaf)[0])
        if flat is not None:
            place.of(flat).copy_(found.detach())
            continue
        totals.append(found.detach().sum())
        divisors.append(reduction.divisor(part, share))
    if losses is not None:
        return losses, None, kept
    divisor = divisors[0]
    if divisor is not None and not isinstance(reduction.over, Tensor):
        divisor = torch.stack([d for d in divisors if d is not None]).sum()
    return *reduction.of_sums(torch.stack(totals).sum(), divisor), kept


def backward(logits: Tensor, problem: Problem, kept: Kept, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or of their shape."""
    shape = logits.shape
    logits, problem = problem.flat(logits)
    if gradient.ndim:
        gradient = gradient.reshape(_places(logits, problem))
    if kept is not None:
        along = gradient.ndim and not problem.per_cell
        return kept.mul_(gradient.unsqueeze(1) if along else gradient).view(shape)
    result = torch.empty_like(logits)
    for place in cut(logits):
        with torch.enable_grad():
            leaf = place.of(logits).detach().requires_grad_()
            found, _ = _problem_at(place, problem).losses(leaf)
        upstream = place.of(gradient) if gradient.ndim else gradient.expand(found.shape)
        place.of(result).copy_(torch.autograd.grad(found, leaf, upstream)[0])
    return result.view(shape)


def _places(logits: Tensor, problem: Problem) -> torch.Size:
    """The shape of the losses of flat logits."""
    return logits.shape if problem.per_cell else logits.shape[:1] + logits.shape[2:]


def _problem_at(place: Place, problem: Problem) -> Problem:
    samples = problem.sample_weight
    return problem.at(place.of(problem.target), None if samples is None else place.of(samples))
