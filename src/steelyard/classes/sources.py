"""What can be counted, as a stream of pieces of labels: one way in for every kind of source."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from steelyard.classes.counts import ClassCounts
from steelyard.classes.numbers import kind_of

LABEL_KEYS = ("labels", "label", "target")
_SLICE = 1 << 18  # elements of an array or list that become one piece

# Called with what is to be iterated over and its length (None: unknown); a progress bar sits here.
Watch: TypeAlias = Callable[[Iterable[Any], int | None], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a source's labels, and where in the source they stand."""

    labels: Any
    one_sample: bool = False  # else the first dimension runs over samples
    where: str = ""  # "batch 3", "sample 5", or nothing
    unit: str = "position"  # what the first index counts
    start: int = 0  # the first index of the piece within its source

    def at(self, position: tuple[int, ...]) -> str:
        """The place of one label as a user would name it."""
        if not position:
            return self.where or "position ()"
        shifted = (position[0] + self.start, *position[1:])
        named = f"{self.unit} {shifted[0] if len(shifted) == 1 else shifted}"
        return f"{self.where}, {named}" if self.where else named


def pieces(source: Any, watch: Watch) -> Iterator[Piece]:
    """Cut a source into pieces, each small enough to hold in memory.

    Raises:
        TypeError: Something that holds no labels.
        ValueError: A mapping without a key of labels, or an empty (…, target).
    """
    if isinstance(source, TensorDataset):
        yield Piece(source.tensors[-1])
    elif isinstance(source, Tensor) and source.dim() > 0:
        yield Piece(source)
    elif _is_array(source) or _is_flat(source):
        yield from _slices(source, watch)
    elif isinstance(source, IterableDataset):
        yield from _gathered(watch(source, None), "sample")
    elif _is_map_style(source):
        samples = (source[i] for i in range(len(source)))
        yield from _gathered(watch(samples, len(source)), "sample")
    elif _is_stream(source):
        yield from _gathered(watch(source, _length(source)), "batch")
    else:
        raise TypeError(_not_a_source(source))


def is_scalar(label: Any) -> bool:
    """Whether this is one label rather than a container of labels."""
    return not isinstance(label, list | tuple | Mapping) and getattr(label, "shape", ()) == ()


def _is_array(source: Any) -> bool:
    # NumPy arrays and memory maps, pandas and polars Series, HDF5 and Zarr arrays; no data frame.
    return hasattr(source, "dtype") and hasattr(source, "shape") and len(source.shape) > 0


def _is_flat(source: Any) -> bool:
    return isinstance(source, list | tuple) and len(source) > 0 and is_scalar(source[0])


def _is_map_style(source: Any) -> bool:
    indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return (indexed or isinstance(source, Dataset)) and not _holds_no_labels(source)


def _is_stream(source: Any) -> bool:
    return isinstance(source, Iterable) and not _holds_no_labels(source)


def _holds_no_labels(source: Any) -> bool:
    if isinstance(source, Dataset):
        return False
    # Iterating over a table or a mapping yields its column names and keys: not labels.
    no_labels = isinstance(source, str | bytes | Mapping | Tensor | set | frozenset | ClassCounts)
    return no_labels or hasattr(source, "columns")


def _slices(source: Any, watch: Watch) -> Iterator[Piece]:
    rows = len(source)
    per_row = math.prod(getattr(source, "shape", ())[1:])
    step = max(1, _SLICE // max(1, per_row))
    rows_of = getattr(source, "iloc", source)  # pandas slices by position through .iloc
    for start in watch(range(0, rows, step), -(-rows // step)):
        yield Piece(_as_array(rows_of[start : start + step]), start=start)


def _as_array(part: Any) -> Any:
    return part.to_numpy() if hasattr(part, "to_numpy") else part


def _gathered(items: Iterable[Any], unit: str) -> Iterator[Piece]:
    """The pieces of a stream of samples or batches; labels that come one by one are gathered."""
    single: list[Any] = []
    position = -1
    for position, item in enumerate(items):
        target = _target_of(item, f"{unit} {position}")
        if is_scalar(target):
            single.append(target)
            if len(single) < _SLICE:
                continue
            yield Piece(single, unit=unit, start=position + 1 - len(single))
        else:
            if single:
                yield Piece(single, unit=unit, start=position - len(single))
            yield from _pieces_of(target, unit, position)
        single = []
    if single:
        yield Piece(single, unit=unit, start=position + 1 - len(single))


def _pieces_of(target: Any, unit: str, position: int) -> Iterator[Piece]:
    where = f"{unit} {position}"
    if unit == "sample" or _is_flat(target) or not isinstance(target, list | tuple):
        yield Piece(_as_array(target), one_sample=unit == "sample", where=where)
        return
    for i, sample in enumerate(target):  # sequences of different lengths, or a list of masks
        labels = [sample] if is_scalar(sample) else _as_array(sample)
        yield Piece(labels, one_sample=True, where=f"{where}, sample {i}")


def _target_of(item: Any, where: str) -> Any:
    """The labels within a sample or batch."""
    if isinstance(item, Mapping):
        for key in LABEL_KEYS:
            if key in item:
                return item[key]
        raise ValueError(
            f"{where} is a mapping with the keys {', '.join(map(repr, item))}; the labels are "
            f"looked for under {', '.join(map(repr, LABEL_KEYS))}. Give the labels themselves "
            f"instead, as in count_classes(batch['y'] for batch in loader)"
        )
    if isinstance(item, tuple) or (isinstance(item, list) and not _is_plain(item)):
        if not item:
            raise ValueError(f"{where} is empty; expected (…, target)")
        return item[-1]
    return item


def _is_plain(item: Any) -> bool:
    """Whether a list holds labels; a list with tensors in it is what a DataLoader calls a batch."""
    if not isinstance(item, list):
        return is_scalar(item) and not isinstance(item, Tensor)
    return not item or (_is_plain(item[0]) and _is_plain(item[-1]))


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except TypeError:  # a generator, or a loader over a stream
        return None


def _not_a_source(source: Any) -> str:
    if isinstance(source, Tensor):
        return "count_classes got a single 0-d label; expected labels of at least one dimension"
    kind = kind_of(source)
    expected = (
        "labels as a tensor, array, list or column, a Dataset, a DataLoader, or an iterable of "
        "(…, target) batches"
    )
    if isinstance(source, Mapping | ClassCounts):
        return (
            f"count_classes counts labels, and this is {kind}; class_weights and every "
            f"class_counts option take counts as they are. Expected {expected}"
        )
    if hasattr(source, "columns"):
        table = type(source).__name__
        return f"count_classes takes one column of labels, not a whole {table}: table['label']"
    return f"count_classes cannot read {kind}; expected {expected}"
