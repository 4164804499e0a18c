"""What users give for class counts, in whatever they hold them in, as ClassCounts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Number
from operator import index
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from steelyard.classes.counts import ClassCounts, plural
from steelyard.classes.numbers import LARGEST_CLASS, kind_of, whole_numbers
from steelyard.classes.warning import tell

# Arrays and columns of NumPy, pandas and polars are iterables too; none of the three is imported.
ClassCountsLike: TypeAlias = "ClassCounts | Tensor | Iterable[int] | Mapping[Any, int]"


def as_class_counts(
    class_counts: ClassCountsLike, num_classes: int | None = None, what: str = "class_counts"
) -> ClassCounts:
    """Read what a user gives for ``class_counts``.

    Args:
        class_counts: `ClassCounts`; tensor, array or list with one count per class; or a dict (or
            pandas Series) from class indices to counts, where missing classes have none, or from
            class names to counts: names take their indices in sorted order, as `count_classes`
            and scikit-learn give them.
        num_classes: The number of classes they must have; a dict of indices is filled up to it.
        what: The name of the argument, for errors.

    Raises:
        TypeError: Something else, or keys that are neither indices nor names.
        ValueError: As `ClassCounts`, a wrong number of classes, or every count zero.

    Warns:
        UserWarning: a dict of names in another order than the sorted one.
    """
    if not isinstance(class_counts, ClassCounts):
        # A Series of value_counts() is ordered by frequency: only its index says which is which.
        if isinstance(class_counts, Dataset | DataLoader):
            raise TypeError(
                f"{what} is {kind_of(class_counts)}, which holds labels: count_classes counts them"
            )
        if hasattr(class_counts, "to_dict") and getattr(class_counts, "ndim", 0) == 1:
            series: Any = class_counts
            _refuse_doubled(series.index, what)
            # As a Counter: the order of a tally is no order of the classes.
            class_counts = Counter(series.to_dict())
        if isinstance(class_counts, Mapping):
            class_counts = _from_mapping(class_counts, num_classes, what)
        else:
            class_counts = ClassCounts(whole_numbers(class_counts, what))
    if num_classes is not None and len(class_counts) != num_classes:
        raise ValueError(
            f"{what} has {plural(len(class_counts), 'class', 'classes')}, expected "
            f"{num_classes}: one count per class, 0 for a class that does not occur"
        )
    if not any(class_counts):
        raise ValueError(
            f"{what}: all {len(class_counts)} counts are zero; at least one class must occur"
        )
    return class_counts


def counts_or_number(given: Any, classes: int | None, what: str) -> ClassCounts:
    """Read counts of so many classes: one per class, or one number for all of them.

    With ``classes=None`` one number is the count of the only class.

    Raises:
        TypeError: as :func:`as_class_counts`.
        ValueError: as :func:`as_class_counts`.
    """
    if getattr(given, "ndim", None) == 0:  # of PyTorch or NumPy
        given = given.item()
    if isinstance(given, Number):
        alone: Any = [given]
        given = whole_numbers(alone, what) * (classes or 1)
    return as_class_counts(given, classes, what)


def _from_mapping(counts: Mapping[Any, int], num_classes: int | None, what: str) -> ClassCounts:
    if not counts:
        raise ValueError(f"{what} is an empty dict; expected {{class: count}}")
    if all(isinstance(key, str) for key in counts):
        names = sorted(counts)
        if list(counts) != names and not isinstance(counts, Counter):
            tell(_order_text(list(counts), names, what))
        return ClassCounts(whole_numbers([counts[name] for name in names], what), names=names)
    classes = [_class_index(key, what) for key in counts]
    _refuse_doubled(classes, what)
    if max(classes) >= max(LARGEST_CLASS, num_classes or 0):
        raise ValueError(
            f"{what}: the key {max(classes)} is too large to be a class index; a dict "
            f"fills up all the classes below its largest key"
        )
    by_index = dict(zip(classes, counts.values(), strict=True))
    filled = range(max(num_classes or 0, max(classes) + 1))
    return ClassCounts(whole_numbers([by_index.get(c, 0) for c in filled], what))


def _order_text(given: list[str], names: list[str], what: str) -> str:
    c = next(c for c, name in enumerate(names) if given[c] != name)
    return (
        f"{what} is a dict of names, and names take their class indices in sorted order: class {c} "
        f"is {names[c]!r}, not {given[c]!r}. If your labels are numbered so, sort the dict: "
        f"dict(sorted(counts.items())); if they are in the order of the dict, give "
        f"ClassCounts(counts.values(), names=list(counts))"
    )


def _refuse_doubled(classes: Iterable[Any], what: str) -> None:
    seen = set()
    for c in classes:
        if c in seen:
            raise ValueError(f"{what} has two counts for the class {c!r}; add them up first")
        seen.add(c)


def _class_index(key: object, what: str) -> int:
    try:
        c = index(key)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{what}: the key {key!r} is of type {type(key).__name__}; keys are all class "
            f"indices (integers from 0) or all class names (strings)"
        ) from None
    if c < 0:
        raise ValueError(f"{what}: the key {c} is negative; class indices start at 0")
    return c
