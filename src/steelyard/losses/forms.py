"""What makes a loss that loss, apart from its options: a form for one label, and one for cells.

A form holds class vectors as they were given. It brings them to the logits, and states the problem.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from steelyard import ops
from steelyard.losses.options import Options
from steelyard.losses.vectors import PerClass, fit, read_class_vector


def times(form: Any, name: str, given: float | PerClass | None, **limits: Any) -> Any:
    """The form with the user's class vector; it multiplies the one that the form has already.

    Args:
        form: with the field ``name``, ``others_are_one`` and ``num_classes``.
        name: of the vector, ``weight`` for one.
        given: the user's.
        **limits: how :func:`read_class_vector` reads it.

    Raises:
        ValueError: another length than the form's own vectors, or numbers that it may not have.
    """
    if given is None:
        return form
    values, others_are_one = read_class_vector(name, given, **limits)
    length = form.num_classes
    if length is not None and values.ndim > 0:
        if others_are_one and len(values) < length:
            values = torch.cat([values, values.new_ones(length - len(values))])
        if len(values) != length:
            raise ValueError(
                f"{name} has {len(values)} values, but the loss has {length} classes: give one "
                "value per class"
            )
        others_are_one = False
    if (own := getattr(form, name)) is not None:
        values = own.to(values.device) * values
    padded = tuple(other for other in form.others_are_one if other != name)
    return form._replace(
        **{name: values, "others_are_one": (*padded, name) if others_are_one else padded}
    )


class Form(NamedTuple):
    """What makes a loss that loss. Class vectors have shape (C,); every part may be absent.

    Attributes:
        tail: ``tail(log_p, parameter)``, elementwise, and 0 where log_p is 0.
        parameter: the tail's: a number, one number per class, or a tuple of numbers.
        weight: class weights.
        scale, bias, margin: the edit of the logits.
        others_are_one: names ``weight`` if it came from a dict: classes beyond its end weigh 1.
    """

    tail: ops.Tail
    parameter: Any = None
    weight: Tensor | None = None
    scale: Tensor | None = None
    bias: Tensor | None = None
    margin: Tensor | None = None
    others_are_one: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """How many classes the vectors speak of; None where there are none."""
        for vector in (self.parameter, self.weight, self.scale, self.bias, self.margin):
            if isinstance(vector, Tensor) and vector.ndim > 0:
                return vector.shape[0]
        return None

    def weighted(self, weight: PerClass | None) -> "Form":
        """The form with the user's class weights."""
        return cast("Form", times(self, "weight", weight))

    def fit(self, logits: Tensor) -> "Form":
        """The same with every vector of length C, in the dtype and on the device of logits."""
        each = (self.parameter, self.weight, self.scale, self.bias, self.margin)
        # None first: it is what most are, and isinstance of a Tensor asks PyTorch.
        vectors = [part for part in each if part is not None and isinstance(part, Tensor)]
        if not vectors:
            return self
        dtype, num_classes = ops.compute_dtype(logits), logits.shape[1]
        shape, device = (num_classes,), logits.device
        if all(vector.shape == shape and vector.device == device for vector in vectors):
            # Most calls, so few logits feel each step of it.
            _, parameter, weight, scale, bias, margin, _ = self
            if parameter is not None and isinstance(parameter, Tensor):
                parameter = parameter.to(dtype)
            return Form(
                self.tail,
                parameter,
                None if weight is None else weight.to(dtype),
                None if scale is None else scale.to(dtype),
                None if bias is None else bias.to(dtype),
                None if margin is None else margin.to(dtype),
            )
        like = logits if logits.dtype is dtype else logits.new_empty(0, dtype=dtype)

        def fitted(name: str, vector: Tensor | None) -> Tensor | None:
            return None if vector is None else fit(name, vector, num_classes, like)

        weight, parameter = self.weight, self.parameter
        if weight is not None:
            weight = fit(
                "weight", weight, num_classes, like, others_are_one=bool(self.others_are_one)
            )
        if isinstance(parameter, Tensor) and parameter.ndim > 0:
            # The one parameter that any loss takes per class.
            parameter = fit("gamma", parameter, num_classes, like)
        return self._replace(
            weight=weight,
            parameter=parameter,
            scale=fitted("class_counts", self.scale),
            bias=fitted("class_counts", self.bias),
            margin=fitted("class_counts", self.margin),
        )

    def problem(
        self, options: Options, target: Tensor, sample_weight: Tensor | None
    ) -> ops.SoftmaxProblem:
        """What is to be done, of a form that fits the logits."""
        return ops.SoftmaxProblem(
            target=target,
            ignore_index=options.ignore_index,
            weight=self.weight,
            sample_weight=sample_weight,
            smoothing=options.label_smoothing,
            scale=self.scale,
            bias=self.bias,
            margin=self.margin,
            tail=self.tail,
            parameter=self.parameter,
        )


