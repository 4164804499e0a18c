"""Fresh memory without the price of its page faults."""

import ctypes
import functools
import mmap
import threading
from collections.abc import Callable

import torch
from torch import Tensor

# glibc maps every block above 32 MiB anew, and gives smaller ones back when it sees fit: the kernel
# then zeroes them page by page, for more than the arithmetic. What is smaller than this it keeps.
LARGE = 4 * 2**20

_of_thread = threading.local()


def scratch(number: int, numel: int, dtype: torch.dtype) -> Tensor:
    """Memory (number, numel) to compute in, the same for every call of a thread.

    To give back even a little of it makes glibc give back what others have left free, too, at the
    price of its pages.
    """
    size = number * numel * dtype.itemsize
    held: Tensor | None = getattr(_of_thread, "memory", None)
    if held is None or held.numel() < size:
        with torch.inference_mode(False):  # for all that come later, too
            held = _of_thread.memory = torch.empty(size, dtype=torch.uint8, device="cpu")
    return held[:size].view(dtype).view(number, numel)


def empty_like(tensor: Tensor) -> Tensor:
    """``torch.empty_like``, in huge pages where it is large and the system has them.

    NumPy asks for the same for its own arrays.
    """
    fresh = torch.empty_like(tensor)
    size = fresh.numel() * fresh.element_size()
    advise = _madvise() if size >= LARGE else None
    if advise is not None:
        start = -(-fresh.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (fresh.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(start, end - start, mmap.MADV_HUGEPAGE)  # advice: a refusal changes nothing
    return fresh


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # only Linux has it
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise
