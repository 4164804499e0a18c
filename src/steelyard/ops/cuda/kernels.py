# A kernel is written in Triton's language, which has neither types nor attributes of its own.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803, N806
"""The kernels of the CUDA engine: log p of the target class, what that costs, and the gradient.

What it costs goes through positions alone. In the other two a program has ``BLOCK_P`` positions
and goes through their classes, ``BLOCK_C`` at a time. A logit is read once in each of them and is
float32 from then on. Rows that are ignored are not read.

With S = 1 the positions of a program are rows n, and lanes run along the classes; with SPATIAL
they are places s of one n, and lanes run along those. Positions are numbered p = n·S + s. Triton
sees for itself that a size or a stride is a multiple of 16; ``ALIGN`` tells it of smaller powers of
2, so that 1000 classes are read 16 bytes at a time as well.
"""

import triton
import triton.language as tl

# Stands for the largest of no logits: differences with it are finite or infinite, never NaN.
LOWEST = tl.constexpr(-3.4028234663852886e38)
# What no logarithm or quotient makes infinite.
SMALLEST = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def _multiple(size, ALIGN: tl.constexpr):
    """The same number, known to be a multiple; ``tl.multiple_of`` does that to tensors alone."""
    return size // ALIGN * ALIGN


@triton.jit
def _positions(N, S, stride_n, stride_s, SPATIAL: tl.constexpr, BLOCK_P: tl.constexpr):
    """The numbers p of a program's positions, where their logits begin, and which there are."""
    block = tl.program_id(0)
    lanes = tl.arange(0, BLOCK_P)
    if SPATIAL:
        blocks = tl.cdiv(S, BLOCK_P)
        n = (block // blocks).to(tl.int64)
        s = (block % blocks) * BLOCK_P + lanes
        p = n * S + s
        start = n * stride_n + s.to(tl.int64) * stride_s
        there = s < S
    else:
        p = block.to(tl.int64) * BLOCK_P + lanes
        start = p * stride_n
        there = p < N
    return p, start, there


@triton.jit
def _edited(logits, c, offsets, read, C, scale, bias):
    """``scale · logits + bias`` for classes c: (BLOCK_P, BLOCK_C) in float32, −∞ beyond C."""
    there = c < C
    z = tl.load(logits + offsets, mask=read[:, None] & there[None, :], other=0.0).to(tl.float32)
    if scale is not None:
        z *= tl.load(scale + c, mask=there, other=1.0)[None, :]
    if bias is not None:
        z += tl.load(bias + c, mask=there, other=0.0)[None, :]
    return tl.where(there[None, :], z, float("-inf"))


@triton.jit
def _log1p(x):
    """``log(1 + x)`` for x in [0, 1]; what the rounding of 1 + x lost is put back by x/(u − 1)."""
    u = 1.0 + x
    exact = u == 1.0
    return tl.where(exact, x, tl.log(u) * (x / tl.where(exact, 1.0, u - 1.0)))


@triton.jit
def _expm1(x):
    """``exp(x) − 1`` for x ≤ 0, in the same way."""
    u = tl.exp(x)
    near = (u >= 0.5) & (u < 1.0)
    lost = tl.where(near, x / tl.log(tl.where(near, u, 0.5)), 1.0)
    return tl.where(u == 1.0, x, (u - 1.0) * lost)


@triton.jit(do_not_specialize=["N", "ignore_index"])
def forward_kernel(
    logits,  # (N, C, S)
    target,  # (N, S)
    scale,  # (C,) or None, as are the next two
    bias,
    margin,
    log_p,  # (N, S), float32: of the target class; 0 where ignored
    lse,  # (N, S), float32: log of the sum over classes
    N,
    C,
    S,
    stride_n,
    stride_c,
    stride_s,
    ignore_index,
    ALIGN: tl.constexpr,
    SPATIAL: tl.constexpr,
    ONE: tl.constexpr,  # one block holds all classes
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Log p of the target class, and the log-sum-exp."""
    if ALIGN > 1:
        stride_n = _multiple(stride_n, ALIGN)
        if SPATIAL:
            S, stride_c = _multiple(S, ALIGN), _multiple(stride_c, ALIGN)
        else:
            C = _multiple(C, ALIGN)
    p, start, there = _positions(N, S, stride_n, stride_s, SPATIAL, BLOCK_P)
    y = tl.load(target + p, mask=there, other=ignore_index)
    wanted = y != ignore_index
    # Places side by side are read together, ignored or not.
    read = there if SPATIAL else wanted
    valid = wanted & (y >= 0) & (y < C)
    # A class that is not there makes NaN, and nothing is read for it.
    own = tl.load(logits + start + y * stride_c, mask=valid, other=float("nan")).to(tl.float32)
    if scale is not None:
        own *= tl.load(scale + y, mask=valid, other=1.0)
    if bias is not None:
        own += tl.load(bias + y, mask=valid, other=0.0)
    if margin is not None:
        own -= tl.load(margin + y, mask=valid, other=0.0)

    # Log of the sum over the other classes: with the target's own term left out, a p near 1 loses
    # no digit of 1 − p.
    lanes = tl.arange(0, BLOCK_C)
    if ONE:
        offsets = start[:, None] + lanes.to(tl.int64)[None, :] * stride_c
        z = _edited(logits, lanes, offsets, read, C, scale, bias)
        z = tl.where(lanes[None, :] == y[:, None], float("-inf"), z)
        largest = tl.maximum(tl.max(z, 1), LOWEST)
        total = tl.sum(tl.exp(z - largest[:, None]), 1)
    else:
        # Each lane has a maximum and a sum of its own, so none waits for another until the end.
        m = tl.full((BLOCK_P, BLOCK_C), LOWEST, tl.float32)
        t = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        for first in range(0, C, BLOCK_C):
            c = first + lanes
            offsets = start[:, None] + c.to(tl.int64)[None, :] * stride_c
            z = _edited(logits, c, offsets, read, C, scale, bias)
            z = tl.where(c[None, :] == y[:, None], float("-inf"), z)
            rise = z - m
            e = tl.exp(-tl.abs(rise))  # one exponential serves whichever of the two is larger
            t = tl.where(rise > 0, t * e + 1.0, t + e)
            m = tl.maximum(m, z)
        largest = tl.max(m, 1)
        total = tl.sum(t * tl.exp(m - largest[:, None]), 1)
    others = largest + tl.log(total)

    odds = (largest - own) + tl.log(total)  # log of the odds against the target
    odds = tl.where(own == float("inf"), float("nan"), odds)  # ∞ − ∞, as in any other softmax
    excess = _log1p(tl.exp(-tl.abs(odds)))
    row = tl.where(wanted, tl.minimum(-odds, 0.0) - excess, 0.0)
    tl.store(log_p + p, row, mask=there)
    tl.store(lse + p, tl.where(wanted, tl.maximum(others, own) + excess, 0.0), mask=there)


@triton.jit
def _tail(log_p, a, b, TAIL: tl.constexpr):
    """The tail of log p with parameters a and b, and its slope, the derivative by −log p.

    The formulas are those of ``steelyard/losses/tails.py``.
    """
    value, slope = -log_p, tl.full(log_p.shape, 1.0, tl.float32)
    if TAIL == "focal":
        bounded = tl.maximum(log_p, -60.0)
        miss = tl.maximum(-_expm1(bounded), SMALLEST)
        power = tl.exp(a * tl.log(miss))
        value *= power
        slope = power * (1.0 - a * tl.exp(bounded) * (bounded / miss))
    elif TAIL == "poly":
        value -= a * _expm1(log_p)
        slope += a * tl.exp(log_p)
    elif TAIL == "generalized":
        value = -_expm1(a * log_p) / a
        slope = tl.exp(a * log_p)
    elif TAIL == "symmetric":
        missed = -b * _expm1(log_p)
        value = tl.where(a == 0, missed, missed - a * log_p)  # 0 times an infinite log p is 0
        slope = b * tl.exp(log_p) + a
    else:
        tl.static_assert(TAIL == "cross_entropy")
    return value, slope


@triton.jit(do_not_specialize=["P", "C", "ignore_index"])
def tail_kernel(
    log_p,  # (P,), float32: of the target class; 0 where ignored
    target,  # (P,)
    weight,  # (C,) or None
    samples,  # (P,) or None
    first,  # the tail's parameters: a number, one per class (C,), or None
    second,
    loss,  # (P,), float32
    by_log_p,  # (P,), float32: the derivative of the loss
    share,  # (P,), float32: what each counts; or None
    P,
    C,
    ignore_index,
    TAIL: tl.constexpr,
    FIRST_OF_CLASS: tl.constexpr,
    SECOND_OF_CLASS: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What each position costs, and its derivative by log p; 0 where ignored."""
    P = _multiple(P, ALIGN)
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = p < P
    y = tl.load(target + p, mask=there, other=ignore_index)
    wanted = y != ignore_index
    valid = wanted & (y >= 0) & (y < C)
    a, b = first, second
    if FIRST_OF_CLASS:
        a = tl.load(first + y, mask=valid, other=1.0).to(tl.float32)
    if SECOND_OF_CLASS:
        b = tl.load(second + y, mask=valid, other=1.0).to(tl.float32)
    value, slope = _tail(tl.load(log_p + p, mask=there, other=0.0), a, b, TAIL)
    counts = wanted.to(tl.float32)
    if weight is not None:
        counts *= tl.load(weight + y, mask=valid, other=1.0).to(tl.float32)
    if samples is not None:
        counts *= tl.load(samples + p, mask=there, other=0.0).to(tl.float32)
        counts = tl.where(wanted, counts, 0.0)  # whatever stands there
    # 0 times an infinite loss is 0.
    tl.store(loss + p, tl.where(counts == 0, 0.0, counts * value), mask=there)
    tl.store(by_log_p + p, tl.where(counts == 0, 0.0, -counts * slope), mask=there)
    if share is not None:
        tl.store(share + p, counts, mask=there)


@triton.jit(do_not_specialize=["N", "ignore_index"])
def backward_kernel(
    logits,
    target,
    scale,
    bias,
    log_p,
    lse,
    gradient,  # (N, S): by log p
    result,  # (N, C, S): by the logits
    N,
    C,
    S,
    stride_n,
    stride_c,
    stride_s,
    result_n,
    result_c,
    result_s,
    ignore_index,
    ALIGN: tl.constexpr,
    SPATIAL: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradient by the logits; that of log p_y by z_c is scale_c · (δ_cy − p_c)."""
    if ALIGN > 1:
        stride_n, result_n = _multiple(stride_n, ALIGN), _multiple(result_n, ALIGN)
        if SPATIAL:
            S = _multiple(S, ALIGN)
            stride_c, result_c = _multiple(stride_c, ALIGN), _multiple(result_c, ALIGN)
        else:
            C = _multiple(C, ALIGN)
    p, start, there = _positions(N, S, stride_n, stride_s, SPATIAL, BLOCK_P)
    _, out, _ = _positions(N, S, result_n, result_s, SPATIAL, BLOCK_P)
    y = tl.load(target + p, mask=there, other=ignore_index)
    wanted = y != ignore_index
    read = there if SPATIAL else wanted
    g = tl.load(gradient + p, mask=wanted, other=0.0).to(tl.float32)
    norm = tl.load(lse + p, mask=wanted, other=0.0)
    own = g * -_expm1(tl.load(log_p + p, mask=wanted, other=0.0))
    # Rows share their classes out over the second dimension of the grid; places keep theirs, for
    # what belongs to a position would be read again by each program that has it.
    lanes = tl.arange(0, BLOCK_C)
    for first in range(tl.program_id(1) * BLOCK_C, C, tl.num_programs(1) * BLOCK_C):
        c = first + lanes
        wide = c.to(tl.int64)[None, :]
        z = _edited(logits, c, start[:, None] + wide * stride_c, read, C, scale, bias)
        by_logit = -g[:, None] * tl.exp(z - norm[:, None])
        by_logit = tl.where(c[None, :] == y[:, None], own[:, None], by_logit)
        if scale is not None:
            by_logit *= tl.load(scale + c, mask=c < C, other=1.0)[None, :]
        by_logit = tl.where(wanted[:, None], by_logit, 0.0)  # whatever stands there
        tl.store(
            result + (out[:, None] + wide * result_c),
            by_logit.to(result.dtype.element_ty),
            mask=there[:, None] & (c < C)[None, :],
        )
