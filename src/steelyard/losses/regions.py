"""The region family: sums over the pixels of a class, then a ratio.

An item is a class in an image, or with ``per="batch"`` in the whole batch. Of its pixels

    I = Σ s · min(p, t)     P = Σ s · p     T = Σ s · t

are summed, with p the softmax or the sigmoid and s the sample weight, and a loss is a
:class:`Form`: what it makes of the three. The mean is Σ ω·ℓ / Σ ω over the items that count, where
ω is the weight of the class.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from steelyard import ops
from steelyard.losses.contract import NO_SUM, check_denominator
from steelyard.losses.forms import times
from steelyard.losses.images import (
    Images,
    RegionCallOptions,
    RegionOptions,
    check_classes,
    look,
    shape_of_logits,
)
from steelyard.losses.module import Loss
from steelyard.losses.options import RENAMED, Keywords
from steelyard.losses.vectors import PerClass, fit

NOT_A_SUM = (
    "per='batch' is one ratio over all images, not a sum over parts of them, so no denominator "
    "makes parts exact: add up loss.statistics(logits, target) over micro-batches and ranks, and "
    "give the sum to each part, loss(logits, target, totals=…)"
)
SORTED = (
    "LovaszLoss with per='batch' sorts the pixels of all images together, and no sums over parts "
    "tell their order: only per='image' is exact over micro-batches and ranks"
)


Parts = tuple[Tensor, Tensor]


class Form(NamedTuple):
    """What makes a region loss that loss: ``(1 − above / below)^(1/gamma)``.

    Attributes:
        ratio: ``ratio(I, P, T)`` gives what is above and below, elementwise; None for Lovász's,
            which knows no sums.
        weight: class weights (C,), or None.
        gamma: γ.
        squared: the sums are of squares.
        joined: ``joined(I, P, T, ω)`` of all classes (…, C) of an image at once, in the place of
            ``ratio``; ω is 0 for what does not count.
        others_are_one: names ``weight`` if it came from a dict: classes beyond its end weigh 1.
    """

    ratio: Callable[[Tensor, Tensor, Tensor], Parts] | None = None
    weight: Tensor | None = None
    gamma: float = 1.0
    squared: bool = False
    joined: Callable[[Tensor, Tensor, Tensor, Tensor], Parts] | None = None
    others_are_one: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """How many classes the weights speak of; None without."""
        return None if self.weight is None else self.weight.shape[0]

    @property
    def of_sums(self) -> bool:
        """Whether the loss is one of I, P and T."""
        return self.ratio is not None or self.joined is not None

    def weighted(self, weight: PerClass | None) -> "Form":
        """The form with the user's class weights."""
        return cast("Form", times(self, "weight", weight))

    def weights(self, num_classes: int, like: Tensor) -> Tensor:
        """ω of every class (C,), in the dtype and on the device of ``like``."""
        if self.weight is None:
            return like.new_ones(num_classes)
        padded = bool(self.others_are_one)
        return fit("weight", self.weight, num_classes, like, others_are_one=padded)

    def fit(self, logits: Tensor) -> "Form":
        """The same with the weights of all classes of logits (N, C, …)."""
        like = logits.new_empty(0, dtype=ops.compute_dtype(logits))
        return self._replace(weight=self.weights(logits.shape[1], like), others_are_one=())

    def losses(self, sums: Sequence[Tensor], counts: Tensor) -> Tensor:
        """ℓ of items (N, C), or of images (N, 1) where the classes are joined."""
        above, below = self.parts(sums, counts)
        nothing = below == 0  # 0/0 is a loss of 0, and has no gradient
        loss = (1 - above / below.masked_fill(nothing, 1)).masked_fill(nothing, 0)
        if self.gamma == 1:
            return loss
        # The derivative of a root is infinite at 0, and rounding may go below: both have none.
        perfect = loss <= 0
        return loss.masked_fill(perfect, 1).pow(1 / self.gamma).masked_fill(perfect, 0)

    def parts(self, sums: Sequence[Tensor], counts: Tensor) -> Parts:
        """What is above and below in the ratio of items (N, C), or of images (N, 1)."""
        both, predicted, true = sums
        if self.joined is not None:
            weight = self.weights(counts.shape[1], both) * counts
            above, below = self.joined(both, predicted, true, weight)
            return above.unsqueeze(1), below.unsqueeze(1)
        assert self.ratio is not None
        return self.ratio(both, predicted, true)

    def item_weights(self, counts: Tensor, like: Tensor) -> Tensor:
        """ω, 0 for what does not count: of items (N, C), or of images (N, 1)."""
        weight = counts.to(like.dtype)
        if self.weight is not None:
            weight = self.weights(counts.shape[1], like) * weight
        if self.joined is None:
            return weight
        return (weight > 0).any(1, keepdim=True).to(weight.dtype)


