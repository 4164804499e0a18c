"""The choice of engine, and the reasons why one cannot do what is asked."""

import functools
import importlib.util
from types import NoneType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from steelyard.ops import compat

ENGINES = ("auto", "reference", "blocked", "triton")

_DEVICES = {"blocked": "cpu", "triton": "cuda"}
_IN_A_GRAPH = "the call is part of a graph that is being compiled"


class EngineChoice(NamedTuple):
    """Which engine does the work, and why."""

    engine: str
    reason: str


def choose_engine(
    engine: str, logits: Tensor, *others: Tensor | None, all_classes: bool = False
) -> EngineChoice:
    """The engine that a loss uses for these logits.

    Args:
        engine: "auto", or the engine that was asked for.
        logits: (N, C, d…), floating.
        *others: every other tensor that takes part.
        all_classes: whether log p of every class counts: smoothing, or probabilities.

    Returns:
        The engine's name and the reason in words.

    Raises:
        RuntimeError: the engine that was asked for cannot do this.
    """
    if engine == "reference":
        return EngineChoice(engine, "asked for by name")
    if engine != "auto":
        obstacle = _obstacle(engine, logits, others, all_classes)
        if obstacle is None:
            return EngineChoice(engine, "asked for by name")
        raise RuntimeError(
            f"engine={engine!r} cannot do this: {obstacle}. engine='auto' takes the fastest that "
            "can, engine='reference' does everything"
        )
    in_a_graph = torch.compiler.is_dynamo_compiling()
    names = ["graph" if in_a_graph else "blocked"]
    if logits.is_cuda:
        names = ["triton", "graph"] if in_a_graph else ["triton"]
    for name in names:
        obstacle = _obstacle(name, logits, others, all_classes)
        if obstacle is None:
            here = _IN_A_GRAPH if name == "graph" else f"the logits are on {_place(logits)}"
            return EngineChoice(name, here)
    return EngineChoice("reference", f"{name} cannot: {obstacle}")


def _obstacle(
    name: str, logits: Tensor, others: tuple[Tensor | None, ...], all_classes: bool
) -> str | None:
    """Why this fast engine cannot do it, if it cannot."""
    in_a_graph = torch.compiler.is_dynamo_compiling()
    # What is not Dynamo cannot be asked by Dynamo. An exported program is to run without us.
    if torch.compiler.is_exporting() or (
        not in_a_graph and (torch.compiler.is_compiling() or compat.is_traced())
    ):
        return "the call is traced into a graph, where the plain formula fuses"
    if in_a_graph and name == "blocked":
        return _IN_A_GRAPH
    if (lacking := compat.lacking()) is not None:
        return f"this torch ({torch.__version__}) lacks {lacking}, by which it would know if it may"
    if compat.is_transformed():
        return "a torch.func transform is active"
    for other in others:
        if other is not None and other.requires_grad:
            return "it differentiates by the logits alone, and another argument requires a gradient"
    if not in_a_graph and any(map(compat.has_tangent, (logits, *others))):
        return "forward-mode differentiation is active"
    if name == "graph":
        return None
    if logits.device.type != _DEVICES[name]:
        where = "CUDA" if name == "triton" else "the CPU"
        return f"the logits are on {_place(logits)}, and it works on {where}"
    if not in_a_graph and compat.is_watched():
        return "a dispatch mode watches every operation"
    if any(type(t) not in (Tensor, nn.Parameter, NoneType) for t in (logits, *others)):
        return "the logits, or another argument, are not a plain tensor"
    return _obstacle_to_triton(logits, all_classes) if name == "triton" else None


def _obstacle_to_triton(logits: Tensor, all_classes: bool) -> str | None:
    if all_classes:
        return "smoothing and probabilities need log p of all classes, and it takes one target"
    if logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the logits are {logits.dtype}, and it takes float32, bfloat16 and float16"
    return _obstacle_of_machine(logits.device)


def _obstacle_of_machine(device: torch.device) -> str | None:
    return _looked_up(device)


# torch.compile is to ask rather than to trace how it is found out; that is what
# torch.compiler.assume_constant_result does, which imports the whole compiler for it.
_obstacle_of_machine._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _looked_up(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if torch.version.hip is not None:
        return "this torch is built for ROCm, on which it was never tried"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"{device} has compute capability {major}.{minor}, and it needs 8.0"
    return None


def _place(logits: Tensor) -> str:
    return "the CPU" if logits.device.type == "cpu" else str(logits.device)
