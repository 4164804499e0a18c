"""The CPU's engines where the table does not go: many tiles, fresh memory, much memory, twice."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import least_peak
from table import TABLE, C, Row
from torch import Tensor

import steelyard as sy
from steelyard.ops.cpu import pages, small, tiles, walk

each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.0, 5.0], dtype=torch.float64)
# Rows that no tile divides; places of one sample that make several tiles; samples of several
# places, of which a tile has more than one.
SHAPES = [(37,), (2, 23), (7, 2, 2)]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a few positions, for the tests have few logits, in memory that holds NaN."""
    monkeypatch.setattr(walk, "LARGEST", 6 * C + 1)
    monkeypatch.setattr(walk, "NUMBERS", 1)
    monkeypatch.setattr(walk, "IN_CACHE", 0)
    for family, arithmetic in tiles.FAMILIES.items():

        def cut(problem: Any, arithmetic: Any = arithmetic) -> Any:
            return arithmetic(problem)._replace(smallest=6 * C + 1)

        monkeypatch.setitem(tiles.FAMILIES, family, cut)

    def poisoned(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def fresh(*args: Any, **kwargs: Any) -> Tensor:
            result = function(*args, **kwargs)
            return result.fill_(math.nan) if result.is_floating_point() else result

        return fresh

    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))


