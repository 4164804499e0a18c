"""count_classes: labels of any source counted exactly, in constant memory."""

import reprlib
from collections.abc import Iterable
from operator import index
from typing import Any, NoReturn

import torch
from torch import Tensor

from steelyard.classes.cells import count_cells
from steelyard.classes.counts import ClassCounts
from steelyard.classes.labels import LabelReader
from steelyard.classes.numbers import LARGEST_CLASS
from steelyard.classes.sources import Piece, pieces
from steelyard.classes.warning import tell

_BLOCK = 1 << 20  # elements counted at once
_VOID = 255  # what marks pixels without a label in most masks of 8 bits


def count_classes(
    source: Any,
    num_classes: int | None = None,
    ignore_index: float | None = None,
    progress: bool = False,
    *,
    multi_label: bool = False,
) -> ClassCounts:
    """Count how often each class occurs in a data set, in one pass and constant memory.

    Labels are class indices (any integer type or bool) or class names. Names are strings; sorted,
    they are the result's ``names``, and their order gives the indices. In masks and sequences every
    pixel or token counts. ``support`` is the number of pixels or tokens in those samples where the
    class occurs; for plain labels it equals ``counts``.

    Args:
        source: One of

            - labels: a tensor, NumPy array or memory map, pandas or polars column, list or tuple.
              With more than one dimension the first is that of the samples: (N, H, W) are N masks
            - a map-style `torch.utils.data.Dataset`, an `IterableDataset`, or a list of samples.
              The label is a tuple's last element, or a mapping's "labels", "label" or "target".
              Whole samples are loaded; if you have the labels alone, give those
            - a `DataLoader`, or any other iterable of such batches; the first dimension of a
              batch's target is that of the samples. Also a generator of labels
        num_classes: how many classes there are. None: the largest label + 1, or as many as names.
        ignore_index: a class index that is counted nowhere, not in ``support`` either.
        progress: show a progress bar (needs rich, which ``steelyard[compare]`` installs).
        multi_label: targets say of every class by 0 or 1 whether it is there. They are (C,) for one
            sample, (N, C) for N samples, (N, C, …) for masks. A data frame has one column per
            class, whose titles become ``names``. ``ignore_index`` marks missing labels, which
            count neither as there nor as absent: −1 by default, or ``float("nan")``, as in the
            losses. The result's ``total`` says how often each class is known.

    Returns:
        Exact counts and support, on the CPU; of several labels counts and total.

    Raises:
        TypeError: A source that holds no labels, labels that are neither integers nor strings, or
            ``num_classes`` or ``ignore_index`` that is no whole number.
        ValueError: A missing label (None or NaN), no label at all with ``num_classes=None``, or
            another number of names than ``num_classes``.
        IndexError: A label outside 0..C-1 that is not ``ignore_index``, with its position.

    Warns:
        UserWarning: the highest label of masks is 255, and none is just below it; or that of plain
            labels, and all others are far below it. Without ``num_classes`` and ``ignore_index``
            it counts as a class, but it likely marks void. Or rows of labels look one-hot.

    Example:
        >>> masks = torch.tensor([[[0, 0, 1], [0, 2, 255]]], dtype=torch.uint8)
        >>> count_classes(masks, num_classes=3, ignore_index=255)
        ClassCounts: 3 classes, 5 counted, imbalance ratio 3
          class  count   share
          0          3  60.00%
          1          1  20.00%
          2          1  20.00%
    """
    num_classes = _whole("num_classes", num_classes, "how many classes there are")
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes={num_classes}; expected at least 1")
    watch = _rich_progress if progress else _silent
    if multi_label and isinstance(ignore_index, float):  # NaN is one
        return count_cells(source, num_classes, ignore_index, watch)
    ignored = _whole("ignore_index", ignore_index, "the one label that is not counted")
    if multi_label:
        return count_cells(source, num_classes, -1 if ignored is None else ignored, watch)
    reader = LabelReader(num_classes)
    tally = _Tally(num_classes, ignored)
    for piece in pieces(source, watch):
        tally.add(reader.read(piece), piece)
    if reader.names:
        return _in_sorted_order(tally, reader.names, num_classes, ignored)
    if not len(tally.counts):
        raise ValueError(
            "no labels to count; for counts of zero, say how many classes there are: num_classes="
        )
    if num_classes is None:
        _warn_of_void(tally)
    if tally.one_hot and num_classes != 2:
        tell(
            "each row of the labels has a single 1 among zeros, and 0 and 1 are counted as the "
            "classes: if that is one-hot, count the class indices, labels.argmax(1); if 0 and 1 "
            "are the classes, num_classes=2 says so"
        )
    return ClassCounts(tally.counts, tally.support)


