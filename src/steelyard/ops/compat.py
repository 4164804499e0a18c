"""Every use of what torch does not promise, each with its reason and its way out.

The fast engines write into memory that autograd, a transform or a tracer may be watching, so they
must know who watches; torch has no public way to ask. And they call kernels that autograd alone
calls otherwise. Where one of these is there no more, :func:`lacking` names it, and every loss takes
the reference, which needs none of them.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What is used, and where it stands in torch 2.11 to 2.13.
_USED = {
    # vmap, grad, jvp and functionalize of torch.func: their tensors have the type of plain ones.
    "transformed": "_C._are_functorch_transforms_active",
    # The same for one tensor. Batched gradients reach backward outside of any transform; those of
    # is_grads_batched are of an older kind than those of vmap.
    "batched": "_C._functorch.is_batchedtensor",
    "batched gradients": "_C._functorch.is_legacy_batchedtensor",
    "wrapped": "_C._functorch.is_functorch_wrapped_tensor",
    # Modes that see every operation: fake tensors, make_fx, profilers of operations.
    "watched": "_C._len_torch_dispatch_stack",
    "watched before autograd": "_ops._len_torch_dispatch_stack_pre_dispatch",
    # An assertion about values that neither breaks a graph nor synchronises a GPU.
    "assertion": "_assert_async",
    # What autograd calls backward, in one pass each: the formulas would take three and more.
    "sigmoid backward": "ops.aten.sigmoid_backward.grad_input",
}


def _found(path: str) -> Callable[..., Any] | None:
    try:
        found: Callable[..., Any] = operator.attrgetter(path)(torch)
    except AttributeError:
        return None
    return found


_torch = {name: _found(path) for name, path in _USED.items()}


# What only makes things faster: where it is not, nothing is lacking.
_onednn_linear = _found("ops.mkldnn._linear_pointwise.default")


def lacking() -> str | None:
    """The first of these that this torch has not; None where it has all."""
    if all(_torch.values()):
        return None
    name = next(name for name, found in _torch.items() if found is None)
    return f"torch.{_USED[name]}"


def _yes(*_: Any) -> bool:
    """The answer where nobody can tell."""
    return True


_watched, _watched_early = (_torch[name] or _yes for name in ("watched", "watched before autograd"))
_batched, _batched_gradient = (_torch[name] or _yes for name in ("batched", "batched gradients"))
_wrapped = _torch["wrapped"] or _yes

# Whether a transform of torch.func is active.
is_transformed: Callable[[], bool] = _torch["transformed"] or _yes


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for many, as each gradient does under ``is_grads_batched``."""
    return _batched(tensor) or _batched_gradient(tensor)


def is_watched() -> bool:
    """Whether a dispatch mode watches every operation."""
    return bool(_watched() or _watched_early())


def is_disturbed() -> bool:
    """Whether somebody compiles, traces, transforms, watches or differentiates forward.

    One question in the place of many: nobody does in most calls, and small ones feel each.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or is_transformed()
        or _watched()
        or _watched_early()
        or getattr(forward_ad, "_current_level", 0) >= 0
        or not all(_torch.values())
    )


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` records the call."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def have_tangents(tensors: Iterable[Tensor]) -> bool:
    """Whether forward-mode differentiation carries a derivative of one of these.

    The level spares the question where nobody differentiates forward.
    """
    if getattr(forward_ad, "_current_level", 0) < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers that can be looked at: no subclass, and nobody's wrapper."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and not _wrapped(tensor)


def assert_async(condition: Tensor, text: str) -> None:
    """Fail with this text where the condition is false, without waiting for a device to say so.

    Where torch cannot, nothing is asserted: the reference refuses what it cannot index.
    """
    check = _torch["assertion"]
    if check is not None:
        check(condition, text)


def sigmoid_backward_(gradient: Tensor, p: Tensor) -> None:
    """Put ``gradient · p · (1 − p)`` in the place of p."""
    _call("sigmoid backward", gradient, p, grad_input=p)


def has_onednn_linear() -> bool:
    """Whether torch can call oneDNN for ``F.linear`` in float32, where it calls MKL by itself."""
    return _onednn_linear is not None


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` by oneDNN, without autograd; the weight or its transpose is contiguous."""
    assert _onednn_linear is not None
    # The rest names a function of the result: none.
    result: Tensor = _onednn_linear(x, weight, bias, "none", [], "")
    return result


def _call(name: str, *args: Any, **kwargs: Any) -> Any:
    function = _torch[name]
    assert function is not None, f"torch.{_USED[name]}"
    return function(*args, **kwargs)


def widest(device: torch.device) -> torch.dtype:
    """The widest floating dtype of a device: Apple's GPUs, and some of Intel's, have no float64."""
    if device.type == "xpu":
        return torch.float64 if _has_float64(device) else torch.float32
    return torch.float32 if device.type == "mps" else torch.float64


def _has_float64(device: torch.device) -> bool:
    return bool(getattr(torch.xpu.get_device_properties(device), "has_fp64", False))


def mark_constant(function: Callable[..., Any]) -> None:
    """Let torch.compile call this function while it traces, and keep the answer.

    ``torch.compiler.assume_constant_result`` does that too, but imports the whole compiler for it.
    Where the mark means nothing any more, the function is traced.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]


mark_constant(_has_float64)
