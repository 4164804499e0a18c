"""What a prediction and a target cover of each class: the definition, in plain torch.

With p the softmax or the sigmoid of the logits, t the target and s the weight of a pixel, summed
over the pixels of an image, or of a batch:

    I = Σ s · min(p, t)     P = Σ s · p     T = Σ s · t

min(p, t) is (p + t − |p − t|) / 2: p · t for a target of 0 and 1, and largest at p = t for one in
between. With squares I = Σ s·p·t, P = Σ s·p², T = Σ s·t², which are largest at p = t as they are.

Images are (N, C, S) here, S their pixels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops.problem import compute_dtype


class Overlap(NamedTuple):
    """Sums over regions, all but the logits.

    Attributes:
        target: class indices (N, S) in int64, or the targets of all classes (N, C, S).
        ignore_index: pixels, or with the sigmoid pixels of one class, with this target count
            nowhere.
        sigmoid: each class by itself; else the softmax over the classes.
        sample_weight: s, (N, S) or (N, C, S), or None for 1.
        smoothing: ε; the target is (1−ε)·t + ε/K, with K = C for the softmax, 2 for the sigmoid.
        squared: sums of squares.
        batch: one region over all images.
        logs: whether −log p is to be summed too.
        complete: class indices of which none is known to be ignored.
    """

    target: Tensor
    ignore_index: float
    sigmoid: bool = False
    sample_weight: Tensor | None = None
    smoothing: float | Tensor = 0.0
    squared: bool = False
    batch: bool = False
    logs: bool = False
    complete: bool = False

    @property
    def of_indices(self) -> bool:
        """Whether the target is class indices."""
        return self.target.ndim == 2

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that takes part, but the logits."""
        return tuple([each for each in self if isinstance(each, Tensor)])

    def ignored(self) -> Tensor | None:
        """What counts nowhere, (N, 1, S) or (N, C, S); None where all counts."""
        return self.ignored_in(self.target)

    def ignored_in(self, target: Tensor) -> Tensor | None:
        """The same for a part of the target."""
        if self.complete:
            return None
        if self.of_indices:
            return (target == self.ignore_index).unsqueeze(1)
        if not self.sigmoid:
            return None
        if self.ignore_index != self.ignore_index:
            return target.isnan()
        return target == self.ignore_index

    def measure(self, ignored: Tensor | None, like: Tensor) -> Tensor:
        """The weight of each pixel, 0 where ignored, (N, 1, S) or (N, C, S)."""
        s = self.sample_weight
        if s is None:
            s = like.new_ones(()).expand(self.target.shape)
        s = s.unsqueeze(1) if s.ndim == 2 else s
        return s if ignored is None else s.masked_fill(ignored, 0)

    def cells(self, num_classes: int, ignored: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The target of every class, smoothed, (N, C, S); that of what is ignored is any number."""
        if self.of_indices:
            classes = torch.arange(num_classes, device=self.target.device).view(-1, 1)
            t = (classes == self.target.unsqueeze(1)).to(dtype)
        else:
            t = self.target.to(dtype)
            t = t if ignored is None else t.masked_fill(ignored, 0)
        keep, spread = self.shares(num_classes)
        return keep * t + spread

    def shares(self, num_classes: int) -> tuple[float | Tensor, float | Tensor]:
        """How much of a target smoothing keeps, and what it adds to every class."""
        return 1 - self.smoothing, self.smoothing / (2 if self.sigmoid else num_classes)


class Masses(NamedTuple):
    """What targets alone cover, before smoothing: (N, C), or (1, C) over a batch.

    Attributes:
        own: Σ s·t.
        square: Σ s·t².
        whole: Σ s.
    """

    own: Tensor
    square: Tensor
    whole: Tensor


class Sums(NamedTuple):
    """What prediction and target cover, (N, C), or (1, C) over a batch.

    Attributes:
        both: I.
        predicted: P.
        logs: Σ s·t·(−log p), None where it was not asked for.
        masses: those of the targets, which have no gradient by the logits.
    """

    both: Tensor
    predicted: Tensor
    logs: Tensor | None
    masses: Masses


class Slopes(NamedTuple):
    """The derivatives of a loss by I, P and L, each (N, C), or (1, C) over a batch."""

    both: Tensor
    predicted: Tensor
    logs: Tensor | None


def masses(overlap: Overlap, num_classes: int, dtype: torch.dtype) -> Masses:
    """What the targets cover of each class."""
    ignored = overlap.ignored()
    s = overlap.measure(ignored, overlap.target.new_empty(0, dtype=dtype)).to(dtype)
    if overlap.of_indices:
        index = overlap.target if ignored is None else overlap.target.masked_fill(ignored[:, 0], 0)
        s_y = s.squeeze(1) if s.shape[1] == 1 else s.gather(1, index.unsqueeze(1)).squeeze(1)
        own = s.new_zeros(index.shape[0], num_classes).scatter_add(1, index, s_y)
        square, whole = own, s.sum(2).expand_as(own)
    else:
        t = overlap.target.to(dtype)
        t = t if ignored is None else t.masked_fill(ignored, 0)
        own, square, whole = (s * t).sum(2), (s * t * t).sum(2), s.expand_as(t).sum(2)
    found = Masses(own, square, whole)
    return Masses(*(m.sum(0, keepdim=True) for m in found)) if overlap.batch else found


def covered(masses: Masses, overlap: Overlap) -> Tensor:
    """T of the smoothed target, (N, C)."""
    if not overlap.smoothing:
        return masses.square if overlap.squared else masses.own
    keep, spread = overlap.shares(masses.own.shape[1])
    if not overlap.squared:
        return keep * masses.own + spread * masses.whole
    mixed = 2 * keep * spread * masses.own
    return keep**2 * masses.square + mixed + spread**2 * masses.whole


def activated(
    logits: Tensor, overlap: Overlap, ignored: Tensor | None, *, log: bool = False
) -> Tensor:
    """Probabilities (N, C, S), or their logs; what is ignored has those of logits of 0."""
    wide = logits.to(compute_dtype(logits))
    if logits.stride(1) == 1:
        # Classes are innermost: with a mask laid out as the logits are, so will be their gradient.
        laid_out = torch.zeros_like(logits, dtype=torch.bool)
        ignored = laid_out if ignored is None else laid_out | ignored
    if ignored is not None:
        # Before anything else touches them: a NaN that is only multiplied by 0 later stays a NaN.
        wide = torch.where(ignored, 0, wide)
    if overlap.sigmoid:
        return F.logsigmoid(wide) if log else wide.sigmoid()
    return wide.log_softmax(1) if log else wide.softmax(1)


def sums(logits: Tensor, overlap: Overlap) -> Sums:
    """The sums, in at least float32."""
    ignored = overlap.ignored()
    p = activated(logits, overlap, ignored)
    t = overlap.cells(p.shape[1], ignored, p.dtype)
    s = overlap.measure(ignored, p).to(p.dtype)

    def summed(cells: Tensor) -> Tensor:
        over = (s * cells).sum(2)
        return over.sum(0, keepdim=True) if overlap.batch else over

    logs = None
    if overlap.logs:
        log_p = activated(logits, overlap, ignored, log=True)
        # A product with a target of 0 is 0, also for an infinite log.
        logs = summed((t * -log_p).where(t > 0, 0))
    both, predicted = (p * t, p * p) if overlap.squared else (torch.minimum(p, t), p)
    found = masses(overlap, p.shape[1], p.dtype)
    return Sums(summed(both), summed(predicted), logs, found)


def lovasz(logits: Tensor, overlap: Overlap) -> Tensor:
    """The Lovász extension of Jaccard's loss at the errors |p − t|, (N, C) or (1, C).

    A set of wrong pixels has the loss J(set) = Σ_set s / (T + Σ_set s·(1 − t)). The errors, from
    the largest down, are weighted by what each pixel adds to J of those before it.
    """
    ignored = overlap.ignored()
    p = activated(logits, overlap, ignored)
    t = overlap.cells(p.shape[1], ignored, p.dtype)
    s = overlap.measure(ignored, p).to(p.dtype).expand_as(t)
    error = (p - t).abs()
    if overlap.batch:
        error, t, s = (x.transpose(0, 1).flatten(1).unsqueeze(0) for x in (error, t, s))
    error, order = error.sort(dim=2, descending=True, stable=True)
    t, s = t.gather(2, order), s.gather(2, order)
    hit, miss = s * t, s * (1 - t)
    left = hit.sum(2, keepdim=True) - (hit.cumsum(2) - hit)  # of T, before each pixel
    wrong = s.cumsum(2) - s
    union = hit.sum(2, keepdim=True) + miss.cumsum(2)
    # J after a pixel less J before it, in a form in which nothing cancels. Before the first pixel
    # of a class that is absent the union is 0, and J is 0.
    before = union - miss
    empty = before <= 0
    share = ((left + t * wrong) / before.masked_fill(empty, 1)).masked_fill(empty, 1)
    added = s * share / union.masked_fill(union <= 0, 1)
    return (error * added).sum(2)