def _whole(name: str, given: Any, meaning: str) -> int | None:
    try:
        return None if given is None else index(given)
    except TypeError:
        raise TypeError(
            f"{name} is {reprlib.repr(given)}; expected a whole number, {meaning}"
        ) from None


def _warn_of_void(tally: "_Tally") -> None:
    """Say that 255 is counted, where it stands apart from the other classes."""
    counts = tally.counts
    if len(counts) != _VOID + 1 or counts[_VOID - 1]:
        return
    below = counts[:_VOID].nonzero().flatten()
    of_masks = not torch.equal(counts, tally.support)
    # A few plain labels of 256 classes have gaps, too. Not so one gap as wide as all classes below
    # it, most of which are there: flattened masks are like that.
    if not of_masks and (
        not len(below) or below[-1] >= _VOID // 2 or 2 * len(below) <= int(below[-1])
    ):
        return
    binary = below.tolist() == [0]
    tell(
        f"{_VOID} is counted as a class of its own, and {_VOID - 1} occurs nowhere: if {_VOID} "
        f"marks {'pixels that are' if of_masks else 'what is'} not to count, pass "
        f"ignore_index={_VOID}; if it is a class, num_classes={_VOID + 1} says so"
        + ("; masks of 0 and 255 become class indices by (mask > 0)" if binary else "")
    )


def _in_sorted_order(
    tally: "_Tally", names: tuple[str, ...], num_classes: int | None, ignore_index: int | None
) -> ClassCounts:
    if ignore_index is not None:
        raise ValueError(
            f"ignore_index={ignore_index} is a class index, but the labels are names such as "
            f"{names[0]!r}; leave the ignored ones out of the source"
        )
    if num_classes is not None and len(names) != num_classes:
        raise ValueError(
            f"num_classes={num_classes}, but only {len(names)} names occur: "
            f"{', '.join(map(repr, sorted(names)))}; encode the labels as class indices to count "
            f"classes that are absent"
        )
    order = sorted(range(len(names)), key=names.__getitem__)
    return ClassCounts(tally.counts[order], tally.support[order], [names[i] for i in order])


