"""The proof of a kernel: at its first use it is compared with the formula, once in a process.

A kernel that is wrong on a machine, or does not compile there, would train a model wrongly, or not
at all, where plain torch is merely slower. So the first call of each variant that Triton compiles
does a small problem of the same variant too, values and gradients, and waits for the result. What
differs beyond the bound, or fails, is replaced by its twin in plain torch, with one warning; from
then on the engine refuses that device.

Nothing is tried while a CUDA graph is captured, where nothing may wait: what was not compared by
then is done by its twin. Whoever traces a call does not come here; the op that he puts into his
graph does, when the graph runs.
"""

import os
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from steelyard.ops.cuda.blocks import Blocks

SETTING = "STEELYARD_PROOF"
"""The environment variable that turns the proof off: ``STEELYARD_PROOF=0``."""

# How far log p and its gradient may be from float64, relative to their size: some fifty times what
# float32 loses here, or one unit in the last place to which the gradient is rounded; what is wrong
# is off by far more. And how far those may be that are next to nothing.
BOUND = {torch.float32: 2.0**-14, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
NOTHING = 1e-6


class Variant(NamedTuple):
    """What Triton compiles the kernels for.

    Attributes:
        device, dtype: of the logits.
        blocks: how the logits are cut up.
        align: what divides the strides.
        one: whether a program of the forward kernel holds all classes; no matter to the other.
        edits: whether there are scale, bias and, in the forward kernel, margin.
        back: whether it is the backward kernel.
    """

    device: torch.device
    dtype: torch.dtype
    blocks: Blocks
    align: int
    one: bool
    edits: tuple[bool, bool, bool]
    back: bool = False

    @property
    def of_backward(self) -> "Variant":
        """The backward kernel that goes with a forward one."""
        return self._replace(one=False, edits=(*self.edits[:2], False), back=True)

    def __str__(self) -> str:
        spatial, block_p, block_c, warps = self.blocks
        dtype, along = str(self.dtype).removeprefix("torch."), "places" if spatial else "rows"
        return f"{dtype}, {along}, blocks of {block_p} × {block_c}, {warps} warps"


class Kernel(Protocol):
    """What was tried, or is to be: hashable, and its text tells it from others."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""


_lock = threading.Lock()
_proved: set[Kernel] = set()
_refused: dict[torch.device, str] = {}


def knows(kernel: Kernel) -> bool:
    """Whether a kernel was tried, and may be used."""
    return kernel in _proved


def holds(kernel: Kernel, off_by: Callable[[], dict[str, float]], *others: Kernel) -> bool:
    """Whether a kernel may be used; tries it where nobody has.

    Args:
        kernel: which one.
        off_by: launches it on a small problem; how far what it finds is from float64, each by its
            name, in units of what is allowed.
        *others: kernels that are tried by that as well.
    """
    device = kernel.device
    if device in _refused or _captures(device):
        return False
    with _lock:
        if device in _refused or knows(kernel):  # by another thread
            return device not in _refused
        reason = _tried(kernel, off_by) if is_on() else None
        if reason is None:
            _proved.update((kernel, *others))
            return True
        _refused[device] = reason
    warnings.warn(
        f"steelyard: its CUDA kernels are not used on {device}: {reason}. Plain torch "
        f"takes their place, which is right but slower. Please report this text; {SETTING}=0 in "
        "the environment uses the kernels all the same",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def refusal(device: torch.device) -> str | None:
    """Why the kernels are not used on this device, if so."""
    return _refused.get(device)


def is_on() -> bool:
    """Whether kernels are compared."""
    return os.environ.get(SETTING) != "0"


def forget() -> None:
    """Take every kernel for untried."""
    with _lock:
        _proved.clear()
        _refused.clear()


def _captures(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _tried(kernel: Kernel, off_by: Callable[[], dict[str, float]]) -> str | None:
    """Why a kernel is not to be used, if so."""
    try:
        off = off_by()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # of a device that is full, or broken: it says nothing about the kernel
    except Exception as error:
        text = str(error).strip().splitlines()
        return f"a kernel failed ({kernel}): {type(error).__name__}: {text[0] if text else ''}"
    for name, times in off.items():
        if not times <= 1:
            return f"at first use {name} was off by {times:.3g} times what is allowed ({kernel})"
    return None


def compared(*each: tuple[str, Tensor, Tensor, torch.dtype]) -> dict[str, float]:
    """How far each is from float64, in units of what is allowed: name, found, right, and dtype."""
    ratios = []
    for _, found, right, dtype in each:
        ratio = (found.double() - right).abs() / (BOUND[dtype] * right.abs() + NOTHING)
        ratios.append(ratio.nan_to_num(nan=torch.inf, posinf=torch.inf).max())
    names = [name for name, *_ in each]
    return dict(zip(names, torch.stack(ratios).tolist(), strict=True))


def small_problem(
    variant: Variant, classes: int, places: int
) -> tuple[tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, int], Tensor]:
    """What :func:`launch.row_logprob` is called with, of this variant, and an upstream gradient.

    It has several programs, the last of them not full; ignored positions, which hold NaN; masked
    classes; and targets of a p near 0 and near 1.
    """
    classes = _shortened(classes, variant.blocks.block_c)
    s = _shortened(places, variant.blocks.block_p) if variant.blocks.spatial else 1
    n = 2 if variant.blocks.spatial else max(16, 2 * variant.blocks.block_p) + 1
    generator = torch.Generator("cpu").manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32)

    logits = 8 * uniform(n, classes, s) - 4
    target = (uniform(n, s) * classes).long().clamp_(max=classes - 1)
    flat = target.view(-1)
    flat[0], flat[-1] = classes - 1, 0
    own = target.unsqueeze(1)
    shift = torch.tensor([0.0, 12.0, -12.0], device="cpu")
    logits.scatter_add_(1, own, shift[torch.arange(n * s, device="cpu") % 3].view(n, 1, s))
    if classes > 2:  # masked classes that nobody has for a target
        masked = (own + 1) % classes
        keep = (torch.arange(n * s, device="cpu") % 4 > 0).view(n, 1, s)
        value = torch.where(keep, logits.gather(1, masked), -torch.inf)
        logits.scatter_(1, masked, value)
    ignored = (torch.arange(n * s, device="cpu") % 5 == 4).view(n, s)
    target.masked_fill_(ignored, -100)
    logits.masked_fill_(ignored.unsqueeze(1), torch.nan)
    edits = [0.5 + uniform(classes), uniform(classes) - 0.5, uniform(classes)]
    gradient = 2 * uniform(n, s) - 0.5

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(variant.device)

    scale, bias, margin = (
        there(edit) if wanted else None for edit, wanted in zip(edits, variant.edits, strict=True)
    )
    logits = there(logits.to(variant.dtype))
    return (logits, there(target), scale, bias, margin, -100), there(gradient)


def _shortened(size: int, block: int) -> int:
    """A size that takes as many kinds of blocks, and has the same powers of 2 up to 16."""
    step = max(block, 16)
    return size if size <= 3 * step else 2 * step + (size % step or step)
