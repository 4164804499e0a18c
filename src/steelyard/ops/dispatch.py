"""Who does the work, and why; and the one node of the graph in which a fast engine does it."""

import functools
import importlib.util
import warnings
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from steelyard.ops import compat, graph, parts, reference, region, region_parts
from steelyard.ops.cpu import region as cpu_region
from steelyard.ops.cpu import small, tiles
from steelyard.ops.problem import Problem, Reduction
from steelyard.ops.region import Masses, Overlap, Slopes, Sums
from steelyard.ops.softmax import SoftmaxProblem

ENGINES = ("auto", "reference", "blocked", "triton")

_DEVICES = {"triton": "cuda"}
_IN_A_GRAPH = "the call is part of a graph that is being compiled"


class Engine(Protocol):
    """A fast engine: a module with these two functions."""

    def forward(
        self, logits: Tensor, problem: Any, reduction: Reduction, differentiate: bool
    ) -> tuple[Tensor, Tensor | float | None, Any]:
        """The losses, reduced; the divisor of a mean; and whatever backward is to have."""

    def backward(self, logits: Tensor, problem: Any, kept: Any, gradient: Tensor) -> Tensor:
        """The gradient by the logits, for that by the losses, 0-dimensional or of their shape.

        ``kept`` is what forward left, or None the second time: a gradient may have taken its place.
        """


class RegionEngine(Protocol):
    """The same for sums over regions."""

    def forward(
        self, logits: Tensor, overlap: Overlap, *, differentiate: bool
    ) -> tuple[tuple[Tensor, ...], Any]:
        """I, P, L and the masses of the targets, (N, C) or (1, C); and what backward wants."""

    def backward(self, logits: Tensor, overlap: Overlap, kept: Any, slopes: Slopes) -> Tensor:
        """The gradient by the logits, for those by the sums."""


class EngineChoice(NamedTuple):
    """Which engine does the work, and why."""

    engine: str
    reason: str


_SMALL = EngineChoice(
    "pytorch", "so few logits on the CPU take PyTorch's own kernels, in as few calls as can be"
)


def losses(
    logits: Tensor, problem: Problem, engine: str = "auto", reduction: Reduction | None = None
) -> Tensor:
    """The losses of a problem, by whichever engine can do it fastest.

    Args:
        logits: (N, C, d…), floating.
        problem: what is to be done.
        engine: which engine is to do it.
        reduction: what becomes of the losses; None leaves them as they are.

    Returns:
        One loss per position (N, d…) or per cell (N, C, d…), or a 0-d tensor; in at least float32.
    """
    if reduction is None:
        reduction = Reduction("none")
    if logits.ndim > 2 and logits.stride(1) == 1:
        # Classes are innermost (channels_last, or a transposed (N, T, C)): these are rows already,
        # and taken as rows the gradient keeps the memory format of the logits.
        flat = losses(*problem.as_rows(logits), engine, reduction)
        if reduction.kind != "none":
            return flat
        places = logits.movedim(1, -1).shape[:-1]
        return flat.view(*places, -1).movedim(-1, 1) if problem.per_cell else flat.view(places)
    tensors = tensors_of(problem, reduction)
    chosen = choose_engine(engine, logits, problem, tensors).engine
    if chosen == "reference":
        return reference.losses(logits, problem, reduction)
    if chosen == "graph":
        return graph.losses(logits, problem, reduction)
    if chosen == "triton":
        from steelyard.ops.cuda import launch  # never imported where it is not used

        if torch.compiler.is_compiling():
            return launch.losses(logits, problem, reduction)  # type: ignore[arg-type]
        module: Engine = launch
    else:
        if chosen == "pytorch":
            value = small.losses(logits, problem, reduction, tensors)  # type: ignore[arg-type]
            if value is not None:
                return value
        module = tiles if _on_the_cpu(logits) else parts
    if logits.requires_grad and torch.is_grad_enabled():
        return _Losses.apply(logits, problem, module, reduction, tensors)  # type: ignore[no-untyped-call, no-any-return]
    return module.forward(logits, problem, reduction, False)[0]


def tensors_of(problem: Problem, reduction: Reduction) -> tuple[Tensor, ...]:
    """Every tensor that takes part, but the logits."""
    over = reduction.over
    return (*problem.tensors, over) if isinstance(over, Tensor) else problem.tensors


def sums(logits: Tensor, overlap: Overlap, engine: str = "auto") -> Sums:
    """The sums over regions.

    Args:
        logits: (N, C, S), floating.
        overlap: what is to be summed.
        engine: which engine is to do it.
    """
    if choose_engine(engine, logits, overlap, overlap.tensors).engine != "blocked":
        return region.sums(logits, overlap)
    module: RegionEngine = cpu_region if _on_the_cpu(logits) else region_parts
    if logits.requires_grad and torch.is_grad_enabled():
        found = _Sums.apply(logits, overlap, module)  # type: ignore[no-untyped-call]
    else:
        found, _ = module.forward(logits, overlap, differentiate=False)
    both, predicted, logs, *masses = found
    return Sums(both, predicted, logs if overlap.logs else None, Masses(*masses))


