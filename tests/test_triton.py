"""The CUDA engine: its choice, its kernels compiled for GPUs that are not here, and at work."""

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import steelyard as sy
from steelyard.ops import dispatch
from steelyard.ops.cuda import proof

TESTS = Path(__file__).parent
SOURCES = Path(sy.__file__).parents[1]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(SOURCES)} | environment,
    )


# The interpreter is asked for by the environment of a whole process, which no other test may share.
@pytest.mark.parametrize(
    "cases", ["triton_kernel_cases.py", "triton_loss_cases.py", "triton_proof_cases.py"]
)
@pytest.mark.parametrize("on", ["interpreter", "cuda"])
def test_the_cases(on: str, cases: str) -> None:
    if on == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    interpret = "1" if on == "interpreter" else "0"
    run = python("-m", "pytest", "-q", "-rs", str(TESTS / cases), TRITON_INTERPRET=interpret)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d passed", run.stdout), run.stdout
    skipped = re.findall(r"SKIPPED .*", run.stdout)
    assert all("needs a GPU" in line for line in skipped), skipped
    assert on == "interpreter" or not skipped, skipped


def test_triton_is_not_imported_where_it_is_not_used() -> None:
    used = """
import sys, torch, steelyard as sy
logits = torch.randn(70000, 3, requires_grad=True)
target = torch.zeros(70000, dtype=torch.long)
sy.focal_loss(logits, target, label_smoothing=0.1).backward()
sy.focal_loss(logits, target).backward()
sy.explain_engine(logits, target)
print([name for name in sys.modules if name.split(".")[0] == "triton" or "ops.cuda" in name])
"""
    run = python("-c", used)
    assert run.stdout == "[]\n", run.stdout + run.stderr


