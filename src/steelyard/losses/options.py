"""The options that every loss takes: their names, defaults and limits, written once."""

import inspect
import math
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, get_type_hints

from torch import Tensor

from steelyard.losses.vectors import PerClass, readable
from steelyard.ops import ENGINES

CHOICES: dict[str, tuple[Any, ...]] = {
    "reduction": ("mean", "sum", "none"),
    "mean_over": (None, "weight", "count"),
    "empty": ("zero", "nan"),
    "engine": ENGINES,
}

# Names that users bring from elsewhere, and what they are called here.
RENAMED = {
    "alpha": "class weights are `weight`, one number per class (one number for all classes does "
    "nothing in a mean)",
    "class_weight": "class weights are `weight`",
    "class_weights": "class weights are `weight`",
    "pos_weight": "class weights are `weight`, one number per class",
    "size_average": "`reduction` has replaced it: 'mean' or 'sum'",
    "reduce": "`reduction` has replaced it: 'none' for one value per position",
    "smoothing": "it is `label_smoothing`",
    "ignore_label": "it is `ignore_index`",
}


class PlainOptions(TypedDict, total=False):
    """The keywords of every loss but ``weight``; :class:`Options` holds their defaults."""

    ignore_index: int
    label_smoothing: float
    reduction: Literal["mean", "sum", "none"]
    mean_over: Literal["weight", "count"] | None
    empty: Literal["zero", "nan"]
    engine: str


class LossOptions(PlainOptions, total=False):
    """The keywords of every loss, for type checkers."""

    weight: PerClass | None


class CallOptions(LossOptions, total=False):
    """The keywords of every functional loss: the options, and what belongs to one call."""

    sample_weight: Tensor | None
    denominator: float | Tensor | None


@dataclass(frozen=True, slots=True)
class Options:
    """The options that are not tensors, checked.

    Raises:
        TypeError: ``ignore_index`` is not an integer.
        ValueError: a choice that does not exist, or smoothing outside [0, 1].
    """

    ignore_index: int = -100
    label_smoothing: float | Tensor = 0.0
    reduction: str = "mean"
    mean_over: str | None = None
    empty: str = "zero"
    engine: str = "auto"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (given := getattr(self, name)) not in choices:
                known = ", ".join(map(repr, choices))
                raise ValueError(f"{name}={given!r} is not known: choose one of {known}")
        try:
            operator.index(self.ignore_index)
        except TypeError:
            raise TypeError(
                f"ignore_index={self.ignore_index!r} is not an integer: give a class index that "
                "stands for positions to ignore, by default -100"
            ) from None
        check_number("label_smoothing", self.label_smoothing, 0, 1)

    @property
    def smooths(self) -> bool:
        """Whether the target is smoothed at all."""
        return isinstance(self.label_smoothing, Tensor) or self.label_smoothing > 0


OPTION_DEFAULTS: dict[str, Any] = {"weight": None} | {f.name: f.default for f in fields(Options)}
CALL_DEFAULTS: dict[str, Any] = {"sample_weight": None, "denominator": None}


def refuse_unknown(given: Collection[str], public: Callable[..., Any]) -> None:
    """Raise a TypeError that lists the keywords of a loss if one given is not among them."""
    if CALL_DEFAULTS.keys() | OPTION_DEFAULTS.keys() >= set(given) and (
        not isinstance(public, type) or CALL_DEFAULTS.keys().isdisjoint(given)
    ):
        return
    parameters = inspect.signature(public).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty]
    for keyword in given:
        if keyword not in known:
            hint = f": {RENAMED[keyword]}" if keyword in RENAMED else ""
            if keyword in CALL_DEFAULTS:
                hint = ": it belongs to the call, loss(logits, target, …)"
            raise TypeError(
                f"{public.__name__}() has no keyword {keyword!r}{hint}. "
                f"Its keywords are {', '.join(known)}"
            )


def check_number(
    name: str, value: float | Tensor, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """Raise a ValueError unless value is a finite number in [low, high], or (low, high]."""
    if isinstance(value, Tensor):
        # Stacked trials hand in one tensor for many trials: nothing to read, nothing to check.
        if value.ndim > 0 or not readable(value):
            return
        value = float(value)
    try:
        inside = low < value <= high if open_low else low <= value <= high
    except TypeError:
        raise TypeError(f"{name}={value!r} is not a number") from None
    # Compared, for torch.compile has no isfinite of a number that it keeps symbolic.
    if not (inside and -math.inf < value < math.inf):
        start = f"{'(' if open_low or math.isinf(low) else '['}{low:g}"
        end = f"{high:g}{')' if math.isinf(high) else ']'}"
        raise ValueError(f"{name}={value!r} is not in {start}, {end}")


def spell_out(public: Callable[..., Any]) -> None:
    """Show the keywords behind ``**options`` in the signature that ``help`` and editors read."""
    more = OPTION_DEFAULTS if isinstance(public, type) else OPTION_DEFAULTS | CALL_DEFAULTS
    signature = inspect.signature(public)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints = get_type_hints(CallOptions)
    own += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name]
        )
        for name, default in more.items()
        if name not in signature.parameters
    ]
    public.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