def evaluate(
    form: Form,
    options: RegionOptions,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    totals: Tensor | None = None,
) -> Tensor:
    """The loss of logits against target.

    Args:
        form: the loss.
        options: its options.
        logits: (N, C), (N, C, d…), or without a batch (C,), with the sigmoid (N,).
        target: see :meth:`RegionLoss.forward`.
        sample_weight: finite and ≥ 0, one per pixel; with the sigmoid also one per pixel and class.
        denominator: divides the sum, in place of what ``mean_over`` says.
        totals: the statistics of the whole of which this is a part.

    Returns:
        A 0-d tensor, or with reduction="none" one loss per item.
    """
    if totals is not None:
        refuse_totals(form, options)
    check_classes(logits, options)
    images = look(options, logits, target, sample_weight, squared=form.squared)
    if form.of_sums:
        found = ops.sums(images.logits, images.overlap, options.engine)
        return of_sums(form, options, images, found, denominator, totals)
    masses = ops.masses(images.overlap, images.logits.shape[1], ops.compute_dtype(logits))
    counts = counted(masses.own, masses.whole, options)
    losses = ops.lovasz(images.logits, images.overlap, options.engine)
    return reduced(form, options, images, losses, counts, denominator)


def of_sums(
    form: Form,
    options: RegionOptions,
    images: Images,
    found: ops.Sums,
    denominator: float | Tensor | None,
    totals: Tensor | None,
) -> Tensor:
    """The loss of images of which the sums are found."""
    sums = of_target_too(found, images)
    counts = counted(found.masses.own, found.masses.whole, options)
    if totals is not None:
        check_totals(totals, counts.shape[1], options)
        counts = counted(totals[-1:], torch.ones_like(totals[:1]), options)
        # The value is the whole's, the gradient that of this part of it.
        whole = totals[:3].detach().to(counts.device).unsqueeze(1)
        sums = tuple(w + (each - each.detach()) for w, each in zip(whole, sums, strict=True))
    return reduced(form, options, images, form.losses(sums, counts), counts, denominator)


def of_target_too(found: ops.Sums, images: Images) -> tuple[Tensor, ...]:
    """I, P and T, (N, C) each, or (1, C) over a batch."""
    return found.both, found.predicted, ops.covered(found.masses, images.overlap)


def counted(own: Tensor, whole: Tensor, options: RegionOptions) -> Tensor:
    """Which items count, told by targets alone: (N, C), or (1, C) over a batch.

    Under "skip" those of which the target has anything, under "count" those of every image with a
    pixel that counts.
    """
    return (own if options.absent == "skip" else whole) > 0


def reduced(
    form: Form,
    options: RegionOptions,
    images: Images,
    losses: Tensor,
    counts: Tensor,
    denominator: float | Tensor | None,
) -> Tensor:
    """The losses of items as they are, or their sum, or their mean."""
    weight = form.item_weights(counts, losses)
    # Selected, for the loss of what does not count may be anything.
    losses = (weight * losses).where(weight > 0, 0)
    if options.reduction == "none":
        if denominator is not None:
            raise ValueError(NO_SUM)
        if form.joined is not None:
            losses = losses.squeeze(1)
        if options.per == "batch" or images.lacking == 0:
            return losses.squeeze(0)
        return losses.squeeze(1) if images.lacking == 1 and losses.ndim == 2 else losses
    if denominator is not None:
        over = check_denominator(denominator, images.logits)
    elif options.reduction == "sum":
        return losses.sum()
    else:
        over = divisor(options, weight, counts).to(losses.dtype)
    return ops.Reduction("mean", nothing=options.nothing).of_sums(losses.sum(), over)[0]


def divisor(options: RegionOptions, weight: Tensor, counts: Tensor) -> Tensor:
    """What the mean divides by, for items of this weight, (N, C), or (N, 1) of joined classes."""
    if options.mean_over != "count":
        return weight.sum()
    joined = weight.shape[1] < counts.shape[1]
    return (weight > 0 if joined else counts).sum()


def refuse_totals(form: Form, options: RegionOptions) -> None:
    """Raise unless sums over the whole are all that a part needs to know of it."""
    if not form.of_sums:
        raise ValueError(SORTED)
    if options.per != "batch":
        raise ValueError(
            "statistics and totals are for per='batch'; with per='image' every image stands by "
            "itself, and denominator= makes parts exact"
        )


def check_totals(totals: Any, num_classes: int, options: RegionOptions) -> None:
    """Raise unless totals can be a sum of statistics."""
    expected = (4 if options.smooths else 3, num_classes)
    if not isinstance(totals, Tensor) or totals.shape != expected:
        given = f"of shape {tuple(totals.shape)}" if isinstance(totals, Tensor) else totals
        raise ValueError(
            f"totals are {given}, expected the shape {expected} of loss.statistics(logits, target)"
        )