def sums_at_once(logits: Tensor, overlap: Overlap, engine: str) -> bool:
    """Whether the sums with −log p take one read of the logits."""
    if engine not in ("auto", "blocked"):
        return False
    return choose_engine("auto", logits, overlap, overlap.tensors).engine == "blocked"


def lovasz(logits: Tensor, overlap: Overlap, engine: str = "auto") -> Tensor:
    """Lovász's loss of every class, (N, C), or (1, C) over a batch."""
    if engine not in ("auto", "reference"):
        raise RuntimeError(
            f"engine={engine!r} cannot do this: it does not sort errors. engine='auto' takes the "
            "fastest that can, engine='reference' does everything"
        )
    return region.lovasz(logits, overlap)


class _Losses(torch.autograd.Function):
    """An engine's forward and backward, weights, tail and reduction in them.

    As nodes of their own these would cost a small problem more than all of its arithmetic, and a
    large one of few classes more memory than its logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        problem: Problem,
        engine: Engine,
        reduction: Reduction,
        tensors: tuple[Tensor, ...],
    ) -> Tensor:
        value, ctx.divisor, ctx.kept = engine.forward(logits, problem, reduction, True)
        # All of them, so that PyTorch tells if one was changed in between.
        ctx.save_for_backward(logits, *tensors)
        ctx.problem, ctx.engine, ctx.reduction = problem, engine, reduction
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits = ctx.saved_tensors[0]
        if torch.is_grad_enabled() or compat.is_batched(gradient):
            # create_graph, or many gradients at once: the definition has derivatives of every order
            create_graph = torch.is_grad_enabled()
            with torch.enable_grad():
                value = reference.losses(logits, ctx.problem, ctx.reduction)
            result = torch.autograd.grad(value, logits, gradient, create_graph=create_graph)[0]
        else:
            if ctx.divisor is not None:
                gradient = gradient / ctx.divisor
            # Let go of it: autograd clones a gradient that something else holds.
            kept, ctx.kept = ctx.kept, None
            result = ctx.engine.backward(logits, ctx.problem, kept, gradient)
        return result, None, None, None, None


class _Sums(torch.autograd.Function):
    """The same for sums over regions."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, overlap: Overlap, engine: RegionEngine
    ) -> tuple[Tensor, ...]:
        found, ctx.kept = engine.forward(logits, overlap, differentiate=True)
        # All of them, so that PyTorch tells if one was changed in between.
        ctx.save_for_backward(logits, *overlap.tensors)
        ctx.overlap, ctx.engine = overlap, engine
        ctx.mark_non_differentiable(*found[3:])
        ctx.set_materialize_grads(False)  # of the sums that have no gradient: four calls
        return found

    @staticmethod
    def backward(ctx: Any, *by_sums: Tensor | None) -> tuple[Tensor | None, None, None]:
        logits, overlap = ctx.saved_tensors[0], ctx.overlap
        given = by_sums[: 3 if overlap.logs else 2]
        like = next((each for each in given if each is not None), None)
        if like is None:
            return None, None, None
        slopes = [torch.zeros_like(like) if each is None else each for each in given]
        create_graph = torch.is_grad_enabled()
        if create_graph or any(map(compat.is_batched, slopes)):
            # create_graph, or many gradients at once: the definition has derivatives of every order
            with torch.enable_grad():
                both, predicted, logs, _ = region.sums(logits, overlap)
            found = (both, predicted) if logs is None else (both, predicted, logs)
            by_logits = torch.autograd.grad(found, logits, slopes, create_graph=create_graph)[0]
            return by_logits, None, None
        # Let go of it: autograd clones a gradient that something else holds.
        kept, ctx.kept = ctx.kept, None
        by_logs = slopes[2] if overlap.logs else None
        by_logits = ctx.engine.backward(
            logits, overlap, kept, Slopes(slopes[0], slopes[1], by_logs)
        )
        return by_logits, None, None


def choose_engine(
    engine: str, logits: Tensor, problem: Problem | Overlap, tensors: tuple[Tensor, ...] = ()
) -> EngineChoice:
    """The engine that a loss uses for these logits.

    Args:
        engine: "auto", or the engine that was asked for.
        logits: (N, C, d…), floating.
        problem: what is to be done.
        tensors: every other tensor that takes part.

    Returns:
        The engine's name and the reason in words.

    Raises:
        RuntimeError: the engine that was asked for cannot do this.
    """
    if engine == "reference":
        return EngineChoice(engine, "asked for by name")
    in_a_graph = torch.compiler.is_dynamo_compiling()
    anyone = obstacle(logits, tensors)
    if engine != "auto":
        reason = anyone or _obstacle_to(engine, logits, problem, in_a_graph)
        if reason is None:
            return EngineChoice(engine, "asked for by name")
        raise RuntimeError(
            f"engine={engine!r} cannot do this: {reason}. engine='auto' takes the fastest that "
            "can, engine='reference' does everything"
        )
    on_the_cpu = anyone is None and not in_a_graph and _on_the_cpu(logits)
    if on_the_cpu and small.obstacle(logits, problem) is None:
        return _SMALL
    names: tuple[str, ...] = ("graph",) if in_a_graph else ("blocked",)
    if logits.is_cuda:
        names = ("triton", *names)
    if anyone is not None:
        return EngineChoice("reference", f"{names[-1]} cannot: {anyone}")
    reasons: list[str] = []
    for name in names:
        reason = _obstacle_to(name, logits, problem, in_a_graph)
        if reason is None and name == "blocked" and not _on_the_cpu(logits):
            reason = parts.nothing_to_cut(logits)
        if reason is None:
            return EngineChoice(name, _reason(name, logits, reasons))
        reasons.append(f"{name} cannot: {reason}")
    return EngineChoice("reference", "; ".join(reasons))


