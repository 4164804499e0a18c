"""The only room that touches N×C numbers: the losses of positions, and the choice of engine.

:mod:`steelyard.ops.work` says what is to be done, :mod:`steelyard.ops.reference` what it means. A
fast engine is a module with a ``forward`` and a ``backward``.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from steelyard.ops import blocked, compiled, fused, reference, traced
from steelyard.ops.edit import Edit, along_classes, compute_dtype
from steelyard.ops.work import Mean, Tail, Work, select

__all__ = [
    "ENGINES",
    "Edit",
    "EngineChoice",
    "Mean",
    "Tail",
    "Work",
    "along_classes",
    "choose_engine",
    "compute_dtype",
    "losses",
    "select",
]

ENGINES = ("auto", "reference", "blocked", "compiled")


class EngineChoice(NamedTuple):
    """Which engine does the work, and why."""

    engine: str
    reason: str


def choose_engine(engine: str, logits: Tensor, *others: Tensor | None) -> EngineChoice:
    """The engine that a loss uses for these logits.

    Args:
        engine: "auto", or the engine that was asked for.
        logits: (N, C, d…), floating.
        *others: the target, the sample weights and the divisor, as far as there are any.

    Returns:
        The engine's name and the reason in words.

    Raises:
        RuntimeError: the engine that was asked for cannot do this.
    """
    if engine == "reference":
        return EngineChoice(engine, "asked for by name")
    obstacle = _obstacle(logits, others)
    in_a_graph = torch.compiler.is_dynamo_compiling()
    if obstacle is None and in_a_graph and engine == "blocked":
        obstacle = "the call is part of a graph that is being compiled"
    if obstacle is None and not in_a_graph and engine == "compiled":
        obstacle = compiled.obstacle()
    if obstacle is None:
        if engine != "auto":
            return EngineChoice(engine, "asked for by name")
        if in_a_graph:
            return EngineChoice("compiled", "the call is part of a graph that is being compiled")
        return EngineChoice("blocked", "the logits are on the CPU")
    if engine == "auto":
        return EngineChoice("reference", f"blocked cannot: {obstacle}")
    raise RuntimeError(
        f"engine={engine!r} cannot do this: {obstacle}. engine='auto' takes the fastest that "
        "can, engine='reference' does everything"
    )


def _obstacle(logits: Tensor, others: tuple[Tensor | None, ...]) -> str | None:
    """Why no engine but the reference can do it, if so."""
    in_a_graph = torch.compiler.is_dynamo_compiling()
    exported = torch.compiler.is_exporting()
    # What is not Dynamo cannot be asked by Dynamo.
    if exported or (not in_a_graph and (torch.compiler.is_compiling() or torch._C._is_tracing())):
        return "the call is traced into a graph, where the plain formula fuses"
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform is active"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    for other in others:
        if other is not None and other.requires_grad:
            return "it differentiates by the logits alone, and another argument requires a gradient"
    if in_a_graph:
        return None
    if logits.device.type != "cpu":
        return f"the logits are on {logits.device}, and it works on the CPU"
    if type(logits) not in (Tensor, nn.Parameter) or torch._C._len_torch_dispatch_stack() > 0:
        return "the logits are not a plain tensor, or a dispatch mode watches every operation"
    return None


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
    chosen = choose_engine(engine, logits, work.target, work.sample_weight, over).engine
    if chosen == "blocked":
        return fused.losses(blocked, logits, work, mean)
    if chosen == "compiled":
        if torch.compiler.is_dynamo_compiling():
            return traced.losses(logits, work, mean)
        return fused.losses(compiled, logits, work, mean)
    return reference.losses(logits, work, mean)
