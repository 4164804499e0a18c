"""The CUDA kernels' proof at first use, with kernels of plain torch: right, wrong or broken."""

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import steelyard as sy
from steelyard.losses import tails
from steelyard.ops import dispatch
from steelyard.ops.cuda import blocks, plain, proof

launch = pytest.importorskip("steelyard.ops.cuda.launch")
costs = pytest.importorskip("steelyard.ops.cuda.costs")

LOGITS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(40) % 5
CPU = torch.device("cpu")


class Kernel:
    """Takes the place of a kernel; ``spoil`` changes what it found."""

    def __init__(self, spoil: Callable[[Tensor], Tensor] | None = None) -> None:
        self.spoil, self.launched = spoil, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*args: Any, **options: Any) -> None:
            self.launched += 1
            self.compute(*args, tail=options.get("TAIL"))

        return run

    def compute(self, *args: Any, tail: str | None) -> None:
        raise NotImplementedError

    def changed(self, found: Tensor) -> Tensor:
        return found if self.spoil is None else self.spoil(found)


class Forward(Kernel):
    def compute(self, *args: Any, tail: str | None) -> None:
        logits, target, scale, bias, margin, log_p, lse, *_, ignore_index = args
        found = plain.row_logprob(logits, target, scale, bias, margin, ignore_index)
        log_p.copy_(self.changed(found[0]))
        lse.copy_(found[1])


class Backward(Kernel):
    def compute(self, *args: Any, tail: str | None) -> None:
        logits, target, scale, bias, log_p, lse, gradient, result, *_, ignore_index = args
        found = plain.row_logprob_backward(
            logits, target, scale, bias, log_p, lse, gradient, ignore_index
        )
        result.copy_(self.changed(found))


