"""The softmax family: one class per position, or one distribution over the classes.

A loss is a :class:`Form`, an edit of the logits and a tail of log p. For one position with class
y, or with a target distribution t:

    ℓ = w_y · s · tail(log p_y)          class indices
    ℓ = s · Σ_c w_c · t'_c · tail(log p_c)   probabilities, or smoothing: t' = (1−ε)·t + ε/C

and the mean divides by what ``mean_over`` says.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from steelyard import ops
from steelyard.losses.contract import (
    check_is_tensor,
    check_logits,
    check_same_device,
    check_sample_weight,
    first_of,
    reduction_of,
    refuse_labels,
)
from steelyard.losses.forms import Form
from steelyard.losses.module import Compute, Loss
from steelyard.losses.options import CallOptions, Keywords, Options
from steelyard.losses.vectors import moved, readable


def evaluate(
    form: Form,
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
        logits: (N, C), (N, C, d…) or (C,), floating, any strides.
        target: class indices of any integer dtype, (N,), (N, d…) or (); or probabilities of the
            logits' shape.
        sample_weight: finite and ≥ 0, broadcastable to the shape of class indices.
        denominator: divides the sum, in place of what ``mean_over`` says.
        compute: computes the losses of logits.

    Returns:
        A 0-d tensor, or with reduction="none" one of the shape of class indices; in float32, or
        float64 for float64 logits.
    """
    few = ops.are_few(logits, target)
    if not few:
        check_shapes(logits, target)
        check_same_device(logits, target)
    elif sample_weight is None and denominator is None and compute is ops.losses:
        value = _at_once(form, options, logits, target)
        if value is not None:
            return value
    single = logits.ndim == 1
    if single:
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    form = form.fit(logits)
    if sample_weight is not None:
        positions = logits.shape[:1] + logits.shape[2:]
        sample_weight = check_sample_weight(sample_weight, positions)
        dtype = ops.compute_dtype(logits)
        sample_weight = moved("sample_weight", sample_weight, logits.device, dtype)
    reduction = reduction_of(options, options.mean_over, denominator, logits)
    soft = not few and target.is_floating_point()
    if soft:
        check_no_ignored_probabilities(options)
        if sample_weight is None and (seen := first_of(target)) is not None:
            refuse_labels(seen)
        target = target.to(ops.compute_dtype(logits))
    elif not few:
        refuse_on_device(target, logits.shape[1], options.ignore_index)
        target = target.long()
    problem = form.problem(options, target, sample_weight)
    try:
        losses = compute(logits, problem, options.engine, reduction)
    except (IndexError, RuntimeError) as error:
        if soft:
            raise
        refuse_out_of_range(target, logits.shape[1], options.ignore_index, error)
    return losses.squeeze(0) if single and reduction.kind == "none" else losses


def _at_once(form: Form, options: Options, logits: Tensor, target: Tensor) -> Tensor | None:
    """The loss of few logits, where to state a problem and choose an engine would take longest."""
    form = form.fit(logits)
    weight, smoothing = form.weight, options.label_smoothing
    if (
        options.engine != "auto"
        or form.margin is not None
        or isinstance(form.parameter, Tensor)
        or isinstance(smoothing, Tensor)
        or (weight is not None and (options.mean_over == "count" or weight.requires_grad))
    ):
        return None
    return ops.losses_at_once(
        ops.edited(logits, None, form.scale, form.bias, None),
        target,
        form.tail,
        form.parameter,
        options.reduction,
        weight=weight,
        ignore_index=options.ignore_index,
        label_smoothing=smoothing,
    )


