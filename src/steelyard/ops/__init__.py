"""The only room that touches N×C numbers: the primitive, and the choice of its engine.

An engine is a module with ``row_logprob`` (the log-probability of the target class) and
``class_logprob`` (of all classes); :mod:`steelyard.ops.reference` says what they mean.
"""

from typing import NamedTuple

from torch import Tensor

from steelyard.ops import reference
from steelyard.ops.edit import Edit, along_classes, compute_dtype

__all__ = [
    "ENGINES",
    "Edit",
    "EngineChoice",
    "along_classes",
    "choose_engine",
    "class_logprob",
    "compute_dtype",
    "row_logprob",
]

ENGINES = ("auto", "reference")


class EngineChoice(NamedTuple):
    """Which engine does the work, and why."""

    engine: str
    reason: str


def choose_engine(
    engine: str,
    logits: Tensor,  # noqa: ARG001 (what the choice between several engines will look at)
    all_classes: bool,  # noqa: ARG001
) -> EngineChoice:
    """The engine that a loss uses for these logits.

    Args:
        engine: "auto", or the engine that was asked for.
        logits: (N, C, d…), floating.
        all_classes: whether log p of all classes is needed, as for smoothing or probabilities.

    Returns:
        The engine's name and the reason in words.
    """
    if engine == "auto":
        return EngineChoice("reference", "plain torch is the only engine so far")
    return EngineChoice(engine, "asked for by name")


def row_logprob(
    logits: Tensor, target: Tensor, edit: Edit, ignore_index: int, engine: str = "auto"
) -> Tensor:
    """``reference.row_logprob`` by the engine asked for."""
    if logits.ndim > 2 and logits.stride(1) == 1:
        # Classes are innermost (channels_last, or a transposed (N, T, C)): these are rows already,
        # and taken as rows the gradient keeps the memory format of the logits.
        rows = logits.movedim(1, -1)
        log_p = row_logprob(rows.flatten(0, -2), target.flatten(), edit, ignore_index, engine)
        return log_p.view(target.shape)
    return reference.row_logprob(logits, target, edit, ignore_index)


def class_logprob(
    logits: Tensor, target: Tensor, edit: Edit, ignore_index: int, engine: str = "auto"
) -> Tensor:
    """``reference.class_logprob`` by the engine asked for."""
    if logits.ndim > 2 and logits.stride(1) == 1:
        rows = logits.movedim(1, -1)
        soft = target.is_floating_point()
        flat = target.movedim(1, -1).flatten(0, -2) if soft else target.flatten()
        log_p = class_logprob(rows.flatten(0, -2), flat, edit, ignore_index, engine)
        return log_p.view(rows.shape).movedim(-1, 1)
    return reference.class_logprob(logits, target, edit, ignore_index)
