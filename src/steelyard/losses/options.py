"""The options that every loss takes: their names, defaults and limits, written once.

A family that means more by an option, or takes more of them, derives :class:`Options` and names
what it takes in a :class:`Keywords` of its own.
"""

import functools
import inspect
import math
import operator
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from numbers import Number
from typing import Any, ClassVar, Literal, TypedDict, get_type_hints

from torch import Tensor

from steelyard.losses.vectors import LARGEST, PerClass, readable
from steelyard.ops import ENGINES

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "reduction": ("mean", "sum", "none"),
    "mean_over": (None, "weight", "count"),
    "empty": ("zero", "nan"),
    "engine": ENGINES,
}

# Names that users bring from elsewhere, and what they are called here.
RENAMED: Mapping[str, str] = {
    "alpha": "class weights are `weight`, one number per class (one number for all classes does "
    "nothing in a mean)",
    "class_weight": "class weights are `weight`",
    "class_weights": "class weights are `weight`",
    "weights": "class weights are `weight`",
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

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = CHOICES

    def __post_init__(self) -> None:
        for name, choices in self.choices.items():
            if (given := getattr(self, name)) not in choices:
                known = ", ".join(map(repr, choices))
                raise ValueError(f"{name}={given!r} is not known: choose one of {known}")
        self._check_ignore_index()
        smoothing = check_number("label_smoothing", self.label_smoothing, 0, 1)
        object.__setattr__(self, "label_smoothing", smoothing)

    def _check_ignore_index(self) -> None:
        try:
            index = operator.index(self.ignore_index)
        except TypeError:
            raise TypeError(
                f"ignore_index={self.ignore_index!r} is not an integer: give a class index that "
                "stands for positions to ignore, by default -100"
            ) from None
        if not -(2**63) <= index < 2**63:
            raise ValueError(f"ignore_index={index} does not fit 64 bits, as class indices do")
        object.__setattr__(self, "ignore_index", index)

    @property
    def nothing(self) -> float:
        """What a divisor of 0 becomes: over infinity a mean over nothing is 0."""
        return math.nan if self.empty == "nan" else math.inf

    @property
    def smooths(self) -> bool:
        """Whether the target is smoothed at all."""
        return isinstance(self.label_smoothing, Tensor) or self.label_smoothing > 0


@dataclass(frozen=True)
class Keywords:
    """The keywords that every loss of a family takes.

    Attributes:
        options: the class of those that are not tensors; it holds their defaults.
        hints: a TypedDict of the types of them all, those of a call too.
        vectors: those with one number per class, None by default, which a module keeps as buffers.
        call: those that belong to one call of a loss, with their defaults.
        renamed: names that users bring from elsewhere, and what they are called here.
    """

    options: type[Options]
    hints: type
    vectors: tuple[str, ...] = ("weight",)
    call: Mapping[str, Any] = field(
        default_factory=lambda: {"sample_weight": None, "denominator": None}
    )
    renamed: Mapping[str, str] = field(default_factory=lambda: RENAMED)
    defaults: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        options = {option.name: option.default for option in fields(self.options)}
        object.__setattr__(self, "defaults", dict.fromkeys(self.vectors) | options)

    def read(
        self, given: Mapping[str, Any], public: Callable[..., Any]
    ) -> tuple[dict[str, Any], Options, dict[str, Any]]:
        """Sort the keywords given to ``public`` into class vectors, options and those of a call.

        Raises:
            TypeError: a keyword that ``public`` does not take, or an option of the wrong type.
            ValueError: an option outside its limits.
        """
        self.refuse_unknown(given, public)
        rest = dict(given)
        call = {name: rest.pop(name, default) for name, default in self.call.items()}
        vectors = {name: rest.pop(name, None) for name in self.vectors}
        return vectors, self.options(**rest), call

    def refuse_unknown(self, given: Collection[str], public: Callable[..., Any]) -> None:
        """Raise a TypeError that lists the keywords of a loss if one given is not among them."""
        if self.call.keys() | self.defaults.keys() >= set(given) and (
            not isinstance(public, type) or not any(name in self.call for name in given)
        ):
            return
        parameters = inspect.signature(public).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty]
        for keyword in given:
            if keyword not in known:
                hint = f": {self.renamed[keyword]}" if keyword in self.renamed else ""
                if keyword in self.call:
                    hint = ": it belongs to the call, loss(logits, target, …)"
                raise TypeError(
                    f"{public.__name__}() has no keyword {keyword!r}{hint}. "
                    f"Its keywords are {', '.join(known)}"
                )

    def spell_out(self, public: Callable[..., Any]) -> None:
        """Show the keywords behind ``**options`` in the signature that ``help`` reads.

        A constructor also names them where it is given arguments without a name.
        """
        more = self.defaults if isinstance(public, type) else {**self.defaults, **self.call}
        signature = inspect.signature(public)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        hints = get_type_hints(self.hints)
        own += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name]
            )
            for name, default in more.items()
            if name not in signature.parameters
        ]
        public.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        if isinstance(public, type):
            self._take_by_name(public)

    def _take_by_name(self, public: type) -> None:
        """Name the keyword, where Python would say that there are too many arguments."""
        init: Callable[..., None] = public.__init__  # type: ignore[misc]
        parameters = inspect.signature(public).parameters
        names = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
        own = [name for name in names if name not in self.defaults]
        most = len(parameters) - len(names)

        @functools.wraps(init)
        def checked(loss: object, *given: Any, **keywords: Any) -> None:
            if len(given) <= most:
                return init(loss, *given, **keywords)
            name, first = public.__name__, given[most]
            hint = ""
            if len(given) > 1 and all(isinstance(each, Tensor) for each in given[:2]):
                hint = f"; logits and target go into the call, {name}(…)(logits, target)"
            elif own:
                # Which of several was meant, nobody can tell.
                known = len(own) == 1 and not isinstance(first, Tensor)
                hint = f", as in {name}({own[0]}={reprlib.repr(first) if known else '…'})"
            raise TypeError(
                f"{name}() takes {'its' if most == 0 else 'all but the first of its'} arguments by "
                f"name{hint}. Its keywords are {', '.join(parameters)}"
            )

        public.__init__ = checked  # type: ignore[misc]