def refuse_on_device(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Make a class outside [0, C) a device-side assertion, for which the host does not wait."""
    if target.is_cuda and not torch.compiler.is_compiling():
        inside = ((target >= 0) & (target < num_classes)) | (target == ignore_index)
        ops.compat.assert_async(
            inside.all(),
            f"steelyard: a target is outside [0, {num_classes}) and is not ignore_index="
            f"{ignore_index}; the same call on the CPU names it",
        )


def check_shapes(logits: Any, target: Any) -> None:
    """Raise unless logits are floating and target, whatever was given, fits them."""
    check_logits(logits)
    check_is_tensor(target)
    shape = logits.shape
    if target.dtype is torch.int64 and logits.ndim == 2 and target.shape == shape[:1]:
        return  # what most calls are, told in a few steps
    positions = shape[:1] + shape[2:] if logits.ndim > 1 else shape[:0]
    if target.is_floating_point():
        if target.shape == logits.shape:
            return
        if target.shape == positions:
            raise TypeError(
                f"target holds class indices as {target.dtype}: class indices are integers, use "
                f"target.long(); probabilities would have the logits' shape {tuple(logits.shape)}"
            )
    elif target.dtype is torch.bool or target.is_complex():
        raise TypeError(
            f"target is {target.dtype}, expected class indices of an integer dtype, use "
            "target.long(), or probabilities in a floating one, use target.float()"
        )
    elif target.shape == positions:
        return
    raise ValueError(
        f"target has shape {tuple(target.shape)} and logits {tuple(logits.shape)}: expected "
        f"class indices of shape {tuple(positions)} or probabilities of shape "
        f"{tuple(logits.shape)}{_shape_hint(logits, target, positions)}"
    )


def check_no_ignored_probabilities(options: Options) -> None:
    """Raise if an ignore_index that could be a class meets probabilities, as PyTorch does."""
    if options.ignore_index >= 0:
        raise ValueError(
            f"ignore_index={options.ignore_index} has no meaning for a target of probabilities: "
            "give those positions sample_weight=0"
        )


def refuse_out_of_range(
    target: Tensor, num_classes: int, ignore_index: int, error: Exception
) -> NoReturn:
    """Raise an IndexError that names the target at fault; any other error goes on as it is."""
    if readable(target):
        wrong = (target != ignore_index) & ((target < 0) | (target >= num_classes))
        if wrong.any():
            where = wrong.nonzero()[0].tolist()
            one = "; one logit for two classes is for sy.BCEWithLogitsLoss" * (num_classes == 1)
            raise IndexError(
                f"target{where} is {int(target[tuple(where)])}, outside [0, C) with "
                f"C = {num_classes} classes, and not ignore_index={ignore_index}: give the logits "
                f"one column per class, or mark positions to leave out with ignore_index{one}"
            ) from None
    raise error


def _shape_hint(logits: Tensor, target: Tensor, positions: torch.Size) -> str:
    if logits.ndim > 2 and target.shape == logits.shape[:-1]:
        return ": the class dimension is 1, use logits.movedim(-1, 1)"
    if target.is_floating_point() and logits.shape == target.shape[:1] + target.shape[2:]:
        return ": logits are the first argument, the target is the second"
    if logits.ndim == 1:
        return ": one logit for two classes is for sy.BCEWithLogitsLoss" * (
            target.shape == logits.shape
        )
    if target.ndim == len(positions) + 1 and target.shape[1] == 1:
        return ": use target.squeeze(1)"
    if target.shape == logits.shape:
        return (
            ": integers of 0 and 1 are several labels for sy.BCEWithLogitsLoss, or, one-hot, "
            "class indices by target.argmax(1)"
        )
    return ""


KEYWORDS = Keywords(Options, CallOptions)


def softmax_loss(
    public: Callable[..., Tensor],
    form: Form,
    logits: Tensor,
    target: Tensor,
    given: dict[str, Any],
) -> Tensor:
    """Evaluate a form for one call of the functional loss ``public`` with keywords ``given``."""
    vectors, options, call = KEYWORDS.read(given, public)
    return evaluate(form.weighted(**vectors), options, logits, target, **call)


class SoftmaxLoss(Loss):
    """Base of every loss of the softmax family; a subclass gives the form."""

    keywords = KEYWORDS

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of logits against target.

        Args:
            logits: (N, C), (N, C, d1, …) or (C,); floating, of any strides.
            target: class indices of any integer dtype, (N,), (N, d1, …) or (); or probabilities
                of the logits' shape.
            sample_weight: finite and ≥ 0, broadcastable to the shape of class indices. Checked
                on the CPU alone, and not while something compiles, traces or batches the call:
                to look would wait for the device.
            denominator: divides the sum, whatever ``mean_over`` says; checked likewise.

        Returns:
            A 0-d tensor, or with reduction="none" one of the shape of class indices; in float32,
            or float64 for float64 logits.

        Raises:
            TypeError: logits are not floating, or class indices are.
            ValueError: shapes that do not fit, negative or non-finite sample weights, or
                probabilities that are negative, NaN, or several labels of 0 and 1: seen on the CPU,
                in the first 4,096 numbers of a target that comes without sample weights.
                :func:`steelyard.explain` looks at all, and at their sums.
            IndexError: a class index outside [0, C) that is not ``ignore_index``.
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
            target: as for the call: (N,), (N, d1, …) or (), or probabilities (N, C, …) or (C,).
            sample_weight: as for the call.

        Returns:
            A 0-d tensor on the target's device, in float64, or float32 where the device has none.
        """
        check_is_tensor(target)
        soft, form, widest = target.is_floating_point(), self.form, ops.compat.widest(target.device)
        target = target.to(widest) if soft else target.long()
        if soft and target.ndim == 1:
            target = target.unsqueeze(0)
        if sample_weight is not None:
            positions = target.shape[:1] + target.shape[2:] if soft else target.shape
            sample_weight = check_sample_weight(sample_weight, positions)
            sample_weight = moved("sample_weight", sample_weight, target.device, widest)
        weight, classes_of = form.weight, target
        if soft:
            form = form.fit(target)
        elif weight is not None:
            weight = moved("weight", weight, target.device, widest)
            if form.others_are_one:
                weight, classes_of = _with_others(weight, target, self.options.ignore_index)
            form = form._replace(weight=weight)
        problem = ops.SoftmaxProblem(
            target=classes_of,
            ignore_index=self.options.ignore_index,
            weight=form.weight,
            sample_weight=sample_weight,
        )
        try:
            return problem.count(self.options.mean_over).to(widest)
        except (IndexError, RuntimeError) as error:
            if soft or weight is None:
                raise
            refuse_out_of_range(target, len(weight), self.options.ignore_index, error)


def _with_others(weight: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """A dict's weights and class indices, those beyond its end as one class of weight 1."""
    end = len(weight)
    other = end if ignore_index != end else end + 1
    weight = torch.cat([weight, weight.new_ones(2)])
    return weight, target.where((target < end) | (target == ignore_index), other)
