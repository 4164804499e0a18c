"""Class weights from class counts: every scheme in float64, by formulas that do not cancel."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from steelyard.classes.counts import ClassCounts, absent_classes
from steelyard.classes.given import ClassCountsLike, as_class_counts, counts_or_number

Scheme: TypeAlias = Literal["balanced", "inverse", "sqrt", "power", "effective", "median", "enet"]
Counted: TypeAlias = "int | ClassCountsLike"
Absent: TypeAlias = Literal["zero", "max", "raise"]


def class_weights(
    class_counts: ClassCountsLike,
    scheme: Scheme = "balanced",
    *,
    power: float | None = None,
    beta: float | None = None,
    c: float | None = None,
    absent: Absent = "zero",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights per class from class counts: class c occurs n_c times among N elements of C classes.

    ============= ========================== ==================================================
    scheme        w_c                        normalised to
    ============= ========================== ==================================================
    "balanced"    N / (C·n_c)                as it stands: what scikit-learn calls "balanced"
    "inverse"     1 / n_c                    Σ w = number of classes that occur
    "sqrt"        1 / √n_c                   Σ w = number of classes that occur
    "power"       n_c^−power                 Σ w = number of classes that occur
    "effective"   (1 − β) / (1 − β^n_c)      Σ w = number of classes that occur
    "median"      median(f) / f_c            as it stands; f_c = n_c / support_c
    "enet"        1 / ln(c + n_c / N)        as it stands
    ============= ========================== ==================================================

    Every C, N and median is taken over the classes that occur. "effective" is Cui et al.,
    CVPR 2019 (arXiv:1901.05555); "median" is the median frequency balancing of Eigen & Fergus,
    ICCV 2015 (arXiv:1411.4734), which differs from 1 for masks and sequences alone; "enet" is
    Paszke et al. 2016 (arXiv:1606.02147).

    Args:
        class_counts: `ClassCounts`, or a tensor, array or list of counts in the order of the class
            indices, or a dict from indices or names to counts. Names are numbered in sorted order.
        scheme: one of the names above.
        power: exponent ≥ 0 of "power", which needs it.
        beta: β of "effective", in [0, 1); default 0.9999. 0 gives equal weights; the limit at 1
            is "inverse".
        c: c of "enet", > 1; default 1.02.
        absent: the weight of a class that does not occur: "zero", "max" (the largest weight of a
            class that does), or "raise". It never takes part in a normalisation.
        dtype: floating dtype of the result; the arithmetic is float64 in any case.

    Returns:
        A tensor (C,) on the CPU.

    Raises:
        TypeError: ``dtype`` is not floating, or ``class_counts`` cannot be read.
        ValueError: an unknown scheme or choice, a parameter that is out of range, missing or of
            another scheme, an absent class with ``absent="raise"``, or a weight beyond ``dtype``.

    Warns:
        UserWarning: a dict of names in another order than the sorted one.

    Example:
        >>> class_weights([1000, 100])
        tensor([0.5500, 5.5000])
        >>> class_weights([1000, 100], "power", power=0.25)
        tensor([0.7199, 1.2801])
    """
    counts = as_class_counts(class_counts)
    formula = _formula(scheme, {"power": power, "beta": beta, "c": c})
    if absent not in get_args(Absent):
        raise ValueError(f"absent={absent!r}; expected one of {_choices(get_args(Absent))}")
    _check_floating(dtype)

    # As Python's numbers: whoever traces a loss then knows how many classes occur.
    occurs = [n > 0 for n in counts]
    if absent == "raise" and not all(occurs):
        raise ValueError(
            f"{absent_classes(counts)}; absent='zero' or absent='max' gives them a weight"
        )
    there = torch.tensor([c for c, present in enumerate(occurs) if present], device="cpu")
    own = formula(_Present.of(counts, there))
    rest = own.max() if absent == "max" else own.new_zeros(())
    weights = rest.expand(len(counts)).index_copy(0, there, own)
    if torch.finfo(dtype).max < 2**64 and weights.max() > torch.finfo(dtype).max:
        worst = int(weights.argmax())
        raise ValueError(
            f"the weight of class {worst} is {weights[worst].item():.6g}, too large for {dtype}; "
            f"ask for dtype=torch.float32 or torch.float64"
        )
    return weights.to(dtype)