class Launches:
    """Takes the place of a kernel, and keeps what it would have been launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.calls = kernel, list[tuple[tuple[Any, ...], dict[str, Any]]]()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(0 < size < 2**31 for size in grid)
        assert all(size < 2**16 for size in grid[1:])
        return lambda *args, **kwargs: self.calls.append((args, kwargs))


def compiled(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], capability: int) -> Any:
    """The kernel as triton compiles it when it meets these arguments."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_for
    from triton.runtime.jit import mangle_type

    constants = dict(options)
    warps = constants.pop("num_warps")
    signature = dict.fromkeys(constants, "constexpr")
    attributes = {}
    for i, (parameter, value) in enumerate(zip(kernel.params, args, strict=False)):
        integer = isinstance(value, int)
        special = not parameter.do_not_specialize
        if value is None or (integer and special and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = mangle_type(value)
        if not integer or (special and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return compile_for(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
    )


VARIANTS = {
    "few classes": (65536, 10, 1),
    "a thousand classes": (16384, 1000, 1),
    "the widest row in one block": (8192, 4096, 1),
    "a row in several blocks": (4096, 128256, 1),
    "segmentation": (4, 21, 512 * 512),
    "two classes of many pixels": (4, 2, 512 * 512),
    "few places, of no power of 2": (64, 1000, 49),
    "more than 2^31 numbers": (70000, 32000, 1),
}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launches]:
    """What the engine launches in this test, on tensors of any device."""
    from steelyard.ops.cuda import launch as engine

    kernels = []
    for name in ("forward_kernel", "backward_kernel"):
        kernels.append(Launches(getattr(engine, name)))
        monkeypatch.setattr(engine, name, kernels[-1])
    monkeypatch.setenv(proof.SETTING, "0")  # there are no numbers to compare
    return kernels


def launch(logits: Tensor, part: Tensor | None = None) -> None:
    from steelyard.ops.cuda import launch as engine

    n, _, s = logits.shape
    target = torch.empty(n, s, device="meta", dtype=torch.long)
    log_p, lse = engine.row_logprob(logits, target, part, part, part, -100)
    engine.row_logprob_backward(logits, target, part, part, log_p, lse, log_p, -100)


def test_columns_in_memory_are_read_along_it(launches: list[Launches]) -> None:
    launch(torch.empty(300, 10, device="meta").unsqueeze(2))
    launch(torch.empty(10, 300, device="meta").t().unsqueeze(2))
    for kernel in launches:
        assert [options["SPATIAL"] for _, options in kernel.calls] == [False, True]
        (logits, *_), _ = kernel.calls[1]
        assert logits.shape == (1, 10, 300)
        assert logits.stride(2) == 1


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles_for(
    variant: str,
    capability: int,
    launches: list[Launches],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shape = VARIANTS[variant]
    vector = torch.empty(shape[1], device="meta")
    for dtype, part in ((torch.float32, None), (torch.bfloat16, vector), (torch.float16, None)):
        launch(torch.empty(shape, device="meta", dtype=dtype), part)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for kernel in launches:
        assert len(kernel.calls) == 3
        for args, options in kernel.calls:
            result = compiled(kernel.kernel, args, options, capability)
            assert f".target sm_{capability}" in result.asm["ptx"]
            assert result.asm["cubin"].startswith(b"\x7fELF")
            reads = re.findall(r"ld\.global[.\w]*", result.asm["ptx"])
            if variant != "few places, of no power of 2" and variant != "few classes":
                assert any(".v4.b32" in read for read in reads), reads  # 16 bytes at a time
            cubin = tmp_path / "kernel.cubin"
            cubin.write_bytes(result.asm["cubin"])
            usage = subprocess.run(
                [tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
            ).stdout
            # ptxas may put one register aside to stay below a step of occupancy.
            assert int(re.findall(r"STACK:(\d+)", usage)[0]) <= 8, f"{options}: {usage}"
            registers = int(re.findall(r"REG:(\d+)", usage)[0])
            assert registers <= 128, f"{options}: {registers} registers"


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_tails_compile_for(
    capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from steelyard.losses import tails
    from steelyard.ops.cuda import costs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(proof.SETTING, "0")
    kernel = Launches(costs.tail_kernel)
    monkeypatch.setattr(costs, "tail_kernel", kernel)
    log_p = torch.empty(2**20, 1, device="meta")
    vector, target = torch.empty(19, device="meta"), torch.empty_like(log_p, dtype=torch.long)
    for parameter, tail, weight, samples in (
        (None, tails.cross_entropy, None, None),
        (2.0, tails.focal, vector, None),
        (vector, tails.focal, None, log_p),
        (1.0, tails.poly, vector, log_p),
        (0.7, tails.generalized, None, None),
        ((0.1, 4.0), tails.symmetric, None, None),
    ):
        problem = sy.ops.SoftmaxProblem(
            target=target, tail=tail, parameter=parameter, weight=weight, sample_weight=samples
        )
        costs.costs(log_p, problem, 19)
    assert {options["TAIL"] for _, options in kernel.calls} == {
        tail.kernel for tail in vars(tails).values() if isinstance(tail, sy.ops.Tail)
    }
    for args, options in kernel.calls:
        result = compiled(kernel.kernel, args, options, capability)
        assert f".target sm_{capability}" in result.asm["ptx"]
        assert ".local" not in result.asm["ptx"]  # nothing spills
        reads = re.findall(r"ld\.global[.\w]*", result.asm["ptx"])
        assert any(".v4.b32" in read for read in reads), reads  # log p, 16 bytes at a time


LOGITS = torch.randn(4, 3)
TARGET = torch.tensor([0, 2, 1, 0])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU were CUDA, with a GPU that will do."""
    monkeypatch.setitem(dispatch._DEVICES, "triton", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(dispatch, "_told", set())
    dispatch._looked_up.cache_clear()


class Marked(Tensor):
    """A subclass of tensors."""


def refusal(logits: Tensor = LOGITS, target: Tensor = TARGET, **options: Any) -> str:
    with pytest.raises(RuntimeError) as caught:
        sy.cross_entropy_loss(logits, target, engine="triton", **options)
    text = str(caught.value)
    assert text.startswith("engine='triton' cannot do this: ")
    assert text.endswith("engine='reference' does everything")
    return text


def test_refuses_the_cpu() -> None:
    assert "the logits are on the CPU, and it works on CUDA" in refusal()
    with pytest.raises(RuntimeError, match="the logits are on the CPU, and it works on CUDA"):
        sy.explain_engine(LOGITS, TARGET, engine="triton")


@pytest.mark.usefixtures("here")
def test_takes_what_it_can() -> None:
    choice = sy.explain_engine(LOGITS, TARGET, engine="triton")
    assert choice == ("triton", "asked for by name")


@pytest.mark.usefixtures("here")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of make_dual
def test_refuses_by_what_it_is_given() -> None:
    assert "torch.float64, and it takes float32, bfloat16 and float16" in refusal(LOGITS.double())
    assert "need log p of all classes" in refusal(label_smoothing=0.1)
    assert "need log p of all classes" in refusal(target=LOGITS.softmax(1))
    with pytest.raises(RuntimeError, match="need log p of all classes"):
        sy.explain_engine(LOGITS, TARGET, label_smoothing=0.1, engine="triton")
    assert "another argument requires a gradient" in refusal(
        sample_weight=torch.ones(4, requires_grad=True)
    )
    assert "not a plain tensor" in refusal(LOGITS.as_subclass(Marked))
    with pytest.raises(RuntimeError, match=r"a torch\.func transform is active"):
        torch.func.grad(lambda z: sy.cross_entropy_loss(z, TARGET, engine="triton"))(LOGITS)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(LOGITS, torch.ones_like(LOGITS))
        with pytest.raises(RuntimeError, match="forward-mode differentiation is active"):
            sy.cross_entropy_loss(dual, TARGET, engine="triton")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("module", "name", "value", "text"),
    [
        (importlib.util, "find_spec", lambda _: None, "triton is not installed: pip install"),
        (torch.version, "hip", "7.0", "this torch is built for ROCm"),
        (torch.cuda, "get_device_capability", lambda _: (7, 5), "7.5, and it needs 8.0"),
    ],
)
def test_refuses_by_the_machine(
    module: Any, name: str, value: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert text in refusal()
        assert text in refusal()
    dispatch._looked_up.cache_clear()
    if module is importlib.util:  # what can be installed is no news
        assert not caught
        return
    (warning,) = caught
    head, tail = "steelyard: the triton engine is not used: ", ". Plain torch takes its place, "
    assert str(warning.message).startswith(head)
    assert str(warning.message).endswith(f"{tail}which is right but slower")
    assert text in str(warning.message)


@pytest.mark.parametrize(("capability", "taken"), [((9, 0), True), ((7, 5), False)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_auto_within_torch_compile(
    capability: tuple[int, int], taken: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced with tensors of a GPU that is not there, so the graph is looked at and not run."""
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph.code)
        return lambda *inputs: inputs[:1]

    def trace(function: Any, *inputs: Tensor) -> None:
        torch.compile(function, fullgraph=True, backend=backend)(*inputs)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(dispatch, "_told", {torch.device("cuda:0")})
    dispatch._looked_up.cache_clear()
    torch._dynamo.reset()
    with FakeTensorMode():
        logits = torch.empty(4, 3, 6, device="cuda", dtype=dtype)
        target = torch.empty(4, 6, device="cuda", dtype=torch.long)
        trace(sy.FocalLoss(ignore_index=1, reduction="none"), logits, target)
        trace(sy.FocalLoss(label_smoothing=0.1, reduction="none"), logits, target)
        rows = torch.empty(4, 3, device="cuda", dtype=dtype)
        classes = torch.empty(4, device="cuda", dtype=torch.long)
        trace(torch.vmap(sy.FocalLoss(reduction="none")), rows, classes)
    dispatch._looked_up.cache_clear()
    wanted = [taken and dtype == torch.bfloat16, False, False]
    assert ["steelyard.row_logprob" in graph for graph in graphs] == wanted
