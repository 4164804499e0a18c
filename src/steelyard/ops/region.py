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
    """

    target: Tensor
    ignore_index: float
    sigmoid: bool = False
    sample_weight: Tensor | None = None
    smoothing: float | Tensor = 0.0
    squared: bool = False
    batch: bool = False

    @property
    def of_indices(self) -> bool:
        """Whether the target is class indices."""
        return self.target.ndim == 2

    def ignored(self) -> Tensor | None:
        """What counts nowhere, (N, 1, S) or (N, C, S); None where all counts."""
        if self.of_indices:
            return (self.target == self.ignore_index).unsqueeze(1)
        if not self.sigmoid:
            return None
        if self.ignore_index != self.ignore_index:
            return self.target.isnan()
        return self.target == self.ignore_index

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
        whole: Σ s; (N, 1) where it is the same for all classes.
    """

    own: Tensor
    square: Tensor
    whole: Tensor


def masses(overlap: Overlap, num_classes: int, dtype: torch.dtype) -> Masses:
    """What the targets cover of each class."""
    ignored = overlap.ignored()
    s = overlap.measure(ignored, overlap.target.new_empty(0, dtype=dtype)).to(dtype)
    if overlap.of_indices:
        index = overlap.target if ignored is None else overlap.target.masked_fill(ignored[:, 0], 0)
        if s.shape[1] > 1:
            s_y, whole = s.gather(1, index.unsqueeze(1)).squeeze(1), s.sum(2)
            own = s.new_zeros(index.shape[0], num_classes).scatter_add(1, index, s_y)
        else:
            own = s.new_zeros(index.shape[0], num_classes).scatter_add(1, index, s[:, 0])
            whole = own.sum(1, keepdim=True)
        square = own
    else:
        t = overlap.target.to(dtype)
        t = t if ignored is None else t.masked_fill(ignored, 0)
        st = s * t
        own, square = st.sum(2), (st * t).sum(2)
        whole = s.expand(*t.shape[:1], s.shape[1], *t.shape[2:]).sum(2)
    found = Masses(own, square, whole)
    return Masses(*(m.sum(0, keepdim=True) for m in found)) if overlap.batch else found


def covered(masses: Masses, overlap: Overlap) -> Tensor:
    """T of the smoothed target, (N, C)."""
    keep, spread = overlap.shares(masses.own.shape[1])
    if not overlap.squared:
        return keep * masses.own + spread * masses.whole
    mixed = 2 * keep * spread * masses.own
    return keep**2 * masses.square + mixed + spread**2 * masses.whole


def activated(logits: Tensor, overlap: Overlap, ignored: Tensor | None) -> Tensor:
    """The probabilities p (N, C, S), in at least float32; what is ignored has those of 0."""
    wide = logits.to(compute_dtype(logits))
    if logits.stride(1) == 1:
        # Classes are innermost: with a mask laid out as the logits are, so will be their gradient.
        laid_out = torch.zeros_like(logits, dtype=torch.bool)
        ignored = laid_out if ignored is None else laid_out | ignored
    if ignored is not None:
        # Before anything else touches them: a NaN that is only multiplied by 0 later stays a NaN.
        wide = torch.where(ignored, 0, wide)
    return wide.sigmoid() if overlap.sigmoid else wide.softmax(1)


def sums(logits: Tensor, overlap: Overlap) -> tuple[Tensor, Tensor]:
    """I and P of every class, (N, C), or (1, C) over a batch."""
    ignored = overlap.ignored()
    p = activated(logits, overlap, ignored)
    t = overlap.cells(p.shape[1], ignored, p.dtype)
    s = overlap.measure(ignored, p).to(p.dtype)
    over = (0, 2) if overlap.batch else (2,)
    both, p = (p * t, p * p) if overlap.squared else (torch.minimum(p, t), p)
    both, p = (s * both).sum(over), (s * p).sum(over)
    return (both.unsqueeze(0), p.unsqueeze(0)) if overlap.batch else (both, p)


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


def overlap(logits: Tensor, overlap: Overlap, engine: str = "auto") -> tuple[Tensor, Tensor]:
    """I and P of every class (N, C), or (1, C) over a batch.

    Args:
        logits: (N, C, S), floating.
        overlap: what is to be summed.
        engine: which engine is to do it.

    Raises:
        RuntimeError: an engine that has nothing for regions.
    """
    if engine not in ("auto", "reference"):
        raise RuntimeError(
            f"engine={engine!r} cannot do this: it has no sums over regions. engine='auto' takes "
            "the fastest that can, engine='reference' does everything"
        )
    return sums(logits, overlap)