def check_number(
    name: str, value: float | Tensor, low: float, high: float = math.inf, *, open_low: bool = False
) -> float | Tensor:
    """Read a finite number in [low, high], or (low, high].

    Returns:
        The number, as one of Python's: tensors multiply no other; or the tensor that was given.

    Raises:
        TypeError: not a number.
        ValueError: it is outside, or infinite in float32.
    """
    number: Any = value
    if isinstance(value, Tensor):
        # Stacked trials hand in one tensor for many trials: nothing to read, nothing to check.
        if value.ndim > 0 or not readable(value):
            return value
        number = value.detach().item()
    elif not isinstance(value, int | float):
        number = _of_another_library(name, value)
    try:
        inside = low < number <= high if open_low else low <= number <= high
    except TypeError:
        raise TypeError(f"{name}={value!r} is not a number") from None
    # Compared, for torch.compile has no isfinite of a number that it keeps symbolic.
    if not (inside and -math.inf < number < math.inf):
        start = f"{'(' if open_low or math.isinf(low) else '['}{low:g}"
        end = f"{high:g}{')' if math.isinf(high) else ']'}"
        raise ValueError(f"{name}={reprlib.repr(number)} is not in {start}, {end}")
    if not -LARGEST <= number <= LARGEST:
        shown = reprlib.repr(number)
        raise ValueError(f"{name}={shown} is infinite in float32: expected at most {LARGEST:.1e}")
    return value if isinstance(value, Tensor) else number


def _of_another_library(name: str, value: Any) -> float:
    """A number of NumPy, decimal or fractions as one of Python's."""
    if isinstance(value, Number) or getattr(value, "ndim", None) == 0:  # float() reads strings too
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name}={value!r} is not a number")
