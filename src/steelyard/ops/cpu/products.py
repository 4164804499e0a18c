"""The three matrix products of a head, on a CPU by the library that uses all of it.

For float32 torch calls MKL. On a processor that is not Intel's, MKL leaves half of AVX-512's width
idle, and oneDNN, which torch has too and calls for convolutions, is up to twice as fast. It writes
into memory of its own, so it gets blocks: what is copied from there, or added, is in the cache.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from steelyard.ops import compat

# Products of fewer multiplications than this are done before oneDNN has made code for their shape.
LARGE = 2**28
# The numbers of a block: few beside a tile, and enough for the products to be as fast as they get.
BLOCK = 2**19


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """``out = x Wᵀ + b``, (n, C), for x (n, D) and W (C, D)."""
    if by_onednn(x, weight):
        for some in _blocks(weight.shape[0], max(x.shape)):
            own = None if bias is None else bias[some]
            out[:, some] = compat.onednn_linear(x, weight[some], own)
    elif bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)


def by_features(gradient: Tensor, weight: Tensor, out: Tensor) -> None:
    """``out = G W``, (n, D), for G (n, C) and W (C, D)."""
    if by_onednn(out, weight):
        for some in _blocks(*out.shape):
            out[some] = compat.onednn_linear(gradient[some], weight.T)
    elif out.dtype == weight.dtype:
        torch.mm(gradient, weight, out=out)
    else:
        out.copy_(gradient @ weight)


def add_by_weight(gradient: Tensor, x: Tensor, out: Tensor) -> None:
    """``out += Gᵀ x``, (C, D), for G (n, C) and x (n, D)."""
    if by_onednn(x, out):
        columns = x.contiguous().T
        for some in _blocks(out.shape[0], max(x.shape)):
            # Together first: rows a power of 2 apart meet in one corner of the cache.
            dense = gradient[:, some].contiguous()
            out[some] += compat.onednn_linear(dense.T, columns)
    elif out.dtype == x.dtype:
        out.addmm_(gradient.T, x)
    else:
        out += gradient.T @ x


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN does the products of x (n, D) and W (C, D)."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * weight.shape[0] >= LARGE
        and weight.is_contiguous()  # what is not dense takes it hundreds of times as long
        and bool(torch.backends.mkldnn.enabled)
        and mkl_is_slower()
    )


def bytes_of_blocks(x: Tensor, weight: Tensor) -> int:
    """What the products take beside what they are given."""
    return 3 * BLOCK * x.itemsize if by_onednn(x, weight) else 0


@functools.cache
def mkl_is_slower() -> bool:
    """Whether torch has oneDNN, and an MKL that would use half of this processor."""
    # Without the function, of newer torches, nobody says what the processor is.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        compat.has_onednn_linear()
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and "AMD" in capabilities.get("cpu_name", "")
    )


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Of so many rows of so many numbers, those of a block."""
    step = max(1, BLOCK // width)
    for start in range(0, length, step):
        yield slice(start, start + step)