class CellForm(NamedTuple):
    """What makes a sigmoid loss that loss.

    Attributes:
        positive, negative: the two sides of a cell: what it costs that a class that is there is
            not seen, and that one is seen that is not there.
        bias: added to the logits, (C,).
        weight, pos_weight: (C,), or () for one number.
        share: how much of a re-balanced weight each class takes, (C,); None without re-balancing.
        rebalance: the numbers of the re-balanced weight, see :class:`steelyard.ops.Rebalance`.
        positive_parameter, negative_parameter, positive_factor, negative_factor: those of the
            sides that are one number per class (C,).
        others_are_one: names those of ``weight`` and ``pos_weight`` that came from a dict.
        whole_positions: the loss is of positions, not of cells.
    """

    positive: ops.Side
    negative: ops.Side
    bias: Tensor | None = None
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    share: Tensor | None = None
    rebalance: tuple[float, float, float] = (0.0, 0.0, 0.0)
    positive_parameter: Tensor | None = None
    negative_parameter: Tensor | None = None
    positive_factor: Tensor | None = None
    negative_factor: Tensor | None = None
    others_are_one: tuple[str, ...] = ()
    whole_positions: bool = False

    @property
    def num_classes(self) -> int | None:
        """How many classes the vectors speak of; None where there are none."""
        for name in _VECTORS:
            vector = getattr(self, name)
            if vector is not None and vector.ndim > 0:
                return cast("int", vector.shape[0])
        return None

    def weighted(
        self,
        weight: float | PerClass | None = None,
        pos_weight: float | PerClass | None = None,
    ) -> "CellForm":
        """The form with the user's class weights."""
        form = times(self, "weight", weight, or_number=True)
        return cast("CellForm", times(form, "pos_weight", pos_weight, or_number=True))

    def fit(self, logits: Tensor) -> "CellForm":
        """The same with every vector of length C, in the dtype and on the device of logits."""
        like = logits.new_empty(0, dtype=ops.compute_dtype(logits))
        changes: dict[str, Any] = {}
        for name, given_as in _VECTORS.items():
            vector = getattr(self, name)
            if vector is not None:
                padded = name in self.others_are_one
                changes[name] = fit(given_as, vector, logits.shape[1], like, others_are_one=padded)
        return self._replace(**changes) if changes else self

    def problem(
        self, options: Options, target: Tensor, sample_weight: Tensor | None
    ) -> ops.CellProblem:
        """What is to be done, of a form that fits the target (N, C, d…)."""

        def side(plain: ops.Side, parameter: Tensor | None, factor: Tensor | None) -> ops.Side:
            if parameter is not None:
                plain = plain._replace(parameter=parameter)
            return plain if factor is None else plain._replace(factor=factor)

        kind = ops.RankProblem if self.whole_positions else ops.CellProblem
        return kind(
            target=target,
            ignore_index=options.ignore_index,
            positive=side(self.positive, self.positive_parameter, self.positive_factor),
            negative=side(self.negative, self.negative_parameter, self.negative_factor),
            bias=self.bias,
            weight=self.weight,
            pos_weight=self.pos_weight,
            sample_weight=sample_weight,
            rebalance=None if self.share is None else ops.Rebalance(self.share, *self.rebalance),
            smoothing=options.label_smoothing,
        )

    def over(self, options: Options) -> str | None:
        """What a mean divides by, for :meth:`steelyard.ops.CellProblem.count`."""
        return options.mean_over or ("position" if self.whole_positions else None)


# The vectors of a form, and by which name the user gave them.
_VECTORS = {
    "weight": "weight",
    "pos_weight": "pos_weight",
    "bias": "class_counts",
    "share": "class_counts",
    "positive_parameter": "gamma",
    "negative_parameter": "gamma",
    "positive_factor": "alpha",
    "negative_factor": "alpha",
}
