"""What each position costs: its tail, weights and samples, in one kernel.

In plain torch these are some twenty calls, each of which reads and writes a number per position:
beside few classes more than the logits are.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops.cuda import plain, proof
from steelyard.ops.cuda.kernels import tail_kernel
from steelyard.ops.softmax import SoftmaxProblem

BLOCK, WARPS, ALIGN = 1024, 4, 4


class Variant(NamedTuple):
    """What Triton compiles the kernel for.

    Attributes:
        device: of the logits.
        tail: its name.
        per_class: whether the two parameters are one number per class each.
        weighted: whether there are class weights, and sample weights.
        align: what divides the number of positions: so many are read at once, 4 at the most.
    """

    device: torch.device
    tail: str
    per_class: tuple[bool, bool]
    weighted: tuple[bool, bool]
    align: int

    def __str__(self) -> str:
        return f"the tail {self.tail}"


def costs(
    log_p: Tensor, problem: SoftmaxProblem, classes: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The losses of positions, their derivative by log p, and what each counts.

    Args:
        log_p: of the target class, (N, S) in float32; 0 where ignored.
        problem: of these positions, for class indices.
        classes: C.

    Returns:
        All (N, S); the last None where targets alone tell it.
    """
    given = problem.parameter if isinstance(problem.parameter, tuple) else (problem.parameter,)
    if problem.tail.kernel is None or len(given) > 2:
        return plain.costs(log_p, problem)
    first, second = (_parameter(each, classes) for each in (*given, None)[:2])
    per_class = isinstance(first, Tensor), isinstance(second, Tensor)
    weighted = problem.weight is not None, problem.sample_weight is not None
    align = math.gcd(ALIGN, log_p.numel())
    variant = Variant(log_p.device, problem.tail.kernel, per_class, weighted, align)

    def launched(log_p: Tensor, problem: SoftmaxProblem) -> tuple[Tensor, Tensor, Tensor | None]:
        return _launched(variant, log_p, problem, first, second, classes)

    def off_by() -> dict[str, float]:
        small = _small(variant, problem, classes)
        found, right = launched(*small), plain.costs(small[0].double(), small[1])
        return proof.compared(
            ("the loss", found[0], right[0], torch.float32),
            ("its slope", found[1], right[1], torch.float32),
        )

    if not log_p.numel() or proof.knows(variant) or proof.holds(variant, off_by):
        return launched(log_p, problem)
    return plain.costs(log_p, problem)


def _parameter(given: Any, classes: int) -> Any:
    """One of the tail's: a number as it is, and a tensor as one number per class."""
    return given.expand(classes).contiguous() if isinstance(given, Tensor) else given


def _launched(
    variant: Variant, log_p: Tensor, problem: SoftmaxProblem, first: Any, second: Any, classes: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What :func:`costs` says, by the kernel."""
    log_p, samples = log_p.contiguous(), problem.sample_weight
    loss, by_log_p = torch.empty_like(log_p), torch.empty_like(log_p)
    share = torch.empty_like(log_p) if any(variant.weighted) else None
    positions = log_p.numel()
    if positions:
        with torch.cuda.device_of(log_p):  # type: ignore[no-untyped-call]
            tail_kernel[(-(-positions // BLOCK),)](
                log_p,
                problem.target.contiguous(),
                problem.weight,
                None if samples is None else samples.contiguous(),
                first,
                second,
                loss,
                by_log_p,
                share,
                positions,
                classes,
                int(problem.ignore_index),
                TAIL=variant.tail,
                FIRST_OF_CLASS=variant.per_class[0],
                SECOND_OF_CLASS=variant.per_class[1],
                ALIGN=variant.align,
                BLOCK=BLOCK,
                num_warps=WARPS,
            )
    return loss, by_log_p, share


def _small(
    variant: Variant, problem: SoftmaxProblem, classes: int
) -> tuple[Tensor, SoftmaxProblem]:
    """Log p of positions of this problem's kind: near 0 and far from it, and some are ignored.

    Two programs have them, the second of them not full.
    """
    device, positions = variant.device, BLOCK + 77 * variant.align
    place = torch.arange(positions, device="cpu")
    log_p = -torch.logspace(-8, 2, positions, dtype=torch.float32, device="cpu")
    target = place * 7 % classes
    target[place % 5 == 4] = int(problem.ignore_index)
    log_p[target == problem.ignore_index] = 0.0
    samples = None
    if problem.sample_weight is not None:
        samples = (place % 3).to(device, torch.float32).unsqueeze(1)
    return log_p.to(device).unsqueeze(1), problem.at(target.to(device).unsqueeze(1), samples)