def _reason(name: str, logits: Tensor, others: list[str]) -> str:
    if name == "graph":
        return _IN_A_GRAPH
    reason = f"the logits are on {_place(logits)}"
    if name == "triton":
        return f"{reason}, {_proof()}"
    return reason if _on_the_cpu(logits) else "; ".join([*others, f"{reason}, and many"])


def obstacle(logits: Tensor, tensors: tuple[Tensor, ...]) -> str | None:
    """Why no fast engine can do it, if none can."""
    if compat.is_disturbed() and (reason := _disturbance((logits, *tensors))) is not None:
        return reason
    for other in tensors:
        if other.requires_grad:
            return "it differentiates by the logits alone, and another argument requires a gradient"
    if torch.compiler.is_dynamo_compiling():
        return None
    for tensor in (logits, *tensors):
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            return "the logits, or another argument, are not a plain tensor"
    return None


def _disturbance(tensors: tuple[Tensor, ...]) -> str | None:
    """Whatever watches, where no fast engine may work unseen."""
    in_a_graph = torch.compiler.is_dynamo_compiling()
    # What is not Dynamo cannot be asked by Dynamo. An exported program is to run without us.
    if torch.compiler.is_exporting() or (
        not in_a_graph and (torch.compiler.is_compiling() or compat.is_traced())
    ):
        return "the call is traced into a graph, where the plain formula fuses"
    if (lacking := compat.lacking()) is not None:
        return f"this torch ({torch.__version__}) lacks {lacking}, by which it would know if it may"
    if compat.is_transformed():
        return "a torch.func transform is active"
    if in_a_graph:
        return None
    if compat.is_watched():
        return "a dispatch mode watches every operation"
    if compat.have_tangents(tensors):
        return "forward-mode differentiation is active"
    return None


def _obstacle_to(
    name: str, logits: Tensor, problem: Problem | Overlap, in_a_graph: bool
) -> str | None:
    """Why this fast engine cannot do it, if it cannot."""
    if name == "graph":
        return graph.obstacle(problem)
    if in_a_graph and name != "triton":
        return _IN_A_GRAPH
    if name == "blocked":
        if not _on_the_cpu(logits):
            return None
        if isinstance(problem, Overlap):
            return cpu_region.obstacle(problem)
        return tiles.obstacle(problem)
    if logits.device.type != _DEVICES[name]:
        return f"the logits are on {_place(logits)}, and it works on CUDA"
    return _obstacle_to_triton(logits, problem)


def _obstacle_to_triton(logits: Tensor, problem: Problem | Overlap) -> str | None:
    if not isinstance(problem, SoftmaxProblem):
        return f"it has no kernel for a {type(problem).__name__}"
    if problem.all_classes:
        return "smoothing and probabilities need log p of all classes, and it takes one target"
    if logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the logits are {logits.dtype}, and it takes float32, bfloat16 and float16"
    return _obstacle_of_machine(logits.device)


def _obstacle_of_machine(device: torch.device) -> str | None:
    reason = _looked_up(device)
    if reason is not None:
        return reason
    from steelyard.ops.cuda import proof  # never imported where it is not used

    return proof.refusal(device)


# torch.compile is to ask rather than to trace how it is found out.
compat.mark_constant(_obstacle_of_machine)


@functools.cache
def _looked_up(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    reason = _unfit(device)
    if reason is not None:
        _tell_once(device, reason)
    return reason


def _unfit(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "this torch is built for ROCm, on which it was never tried"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"{device} has compute capability {major}.{minor}, and it needs 8.0"
    return None


_told: set[torch.device] = set()


def _tell_once(device: torch.device, reason: str) -> None:
    if device in _told:
        return
    _told.add(device)
    warnings.warn(
        f"steelyard: the triton engine is not used: {reason}. Plain torch takes its place, which "
        "is right but slower",
        RuntimeWarning,
        stacklevel=2,
    )


def _proof() -> str:
    from steelyard.ops.cuda import proof

    if proof.is_on():
        return "and each of its kernels is compared with the formula at first use"
    return f"and {proof.SETTING}=0: nothing compared its kernels with the formula"


def _on_the_cpu(logits: Tensor) -> bool:
    return logits.is_cpu


def _place(logits: Tensor) -> str:
    return "the CPU" if logits.device.type == "cpu" else str(logits.device)
