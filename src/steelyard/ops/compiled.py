"""Inductor's engine: two graphs, compiled once for each kind of problem, whatever its sizes.

Forward's graph reads the logits twice and leaves a few numbers per position; backward's reads them
once and writes the gradient, into huge pages. The shift of forward is the target's own logit, so
that nothing needs to be sought first. Where that lets a sum leave the range, which the sum shows,
a third graph does it again with the largest logit.
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops import explicit, spread
from steelyard.ops.explicit import Positions
from steelyard.ops.fused import Found
from steelyard.ops.pages import empty_like
from steelyard.ops.reference import reduced
from steelyard.ops.tiles import Flat
from steelyard.ops.work import Mean, Work

Kept = explicit.Kept | spread.Kept


def obstacle() -> str | None:
    """Why nothing can be compiled here, if so."""
    from torch._inductor import cpp_builder  # heavy, and only for who asks

    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError as error:
        return (
            f"it needs a C++ compiler and there is none ({str(error).rstrip('.')}): install g++ or "
            "clang++, or name yours in the environment variable CXX before Python starts"
        )
    return None


@torch.no_grad()
def forward(logits: Tensor, work: Work, mean: Mean | None, differentiate: bool) -> Found:
    """The losses (N, d…) of positions, or their mean."""
    flat, work = _flat(logits, work)
    first = _forward_spread if work.all_classes else _forward
    value, divisor, kept, inside, sound = _run(first, flat, work, mean)
    if not inside.item():
        raise IndexError("a target is no class")
    if not sound.item():
        value, divisor, kept, *_ = _run(_forward_again, flat, work, mean)
    if mean is None:
        value = value.view(logits.shape[:1] + logits.shape[2:])
    return Found(value, divisor, kept if differentiate else None)


@torch.no_grad()
def backward(logits: Tensor, work: Work, kept: Kept | None, gradient: Tensor) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…)."""
    if kept is None:
        kept = forward(logits, work, None, True).kept
    flat, work = _flat(logits, work)
    if gradient.ndim:
        gradient = gradient.reshape(flat.shape[:1] + flat.shape[2:]).contiguous()
    result = empty_like(flat)
    last = _backward_spread if work.all_classes else _backward
    _run(last, flat, work, kept, gradient, result)
    return result.view(logits.shape)


class Losses(NamedTuple):
    """What forward's graph finds.

    Attributes:
        value: losses (N,) or (N, S), or their mean.
        divisor: of the mean, if it has one.
        kept: what backward wants.
        inside: whether every target is a class or ignored.
        sound: whether the sums stayed in range.
    """

    value: Tensor
    divisor: Tensor | None
    kept: Kept
    inside: Tensor
    sound: Tensor


def _forward(logits: Tensor, work: Work, mean: Mean | None) -> Losses:
    return _losses(logits, work, mean, lambda _logits, _work, here: here.x)


def _forward_again(logits: Tensor, work: Work, mean: Mean | None) -> Losses:
    return _losses(logits, work, mean, explicit.largest)


def _losses(
    logits: Tensor,
    work: Work,
    mean: Mean | None,
    shift: Callable[[Tensor, Work, Positions], Tensor],
) -> Losses:
    ignored = work.ignored()
    asked = work.target.masked_fill(ignored, 0)
    # Compiled code that is to read outside of its memory ends the process: look first.
    index = asked.clamp(0, logits.shape[1] - 1)
    here = explicit.at(logits, work, index, ignored)
    rows, kept = explicit.forward(logits, work, here, shift(logits, work, here))
    divisor = None if mean is None else mean.divisor(here.share, ignored, rows.dtype)
    sound = (ignored | explicit.in_range(kept.others)).all()
    value = reduced(rows, mean, here.share, ignored)
    return Losses(value, divisor, kept, (asked == index).all(), sound)


def _forward_spread(logits: Tensor, work: Work, mean: Mean | None) -> Losses:
    rows, kept = spread.forward(logits, work)
    right = torch.ones((), dtype=torch.bool)
    share, ignored, inside = work.sample_weight, torch.zeros_like(rows, dtype=torch.bool), right
    if work.of_indices:
        ignored = work.ignored()
        asked = work.target.masked_fill(ignored, 0)
        index = asked.clamp(0, logits.shape[1] - 1)
        share, inside = work.share(index, ignored, share), (asked == index).all()
    divisor = None if mean is None else mean.divisor(share, ignored, rows.dtype)
    return Losses(reduced(rows, mean, share, ignored), divisor, kept, inside, right)


def _backward(
    logits: Tensor, work: Work, kept: explicit.Kept, gradient: Tensor, result: Tensor
) -> None:
    result.copy_(explicit.backward(logits, work.edit, kept, gradient))


def _backward_spread(
    logits: Tensor, work: Work, kept: spread.Kept, gradient: Tensor, result: Tensor
) -> None:
    result.copy_(spread.backward(logits, work, kept, gradient))


def _flat(logits: Tensor, work: Work) -> tuple[Tensor, Work]:
    """The same as (N, C) or (N, C, S), and contiguous: each layout would be compiled anew."""
    flat = Flat.of(logits, work)
    sample_weight = None if flat.sample_weight is None else _plain(flat.sample_weight)
    work = work._replace(target=_plain(flat.target), sample_weight=sample_weight)
    return _plain(flat.logits), work


def _plain(tensor: Tensor) -> Tensor:
    """Contiguous, and no view of another tensor, whose sizes Dynamo would guard too."""
    return tensor.contiguous().detach()


def _run(function: Callable[..., Any], logits: Tensor, work: Work, *others: Any) -> Any:
    if logits.numel() == 0:
        return function(logits, work, *others)
    numbers = [n for n in (work.parameter, work.smoothing) if not isinstance(n, Tensor)]
    graph = compiled_once(function, logits.dtype, logits.ndim, work.tail, *numbers)
    if not torch.is_autocast_enabled("cpu"):
        return graph(logits, work, *others)
    with torch.autocast("cpu", enabled=False):  # Dynamo guards it, and it is of no use here
        return graph(logits, work, *others)


@functools.lru_cache(maxsize=256)
def compiled_once(function: Callable[..., Any], *_kind: object) -> Callable[..., Any]:
    """The compiled function for one kind of problem."""
    return compile_anew(function)


def compile_anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function, apart from others of the same code.

    Dynamo counts how often it compiled a code object, and gives up after a few times.
    """
    copy = FunctionType(function.__code__.replace(), function.__globals__)
    return torch.compile(copy, dynamic=True, fullgraph=True)
