"""Random calls of every loss, compared in value and gradient with an oracle in float64.

``python -m tests.fuzz --calls 50000 --seed 1`` makes many, and prints those that differ with what
makes them again: ``--seed 1 --only 4711``. A small part runs as a test.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from fuzz_calls import FAMILIES, SHARES, Call, Draw
from torch import Tensor

EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32)}


def with_gradient(function: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient; values of positions have upstream gradients that differ."""
    leaf = logits.detach().requires_grad_()
    value = function(leaf)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    grad = torch.autograd.grad(value, leaf, upstream)[0]
    return value.detach(), grad


def difference(call: Call, compiled: bool = False) -> str | None:
    """What is wrong with a call; None where nothing is.

    A result may be off by what the rounding of its terms allows, sixteen units in their last
    place; in float32 by four times as much, too, as the oracle itself is when it computes so.
    """
    logits = call.logits
    before = logits.clone()
    run = torch.compile(call.run, fullgraph=True, backend="aot_eager") if compiled else call.run
    value, grad = with_gradient(run, logits)
    if not torch.equal(logits.nan_to_num(7), before.nan_to_num(7)):
        return "the logits were changed"
    exact, exact_grad = with_gradient(call.truth, logits.double().contiguous())
    wide = torch.float64 if logits.dtype is torch.float64 else torch.float32
    if value.dtype is not wide or value.shape != exact.shape:
        return f"{value.dtype}{tuple(value.shape)}, expected {wide}{tuple(exact.shape)}"
    if grad.dtype is not logits.dtype or grad.shape != logits.shape:
        return f"the gradient is {grad.dtype}{tuple(grad.shape)}"
    off = torch.zeros_like(exact), torch.zeros_like(exact_grad)
    if wide is torch.float32:
        naive, naive_grad = with_gradient(call.truth, logits.float().contiguous())
        off = (naive.double() - exact).abs(), (naive_grad.double() - exact_grad).abs()
    allowed = 16 * EPS[wide] * call.size
    wrong = apart("the value", value, exact, allowed + 4 * off[0].nan_to_num(0, 0, 0))
    if wrong is not None or not exact.isfinite().all():
        return wrong  # what diverges has no gradient to agree on
    slack = allowed + 4 * off[1].nan_to_num(0, 0, 0)
    if logits.dtype is not wide:  # rounded to it, or to nothing below its normal numbers
        half = torch.finfo(logits.dtype)
        slack = slack + half.eps * exact_grad.abs() + half.tiny
    if call.diverged is not None:
        grad, exact_grad = (g.masked_fill(call.diverged, 0) for g in (grad, exact_grad))
    return apart("the gradient", grad, exact_grad, slack)


def apart(what: str, given: Tensor, exact: Tensor, allowed: Tensor) -> str | None:
    """Where two results are further apart than is allowed."""
    exact, given = exact.to(given.dtype).double(), given.double()  # what is beyond a dtype is ∞
    same = (exact == given) | (exact.isnan() & given.isnan())
    wrong = ~same & ~((given - exact).abs() <= allowed)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{what} at {list(place)} is {given[place].item()!r}, expected {exact[place].item()!r}, "
        f"allowed {allowed[place].item():.3g}"
    )


def call_of(seed: int, number: int) -> tuple[str, Call]:
    """The call of this number: always the same."""
    draw = Draw(seed * 1_000_003 + number)
    family = draw.choices(FAMILIES, SHARES)[0]
    return family.name, family.draw(draw)


def differences(
    seed: int, numbers: Iterable[int], compiled: int = 0
) -> Iterator[tuple[int, str, Call, str | None]]:
    """What is wrong with the calls of these numbers; every ``compiled``-th is compiled."""
    for number in numbers:
        name, call = call_of(seed, number)
        as_graph = call.compiles and compiled > 0 and number % compiled == 0
        if as_graph:
            torch._dynamo.reset()
        try:
            wrong = difference(call, as_graph)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        yield number, name, call, wrong


def main() -> int:
    """Make many calls, and tell those that differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one call, to make it again")
    parser.add_argument("--compiled", type=int, default=500, help="compile every n-th; 0: none")
    asked = parser.parse_args()
    numbers = range(asked.calls) if asked.only is None else [asked.only]
    made: Counter[str] = Counter()
    failed = 0
    start = time.monotonic()
    for number, name, call, wrong in differences(asked.seed, numbers, asked.compiled):
        made[name] += 1
        if wrong is not None or asked.only is not None:
            failed += wrong is not None
            print(f"{number}: {wrong}\n    {call.text}", flush=True)
    each = ", ".join(f"{count} {name}" for name, count in sorted(made.items()))
    print(f"{made.total()} calls ({each}), {failed} differ, {time.monotonic() - start:.0f} s")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