class _Tally:
    """Running counts, exact in int64: elements of each class, and elements of its samples."""

    def __init__(self, num_classes: int | None, ignore_index: int | None) -> None:
        self._num_classes = num_classes
        self._ignore_index = ignore_index
        self.counts = torch.zeros(num_classes or 0, dtype=torch.int64)
        self.support = torch.zeros(num_classes or 0, dtype=torch.int64)
        self._one_hot = True  # as far as was seen
        self._seen = (0, 0)  # rows and columns

    @property
    def one_hot(self) -> bool:
        """Whether all labels are rows with a single 1, and more rows than columns."""
        rows, columns = self._seen
        return self._one_hot and rows > columns > 1

    def add(self, labels: Tensor, piece: Piece) -> None:
        if labels.numel() == 0:
            return
        per_sample = labels.reshape(1 if piece.one_sample else len(labels), -1)  # (S, M)
        for block in torch.split(per_sample, max(1, _BLOCK // per_sample.shape[1])):
            self._add_block(block.to(torch.int64), labels, piece)

    def _add_block(self, block: Tensor, labels: Tensor, piece: Piece) -> None:
        """Count a block (S, M) of the piece's labels."""
        ignored = None if self._ignore_index is None else block == self._ignore_index
        if ignored is not None:
            if ignored.all():
                return
            block = block.masked_fill(ignored, 0)
        low, high = map(int, block.aminmax())
        limit = LARGEST_CLASS if self._num_classes is None else self._num_classes
        if low < 0 or high >= limit:
            self._refuse(labels, piece, limit)
        if self._one_hot:
            flat = labels.dim() == (1 if piece.one_sample else 2)
            self._one_hot = flat and high == 1 and bool((block.sum(1) == 1).all())
            self._seen = self._seen[0] + len(block), block.shape[1]
        self._grow_to(high + 1)
        bins = len(self.counts) + 1
        if ignored is not None:  # a bin of their own, which is then dropped
            block = block.masked_fill(ignored, bins - 1)
        if block.shape[1] == 1:
            counts = torch.bincount(block.flatten(), minlength=bins)[:-1].cpu()
            self.counts += counts
            self.support += counts
            return
        sample, label, number = _occurrences(block, bins)
        kept = label < bins - 1
        sample, label, number = sample[kept], label[kept], number[kept]
        elements = number.new_zeros(len(block)).index_add_(0, sample, number)
        self.counts.index_add_(0, label, number)
        self.support.index_add_(0, label, elements[sample])

    def _grow_to(self, num_classes: int) -> None:
        missing = num_classes - len(self.counts)
        if missing > 0:
            self.counts = torch.cat([self.counts, self.counts.new_zeros(missing)])
            self.support = torch.cat([self.support, self.support.new_zeros(missing)])

    def _refuse(self, labels: Tensor, piece: Piece, limit: int) -> NoReturn:
        values = labels.to(torch.int64)
        wrong = (values < 0) | (values >= limit)
        if self._ignore_index is not None:
            wrong &= values != self._ignore_index
        position = tuple(wrong.nonzero()[0].tolist())
        value = int(values[position])
        text = f"label {value} at {piece.at(position)}"
        if value < 0:
            text += f" is negative (ignore_index={self._ignore_index}); class indices start at 0"
            if labels.ndim == 2 and value == -1:
                text += ", and rows of several labels (0, 1, -1 unknown) want multi_label=True"
        elif self._num_classes is None:
            text += (
                f" is too large to be a class index (ignore_index={self._ignore_index}); give "
                f"num_classes if there are that many classes"
            )
        else:
            text += (
                f" is outside 0..{limit - 1} (num_classes={limit}, "
                f"ignore_index={self._ignore_index})"
            )
        raise IndexError(f"{text}; if it marks what is not to count, pass ignore_index={value}")


def _occurrences(block: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which sample of a block (S, M) has which label how often: three int64 tensors, on the CPU."""
    cells = block + bins * torch.arange(len(block), device=block.device)[:, None]
    # A table (S, bins) is the fastest way, but must not outgrow the labels: short sequences over
    # a large vocabulary would take gigabytes.
    if len(block) * bins <= 4 * block.numel():
        table = torch.bincount(cells.flatten(), minlength=len(block) * bins)
        cell = table.nonzero().flatten()
        number = table[cell]
    else:
        cell, number = torch.unique(cells, return_counts=True)
    cell = cell.cpu()
    return cell // bins, cell % bins, number.cpu()


def _silent(items: Iterable[Any], _length: int | None) -> Iterable[Any]:
    return items


def _rich_progress(items: Iterable[Any], length: int | None) -> Iterable[Any]:
    try:
        from rich.console import Console
        from rich.progress import track
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "progress=True needs rich: pip install 'steelyard[compare]'"
        ) from error
    console = Console(stderr=True)
    return track(items, "Counting classes", total=length, console=console)
