"""A loss as ``nn.Module``: holds a form's vectors as buffers and evaluates it."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from steelyard.losses.contract import (
    Form,
    check_sample_weight,
    evaluate,
    mean_denominator,
    refuse_out_of_range,
)
from steelyard.losses.options import OPTION_DEFAULTS, Options, refuse_unknown
from steelyard.losses.vectors import PerClass, read_class_vector

VECTORS = ("parameter", "weight", "scale", "bias", "margin")


def weighted(form: Form, weight: PerClass | None) -> Form:
    """The form with the user's class weights; they multiply weights that it has already."""
    if weight is None:
        return form
    values, others_are_one = read_class_vector("weight", weight)
    length = form.num_classes
    if length is not None:
        if others_are_one and len(values) < length:
            values = torch.cat([values, values.new_ones(length - len(values))])
        if len(values) != length:
            raise ValueError(
                f"weight has {len(values)} values, but the loss has {length} classes: give one "
                "value per class"
            )
        others_are_one = False
    if form.weight is not None:
        values = form.weight.to(values.device) * values
    return form._replace(weight=values, others_are_one=others_are_one)


def softmax_loss(
    public: Callable[..., Tensor],
    form: Form,
    logits: Tensor,
    target: Tensor,
    given: dict[str, Any],
) -> Tensor:
    """Evaluate a form for one call of the functional loss ``public`` with keywords ``given``."""
    refuse_unknown(given, public)
    sample_weight = given.pop("sample_weight", None)
    denominator = given.pop("denominator", None)
    form = weighted(form, given.pop("weight", None))
    return evaluate(form, Options(**given), logits, target, sample_weight, denominator)


class SoftmaxLoss(nn.Module):
    """Base of every loss of the softmax family; a subclass gives the form.

    The class vectors are buffers, so they follow ``.to(device)``; they keep their precision under
    ``.half()``; and they are not part of a ``state_dict``, since the constructor gives them. A
    ``weight`` found in one (from ``nn.CrossEntropyLoss``, say) is taken over.
    """

    weight: Tensor | None

    def __init__(self, form: Form, options: dict[str, Any], **arguments: Any) -> None:
        super().__init__()
        refuse_unknown(options, type(self))
        given = dict(options)
        weight = given.pop("weight", None)
        self.options = Options(**given)
        self._shown = arguments | {
            name: value
            for name, value in options.items()
            if (value is not None if name == "weight" else value != OPTION_DEFAULTS[name])
        }
        form = weighted(form, weight)
        for vector in VECTORS:
            value = getattr(form, vector)
            if vector == "weight" or isinstance(value, Tensor):
                value = None if value is None else value.detach().clone()
                self.register_buffer(vector, value, persistent=False)
        self._held = tuple(name for name in VECTORS if name in self._buffers)
        nothing: dict[str, Any] = dict.fromkeys(self._held)
        self._form = form._replace(**nothing)

    @property
    def form(self) -> Form:
        """The loss as an edit, a tail and class vectors, where the buffers are now."""
        buffers: dict[str, Any] = self._buffers
        return self._form._replace(**{name: buffers[name] for name in self._held})

    def with_weight(self, weight: PerClass) -> Self:
        """A copy of this loss with these class weights in the place of its own."""
        form = weighted(self.form._replace(weight=None), weight)
        if form.weight is None:
            raise TypeError("weight is None: expected one number per class")
        copied = deepcopy(self)
        copied.weight = form.weight.detach().clone()
        copied._form = copied._form._replace(others_are_one=form.others_are_one)
        copied._shown["weight"] = weight
        return copied

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
            sample_weight: finite and ≥ 0, broadcastable to the shape of class indices.
            denominator: divides the sum, whatever ``mean_over`` says.

        Returns:
            A 0-d tensor, or with reduction="none" one of the shape of class indices; in float32,
            or float64 for float64 logits.

        Raises:
            TypeError: logits are not floating, or class indices are.
            ValueError: shapes that do not fit, negative or non-finite sample weights.
            IndexError: a class index outside [0, C) that is not ``ignore_index``.
        """
        return evaluate(self.form, self.options, logits, target, sample_weight, denominator)

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What the mean divides by for these targets.

        Summed over several calls it is the denominator of their union: divide the loss of every
        micro-batch, or of every rank, by that sum, and the gradients add up to those of the whole
        batch.

        Args:
            target: as for the call: (N,), (N, d1, …) or (), or probabilities (N, C, …) or (C,).
            sample_weight: as for the call.

        Returns:
            A 0-d float64 tensor on the target's device.
        """
        if target.is_floating_point():
            target = target.double()
            target = target.unsqueeze(0) if target.ndim == 1 else target
            positions = target.shape[:1] + target.shape[2:]
        else:
            target, positions = target.long(), target.shape
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, positions)
            sample_weight = sample_weight.to(target.device, torch.float64)
        form = self.form
        if form.weight is not None:
            form = form._replace(weight=form.weight.to(target.device, torch.float64))
        try:
            return mean_denominator(form, self.options, target, sample_weight).double()
        except (IndexError, RuntimeError) as error:
            if target.is_floating_point() or form.weight is None:
                raise
            refuse_out_of_range(target, len(form.weight), self.options.ignore_index, error)

    def extra_repr(self) -> str:
        """The arguments that differ from the defaults."""
        return ", ".join(f"{name}={_brief(value)}" for name, value in self._shown.items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: getattr(self, name) for name in self._held}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            if kept is not None and getattr(self, name).dtype != kept.dtype:
                # .half() would round the weights, and make 7e4 infinite: only the device moves.
                setattr(self, name, kept.to(getattr(self, name).device))
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "weight"
        if (found := state_dict.get(key)) is not None:
            self._take_weight(key, found, error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in unexpected_keys:
            unexpected_keys.remove(key)

    def _take_weight(self, key: str, found: Tensor, error_msgs: list[str]) -> None:
        """Use a weight that a state_dict holds."""
        try:
            values = read_class_vector("weight", found).values.detach().clone()
        except (TypeError, ValueError) as error:
            error_msgs.append(f"{key}: {error}")
            return
        if self.weight is not None and not self._form.others_are_one:
            if values.shape != self.weight.shape:
                error_msgs.append(
                    f"{key} has {len(values)} values, but this loss's weight has "
                    f"{len(self.weight)}: build the loss with as many classes"
                )
                return
            values = values.to(self.weight.device)
        self.weight = values
        self._form = self._form._replace(others_are_one=False)
        self._shown["weight"] = values


def _brief(value: Any) -> str:
    """A value as it is typed, long ones cut."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple) and len(value) > 6:
        head = ", ".join(f"{item:.4g}" for item in value[:5])
        return f"[{head}, … {len(value)} classes]"
    return repr(value)
