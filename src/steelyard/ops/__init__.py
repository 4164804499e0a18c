"""The only room that touches N×C numbers: the losses of positions, and the choice of engine.

:mod:`steelyard.ops.work` says what is to be done, :mod:`steelyard.ops.reference` what it means and
:mod:`steelyard.ops.choose` who does it. A fast engine is a module with a ``forward`` and a
``backward``, which :mod:`steelyard.ops.fused` makes one node of the graph:

* ``blocked`` for the CPU, with ``tiles``, ``pages``, and a tile's arithmetic in ``indices`` and
  ``distributions``; where logits are few ``native`` takes its place;
* ``traced`` puts the gradients that ``explicit`` and ``spread`` write out into a graph that the
  user compiles;
* ``triton`` for CUDA, with ``triton_kernels``.
"""

import torch
from torch import Tensor

from steelyard.ops import blocked, cells, fused, native, reference, region, traced
from steelyard.ops.cells import Cells, Rebalance, Side
from steelyard.ops.choose import ENGINES, EngineChoice, choose_engine
from steelyard.ops.edit import Edit, along_classes, compute_dtype
from steelyard.ops.region import Masses, Overlap, covered, lovasz, masses
from steelyard.ops.work import CROSS_ENTROPY, Mean, Tail, Work, select

__all__ = [
    "CROSS_ENTROPY",
    "ENGINES",
    "Cells",
    "Edit",
    "EngineChoice",
    "Masses",
    "Mean",
    "Overlap",
    "Rebalance",
    "Side",
    "Tail",
    "Work",
    "along_classes",
    "cell_losses",
    "choose_engine",
    "compute_dtype",
    "covered",
    "losses",
    "lovasz",
    "masses",
    "overlap",
    "position_losses",
    "select",
]


def losses(logits: Tensor, work: Work, engine: str = "auto", mean: Mean | None = None) -> Tensor:
    """The losses of positions, or their mean.

    Args:
        logits: (N, C, d…), floating.
        work: what is to be done.
        engine: which engine is to do it.
        mean: sum over positions, and divide.

    Returns:
        (N, d…), or with ``mean`` a 0-d tensor; in at least float32.
    """
    if logits.ndim > 2 and logits.stride(1) == 1:
        # Classes are innermost (channels_last, or a transposed (N, T, C)): these are rows already,
        # and taken as rows the gradient keeps the memory format of the logits.
        rows = logits.movedim(1, -1)
        flat = losses(rows.flatten(0, -2), work.as_rows(), engine, mean)
        return flat if mean is not None else flat.view(rows.shape[:-1])
    over = mean.over if mean is not None and isinstance(mean.over, Tensor) else None
    chosen = choose_engine(engine, logits, over, *work.tensors, all_classes=work.all_classes).engine
    if chosen == "blocked" and engine == "auto" and native.suits(logits, work):
        value = native.cross_entropy(logits, work, mean)
        return fused.losses(native, logits, work, mean) if value is None else value
    if chosen == "blocked":
        return fused.losses(blocked, logits, work, mean)
    if chosen == "graph":
        return traced.losses(logits, work, mean)
    if chosen == "triton":
        from steelyard.ops import triton  # never imported where it is not used

        if torch.compiler.is_compiling():
            return triton.losses(logits, work, mean)
        return fused.losses(triton, logits, work, mean)
    return reference.losses(logits, work, mean)


def overlap(logits: Tensor, overlap: Overlap, engine: str = "auto") -> tuple[Tensor, Tensor]:
    """I and P of every class (N, C), or (1, C) over a batch; see :mod:`steelyard.ops.region`.

    Args:
        logits: (N, C, S), floating.
        overlap: what is to be summed.
        engine: which engine is to do it.

    Raises:
        RuntimeError: an engine that has nothing for regions.
    """
    if engine not in ("auto", "reference"):
        raise RuntimeError(
            f"engine={engine!r} cannot do this: it has no sums over regions. engine='auto' takes "
            "the fastest that can, engine='reference' does everything"
        )
    return region.sums(logits, overlap)


def cell_losses(
    logits: Tensor, work: Cells, engine: str = "auto", mean: Mean | None = None
) -> Tensor:
    """The losses of cells, or their mean.

    Args:
        logits: (N, C, d…), floating.
        work: what is to be done.
        engine: which engine is to do it.
        mean: sum over cells, and divide.

    Returns:
        (N, C, d…), or with ``mean`` a 0-d tensor; in at least float32.
    """
    _plain_torch_alone(engine)
    if logits.ndim > 2 and logits.stride(1) == 1:  # as in losses
        rows = logits.movedim(1, -1)
        flat = cell_losses(rows.flatten(0, -2), work.as_rows(), engine, mean)
        return flat if mean is not None else flat.view(rows.shape).movedim(-1, 1)
    return cells.losses(logits, work, mean)


def position_losses(
    logits: Tensor, work: Cells, engine: str = "auto", mean: Mean | None = None
) -> Tensor:
    """The losses of positions whose cells belong together (N, d…), or their mean."""
    _plain_torch_alone(engine)
    if logits.ndim > 2 and logits.stride(1) == 1:
        rows = logits.movedim(1, -1)
        flat = position_losses(rows.flatten(0, -2), work.as_rows(), engine, mean)
        return flat if mean is not None else flat.view(rows.shape[:-1])
    return cells.position_losses(logits, work, mean)


def _plain_torch_alone(engine: str) -> None:
    if engine not in ("auto", "reference"):
        raise RuntimeError(
            f"engine={engine!r} cannot do this: the loss is of cells, not of classes. "
            "engine='auto' takes the fastest that can, engine='reference' does everything"
        )
