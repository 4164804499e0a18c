"""A head and its loss in one: logits of linear features, which live no longer than their tile.

A tile of rows X of the features becomes its logits ``X Wᵀ + b``, these become their losses and the
gradient G, and G goes at once into the gradients of the features, ``G W``, of the head, ``Gᵀ X``,
and of its bias, ``Σ G``. So the memory is that of these three, and of one tile.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops import compat, dispatch, reference
from steelyard.ops.cpu import tiles
from steelyard.ops.cpu.walk import Room, walk
from steelyard.ops.problem import Problem, Reduction, compute_dtype

# A tile's logits: enough rows for the matrix products to be quick, and else what the cache holds.
ROWS, ELEMENTS = 1024, 2**21
# What a tile takes at the most, with the gradient and whatever else its arithmetic wants. On an
# accelerator a tile has to keep the whole device busy.
BYTES, BYTES_OF_ACCELERATOR = 56 * 2**20, 512 * 2**20


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
        if self.features.dtype is not torch.float64 and torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.features.dtype

    def logits(self) -> Tensor:
        """The logits themselves, all of them."""
        return F.linear(self.features, self.weight, self.bias)

    def cast(self, dtype: torch.dtype) -> "Head":
        """The same in another dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return Head(self.features.to(dtype), self.weight.to(dtype), bias)


def losses(
    head: Head, problem: Problem, engine: str = "auto", reduction: Reduction | None = None
) -> Tensor:
    """The losses of a problem whose logits are ``features Wᵀ + b``.

    Args:
        head: the features and the last layer.
        problem: what is to be done with the logits.
        engine: who is to do it.
        reduction: what becomes of the losses; None leaves them as they are.

    Returns:
        As :func:`steelyard.ops.losses`.
    """
    if reduction is None:
        reduction = Reduction("none")
    if in_two_steps(head, problem, engine, reduction) is not None:
        return dispatch.losses(head.logits(), problem, engine, reduction)
    tensors = dispatch.tensors_of(problem, reduction)
    return _Losses.apply(*head, head.logits_dtype, problem, engine, reduction, tensors)  # type: ignore[no-untyped-call, no-any-return]


def in_two_steps(head: Head, problem: Problem, engine: str, reduction: Reduction) -> str | None:
    """Why all the logits are to be computed first, if they are."""
    if engine == "reference":
        return "asked for by name"
    if torch.compiler.is_compiling():
        return "the call is part of a graph that is being compiled"
    tensors = dispatch.tensors_of(problem, reduction)
    for tensor in head:
        if tensor is not None and (why := dispatch.obstacle(tensor, tensors)) is not None:
            return why
    if engine != "auto":
        dispatch.choose_engine(engine, head.like_logits, problem, tensors)  # raises if it cannot
    return None


class _Losses(torch.autograd.Function):
    """The losses, reduced, with the gradients by features, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        problem: Problem,
        engine: str,
        reduction: Reduction,
        tensors: tuple[Tensor, ...],
    ) -> Tensor:
        head = Head(features, weight, bias)
        wanted = ctx.needs_input_grad[:3] if reduction.kind != "none" else (False, False, False)
        ctx.save_for_backward(*head, *tensors)
        ctx.dtype, ctx.problem, ctx.engine, ctx.reduction = dtype, problem, engine, reduction
        cast = head.cast(dtype)
        gradients = _Gradients(head, cast.weight, wanted)
        n, classes = head.features.shape[0], head.weight.shape[0]
        wide = compute_dtype(features.new_empty((), dtype=dtype))
        each = None
        if reduction.kind == "none":
            each = features.new_empty((n, classes) if problem.per_cell else (n,), dtype=wide)
        total = features.new_zeros((), dtype=wide)
        for rows, x, found, gradient in _walk(cast, problem, engine, any(wanted)):
            if each is None:
                total += found.sum()
            else:
                each[rows] = found
            if gradient is not None:
                gradients.add(rows, x, gradient)
        ctx.gradients = gradients if any(wanted) else None
        value, ctx.divisor = reduction(total if each is None else each, problem, None)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        head = Head(*ctx.saved_tensors[:3])
        wanted = ctx.needs_input_grad[:3]
        nothing = (None,) * 5
        if torch.is_grad_enabled() or compat.is_batched(upstream):
            return *_by_definition(ctx, head, wanted, upstream), *nothing
        if ctx.divisor is not None:
            upstream = upstream / ctx.divisor
        # Let go of them: autograd clones a gradient that something else holds.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is not None:
            return *gradients.times(upstream), *nothing
        cast = head.cast(ctx.dtype)
        gradients = _Gradients(head, cast.weight, wanted)
        for rows, x, _, gradient in _walk(cast, ctx.problem, ctx.engine, True):
            own = upstream[rows] if upstream.ndim else upstream
            own = own.unsqueeze(1) if own.ndim == 1 else own
            gradients.add(rows, x, gradient.mul_(own))
        return *gradients.times(None), *nothing


def _by_definition(
    ctx: Any, head: Head, wanted: tuple[bool, ...], upstream: Tensor
) -> list[Tensor | None]:
    """The gradients from all the logits, which have derivatives of every order."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        value = reference.losses(head.logits(), ctx.problem, ctx.reduction)
    inputs = [t for t, asked in zip(head, wanted, strict=True) if asked and t is not None]
    found = iter(torch.autograd.grad(value, inputs, upstream, create_graph=create_graph))
    return [next(found) if asked else None for asked in wanted]


