"""The tiles of a head and its loss: logits that live no longer than their part of the gradients."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import is_autocast_available

from steelyard.ops import dispatch
from steelyard.ops.cpu import products, tiles
from steelyard.ops.cpu.walk import Arithmetic, Room
from steelyard.ops.problem import Problem, Reduction, compute_dtype

# A tile's logits: enough rows for the matrix products to be quick, and else what the cache holds.
ROWS, ELEMENTS = 1024, 2**21
# A tile's logits at the most: with what is needed beside them 64 MB. On an accelerator they have to
# keep the whole device busy.
BYTES, BYTES_OF_ACCELERATOR = 46 * 2**20, 512 * 2**20


class Head(NamedTuple):
    """The last layer and what it reads.

    Attributes:
        features: X, (N, D).
        weight: W, (C, D).
        bias: b, (C,), or None.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def like_logits(self) -> Tensor:
        """Stands for the logits (N, C) wherever nobody reads them: it has no memory."""
        places = self.features.shape[0], self.weight.shape[0]
        return self.features.new_empty((), dtype=self.logits_dtype).expand(places)

    @property
    def logits_dtype(self) -> torch.dtype:
        """Of the logits: that of the features, or autocast's."""
        device = self.features.device.type
        # There is none for the meta device, and to ask if it is enabled is an error. Whether there
        # is one for a device, torch.compile of torch 2.11 cannot ask.
        if (
            self.features.dtype is not torch.float64
            and device != "meta"
            and torch.is_autocast_enabled(device)
        ):
            return torch.get_autocast_dtype(device)
        return self.features.dtype

    @property
    def wanted(self) -> tuple[bool, bool, bool]:
        """Whether the gradients by features, weight and bias are wanted."""
        features, weight, bias = (
            tensor is not None and tensor.requires_grad and torch.is_grad_enabled()
            for tensor in self
        )
        return features, weight, bias

    def logits(self) -> Tensor:
        """The logits themselves, all of them."""
        return F.linear(self.features, self.weight, self.bias)

    def cast(self, dtype: torch.dtype) -> "Head":
        """The same in another dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return Head(self.features.to(dtype), self.weight.to(dtype), bias)


class Gradients:
    """The gradients by features, weight and bias, as they grow tile by tile.

    Those of the head are summed in at least float32.
    """

    def __init__(self, head: Head, cast: Head, wanted: Sequence[bool]) -> None:
        """Room for those that are wanted; ``cast`` is the head in the dtype of the logits."""
        self.like, self.cast = head, cast
        features, weight, bias = wanted
        self.features = torch.empty_like(head.features) if features else None
        self.weight = _zeros_like(head.weight) if weight else None
        self.bias = _zeros_like(head.bias) if bias and head.bias is not None else None

    def add(self, rows: slice, gradient: Tensor) -> None:
        """Take in a tile: the gradient by its logits (n, C), in their dtype."""
        x = self.cast.features[rows]
        if self.bias is not None:
            self.bias += gradient.sum(0, dtype=self.bias.dtype)
        if self.features is not None:
            products.by_features(gradient, self.cast.weight, self.features[rows])
        if self.weight is not None:
            products.add_by_weight(gradient, x, self.weight)

    @property
    def parts(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Those by features, weight and bias."""
        return self.features, self.weight, self.bias

    def times(self, upstream: Tensor | None) -> list[Tensor | None]:
        """All of them times what comes from above, in the dtypes of what they belong to."""
        found = []
        for part, like in zip(self.parts, self.like, strict=True):
            if part is not None and like is not None:
                part = part if upstream is None else part.mul_(upstream)
                part = part.to(like.dtype)
            found.append(part)
        return found


def _zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=compute_dtype(tensor))


def forward(
    head: Head,
    dtype: torch.dtype,
    problem: Problem,
    engine: str,
    reduction: Reduction,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor | None, Gradients | None]:
    """The losses, reduced; the divisor of a mean; and the gradients, times the divisor.

    Args:
        head: the features and the last layer.
        dtype: of the logits.
        problem: what is to be done with them.
        engine: who is to do it.
        reduction: what becomes of the losses.
        wanted: whether the gradients by features, weight and bias are; without a reduction there
            are none, for nobody knows yet what each loss will count.
    """
    cast = head.cast(dtype)
    (n, classes), wide = head.like_logits.shape, compute_dtype(cast.features)
    if reduction.kind == "none":
        each = cast.features.new_empty((n, classes) if problem.per_cell else (n,), dtype=wide)
        for rows, found in _walk(cast, problem, engine, None):
            each[rows] = found
        return each, None, None
    gradients = Gradients(head, cast, wanted) if any(wanted) else None
    total = cast.features.new_zeros((), dtype=wide)
    for _, found in _walk(cast, problem, engine, gradients):
        total += found.sum()
    return *reduction(total, problem, None), gradients


def backward(
    head: Head,
    dtype: torch.dtype,
    problem: Problem,
    engine: str,
    wanted: Sequence[bool],
    upstream: Tensor,
) -> list[Tensor | None]:
    """The gradients by features, weight and bias, for that by the losses or by their sum."""
    cast = head.cast(dtype)
    gradients = Gradients(head, cast, wanted)
    for _ in _walk(cast, problem, engine, gradients, upstream if upstream.ndim else None):
        pass
    return gradients.times(None if upstream.ndim else upstream)


