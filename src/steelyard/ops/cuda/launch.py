"""The CUDA engine: log p of the target class in one kernel, its gradient in another.

Between them stands what belongs to a position: :mod:`steelyard.ops.cuda.costs`. Nothing of the
logits' size is kept: forward leaves log p and the log-sum-exp of each position, and backward reads
the logits again and writes their gradient, so that a step moves 3·N·C numbers and allocates N·C.
The block sizes follow from C, S and the dtype alone; nothing waits for the device.
"""

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard.ops.cuda import plain, proof
from steelyard.ops.cuda.blocks import Blocks
from steelyard.ops.cuda.costs import costs
from steelyard.ops.cuda.kernels import backward_kernel, forward_kernel
from steelyard.ops.problem import Reduction, scaled
from steelyard.ops.softmax import SoftmaxProblem


def row_logprob(
    logits: Tensor,
    target: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    margin: Tensor | None,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Log p of the target class, and the log-sum-exp over classes.

    Args:
        logits: (N, C, S), any strides; float32, bfloat16 or float16.
        target: class indices (N, S), int64.
        scale: of the edited logits, (C,) in float32 or None, as are the next two.
        bias: of these.
        margin: of these.
        ignore_index: positions with this index are not read.

    Returns:
        Both (N, S) in float32: of the edited logits, and 0 where ignored; NaN where the target is
        no class.
    """
    lanes = _lanes_along_memory(logits)
    cut = _Cut.of(lanes)
    edits = scale is not None, bias is not None, margin is not None
    if not cut.holds(lanes, edits, back=False):
        return plain.row_logprob(logits, target, scale, bias, margin, ignore_index)
    log_p, lse = _forward(cut, lanes, target, scale, bias, margin, ignore_index)
    return (log_p, lse) if lanes is logits else (log_p.view_as(target), lse.view_as(target))


def row_logprob_backward(
    logits: Tensor,
    target: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    log_p: Tensor,
    lse: Tensor,
    gradient: Tensor,
    ignore_index: int,
) -> Tensor:
    """The gradient by the logits, (N, C, S) in their dtype and layout, for that by log p, (N, S).

    It is exactly 0 where ignored. The margin is in ``log_p`` already.
    """
    fresh = torch.empty_like(logits)
    lanes, result = _lanes_along_memory(logits), _lanes_along_memory(fresh)
    cut = _Cut.of(lanes, result)
    if not cut.holds(lanes, (scale is not None, bias is not None, False), back=True):
        return plain.row_logprob_backward(
            logits, target, scale, bias, log_p, lse, gradient, ignore_index
        )
    _backward(cut, result, lanes, target, scale, bias, log_p, lse, gradient, ignore_index)
    return fresh


class _Cut(NamedTuple):
    """How kernels are launched: by blocks, and by what divides the strides."""

    blocks: Blocks
    align: int

    @classmethod
    def of(cls, *tensors: Tensor) -> "_Cut":
        """For logits (N, C, S), and whatever else is read or written along them."""
        _, classes, s = tensors[0].shape
        return cls(Blocks.of(classes, s, tensors[0].element_size()), _alignment(*tensors))

    def holds(self, logits: Tensor, edits: tuple[bool, bool, bool], *, back: bool) -> bool:
        """Whether a kernel may be used; tries it where nobody has."""
        _, classes, s = logits.shape
        one = not back and classes <= self.blocks.block_c
        variant = proof.Variant(logits.device, logits.dtype, *self, one, edits)
        kernel = variant.of_backward if back else variant
        if proof.knows(kernel) or not logits.numel():
            return True
        return proof.holds(kernel, lambda: self._off_by(variant, classes, s), variant.of_backward)

    def _off_by(self, variant: proof.Variant, classes: int, places: int) -> dict[str, float]:
        """How far log p and the gradient are from float64, in units of what is allowed."""
        given, gradient = proof.small_problem(variant, classes, places)
        logits, target, scale, bias, margin, ignore_index = given
        log_p, lse = _forward(self, *given)
        by_logits = torch.empty_like(logits)
        _backward(self, by_logits, logits, target, scale, bias, log_p, lse, gradient, ignore_index)
        wide = logits.double()
        scale, bias, margin = (e if e is None else e.double() for e in (scale, bias, margin))
        true, true_lse = plain.row_logprob(wide, target, scale, bias, margin, ignore_index)
        by_true = plain.row_logprob_backward(
            wide, target, scale, bias, true, true_lse, gradient.double(), ignore_index
        )
        return proof.compared(
            ("log p", log_p, true, torch.float32),
            ("its gradient", by_logits, by_true, variant.dtype),
        )


def _forward(
    cut: _Cut,
    logits: Tensor,
    target: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    margin: Tensor | None,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """What :func:`row_logprob` says, by the kernel, for logits with lanes along memory."""
    n, classes, s = logits.shape
    blocks = cut.blocks
    log_p = logits.new_empty((n, s), dtype=torch.float32)
    lse = torch.empty_like(log_p)
    if log_p.numel():
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
            forward_kernel[(blocks.grid(n, s),)](
                logits,
                target.contiguous(),
                scale,
                bias,
                margin,
                log_p,
                lse,
                n,
                classes,
                s,
                *logits.stride(),
                ignore_index,
                ALIGN=cut.align,
                SPATIAL=blocks.spatial,
                ONE=classes <= blocks.block_c,
                BLOCK_P=blocks.block_p,
                BLOCK_C=blocks.block_c,
                num_warps=blocks.num_warps,
            )
    return log_p, lse


def _backward(
    cut: _Cut,
    result: Tensor,
    logits: Tensor,
    target: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    log_p: Tensor,
    lse: Tensor,
    gradient: Tensor,
    ignore_index: int,
) -> None:
    """Write the gradient by the logits to ``result``, by the kernel."""
    n, classes, s = logits.shape
    blocks = cut.blocks
    if result.numel():
        with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
            backward_kernel[
                (blocks.grid(n, s), 1 if blocks.spatial else -(-classes // blocks.block_c))
            ](
                logits,
                target.contiguous(),
                scale,
                bias,
                log_p,
                lse,
                gradient.contiguous(),
                result,
                n,
                classes,
                s,
                *logits.stride(),
                *result.stride(),
                ignore_index,
                ALIGN=cut.align,
                SPATIAL=blocks.spatial,
                BLOCK_P=blocks.block_p,
                BLOCK_C=blocks.block_c,
                num_warps=blocks.num_warps,
            )


# As ops that torch.compile does not open, for graphs that it traces; eager calls go past them, for
# their dispatch costs more than a launch. (torch.library.triton_op would open them to Inductor,
# which can fuse nothing into such a kernel.) They take no part in autocast: no input is cast.
op = torch.library.custom_op("steelyard::row_logprob", row_logprob, mutates_args=())
backward_op = torch.library.custom_op(
    "steelyard::row_logprob_backward", row_logprob_backward, mutates_args=()
)


@op.register_fake
def _(logits: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    n, _, s = logits.shape
    log_p = logits.new_empty((n, s), dtype=torch.float32)
    return log_p, torch.empty_like(log_p)


@backward_op.register_fake
def _(logits: Tensor, *_others: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, target, scale, bias, _, ctx.ignore_index = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, target, scale, bias, *output)


def _differentiate(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    by_logits = backward_op(*ctx.saved_tensors, gradient, ctx.ignore_index)
    return by_logits, None, None, None, None, None


def _refuse(*_: Any) -> None:
    raise RuntimeError(
        "the triton engine has no second derivative inside torch.compile: use "
        "engine='reference', or call the loss outside of it"
    )


op.register_autograd(_differentiate, setup_context=_keep)
backward_op.register_autograd(_refuse)


# Log p of the target class, the log-sum-exp, and the derivative of each loss by log p, (N, S).
Kept = tuple[Tensor, Tensor, Tensor]


def forward(
    logits: Tensor, problem: SoftmaxProblem, reduction: Reduction, differentiate: bool
) -> tuple[Tensor, Tensor | None, Kept | None]:
    """The losses (N, d…) of positions, reduced; the divisor of a mean; and what backward wants."""
    shape = problem.target.shape
    logits, problem = _with_places(logits, problem)
    ignore_index = int(problem.ignore_index)
    edit = problem.scale, problem.bias, problem.margin
    log_p, lse = row_logprob(logits, problem.target, *edit, ignore_index)
    value, by_log_p, share = costs(log_p, problem, logits.shape[1])
    kept = (log_p, lse, by_log_p) if differentiate else None
    value, divisor = reduction(value.view(shape), problem, share)
    return value, divisor, kept


def backward(
    logits: Tensor, problem: SoftmaxProblem, kept: Kept | None, gradient: Tensor
) -> Tensor:
    """The gradient by the logits, for that by the losses, 0-dimensional or (N, d…)."""
    if kept is None:
        kept = forward(logits, problem, Reduction("none"), True)[2]
        assert kept is not None
    shape = logits.shape
    logits, problem = _with_places(logits, problem)
    if gradient.ndim:
        gradient = gradient.reshape(problem.target.shape)
    log_p, lse, by_log_p = kept
    return row_logprob_backward(
        logits,
        problem.target,
        problem.scale,
        problem.bias,
        log_p,
        lse,
        by_log_p * gradient,
        int(problem.ignore_index),
    ).view(shape)


def losses(logits: Tensor, problem: SoftmaxProblem, reduction: Reduction) -> Tensor:
    """The losses of positions (N, d…), reduced, around an op that Inductor does not open."""
    shape = problem.target.shape
    logits, problem = _with_places(logits, problem)
    edit = problem.scale, problem.bias, problem.margin
    log_p, _ = op(logits, problem.target, *edit, int(problem.ignore_index))
    ignored = problem.target == problem.ignore_index
    index = problem.target.masked_fill(ignored, 0)
    share = problem.share(index, ignored)
    rows = problem.tail.value(log_p, problem.parameter_of(index))
    rows = (rows if share is None else scaled(share, rows)).view(shape)
    return reduction(rows, problem, share)[0]


def _with_places(logits: Tensor, problem: SoftmaxProblem) -> tuple[Tensor, SoftmaxProblem]:
    """Logits (N, C, S), and the problem of (N, S); copies where the strides allow no views."""
    if logits.ndim > 2:
        return problem.flat(logits)
    samples = problem.sample_weight
    samples = None if samples is None else samples.unsqueeze(1)
    return logits.unsqueeze(2), problem.at(problem.target.unsqueeze(1), samples)


def _lanes_along_memory(logits: Tensor) -> Tensor:
    """(1, C, N) for rows (N, C, 1) that lie in memory as columns; what lies otherwise as it is."""
    _, _, s = logits.shape
    columns = s == 1 and logits.stride(0) == 1 and logits.stride(1) != 1
    return logits.permute(2, 1, 0) if columns else logits


def _alignment(*tensors: Tensor) -> int:
    """The largest power of 2, at most 16, that divides how far lanes go and where they begin."""
    _, classes, s = tensors[0].shape
    strides = [t.stride()[: 1 if s == 1 else 2] for t in tensors]
    return math.gcd(16, classes if s == 1 else s, *itertools.chain(*strides))
