"""Every use of what torch does not promise, each with its reason and its way out.

The fast engines write into memory that autograd, a transform or a tracer may be watching, so they
must know who watches. Torch has no public way to ask. Where one of these questions cannot be asked
any more, :func:`lacking` names it, and every loss takes the reference, which needs none of them.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What is asked of torch, and where it stands in torch 2.11 to 2.13.
_QUESTIONS = {
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
}


def _found(path: str) -> Callable[..., Any] | None:
    try:
        found: Callable[..., Any] = operator.attrgetter(path)(torch)
    except AttributeError:
        return None
    return found


_ask = {name: _found(path) for name, path in _QUESTIONS.items()}


def lacking() -> str | None:
    """The first question that this torch cannot be asked; None where all can."""
    if None not in _ask.values():
        return None
    name = next(name for name, ask in _ask.items() if ask is None)
    return f"torch.{_QUESTIONS[name]}"


def _yes(name: str, *about: Any) -> bool:
    """The answer; yes where nobody can tell."""
    ask = _ask[name]
    return ask is None or bool(ask(*about))


def is_transformed() -> bool:
    """Whether a transform of torch.func is active."""
    return _yes("transformed")


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for many, as each gradient does under ``is_grads_batched``."""
    return _yes("batched", tensor) or _yes("batched gradients", tensor)


def is_watched() -> bool:
    """Whether a dispatch mode watches every operation."""
    return _yes("watched") or _yes("watched before autograd")


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
    return type(tensor) in (Tensor, torch.nn.Parameter) and not _yes("wrapped", tensor)


def assert_async(condition: Tensor, text: str) -> None:
    """Fail with this text where the condition is false, without waiting for a device to say so.

    A data-dependent ``assert`` breaks a graph and synchronises a GPU.
    """
    torch._assert_async(condition, text)


def mark_constant(function: Callable[..., Any]) -> None:
    """Let torch.compile call this function while it traces, and keep the answer.

    ``torch.compiler.assume_constant_result`` does that too, but imports the whole compiler for it.
    Where the mark means nothing any more, the function is traced.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
