"""DeferredReweighting."""

import copy
import pickle

import pytest
import torch
from table import TABLE, C, Row
from torch import nn

import steelyard as sy

WEIGHT = [0.5, 1.0, 2.0, 0.0, 9.0]
LOGITS = torch.randn(8, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.arange(8) % C
UNWEIGHTED = [row for row in TABLE if row.own_weight is None]
each_row = pytest.mark.parametrize("row", UNWEIGHTED, ids=lambda row: row.id)


@each_row
def test_unweighted_until_start_and_weighted_from_then_on(row: Row) -> None:
    loss = sy.DeferredReweighting(row.build(), WEIGHT, start=3)
    plain, weighted = row.build(), row.build(weight=WEIGHT)
    assert not torch.equal(plain(LOGITS, TARGET), weighted(LOGITS, TARGET))
    for epoch in range(6):
        loss.set_epoch(epoch)
        now = weighted if epoch >= 3 else plain
        assert loss.active == (epoch >= 3)
        torch.testing.assert_close(loss(LOGITS, TARGET), now(LOGITS, TARGET))
        assert torch.equal(loss.denominator(TARGET), now.denominator(TARGET))
        samples = torch.rand(8, dtype=torch.float64)
        assert torch.equal(
            loss(LOGITS, TARGET, sample_weight=samples, denominator=3.0),
            now(LOGITS, TARGET, sample_weight=samples, denominator=3.0),
        )
    loss.set_epoch(0)
    assert torch.equal(loss(LOGITS, TARGET), plain(LOGITS, TARGET))


def test_the_options_of_the_loss_stay() -> None:
    inner = sy.FocalLoss(gamma=1.0, ignore_index=1, label_smoothing=0.1, reduction="none")
    loss = sy.DeferredReweighting(inner, {0: 3.0}, start=0)
    expected = sy.FocalLoss(
        gamma=1.0, ignore_index=1, label_smoothing=0.1, reduction="none", weight=[3, 1, 1, 1, 1]
    )
    assert torch.equal(loss(LOGITS, TARGET), expected(LOGITS, TARGET))
    assert inner.weight is None


def test_the_epoch_is_in_the_state_dict() -> None:
    def build() -> sy.DeferredReweighting:
        return sy.DeferredReweighting(sy.CrossEntropyLoss(), WEIGHT, start=2)

    loss, resumed = build(), build()
    loss.set_epoch(5)
    model = nn.ModuleDict({"loss": loss})
    nn.ModuleDict({"loss": resumed}).load_state_dict(model.state_dict(), strict=True)
    assert resumed.epoch == 5
    assert resumed.active
    for again in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert again.active
        assert torch.equal(again(LOGITS, TARGET), loss(LOGITS, TARGET))


def test_it_moves_and_keeps_its_precision() -> None:
    loss = sy.DeferredReweighting(sy.CrossEntropyLoss(), [1.0, 7e4, 1.0, 1.0, 1.0], start=0)
    before = loss(LOGITS, TARGET)
    assert torch.equal(loss.half()(LOGITS, TARGET), before)
    assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}


def test_repr_says_where_it_stands() -> None:
    loss = sy.DeferredReweighting(sy.CrossEntropyLoss(), [1, 2], start=160)
    loss.set_epoch(3)
    assert repr(loss).splitlines() == [
        "DeferredReweighting(",
        "  start=160, epoch=3",
        "  (unweighted): CrossEntropyLoss()",
        "  (weighted): CrossEntropyLoss(weight=[1, 2])",
        ")",
    ]


def test_a_single_position_and_compile() -> None:
    loss = sy.DeferredReweighting(sy.FocalLoss(), WEIGHT, start=1)
    assert torch.equal(loss(LOGITS[0], TARGET[0]), sy.FocalLoss()(LOGITS[0], TARGET[0]))
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for epoch in (0, 1):
        loss.set_epoch(epoch)
        torch.testing.assert_close(compiled(LOGITS, TARGET), loss(LOGITS, TARGET))


def test_every_part_of_a_sum_is_weighted_from_start_on() -> None:
    weight = [1.0, 2.0, 3.0]
    logits, target = torch.randn(2, 3, 8), torch.randint(3, (2, 8))
    plain = sy.DiceCELoss(dice=0.5, smooth=1.0)
    loss = sy.DeferredReweighting(plain, weight, start=1)
    torch.testing.assert_close(loss(logits, target), plain(logits, target))
    loss.set_epoch(1)
    wanted = sy.DiceCELoss(dice=0.5, smooth=1.0, weight=weight)
    torch.testing.assert_close(loss(logits, target), wanted(logits, target))
    torch.testing.assert_close(loss.denominator(target), wanted.denominator(target))
    assert plain.weight is None
    loss.set_epoch(0)
    with pytest.raises(ValueError, match="3 values"):
        loss(torch.randn(2, 4, 8), target)


def test_what_the_loss_refuses_is_refused_of_it_too() -> None:
    weight = [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="DiceCELoss has class weights of its own"):
        sy.DeferredReweighting(sy.DiceCELoss(weight=weight), weight, start=1)
    deferred = sy.DeferredReweighting(sy.DiceCELoss(), weight, start=1)
    with pytest.raises(TypeError, match="a part is a DeferredReweighting, which has weights of"):
        sy.DeferredReweighting(sy.CompoundLoss([(1.0, deferred)]), weight, start=1)
    with pytest.raises(ValueError, match="DiceCELoss adds means with denominators of their own"):
        sy.ExactMean(deferred)
    of_batch = sy.DeferredReweighting(sy.DiceLoss(per="batch"), weight, start=1)
    with pytest.raises(ValueError, match="per='batch' is one ratio over all images"):
        sy.ExactMean(of_batch)
