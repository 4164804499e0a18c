"""The sigmoid family: each class of each position is a cell, there or not there by itself.

With z' the edited logit, t ∈ [0, 1] the target and t' = (1−ε)·t + ε/2, a cell's loss is

    ℓ = s · w_c · [ pw_c · t' · pos(log σ(z')) + (1 − t') · neg(log σ(−z')) ]

and a loss is a pair of functions pos and neg. The mean divides by what ``mean_over`` says.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor

from steelyard import ops
from steelyard._given import CELLS_OF_NAMES
from steelyard.losses.contract import (
    ROUNDING,
    check_is_tensor,
    check_logits,
    check_same_device,
    check_sample_weight,
    first_of,
    reduction_of,
)
from steelyard.losses.forms import CellForm
from steelyard.losses.module import Compute, Loss
from steelyard.losses.options import CHOICES, RENAMED, Keywords, Options
from steelyard.losses.vectors import PerClass, moved, readable


class PlainCellOptions(TypedDict, total=False):
    """The keywords of every sigmoid loss but the class vectors."""

    ignore_index: float
    label_smoothing: float
    reduction: Literal["mean", "sum", "none"]
    mean_over: Literal["weight", "position", "positive"] | None
    empty: Literal["zero", "nan"]
    engine: str


class UnweightedCellOptions(PlainCellOptions, total=False):
    """The keywords of every sigmoid loss but ``weight``."""

    pos_weight: float | PerClass | None


class CellOptions(UnweightedCellOptions, total=False):
    """The keywords of every sigmoid loss, for type checkers."""

    weight: float | PerClass | None


class CellCallOptions(CellOptions, total=False):
    """The keywords of every functional sigmoid loss."""

    sample_weight: Tensor | None
    denominator: float | Tensor | None


@dataclass(frozen=True, slots=True)
class CellChoices(Options):
    """The options of a sigmoid loss that are not tensors, checked.

    Raises:
        TypeError: ``ignore_index`` is not a number.
        ValueError: a choice that does not exist, or smoothing outside [0, 1].
    """

    ignore_index: float = -1  # type: ignore[assignment]

    choices: ClassVar = {**CHOICES, "mean_over": (None, "weight", "position", "positive")}

    def _check_ignore_index(self) -> None:
        if isinstance(self.ignore_index, bool) or not isinstance(self.ignore_index, int | float):
            raise TypeError(
                f"ignore_index={self.ignore_index!r} is not a number: give the target of cells to "
                "ignore, by default -1; float('nan') for targets that are NaN"
            )


KEYWORDS = Keywords(
    CellChoices,
    CellCallOptions,
    vectors=("weight", "pos_weight"),
    renamed={name: text for name, text in RENAMED.items() if name != "pos_weight"}
    | {
        "alpha": "the weight of what is there is `pos_weight`; the focal α belongs to "
        "SigmoidFocalLoss",
        "gamma_positive": "it is `gamma_pos`",
        "gamma_negative": "it is `gamma_neg`",
    },
)


def evaluate(
    form: CellForm,
    options: Options,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    compute: Compute = ops.losses,
) -> Tensor:
    """The loss of logits against target.

    Args:
        form: the loss.
        options: its options.
        logits: (N, C), (N, C, d…), or (N,) for one class; floating, any strides.
        target: of the logits' shape: probabilities, bool, or integers 0 and 1.
        sample_weight: finite and ≥ 0, broadcastable to the positions (N, d…), or per cell.
        denominator: divides the sum, in place of what ``mean_over`` says.
        compute: computes the losses of logits.

    Returns:
        A 0-d tensor, or with reduction="none" one of the cells' shape; in float32, or float64 for
        float64 logits.
    """
    check_cells(logits, target, options.ignore_index)
    one_class = logits.ndim == 1
    if one_class:
        logits, target = logits.unsqueeze(1), target.unsqueeze(1)
    if sample_weight is not None:
        sample_weight = check_cell_weight(sample_weight, logits.shape, form.whole_positions)
        dtype = ops.compute_dtype(logits)
        sample_weight = moved("sample_weight", sample_weight, logits.device, dtype)
    problem = form.fit(logits).problem(options, target, sample_weight)
    reduction = reduction_of(options, form.over(options), denominator, logits)
    losses = compute(logits, problem, options.engine, reduction)
    single = one_class and reduction.kind == "none" and problem.per_cell
    return losses.squeeze(1) if single else losses


def check_cells(logits: Any, target: Any, ignore_index: float) -> None:
    """Raise unless logits are floating and the target fits them, cell by cell."""
    check_logits(logits, alone="(N,)")
    check_target(target)
    check_same_device(logits, target)
    if target.shape != logits.shape:
        raise ValueError(
            f"target has shape {tuple(target.shape)} and logits {tuple(logits.shape)}: expected "
            f"one number in [0, 1] for each logit{_shape_hint(logits, target)}"
        )
    if target.is_floating_point():
        refuse_other_numbers(target, ignore_index)
    elif target.dtype is not torch.bool and readable(target):
        refuse_other_integers(target, ignore_index)


def check_target(target: Any) -> None:
    """Raise unless the target is a tensor of real numbers."""
    check_is_tensor(target, CELLS_OF_NAMES)
    if target.is_complex():
        raise TypeError(f"target is {target.dtype}, expected numbers in [0, 1], bool or 0 and 1")


def refuse_other_integers(target: Tensor, ignore_index: float) -> None:
    """Raise if integers are neither 0, 1 nor ignore_index."""
    if target.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(target.long()))
    if low >= 0 and high <= 1:
        return
    wrong = (target != 0) & (target != 1)
    if ignore_index >= 0 or target.dtype.is_signed:
        wrong &= target != ignore_index
    if wrong.any():
        where = wrong.nonzero()[0].tolist()
        value = int(target[tuple(where)])
        hint = "soft targets are floating-point numbers, class indices become 0 and 1 by F.one_hot"
        if value < 0:
            hint = f"if it marks missing labels, give ignore_index={value}"
        raise ValueError(
            f"target{where} is {value}: expected 0, 1 or ignore_index={ignore_index} in a target "
            f"of integers; {hint}"
        )


def refuse_other_numbers(target: Tensor, ignore_index: float) -> None:
    """Raise if numbers are seen that are neither in [0, 1] nor ignore_index."""
    few = first_of(target)
    if few is None:
        return
    low, high = torch.aminmax(few)
    if low >= 0 and high <= 1 + ROUNDING:  # a NaN makes both bounds NaN
        return
    kept = ~few.isnan() if math.isnan(ignore_index) else few != ignore_index
    wrong = kept & ~((few >= 0) & (few <= 1 + ROUNDING))
    if wrong.any():
        where = wrong.nonzero()[0].tolist()
        value = float(few[tuple(where)])
        given = 'float("nan")' if math.isnan(value) else f"{value:g}"
        hint = "" if value > 0 else f"; if it marks missing labels, give ignore_index={given}"
        raise ValueError(
            f"target{where} is {value!r}: expected numbers in [0, 1], or "
            f"ignore_index={ignore_index}{hint}"
        )


def check_cell_weight(sample_weight: Any, shape: torch.Size, whole_positions: bool) -> Tensor:
    """sample_weight as it meets cells (N, C, d…): (N, 1, d…), or one number per cell."""
    positions = shape[:1] + shape[2:]
    if isinstance(sample_weight, Tensor) and sample_weight.ndim == len(shape):
        if whole_positions and sample_weight.shape[1] != 1:
            raise ValueError(
                f"sample_weight has shape {tuple(sample_weight.shape)}, one number per cell, but "
                f"the loss is of whole positions: expected one per position {tuple(positions)}"
            )
        per_position = sample_weight.shape[1] == 1
        cells = shape[:1] + sample_weight.shape[1:2] + shape[2:] if per_position else shape
        return check_sample_weight(sample_weight, cells)
    try:
        return check_sample_weight(sample_weight, positions).unsqueeze(1)
    except ValueError as error:
        if sample_weight.ndim == 1 and sample_weight.shape[0] == shape[1]:
            raise ValueError(f"{error}; one number per class is `weight`") from None
        raise


def _shape_hint(logits: Tensor, target: Tensor) -> str:
    positions = logits.shape[:1] + logits.shape[2:]
    if logits.ndim > 1 and target.shape == positions:
        if logits.shape[1] == 1:
            return ": use target.unsqueeze(1)"
        moved = "" if logits.ndim == 2 else ".movedim(-1, 1)"
        return (
            f": class indices become 0 and 1 by F.one_hot(target, {logits.shape[1]}){moved}, and "
            "are what the losses of the softmax family take"
        )
    if target.ndim == logits.ndim + 1 and target.shape[1] == 1 and logits.ndim == 1:
        return ": use target.squeeze(1)"
    if logits.ndim > 2 and target.shape == logits.movedim(1, -1).shape:
        return ": the class dimension is 1, use target.movedim(-1, 1)"
    if logits.ndim > 2 and target.movedim(1, -1).shape == logits.shape:
        return ": the class dimension is 1, use logits.movedim(-1, 1)"
    return ""


def sigmoid_loss(
    public: Callable[..., Tensor],
    form: CellForm,
    logits: Tensor,
    target: Tensor,
    given: dict[str, Any],
) -> Tensor:
    """Evaluate a form for one call of the functional loss ``public`` with keywords ``given``."""
    vectors, options, call = KEYWORDS.read(given, public)
    return evaluate(form.weighted(**vectors), options, logits, target, **call)


class SigmoidLoss(Loss):
    """Base of every loss of the sigmoid family; a subclass gives the form."""

    keywords = KEYWORDS
    pos_weight: Tensor | None

    def check_fit(self, logits: Tensor) -> None:
        """Raise a ValueError unless the class vectors have one number for each class of logits."""
        self.form.fit(logits.unsqueeze(1) if logits.ndim == 1 else logits)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of logits against target.

        Args:
            logits: (N, C), (N, C, d1, …), or (N,) for one class; floating, of any strides.
            target: of the logits' shape: numbers in [0, 1], bool, or integers 0 and 1; a cell
                equal to ``ignore_index`` counts nowhere.
            sample_weight: finite and ≥ 0: per position, broadcastable to (N, d1, …); or per cell,
                with as many dimensions as the logits.
            denominator: divides the sum, whatever ``mean_over`` says.

        Returns:
            A 0-d tensor, or with reduction="none" one of the logits' shape; in float32, or
            float64 for float64 logits.

        Raises:
            TypeError: logits are not floating, or the target is not real.
            ValueError: shapes that do not fit, negative or non-finite sample weights, integers
                other than 0, 1 and ``ignore_index``, or numbers outside [0, 1]: seen on the CPU,
                in the first 4,096 numbers of a target. :func:`steelyard.explain` looks at all.
        """
        return evaluate(self.form, self.options, logits, target, sample_weight, denominator)

    def computed_by(
        self,
        compute: Compute,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """The loss, by ``compute`` in the place of :func:`steelyard.ops.losses`."""
        return evaluate(
            self.form, self.options, logits, target, sample_weight, denominator, compute
        )

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What the mean divides by for these targets.

        Summed over several calls it is the denominator of their union: divide the loss of every
        micro-batch, or of every rank, by that sum, and the gradients add up to those of the whole
        batch.

        Args:
            target: as for the call.
            sample_weight: as for the call.

        Returns:
            A 0-d tensor on the target's device, in float64, or float32 where the device has none.
        """
        check_target(target)
        widest = ops.compat.widest(target.device)
        target = target.to(widest) if target.is_floating_point() else target
        target = target.unsqueeze(1) if target.ndim == 1 else target
        form: CellForm = self.form
        if sample_weight is not None:
            sample_weight = check_cell_weight(sample_weight, target.shape, form.whole_positions)
            sample_weight = moved("sample_weight", sample_weight, target.device, widest)
        like = target.new_empty((0, target.shape[1]), dtype=widest)
        problem = form.fit(like).problem(self.options, target, sample_weight)
        return problem.count(form.over(self.options)).to(widest)