def _walk(
    head: Head,
    problem: Problem,
    engine: str,
    gradients: Gradients | None,
    upstream: Tensor | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their losses, part by part.

    Args:
        head: all of one dtype, that of the logits.
        problem: what is to be done with the logits.
        engine: who is to do it.
        gradients: what each tile is added to; None where no gradient is wanted.
        upstream: times which each loss counts there, one number per loss; or None for 1.
    """
    tile = _Tile(head, problem) if in_cache(head, problem) else _AnyTile(head, engine)
    device = head.features.device.type
    plain = torch.autocast(device, enabled=False) if is_autocast_available(device) else None
    with plain or contextlib.nullcontext():
        for rows in _slices(head.features.shape[0], rows_of_tile(head, problem)):
            own = None if upstream is None else upstream[rows]
            gradient = yield from tile(rows, _at(problem, rows), own, gradients is not None)
            if gradients is not None:
                gradients.add(rows, gradient)


def in_cache(head: Head, problem: Problem) -> bool:
    """Whether the CPU's arithmetic of tiles does it, part by part of what stays in the cache."""
    return head.features.device.type == "cpu" and tiles.obstacle(problem) is None


def rows_of_tile(head: Head, problem: Problem) -> int:
    """The rows of a tile: all tiles have as many, as far as may be."""
    n, classes, itemsize = *head.like_logits.shape, head.logits_dtype.itemsize
    if in_cache(head, problem):
        most = min(BYTES // (itemsize * classes), max(ROWS, ELEMENTS // classes))
    else:
        # Logits, gradient, and twice as much for whatever the engine makes of them.
        each = 4 * compute_dtype(head.like_logits).itemsize * classes
        most = (BYTES if head.features.device.type == "cpu" else BYTES_OF_ACCELERATOR) // each
    number = -(-n // max(1, most))
    return -(-n // max(1, number))


def bytes_of_tile(head: Head, problem: Problem) -> int:
    """What a tile takes, beside the gradients."""
    rows, classes = rows_of_tile(head, problem), head.weight.shape[0]
    wide = compute_dtype(head.like_logits).itemsize
    if not in_cache(head, problem):
        return 4 * rows * classes * wide
    arithmetic = tiles.FAMILIES[type(problem)](problem)
    part = _rows_of_part(arithmetic, rows, classes) * (1 + arithmetic.scratch)
    blocks = products.bytes_of_blocks(head.features[:rows], head.weight)
    return classes * (rows * head.logits_dtype.itemsize + part * wide) + blocks


def _rows_of_part(arithmetic: Arithmetic, rows: int, classes: int) -> int:
    """Of a tile's rows, those that the arithmetic takes at once."""
    return min(rows, max(1, arithmetic.largest // classes))


class _Tile:
    """A tile on the CPU, by an arithmetic that takes no more than stays in the cache."""

    def __init__(self, head: Head, problem: Problem) -> None:
        self.head = head
        self.arithmetic = tiles.FAMILIES[type(problem)](problem)
        classes = head.weight.shape[0]
        self.logits = head.features.new_empty((rows_of_tile(head, problem), classes))
        self.rows = _rows_of_part(self.arithmetic, len(self.logits), classes)
        self.room = head.features.new_empty(
            (1 + self.arithmetic.scratch, self.rows, classes), dtype=compute_dtype(head.features)
        )

    def __call__(
        self, rows: slice, problem: Problem, upstream: Tensor | None, wanted: bool
    ) -> Generator[tuple[slice, Tensor], None, Tensor]:
        """The losses, part by part; in the end the gradient, in the place of the logits."""
        features, weight, bias = self.head
        x = features[rows]
        logits = self.logits[: len(x)]
        products.linear(x, weight, bias, logits)
        for some in _slices(len(x), self.rows):
            gradient, *scratch = self.room[:, : some.stop - some.start]
            factor = None
            if wanted and self.arithmetic.factor:
                factor = gradient.new_empty(len(gradient))
            room = Room(gradient, factor, tuple(scratch), wanted)
            losses, _ = self.arithmetic.losses(_at(problem, some), logits[some], room)
            if wanted:
                if upstream is not None:
                    gradient.mul_(_column(upstream[some]))
                if factor is not None:
                    gradient.mul_(_column(factor))
                logits[some] = gradient
            yield slice(rows.start + some.start, rows.start + some.stop), losses
        return logits


class _AnyTile:
    """A tile on any device, by whichever engine takes it."""

    def __init__(self, head: Head, engine: str) -> None:
        self.head, self.engine = head, engine

    def __call__(
        self, rows: slice, problem: Problem, upstream: Tensor | None, wanted: bool
    ) -> Generator[tuple[slice, Tensor], None, Tensor]:
        """The losses, all at once; in the end the gradient."""
        features, weight, bias = self.head
        logits = F.linear(features[rows], weight, bias)
        if not wanted:
            yield rows, dispatch.losses(logits, problem, self.engine)
            return logits
        with torch.enable_grad():
            losses = dispatch.losses(logits.requires_grad_(), problem, self.engine)
        above = torch.ones_like(losses) if upstream is None else upstream
        (gradient,) = torch.autograd.grad(losses, logits, above)
        yield rows, losses.detach()
        return gradient


def _slices(n: int, step: int) -> Iterator[slice]:
    for start in range(0, n, max(1, step)):
        yield slice(start, min(n, start + step))


def _at(problem: Problem, rows: slice) -> Problem:
    """The problem of some rows."""
    samples = problem.sample_weight
    return problem.at(problem.target[rows], None if samples is None else samples[rows])


def _column(each: Tensor) -> Tensor:
    """One number per row (n,) as it meets (n, C)."""
    return each.unsqueeze(1) if each.ndim == 1 else each