def pos_weight(
    counts: Counted,
    positives: "Counted | None" = None,
    *,
    low: float = 0.0,
    high: float = math.inf,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weight of what is there, for losses of several labels: negatives / positives, per class.

    With it what is there weighs as much as what is not. It multiplies the odds that a model learns,
    so probabilities come out too high: subtract its logarithm from the logits after training.

    Args:
        counts: What `count_classes` gives for targets of 0 and 1; or how many positions were
            counted, one number, or one per class where labels are missing.
        positives: In how many of them each class is there, one number for a single logit; left out
            where ``counts`` knows it.
        low: The least weight, ≥ 0.
        high: The largest weight, ≥ low, which a class has that is never there.
        dtype: Floating dtype of the result; the arithmetic is float64.

    Returns:
        Tensor (C,) on the CPU.

    Raises:
        TypeError: Counts that cannot be read, bounds that are no numbers, or a dtype that is not
            floating.
        ValueError: No positives, more of them than counts, bounds out of order, or a class that is
            never there without a bound.

    Example:
        >>> pos_weight(1000, [500, 100, 4])
        tensor([  1.,   9., 249.])
        >>> pos_weight(1000, 100)
        tensor([9.])
        >>> pos_weight(1000, [500, 100, 0], high=100.0)
        tensor([  1.,   9., 100.])
    """
    _check_floating(dtype)
    if not 0 <= _number("low", low) <= _number("high", high):
        raise ValueError(f"low={low}, high={high}; expected 0 ≤ low ≤ high")
    n, total = _positives(counts, positives)
    absent = (n == 0).nonzero().flatten().tolist()
    if absent and math.isinf(high):
        raise ValueError(
            f"class {absent[0]} is never there, and its weight would be infinite: give a bound, "
            f"high=100.0 for one"
        )
    return ((total - n) / n).clamp(low, high).to(dtype)


def _positives(counts: Counted, positives: "Counted | None") -> tuple[Tensor, Tensor]:
    """How often each class is there, and out of how many, in float64 (C,)."""
    if positives is None:
        if not isinstance(counts, ClassCounts) or counts.total is None:
            raise ValueError(_without_positives(counts))
        return counts.counts.double(), counts.total.double()
    n = counts_or_number(positives, None, "positives").counts.double()
    total = counts_or_number(counts, len(n), "counts").counts.double()
    if (n > total).any():
        c = int((n > total).nonzero()[0])
        raise ValueError(
            f"class {c} is there {int(n[c])} times in {int(total[c])} counts; counts has the "
            f"positions with the class and without it"
        )
    return n, total


def _without_positives(counts: Counted) -> str:
    if not isinstance(counts, ClassCounts):
        return (
            "positives is missing: give in how many of the counts each class is there, as in "
            "pos_weight(1000, [500, 100]), or what count_classes(…, multi_label=True) gives"
        )
    text = "positives is missing: these counts are of one label per position, whose weights are "
    text += "class_weights(counts)"
    if len(counts) == 2:
        text += (
            f"; for a single logit that says how likely class 1 is, pos_weight({sum(counts)}, "
            f"{list(counts)[1]})"
        )
    return text


class _Present(NamedTuple):
    """What the formulas see: the classes that occur, in float64 (P,)."""

    n: Tensor
    support: Tensor | None

    @classmethod
    def of(cls, counts: ClassCounts, there: Tensor) -> "_Present":
        support = counts.support
        return cls(
            n=counts.counts[there].double(),
            support=None if support is None else support[there].double(),
        )


def _balanced(classes: _Present) -> Tensor:
    return classes.n.sum() / (len(classes.n) * classes.n)


def _power(classes: _Present, power: float) -> Tensor:
    if not (math.isfinite(power) and power >= 0):
        raise ValueError(f"power={power}; expected a finite number ≥ 0")
    # Relative to the rarest class, so that a large power underflows to 0 and never divides by it.
    return _sum_to_count((classes.n.min() / classes.n) ** power)


def _effective(classes: _Present, beta: float) -> Tensor:
    if not 0 <= beta < 1:
        raise ValueError(f"beta={beta}; expected 0 ≤ beta < 1 (its limit at 1 is scheme='inverse')")
    # 1 − β is exact near 1, and 1 − βⁿ = −expm1(n·ln β) keeps its digits where βⁿ rounds to 1.
    rest = classes.n.new_tensor(1.0 - beta)
    return _sum_to_count(rest / -torch.expm1(classes.n * torch.log1p(-rest)))


def _median(classes: _Present) -> Tensor:
    if classes.support is None:
        raise ValueError(
            "scheme='median' needs the support of each class, which these class_counts do not "
            "have; count the masks or label sequences with count_classes"
        )
    frequency = classes.n / classes.support
    return frequency.quantile(0.5) / frequency


def _enet(classes: _Present, c: float) -> Tensor:
    if not (math.isfinite(c) and c > 1):
        raise ValueError(f"c={c}; expected a finite number > 1: it is what keeps a weight bounded")
    return 1.0 / torch.log1p((c - 1.0) + classes.n / classes.n.sum())


def _sum_to_count(weights: Tensor) -> Tensor:
    return weights * (len(weights) / weights.sum())


class _Scheme(NamedTuple):
    formula: Callable[..., Tensor]
    parameter: str | None = None
    default: float | None = None  # None where the parameter must be given


_SCHEMES: dict[str, _Scheme] = {
    "balanced": _Scheme(_balanced),
    "inverse": _Scheme(partial(_power, power=1.0)),
    "sqrt": _Scheme(partial(_power, power=0.5)),
    "power": _Scheme(_power, "power"),
    "effective": _Scheme(_effective, "beta", 0.9999),
    "median": _Scheme(_median),
    "enet": _Scheme(_enet, "c", 1.02),
}


def _formula(name: str, given: dict[str, float | None]) -> Callable[[_Present], Tensor]:
    """The scheme's formula with its parameter filled in."""
    if name not in tuple(_SCHEMES):
        raise ValueError(f"scheme={name!r}; expected one of {_choices(_SCHEMES)}")
    scheme = _SCHEMES[name]
    for parameter, value in given.items():
        if value is not None and parameter != scheme.parameter:
            owner = next(n for n, other in _SCHEMES.items() if other.parameter == parameter)
            raise ValueError(
                f"scheme={name!r} has no parameter {parameter}: {parameter}={value} belongs to "
                f"scheme={owner!r}; the schemes are {_choices(_SCHEMES)}"
            )
    if scheme.parameter is None:
        return scheme.formula
    chosen = given[scheme.parameter]
    value = scheme.default if chosen is None else chosen
    if value is None:
        raise ValueError(f"scheme={name!r} needs {scheme.parameter}, as in {scheme.parameter}=0.5")
    return partial(scheme.formula, **{scheme.parameter: _number(scheme.parameter, value)})


def _check_floating(dtype: Any) -> None:
    if not getattr(dtype, "is_floating_point", False):
        raise TypeError(f"dtype={dtype}; weights need a floating dtype such as torch.float32")


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool | str | bytes):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(f"{name}={value!r} is not a number")


def _choices(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
