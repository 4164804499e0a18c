"""The only room that touches N×C numbers: the primitive, and the choice of its engine.

An engine is a module with ``row_logprob`` (the log-probability of the target class) and
``class_logprob`` (of all classes); :mod:`steelyard.ops.reference` says what they mean.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from steelyard.ops import blocked, reference
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

ENGINES = ("auto", "reference", "blocked")


class EngineChoice(NamedTuple):
    """Which engine does the work, and why."""

    engine: str
    reason: str


def choose_engine(engine: str, logits: Tensor, all_classes: bool) -> EngineChoice:
    """The engine that a loss uses for these logits.

    Args:
        engine: "auto", or the engine that was asked for.
        logits: (N, C, d…), floating.
        all_classes: whether log p of all classes is needed, as for smoothing or probabilities.

    Returns:
        The engine's name and the reason in words.

    Raises:
        RuntimeError: the engine that was asked for cannot do this.
    """
    if engine == "reference":
        return EngineChoice(engine, "asked for by name")
    obstacle = _blocked_obstacle(logits, all_classes)
    if engine == "auto":
        if obstacle is None:
            return EngineChoice("blocked", "the logits are on the CPU")
        return EngineChoice("reference", f"blocked cannot: {obstacle}")
    if obstacle is not None:
        raise RuntimeError(
            f"engine={engine!r} cannot do this: {obstacle}. engine='auto' takes the fastest that "
            "can, engine='reference' does everything"
        )
    return EngineChoice(engine, "asked for by name")


def _blocked_obstacle(logits: Tensor, all_classes: bool) -> str | None:
    """Why the blocked engine cannot do it, if it cannot."""
    if logits.device.type != "cpu":
        return f"the logits are on {logits.device}, it works on the CPU"
    if all_classes:
        return "smoothing and probabilities need log p of every class, it has that of the target"
    return _tracing_obstacle(logits)


def _tracing_obstacle(logits: Tensor) -> str | None:
    """What stands between an engine and plain memory, if anything does."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the call is being traced into a graph, which fuses the plain formula"
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform is active"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    if type(logits) not in (Tensor, nn.Parameter) or torch._C._len_torch_dispatch_stack() > 0:
        return "the logits are not a plain tensor, or a dispatch mode watches every operation"
    return None


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
    if choose_engine(engine, logits, all_classes=False).engine == "blocked":
        return blocked.row_logprob(logits, target, edit, ignore_index)
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