class _Gradients:
    """The gradients by features, weight and bias, as they grow tile by tile.

    Those of the head are summed in at least float32.
    """

    def __init__(self, head: Head, cast: Tensor, wanted: tuple[bool, ...]) -> None:
        """Room for those that are wanted; ``cast`` is the weight as the logits are made of it."""
        self.like, self.cast = head, cast
        features, weight, bias = wanted
        self.features = torch.empty_like(head.features) if features else None
        self.weight = _zeros_like(head.weight) if weight else None
        self.bias = _zeros_like(head.bias) if bias and head.bias is not None else None

    def add(self, rows: slice, x: Tensor, gradient: Tensor) -> None:
        """Take in a tile: its features x (n, D) and the gradient by its logits (n, C)."""
        if self.bias is not None:
            self.bias += gradient.sum(0)
        gradient = gradient.to(x.dtype)
        if self.features is not None:
            if self.features.dtype == x.dtype:
                torch.mm(gradient, self.cast, out=self.features[rows])
            else:
                self.features[rows] = gradient @ self.cast
        if self.weight is not None:
            if self.weight.dtype == x.dtype:
                self.weight.addmm_(gradient.T, x)
            else:
                self.weight += gradient.T @ x

    def times(self, upstream: Tensor | None) -> list[Tensor | None]:
        """All of them times what comes from above, in the dtypes of what they belong to."""
        found = []
        for part, like in zip((self.features, self.weight, self.bias), self.like, strict=True):
            if part is not None and like is not None:
                part = part if upstream is None else part.mul_(upstream)
                part = part.to(like.dtype)
            found.append(part)
        return found


def _zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=compute_dtype(tensor))


def _walk(
    head: Head, problem: Problem, engine: str, wanted: bool
) -> Iterator[tuple[slice, Tensor, Tensor, Any]]:
    """Tiles: which rows, their features, losses and, if wanted, the gradient by their logits."""
    n = head.features.shape[0]
    blocked = head.features.device.type == "cpu" and tiles.obstacle(problem) is None
    tile = _Tile(head, problem) if blocked else _AnyTile(head, engine)
    with torch.autocast(head.features.device.type, enabled=False):
        for start in range(0, n, tile.rows):
            rows = slice(start, min(n, start + tile.rows))
            samples = problem.sample_weight
            at = problem.at(problem.target[rows], None if samples is None else samples[rows])
            x = head.features[rows]
            yield rows, x, *tile(x, at, wanted)


class _Tile:
    """A tile on the CPU, in memory that the next reuses."""

    def __init__(self, head: Head, problem: Problem) -> None:
        self.head = head
        self.arithmetic = tiles.FAMILIES[type(problem)](problem)
        classes, dtype = head.weight.shape[0], compute_dtype(head.features)
        # The gradient takes the place of the logits where it may, and is of their dtype.
        self.in_place = self.arithmetic.in_place and dtype == head.features.dtype
        more = self.arithmetic.scratch if self.in_place else int(problem.per_cell)
        each = (1 + more) * dtype.itemsize + (not self.in_place) * head.features.element_size()
        self.rows = _rows(head, BYTES // (each * classes))
        self.wide = head.features.new_empty((1 + more, self.rows, classes), dtype=dtype)
        self.logits = (
            self.wide[0] if self.in_place else head.features.new_empty((self.rows, classes))
        )

    def __call__(self, x: Tensor, at: Problem, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """The losses and the gradient of a tile."""
        n = len(x)
        logits, gradient, *more = self.logits[:n], *self.wide[:, :n]
        _, weight, bias = self.head
        if bias is None:
            torch.mm(x, weight.T, out=logits)
        else:
            torch.addmm(bias, x, weight.T, out=logits)
        factor = gradient.new_empty(n) if wanted and self.arithmetic.factor else None
        if self.in_place:
            room = Room(gradient, factor, tuple(more), wanted, lambda: F.linear(x, weight, bias))
            losses, _ = self.arithmetic.losses(at, logits, room)
        else:
            losses = more[0] if at.per_cell else gradient.new_empty(n)
            for part, own, room, out in walk(
                self.arithmetic, logits, at, gradient, factor, losses, wanted=wanted
            ):
                out.copy_(self.arithmetic.losses(own, part, room)[0])
        if factor is not None:
            gradient.mul_(factor.unsqueeze(1))
        return losses, gradient if wanted else None


class _AnyTile:
    """A tile on any device, by whichever engine takes it."""

    def __init__(self, head: Head, engine: str) -> None:
        self.head, self.engine = head, engine
        wide = compute_dtype(head.features).itemsize
        most = BYTES if head.features.device.type == "cpu" else BYTES_OF_ACCELERATOR
        self.rows = _rows(head, most // (4 * wide * head.weight.shape[0]))

    def __call__(self, x: Tensor, at: Problem, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """The losses and the gradient of a tile."""
        logits = F.linear(x, self.head.weight, self.head.bias)
        if not wanted:
            return dispatch.losses(logits, at, self.engine), None
        with torch.enable_grad():
            losses = dispatch.losses(logits.requires_grad_(), at, self.engine)
        (gradient,) = torch.autograd.grad(losses, logits, torch.ones_like(losses))
        return losses.detach(), gradient.to(losses.dtype)


def _rows(head: Head, most: int) -> int:
    """The rows of a tile, of which memory allows so many."""
    n, classes = head.features.shape[0], head.weight.shape[0]
    few = head.features.device.type == "cpu"
    return max(1, min(n, most, max(ROWS, ELEMENTS // classes) if few else most))
