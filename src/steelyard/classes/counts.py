"""ClassCounts: how often each class occurs, exact and immutable."""

from collections.abc import Iterable, Iterator, Mapping
from operator import add
from typing import Any, NamedTuple, NoReturn, cast

import torch
import torch.distributed as dist
from torch import Tensor

from steelyard.classes.numbers import kind_of, whole_numbers

_LISTED = 20  # a repr with more classes than this shows the first and the last ones


class ClassGroups(NamedTuple):
    """Class indices by how often their class occurs, as long-tailed benchmarks report them."""

    many: tuple[int, ...]
    medium: tuple[int, ...]
    few: tuple[int, ...]


class ClassCounts:
    """How often each class occurs in a data set.

    Immutable: two counts are merged by ``a + b``, so a data set can be counted in pieces, and
    `sum` merges any number of them.

    Args:
        counts: One whole number ≥ 0 per class, in the order of the class indices: tensor, array,
            list or tuple of any integer type, or of numbers without a fraction; below 2**63.
        support: Per class, the number of elements (pixels, tokens) of those samples in which the
            class occurs, itself included. For plain labels it equals ``counts``. None: unknown.
        names: One distinct string per class. None: classes are known by their index alone.
        total: Where a sample may have several classes, or none: per class, how many samples say
            whether it is there, with it and without. None: every sample has one class.

    Raises:
        TypeError: Counts, support, names or total of another type.
        ValueError: No class, not one-dimensional, a negative, fractional or infinite count, a
            support or total smaller than its count, or lengths that do not fit.

    Example:
        >>> morning = ClassCounts([900, 40], names=["cat", "dog"])
        >>> (morning + ClassCounts([100, 60], names=["cat", "dog"])).counts
        tensor([1000,  100])
    """

    __slots__ = ("_counts", "_names", "_support", "_total")
    # Python's integers: exact, and known to whoever traces the losses that read them.
    _counts: tuple[int, ...]
    _support: tuple[int, ...] | None
    _names: tuple[str, ...] | None
    _total: tuple[int, ...] | None

    def __init__(
        self,
        counts: Tensor | Iterable[int],
        support: Tensor | Iterable[int] | None = None,
        names: Iterable[str] | None = None,
        total: Tensor | Iterable[int] | None = None,
    ) -> None:
        checked = whole_numbers(counts, "counts")
        set_once = object.__setattr__
        set_once(self, "_counts", checked)
        set_once(self, "_support", None if support is None else _checked_support(support, checked))
        set_once(self, "_names", None if names is None else _checked_names(names, len(checked)))
        set_once(self, "_total", None if total is None else _checked_total(total, checked))

    @property
    def counts(self) -> Tensor:
        """A new int64 tensor (C,) on the CPU."""
        return torch.tensor(self._counts, device="cpu")

    @property
    def support(self) -> Tensor | None:
        """A new int64 tensor (C,) on the CPU, or None where it is unknown."""
        return None if self._support is None else torch.tensor(self._support, device="cpu")

    @property
    def total(self) -> Tensor | None:
        """A new int64 tensor (C,) on the CPU, or None where every sample has one class."""
        return None if self._total is None else torch.tensor(self._total, device="cpu")

    @property
    def names(self) -> tuple[str, ...] | None:
        """The classes' names in the order of their indices, or None."""
        return self._names

    @property
    def imbalance_ratio(self) -> float:
        """The largest count divided by the smallest of a class that occurs, ≥ 1.

        Raises:
            ValueError: Every count is zero.
        """
        self._refuse_empty("imbalance_ratio")
        return max(self._counts) / min(filter(None, self._counts))

    def prior(self) -> Tensor:
        """The share of each class, float64 (C,); 0 for an absent class.

        They sum to 1 where every sample has one class; else each is ``counts / total``.

        Raises:
            ValueError: Every count is zero.
        """
        self._refuse_empty("prior()")
        if self._total is None:
            return self.counts.double() / sum(self._counts)
        return torch.tensor(self._shares(), dtype=torch.float64, device="cpu")

    def _shares(self) -> list[float]:
        total = self._total or [sum(self._counts)] * len(self)
        return [n / max(of, 1) for n, of in zip(self._counts, total, strict=True)]

    def groups(self, many: int = 100, few: int = 20) -> ClassGroups:
        """Split the class indices into many-, medium- and few-shot classes.

        Args:
            many: A class with more elements than this is many-shot.
            few: A class with fewer elements than this is few-shot, an absent one too.

        Raises:
            ValueError: ``few`` exceeds ``many`` + 1: a class would be in both groups.
        """
        if few > many + 1:
            raise ValueError(
                f"groups(many={many}, few={few}): a count between them would be both many-shot "
                f"and few-shot; few must be at most many + 1"
            )
        numbered = list(enumerate(self))
        return ClassGroups(
            many=tuple(c for c, n in numbered if n > many),
            medium=tuple(c for c, n in numbered if few <= n <= many),
            few=tuple(c for c, n in numbered if n < few),
        )

    def all_reduce(self, group: "dist.ProcessGroup | None" = None) -> "ClassCounts":
        """Merge the counts of all ranks: what `+` over every rank's counts gives, on each of them.

        Every rank of the group takes part, one whose shard is empty too. What is sent is the
        counts, never the labels.

        Args:
            group: The ranks that counted a shard each; by default all. Where
                ``torch.distributed`` is not initialised these counts are the whole.

        Raises:
            ValueError: Ranks that differ in the number of classes or in the names, on every rank;
                or a group that this process is not in.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return self
        if dist.get_rank(group) < 0:
            raise ValueError(
                f"rank {dist.get_rank()} is not in the group: only its members merge their counts"
            )
        # As objects: ranks whose class numbers differ then get the error of `+`, not a hang.
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, self, group)
        return cast("ClassCounts", sum(parts))

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        if not isinstance(other, ClassCounts):
            return NotImplemented
        if len(self) != len(other):
            raise ValueError(
                f"cannot merge counts of {len(self)} and of {len(other)} classes; give "
                f"count_classes the same num_classes for every part"
            )
        support = None
        if self._support is not None and other._support is not None:
            support = map(add, self._support, other._support)
        if (self._total is None) != (other._total is None):
            raise ValueError(
                "cannot merge counts of samples with one class and of samples with any number: "
                "give count_classes the same multi_label for every part"
            )
        total = None
        if self._total is not None and other._total is not None:
            total = map(add, self._total, other._total)
        return ClassCounts(map(add, self, other), support, _merged_names(self, other), total)

    def __radd__(self, other: object) -> "ClassCounts":
        return self if other == 0 else NotImplemented  # sum() starts from 0

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[int]:
        return iter(self._counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClassCounts):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self._counts, self._support, self._names, self._total

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"ClassCounts is immutable: {name!r} cannot be set; make a new one, or merge with +"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"ClassCounts is immutable: {name!r} cannot be deleted")

    def __reduce__(self) -> tuple[type["ClassCounts"], tuple[object, ...]]:
        return ClassCounts, self._key()

    def __repr__(self) -> str:
        counts = list(self)
        total = sum(counts)
        head = f"ClassCounts: {plural(len(self), 'class', 'classes')}, {total:,} counted"
        if total:
            head += f", imbalance ratio {self.imbalance_ratio:,.4g}"
        rows = [("class", "count", "share")]
        shares = self._shares()
        rows += [(self._label(c), f"{n:,}", f"{shares[c]:.2%}") for c, n in _ends(counts)]
        first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"  {a:<{first}}  {b:>{second}}  {c:>{third}}" for a, b, c in rows]
        if len(counts) > _LISTED:
            hidden = counts[_LISTED // 2 : -_LISTED // 2]
            lines.insert(
                1 + _LISTED // 2,
                f"  … {plural(len(hidden), 'class', 'classes')} not shown, "
                f"counts from {min(hidden):,} to {max(hidden):,}",
            )
        return "\n".join([head, *lines])

    def _label(self, c: int) -> str:
        return str(c) if self._names is None else f"{c} {_in_one_line(self._names[c])}"

    def _refuse_empty(self, what: str) -> None:
        if not any(self._counts):
            raise ValueError(
                f"all {len(self)} class counts are zero; {what} needs a class that occurs"
            )


def _checked_support(support: Tensor | Iterable[int], counts: tuple[int, ...]) -> tuple[int, ...]:
    checked = whole_numbers(support, "support")
    if len(checked) != len(counts):
        raise ValueError(
            f"support has {len(checked)} entries for {plural(len(counts), 'class', 'classes')}"
        )
    for c, (number, own) in enumerate(zip(checked, counts, strict=True)):
        if number < own:
            raise ValueError(
                f"support: class {c} has {number}, fewer than its {own} own elements; support "
                f"counts every element of the samples in which the class occurs"
            )
    return checked


def _checked_total(total: Tensor | Iterable[int], counts: tuple[int, ...]) -> tuple[int, ...]:
    checked = whole_numbers(total, "total")
    if len(checked) != len(counts):
        raise ValueError(
            f"total has {len(checked)} entries for {plural(len(counts), 'class', 'classes')}"
        )
    for c, (of, n) in enumerate(zip(checked, counts, strict=True)):
        if of < n:
            raise ValueError(
                f"total: class {c} has {of}, fewer than the {n} samples in which it is there; "
                f"total counts the samples with the class and without it"
            )
    return checked


def _checked_names(names: Iterable[str], num_classes: int) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"names is the string {names!r}; expected one name per class")
    if isinstance(names, Mapping):
        raise TypeError(
            f"names is {kind_of(names)}; expected one name per class, in the order of the class "
            "indices: of {name: index} that is sorted(names, key=names.get)"
        )
    listed = tuple(names)
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"names has {kind_of(name)} in it; expected strings")
    if len(listed) != num_classes:
        raise ValueError(f"{len(listed)} names for {plural(num_classes, 'class', 'classes')}")
    if len(set(listed)) != num_classes:
        twice = next(name for name in listed if listed.count(name) > 1)
        raise ValueError(f"names: {twice!r} names two classes; every class needs its own name")
    return tuple(str(name) for name in listed)


def _merged_names(a: ClassCounts, b: ClassCounts) -> tuple[str, ...] | None:
    if a.names is None or b.names is None:
        return a.names or b.names
    for c, (left, right) in enumerate(zip(a.names, b.names, strict=True)):
        if left != right:
            raise ValueError(
                f"cannot merge: class {c} is {left!r} in one and {right!r} in the other; count "
                f"every part by the same class indices"
            )
    return a.names


def _ends(counts: list[int]) -> list[tuple[int, int]]:
    """The classes that a repr lists, with their counts."""
    numbered = list(enumerate(counts))
    if len(numbered) <= _LISTED:
        return numbered
    return numbered[: _LISTED // 2] + numbered[-_LISTED // 2 :]


def absent_classes(counts: ClassCounts) -> str:
    """Which classes do not occur, as in "1 of 3 classes does not occur: 'fox'"; "" if all do."""
    missing = [c for c, n in enumerate(counts) if n == 0]
    if not missing:
        return ""
    shown = ", ".join(repr(counts.names[c]) if counts.names else str(c) for c in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    verb = "does" if len(missing) == 1 else "do"
    return f"{len(missing)} of {len(counts)} classes {verb} not occur: {shown}{more}"


def _in_one_line(name: str) -> str:
    """A name as it is, or quoted where it would tear a table or not be seen."""
    return name if name.isprintable() and name.strip() == name != "" else repr(name)


def plural(number: int, one: str, many: str) -> str:
    """A number of things, as in "1 class" and "1,000 classes"."""
    return f"{number:,} {one if number == 1 else many}"