# Names that users bring from elsewhere, and what they are called here.
_RENAMED_HERE: Mapping[str, str] = {
    "include_background": "weight={0: 0} leaves class 0 out",
    "classes": "a weight of 0 leaves a class out",
    "to_onehot_y": "class indices are taken as they are",
    "sigmoid": "it is activation='sigmoid'",
    "softmax": "it is activation='softmax', the default",
    "mode": "'binary' and 'multilabel' are activation='sigmoid', 'multiclass' is 'softmax'",
    "from_logits": "the losses take logits, and activation='softmax' or 'sigmoid' says of what",
    "batch": "it is per='batch'",
    "squared_pred": "it is `squared`, of DiceLoss",
    "smooth_nr": "it is `smooth`, added above and below",
    "smooth_dr": "it is `smooth`, added above and below",
    "eps": "it is `smooth`, added above and below",
}
KEYWORDS = Keywords(
    RegionOptions,
    RegionCallOptions,
    call={"sample_weight": None, "denominator": None, "totals": None},
    renamed={**RENAMED, **_RENAMED_HERE},
)


def region_loss(
    public: Callable[..., Tensor],
    form: Form,
    logits: Tensor,
    target: Tensor,
    given: dict[str, Any],
) -> Tensor:
    """Evaluate a form for one call of the functional loss ``public`` with keywords ``given``."""
    vectors, options, call = KEYWORDS.read(given, public)
    return evaluate(
        form.weighted(**vectors), cast("RegionOptions", options), logits, target, **call
    )


class RegionLoss(Loss):
    """Base of every loss of the region family; a subclass gives the form."""

    keywords = KEYWORDS
    options: RegionOptions

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
        totals: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits against target.

        Args:
            logits: (N, C, d1, …), (N, C), or (C,) without a batch; floating, of any strides. With
                activation="sigmoid" one dimension is (N,), one class.
            target: class indices of any integer dtype, (N, d1, …), (N,) or (); or of the logits'
                shape: probabilities, with activation="sigmoid" each class's own, also as 0 and 1
                of an integer dtype or bool.
            sample_weight: finite and ≥ 0, broadcastable to the shape of class indices: how much
                of the image a pixel is. With activation="sigmoid" also of the logits' shape.
            denominator: divides the sum, whatever ``mean_over`` says.
            totals: with per="batch" the :meth:`statistics` of the whole, of which these images
                are a part: the value is the loss of the whole, the gradient its gradient by the
                logits of this part.

        Returns:
            A 0-d tensor; with reduction="none" (N, C), with per="batch" (C,). In float32, or
            float64 for float64 logits.

        Raises:
            TypeError: logits are not floating, or class indices are.
            ValueError: shapes that do not fit, negative or non-finite sample weights, totals where
                they mean nothing.
            IndexError: a class index outside [0, C) that is not ``ignore_index``.
        """
        return evaluate(self.form, self.options, logits, target, sample_weight, denominator, totals)

    @torch.no_grad()
    def statistics(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """The sums I, P and T of every class, which add up over parts of a batch.

        Args:
            logits: as for the call.
            target: as for the call.
            sample_weight: as for the call.

        Returns:
            (3, C) in float64, or float32 where the device has none, without a gradient; with label
            smoothing (4, C), whose last row is
            T before smoothing.

        Raises:
            ValueError: per="image", or a loss that is not one of such sums.
        """
        refuse_totals(self.form, self.options)
        check_classes(logits, self.options)
        images = look(self.options, logits, target, sample_weight, squared=self.form.squared)
        found = ops.sums(images.logits, images.overlap, self.options.engine)
        widest = ops.compat.widest(logits.device)
        sums = torch.stack(of_target_too(found, images)).to(widest)
        if self.options.smooths:
            sums = torch.cat([sums, found.masses.own.to(widest).unsqueeze(0)])
        return sums.squeeze(1)

    def refuse_denominator(self) -> None:
        """Raise a ValueError where no :meth:`denominator` makes parts of a batch exact."""
        if self.options.per == "batch":
            raise ValueError(NOT_A_SUM if self.form.of_sums else SORTED)

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What the mean divides by for these targets: Σ ω over the items that count.

        Summed over several calls it is the denominator of their union: divide the loss of every
        micro-batch, or of every rank, by that sum, and the gradients add up to those of the whole
        batch.

        Args:
            target: as for the call.
            sample_weight: as for the call.

        Returns:
            A 0-d tensor on the target's device, in float64, or float32 where the device has none.

        Raises:
            ValueError: per="batch", which has no such number; or the target does not tell how
                many classes there are.
        """
        self.refuse_denominator()
        known = self.form.num_classes
        shape = shape_of_logits(
            self.options, target, known, at_least=known is None or bool(self.form.others_are_one)
        )
        widest = ops.compat.widest(target.device)
        like = torch.zeros((), dtype=widest, device=target.device)
        images = look(self.options, like.expand(shape), target, sample_weight)
        masses = ops.masses(images.overlap, images.logits.shape[1], widest)
        counts = counted(masses.own, masses.whole, self.options)
        return divisor(self.options, self.form.item_weights(counts, like), counts).to(widest)