def make(positions: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, class indices and probabilities; float64."""
    generator = torch.Generator().manual_seed(0)
    shape = (positions[0], C, *positions[1:])
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    index = torch.randint(0, C, positions, generator=generator)
    share = torch.rand(shape, generator=generator, dtype=torch.float64)
    return logits, index, share / share.sum(1, keepdim=True)


def value_and_gradient(
    loss: sy.SoftmaxLoss, logits: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, *args, **kwargs)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach(), torch.autograd.grad(value, leaf, upstream)[0]


def assert_like_the_reference(
    row: Row, logits: Tensor, target: Tensor, dtype: torch.dtype, **options: Any
) -> None:
    call = {"sample_weight": options.pop("sample_weight")} if "sample_weight" in options else {}
    reference = row.build(engine="reference", **options)
    blocked = row.build(engine="blocked", **options)
    rounded = logits.to(dtype)
    true = value_and_gradient(reference, rounded.double(), target, **call)
    ours = value_and_gradient(blocked, rounded, target, **call)
    grain = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(ours[0].double(), true[0], rtol=min(grain, 2e-5), atol=1e-6)
    torch.testing.assert_close(ours[1].double(), true[1], rtol=grain, atol=grain / 10)
    with torch.no_grad():
        torch.testing.assert_close(blocked(rounded, target, **call), ours[0])


@each_row
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("positions", SHAPES, ids=str)
def test_many_tiles_are_one(row: Row, positions: tuple[int, ...], dtype: torch.dtype) -> None:
    logits, index, share = make(positions)
    samples = torch.rand(positions, dtype=torch.float64)
    for reduction, smoothing in itertools.product(("mean", "none"), (0.0, 0.1)):
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
        given = options | {"weight": WEIGHT, "sample_weight": samples}
        assert_like_the_reference(row, logits, share, dtype, **given)
        assert_like_the_reference(row, logits, index, dtype, **given, ignore_index=1)
        assert_like_the_reference(row, logits, index, dtype, **options)


@each_row
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_tile_that_is_done_again_leaves_the_others_alone(row: Row, smoothing: float) -> None:
    """Each kind of trouble in a tile of its own, and together."""
    logits, index, _ = make((60,))
    index[6:12], index[:2] = 1, 1
    logits[6:9], logits[9:12] = math.nan, math.inf  # ignored
    logits[13] = 300.0  # beyond what needs no shift
    logits[19] = torch.tensor([-900.0, 0, 900, 30, -30])
    index[19] = 0
    logits[25] -= 80.0
    logits[31, 4] = -math.inf
    index[31] = 2
    options: dict[str, Any] = {"ignore_index": 1, "label_smoothing": smoothing}
    if smoothing:
        logits[31, 4] = 0.0  # smoothing has an infinite loss there
    assert_like_the_reference(row, logits, index, torch.float64, **options)
    assert_like_the_reference(row, logits, index, torch.float32, **options)
    assert_like_the_reference(row, logits, index, torch.float64, weight=WEIGHT, **options)
    merged = index.clone().fill_(2)
    merged[6:12] = 1
    assert_like_the_reference(row, logits.roll(3, 0), merged.roll(3), torch.float64, **options)


@each_row
@pytest.mark.parametrize("engine", ["auto", "blocked"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_graph_that_is_kept_gives_the_same_again(row: Row, engine: str, smoothing: float) -> None:
    logits, index, _ = make((9,))
    logits.requires_grad_()
    for reduction in ("mean", "none"):
        loss = row.build(
            weight=WEIGHT, engine=engine, label_smoothing=smoothing, reduction=reduction
        )
        total = loss(logits, index).sum()
        first, second, third = (
            torch.autograd.grad(total, logits, retain_graph=True)[0] for _ in range(3)
        )
        torch.testing.assert_close(second, first, rtol=1e-13, atol=1e-15)
        assert torch.equal(third, second)


@each_row
@pytest.mark.parametrize("engine", ["auto", "blocked"])
def test_differentiates_twice(row: Row, engine: str) -> None:
    logits, index, _ = make((4,))
    logits.requires_grad_()
    for options in ({"weight": WEIGHT, "ignore_index": 1}, {"label_smoothing": 0.1}):
        loss = row.build(engine=engine, reduction="sum", **options)
        assert torch.autograd.gradgradcheck(lambda z, f=loss: f(z, index), logits)


def test_an_input_changed_before_backward_is_told() -> None:
    logits = torch.randn(small.FEW, 3, requires_grad=True)
    z = logits * 1
    loss = sy.FocalLoss()(z, torch.zeros(small.FEW, dtype=torch.long))
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_few_logits_changed_before_backward_give_the_gradient_of_what_they_were() -> None:
    """As with ``F.cross_entropy``, which keeps log p."""
    logits, index, _ = make((9,))
    before = logits.requires_grad_() * 1
    loss = sy.FocalLoss(reduction="none", weight=WEIGHT)(before, index)
    expected = torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0]
    before.mul_(3)
    assert torch.equal(torch.autograd.grad(loss.sum(), logits)[0], expected)


@pytest.mark.parametrize("shape", [(4096, 1000), (262144, 19), (2, 21, 384, 384)], ids=str)
@pytest.mark.parametrize("loss", [sy.CrossEntropyLoss, sy.FocalLoss])
def test_memory(shape: tuple[int, ...], loss: type[sy.SoftmaxLoss]) -> None:
    logits = torch.randn(shape, requires_grad=True)
    target = torch.randint(shape[1], shape[:1] + shape[2:])
    criterion = loss(weight=torch.rand(shape[1]))
    size = logits.numel() * logits.element_size()

    def step() -> None:
        logits.grad = None
        criterion(logits, target).backward()

    def forget() -> None:
        logits.grad = None

    assert least_peak(step, forget) <= 1.2 * size
    with torch.no_grad():
        assert least_peak(lambda: criterion(logits, target), forget) <= 0.08 * size


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_large_memory_is_asked_for_in_huge_pages() -> None:
    large = pages.empty_like(torch.empty(pages.LARGE // 4 + 1))
    large[-1] = 1.0
    address = large.data_ptr() + large.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            start, end = (int(x, 16) for x in line.split(" ", 1)[0].split("-"))
            inside = start <= address < end
        elif inside and line.startswith("VmFlags"):
            assert "hg" in line.split()
            return
    pytest.fail("the memory is mapped nowhere")


def test_few_logits_take_pytorchs_own_way() -> None:
    logits, index, _ = make((9,))
    logits.requires_grad_()
    plain = sy.cross_entropy_loss(logits, index, weight=WEIGHT)
    assert plain.grad_fn is not None
    assert plain.grad_fn.name() == "NllLossBackward0"
    assert sy.focal_loss(logits, index).grad_fn.name() == "_TailBackward"


def test_short_rows_take_pytorchs_own_way_on_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel takes them on every thread; a tile as small as this is done on one."""
    few = small.FEW_PER_THREAD // 8
    chosen = []
    for threads, rows in [(1, few), (1, few + 1), (2, 2 * few), (2, 2 * few + 1)]:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        index = torch.zeros(rows, dtype=torch.long)
        chosen.append(sy.explain_engine(torch.zeros(rows, 8), index).engine)
    assert chosen == ["pytorch", "blocked"] * 2
    index = torch.zeros(small.FEW // 16, dtype=torch.long)
    assert sy.explain_engine(torch.zeros(len(index), 16), index).engine == "pytorch"
    index = torch.zeros(len(index) + 1, dtype=torch.long)
    assert sy.explain_engine(torch.zeros(len(index), 16), index).engine == "blocked"
    assert (small.FEW, small.FEW_PER_THREAD, small.SHORT) == (2**17, 6144, 16)