class Tail(Kernel):
    def compute(self, *args: Any, tail: str | None) -> None:
        log_p, target, weight, samples, first, second, loss, by_log_p, share, *_, index = args
        assert second is None
        problem = dispatch.SoftmaxProblem(
            target=target,
            ignore_index=index,
            weight=weight,
            sample_weight=samples,
            tail=getattr(tails, str(tail)),
            parameter=first,
        )
        found = plain.costs(log_p, problem)
        loss.copy_(self.changed(found[0]))
        by_log_p.copy_(self.changed(found[1]))
        if share is not None:
            share.copy_(found[2])


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the CPU were a GPU that will do, of which no kernel was tried."""
    monkeypatch.setitem(dispatch._DEVICES, "triton", "cpu")
    monkeypatch.setattr(dispatch, "_looked_up", lambda device: None)
    monkeypatch.delenv(proof.SETTING, raising=False)
    proof.forget()
    yield
    proof.forget()


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Kernel, Kernel, Kernel]]:
    def put(
        forward: Any = None, backward: Any = None, tail: Any = None
    ) -> tuple[Kernel, Kernel, Kernel]:
        kernels = Forward(forward), Backward(backward), Tail(tail)
        monkeypatch.setattr(launch, "forward_kernel", kernels[0])
        monkeypatch.setattr(launch, "backward_kernel", kernels[1])
        monkeypatch.setattr(costs, "tail_kernel", kernels[2])
        return kernels

    return put


def step(dtype: torch.dtype = torch.float32, logits: Tensor = LOGITS, **options: Any) -> Any:
    """Value and gradient of a loss, by the kernels as long as they hold."""
    leaf = logits.to(dtype).requires_grad_()
    value = sy.FocalLoss(engine="triton", **options)(leaf, TARGET)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def right(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    leaf = LOGITS.to(dtype).requires_grad_()
    value = sy.FocalLoss(engine="reference", **options)(leaf, TARGET)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def test_what_agrees_is_used_and_tried_once(put: Any) -> None:
    kernels = put()
    torch.testing.assert_close(step(), right())
    assert [kernel.launched for kernel in kernels] == [2, 2, 2]
    step()
    assert [kernel.launched for kernel in kernels] == [3, 3, 3]
    step(torch.bfloat16)  # another variant, but for the tail
    assert [kernel.launched for kernel in kernels] == [5, 5, 4]
    step(weight=[1.0, 2.0, 3.0, 4.0, 5.0])  # another one of the tail alone
    assert [kernel.launched for kernel in kernels] == [6, 6, 6]
    assert sy.explain_engine(LOGITS, TARGET, engine="triton").engine == "triton"


SPOILT = {
    "log p": {"forward": lambda found: found * 1.01},
    "its gradient": {"backward": lambda found: found.roll(1, 1)},
}


@pytest.mark.parametrize("dtype", proof.BOUND, ids=str)
@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_is_replaced_with_one_warning(
    what: str, dtype: torch.dtype, put: Any
) -> None:
    put(**SPOILT[what])
    with pytest.warns(RuntimeWarning) as caught:
        found = step(dtype)
    torch.testing.assert_close(found, right(dtype), rtol=1e-5, atol=1e-5)
    assert len(caught) == 1
    text, name = str(caught[0].message), str(dtype).removeprefix("torch.")
    head, tail = text.split(" was off by ")
    assert head == (f"steelyard: its CUDA kernels are not used on cpu: at first use {what}")
    assert tail.split(" ", 1)[1] == (
        f"times what is allowed ({name}, rows, blocks of 128 × 8, 4 warps). Plain torch takes "
        "their place, which is right but slower. Please report this text; STEELYARD_PROOF=0 in "
        "the environment uses the kernels all the same"
    )
    # From then on another engine has it, and says why.
    reason = f"at first use {what} was off by "
    assert reason in (proof.refusal(CPU) or "")
    with pytest.raises(RuntimeError, match=f"engine='triton' cannot do this: {reason}"):
        step(dtype)


def test_a_wrong_tail_is_replaced(put: Any) -> None:
    *_, kernel = put(tail=lambda found: found * (1 + 2.0**-13))
    with pytest.warns(RuntimeWarning) as caught:
        found = step()
    torch.testing.assert_close(found, right(), rtol=1e-5, atol=1e-5)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(
        "steelyard: its CUDA kernels are not used on cpu: at first use the loss was off by "
    )
    assert " times what is allowed (the tail focal). Plain torch takes" in text
    assert kernel.launched == 1
    put(tail=lambda found: found * (1 + 2.0**-15))
    proof.forget()
    step()
    assert proof.refusal(CPU) is None


def test_what_does_not_compile_is_replaced(put: Any) -> None:
    def broken(found: Tensor) -> Tensor:
        raise ValueError("no such instruction\nand more")

    put(forward=broken)
    with pytest.warns(RuntimeWarning, match=r"a kernel failed \(.*\): ValueError: no such instr"):
        found = step()
    torch.testing.assert_close(found, right())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_full_or_broken_device_says_nothing_about_kernels(error: Any, put: Any) -> None:
    def fail(found: Tensor) -> Tensor:
        raise error("of the device")

    put(forward=fail)
    with pytest.raises(error):
        step()
    put()
    torch.testing.assert_close(step(), right())


def test_auto_says_why_it_takes_another(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(forward=lambda found: found + 1)
    with pytest.warns(RuntimeWarning):
        step()
    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(dispatch, "_on_the_cpu", lambda logits: False)
    choice = sy.explain_engine(LOGITS, TARGET)
    assert choice.engine == "reference"
    assert choice.reason.startswith("triton cannot: at first use log p was off by ")
    proof.forget()
    choice = sy.explain_engine(LOGITS, TARGET)
    assert choice.engine == "triton"
    assert choice.reason.endswith(
        "and each of its kernels is compared with the formula at first use"
    )
    monkeypatch.setenv(proof.SETTING, "0")
    assert sy.explain_engine(LOGITS, TARGET).reason.endswith(
        "and STEELYARD_PROOF=0: nothing compared its kernels with the formula"
    )


def test_it_can_be_turned_off(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(proof.SETTING, "0")
    forward, backward, _ = put(forward=lambda found: found + 1)
    step()
    assert (forward.launched, backward.launched) == (1, 1)
    monkeypatch.delenv(proof.SETTING)
    step()  # what was used unproved stays so
    assert (forward.launched, backward.launched) == (2, 2)


def test_nothing_is_tried_while_a_graph_is_captured(
    put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = put()
    monkeypatch.setattr(proof, "_captures", lambda device: True)
    torch.testing.assert_close(step(), right())
    assert [kernel.launched for kernel in kernels] == [0, 0, 0]
    monkeypatch.undo()
    assert not proof._captures(CPU)


def test_an_op_in_a_graph_is_tried_when_the_graph_runs(put: Any) -> None:
    put(forward=lambda found: found + 1)
    given = LOGITS.unsqueeze(2), TARGET.unsqueeze(1), None, None, None, -100
    with pytest.warns(RuntimeWarning, match="log p was off by"):
        log_p, _ = launch.op(*given)
    torch.testing.assert_close(log_p, plain.row_logprob(*given)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launch.op(*given)


def test_threads_try_once(put: Any) -> None:
    forward, *_ = put()
    start, found = threading.Barrier(4), []

    def run() -> None:
        start.wait()
        found.append(step())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert forward.launched == 5  # each its own, and one trial
    for each in found:
        torch.testing.assert_close(each, right())


def test_the_bounds() -> None:
    assert {
        torch.float32: 2.0**-14,
        torch.float16: 2.0**-10,
        torch.bfloat16: 2.0**-7,
    } == proof.BOUND
    assert proof.NOTHING == 1e-6
    assert proof.SETTING == "STEELYARD_PROOF"


@pytest.mark.parametrize("dtype", proof.BOUND, ids=str)
@pytest.mark.parametrize("part", ["log p", "its gradient"])
def test_what_is_off_by_the_bound_is_told_from_what_is_not(
    dtype: torch.dtype, part: str, put: Any
) -> None:
    bound = proof.BOUND[torch.float32 if part == "log p" else dtype]
    # The gradient is rounded to its dtype after it was changed.
    rounding = 0 if part == "log p" or dtype is torch.float32 else torch.finfo(dtype).eps / 2
    for factor, fine in ((1 + 0.8 * bound - rounding, True), (1 + 1.3 * bound + rounding, False)):
        proof.forget()
        put(
            **{
                next(iter(SPOILT[part])): lambda found, f=factor: (found.double() * f).to(
                    found.dtype
                )
            }
        )
        if fine:
            step(dtype)
        else:
            with pytest.warns(RuntimeWarning, match="off by"):
                step(dtype)


SHAPES = [(5, 1), (1000, 1), (4096, 1), (128256, 1), (21, 512 * 512), (2, 70), (1000, 49), (1, 1)]


@pytest.mark.parametrize("dtype", proof.BOUND, ids=str)
@pytest.mark.parametrize(("classes", "places"), SHAPES)
def test_the_small_problem_is_small_and_of_the_same_variant(
    classes: int, places: int, dtype: torch.dtype
) -> None:
    cut = launch._Cut.of(torch.empty(4, classes, places, device="meta", dtype=dtype))
    variant = proof.Variant(CPU, dtype, *cut, True, (True, False, True))
    (logits, target, scale, bias, margin, ignore_index), gradient = proof.small_problem(
        variant, classes, places
    )
    assert logits.numel() <= 2**18
    assert logits.dtype == dtype
    assert launch._Cut.of(logits) == cut
    assert (logits.shape[1] <= cut.blocks.block_c) == (classes <= cut.blocks.block_c)
    n, _, s = logits.shape
    assert cut.blocks.grid(n, s) > 1
    assert target.shape == gradient.shape == (n, s)
    assert (scale is None, bias is None, margin is None) == (False, True, False)
    ignored = target == ignore_index
    assert 0.1 < ignored.double().mean() < 0.3
    assert logits.movedim(1, -1)[ignored].isnan().all()
    if classes > 2:
        assert logits.isinf().any()
    log_p, _ = plain.row_logprob(logits.double(), target, None, None, None, ignore_index)
    assert log_p.isfinite().all()
    if classes > 1:
        assert log_p[~ignored].exp().max() > 0.9
        assert log_p[~ignored].exp().min() < 1e-3


def test_the_random_numbers_of_the_user_stay_his(put: Any) -> None:
    put()
    before = torch.get_rng_state()
    step()
    assert torch.equal(torch.get_rng_state(), before)


def test_under_another_default_device_and_within_no_grad(put: Any) -> None:
    put()
    with torch.device("meta"), torch.no_grad():
        sy.FocalLoss(engine="triton")(LOGITS, TARGET)
    assert proof.refusal(CPU) is None


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_twin_is_the_definition(edited: bool, dtype: torch.dtype) -> None:
    edits: dict[str, Any] = {}
    if edited:
        edits = {"scale": torch.rand(5) + 0.5, "bias": torch.randn(5), "margin": torch.rand(5)}
        edits = {name: edit.double() for name, edit in edits.items()}
    logits = torch.randn(4, 5, 3, dtype=dtype, requires_grad=True)
    target = torch.randint(0, 5, (4, 3))
    target[0, 0] = -100
    gradient = torch.randn(4, 3, dtype=torch.float64)
    problem = dispatch.SoftmaxProblem(target=target, **edits)
    minus, _ = problem.losses(logits)
    (by_logits,) = torch.autograd.grad(-minus, logits, gradient.to(minus.dtype))
    scale, bias, margin = (edits.get(name) for name in ("scale", "bias", "margin"))
    log_p, lse = plain.row_logprob(logits.detach(), target, scale, bias, margin, -100)
    torch.testing.assert_close(log_p, -minus.detach())
    found = plain.row_logprob_backward(
        logits.detach(), target, scale, bias, log_p, lse, gradient, -100
    )
    torch.testing.assert_close(found, by_logits)


def test_the_heuristic() -> None:
    assert blocks.HEURISTIC == (16, 4096, 1024, 4)
    assert blocks.Heuristic() == blocks.HEURISTIC
