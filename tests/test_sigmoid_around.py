"""Around the sigmoid losses: counts, weights, explanations, schedules, ranks and trainers."""

import json
import re
from typing import Any

import cells_of_ranks
import numpy as np
import pytest
import torch
from families import uniform
from ranks import run_ranks
from table_sigmoid import NAN, POS_WEIGHT, SIGMOID_TABLE, SigmoidRow
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import steelyard as sy

each_row = pytest.mark.parametrize("row", SIGMOID_TABLE, ids=lambda row: row.id)
TARGET = torch.tensor([[1, 0, -1], [1, 1, -1], [0, -1, 0], [1, 0, 1]])
COUNTED = sy.ClassCounts([3, 1, 1], total=[4, 3, 2])


def raises(error: type[Exception], text: str) -> Any:
    return pytest.raises(error, match=re.escape(text))


# Counts.


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32, torch.float16])
def test_targets_of_several_labels_are_counted(dtype: torch.dtype) -> None:
    counts = sy.count_classes(TARGET.to(dtype), multi_label=True)
    assert counts == COUNTED
    torch.testing.assert_close(counts.prior(), torch.tensor([3 / 4, 1 / 3, 1 / 2]).double())
    assert counts.counts.dtype == torch.int64


def test_nan_is_missing_if_asked_as_in_a_loss_and_bool_has_none_missing() -> None:
    soft = TARGET.double().masked_fill(TARGET == -1, NAN)
    assert sy.count_classes(soft, ignore_index=NAN, multi_label=True) == COUNTED
    assert sy.count_classes(TARGET == 1, multi_label=True) == sy.ClassCounts(
        [3, 1, 1], total=[4, 4, 4]
    )
    other = TARGET.masked_fill(TARGET == -1, -100)
    assert sy.count_classes(other, ignore_index=-100, multi_label=True) == COUNTED


def test_every_source_of_several_labels_is_counted() -> None:
    data = TensorDataset(torch.zeros(4, 2), TARGET)
    sources = {
        "array": TARGET.numpy(),
        "list": TARGET.tolist(),
        "dataset": data,
        "loader": DataLoader(data, batch_size=3),
        "samples": [(0, row) for row in TARGET],
        "masks": TARGET.view(2, 2, 3).movedim(-1, 1),
    }
    for name, source in sources.items():
        assert sy.count_classes(source, multi_label=True) == COUNTED, name
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TARGET.numpy(), columns=["cat", "dog", "owl"])
    assert sy.count_classes(frame, multi_label=True).names == ("cat", "dog", "owl")


def test_counts_of_several_labels_merge_with_their_like() -> None:
    parts = [sy.count_classes(part, multi_label=True) for part in TARGET.split(1)]
    assert sum(parts) == COUNTED
    with raises(ValueError, "give count_classes the same multi_label for every part"):
        COUNTED + sy.ClassCounts([1, 2, 3])
    assert "0          3  75.00%" in repr(COUNTED)


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        (2 * TARGET, ValueError, "label 2 at position (0, 0) is not 0, 1 or missing"),
        (
            TARGET - 99,
            ValueError,
            "label -98 at position (0, 0) is not 0, 1 or missing (ignore_index=-1); if it marks "
            "missing labels, give ignore_index=-98, to the loss too",
        ),
        (
            TARGET.double().masked_fill(TARGET == -1, NAN),
            ValueError,
            "label nan at position (0, 2) is not 0, 1 or missing (ignore_index=-1); if it marks "
            'missing labels, give ignore_index=float("nan"), to the loss too',
        ),
        (TARGET[:, 0], ValueError, "have shape (4,); of several labels expected (N, C)"),
        ([["a"], ["b"]], TypeError, "cannot be read as numbers, 0 or 1 for each class"),
        (iter([]), ValueError, "no labels to count"),
        (iter([TARGET, TARGET[:, :2]]), ValueError, "are of 2 classes, and those before of 3"),
    ],
)
def test_what_are_no_targets_of_several_labels(source: Any, error: Any, text: str) -> None:
    with raises(error, text):
        sy.count_classes(source, multi_label=True)
    with raises(ValueError, "are of 3 classes, expected num_classes=4"):
        sy.count_classes(TARGET, 4, multi_label=True)


def test_total_is_checked() -> None:
    with raises(ValueError, "total: class 1 has 1, fewer than the 2 samples in which it is there"):
        sy.ClassCounts([1, 2], total=[1, 1])
    with raises(ValueError, "total has 3 entries for 2 classes"):
        sy.ClassCounts([1, 2], total=[5, 5, 5])


def test_losses_know_the_total_of_what_was_counted() -> None:
    counted = sy.SigmoidLogitAdjustedLoss(class_counts=COUNTED)
    given = sy.SigmoidLogitAdjustedLoss(class_counts=[3, 1, 1], total=[4, 3, 2])
    assert torch.equal(counted.form.bias, given.form.bias)
    odds = torch.tensor([3 / 1, 1 / 2, 1 / 1]).double().log()
    torch.testing.assert_close(counted.form.bias, odds)


def test_pos_weight_is_negatives_over_positives() -> None:
    expected = torch.tensor([1 / 3, 2.0, 1.0])
    torch.testing.assert_close(sy.pos_weight(COUNTED), expected)
    torch.testing.assert_close(sy.pos_weight([4, 3, 2], [3, 1, 1]), expected)
    torch.testing.assert_close(sy.pos_weight(4, [3, 1, 1]), torch.tensor([1 / 3, 3.0, 3.0]))
    assert sy.pos_weight(COUNTED, low=0.5, high=1.5).tolist() == [0.5, 1.5, 1.0]
    assert sy.pos_weight(10, [1, 0], high=50.0).tolist() == [9.0, 50.0]
    assert sy.pos_weight(10, [1, 5], dtype=torch.float64).dtype == torch.float64
    for positions, positives in (10, 2), (10.0, np.int64(2)), (torch.tensor(10), np.array([2])):
        assert sy.pos_weight(positions, positives).tolist() == [4.0]
    assert sy.pos_weight(np.array([10, 20]), [2, 2]).tolist() == [4.0, 9.0]


def test_total_is_one_number_or_one_per_class() -> None:
    expected = sy.SigmoidLogitAdjustedLoss(class_counts=[2, 2], total=[10, 10]).form.bias
    for total in (10, 10.0, np.int64(10), torch.tensor(10), np.array([10, 10]), {0: 10, 1: 10}):
        loss = sy.SigmoidLogitAdjustedLoss(class_counts=[2, 2], total=total)
        assert torch.equal(loss.form.bias, expected)
    for total, error, text in [
        ("10", TypeError, "total is a str; expected a tensor, array or list with one whole number"),
        ([10], ValueError, "total has 1 class, expected 2: one count per class"),
        (-10, ValueError, "total: class 0 has -10; expected whole numbers ≥ 0"),
    ]:
        with raises(error, text):
            sy.SigmoidLogitAdjustedLoss(class_counts=[2, 2], total=total)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            (5000,),
            ValueError,
            "positives is missing: give in how many of the counts each class is there, as in "
            "pos_weight(1000, [500, 100]), or what count_classes(…, multi_label=True) gives",
        ),
        (([1, 2],), ValueError, "positives is missing: give in how many of the counts each class"),
        (
            (sy.count_classes([0, 0, 0, 1]),),
            ValueError,
            "positives is missing: these counts are of one label per position, whose weights are "
            "class_weights(counts); for a single logit that says how likely class 1 is, "
            "pos_weight(4, 1)",
        ),
        ((sy.ClassCounts([1, 2, 3]),), ValueError, "whose weights are class_weights(counts)"),
        ((10.5, [1, 2]), ValueError, "counts: class 0 has 10.5; expected whole numbers ≥ 0"),
        ((10, 10.5), ValueError, "positives: class 0 has 10.5; expected whole numbers ≥ 0"),
        (("10", 1), TypeError, "counts is a str; expected a tensor, array or list"),
        ((10, ["a"]), TypeError, "positives: class 0 has 'a', a str; expected one whole number"),
        ((10, [1, 0]), ValueError, "class 1 is never there, and its weight would be infinite"),
        ((10, [1, 11]), ValueError, "class 1 is there 11 times in 10 counts"),
        (([10, 10, 10], [1, 1]), ValueError, "counts has 3 classes, expected 2"),
    ],
)
def test_pos_weight_refuses(arguments: Any, error: Any, text: str) -> None:
    with raises(error, text):
        sy.pos_weight(*arguments)
    with raises(TypeError, "low='0' is not a number"):
        sy.pos_weight(COUNTED, low="0")  # type: ignore[arg-type]
    with raises(TypeError, "dtype=float32; weights need a floating dtype such as torch.float32"):
        sy.pos_weight(COUNTED, dtype="float32")  # type: ignore[arg-type]
    with raises(ValueError, "low=2.0, high=1.0; expected 0 ≤ low ≤ high"):
        sy.pos_weight(COUNTED, low=2.0, high=1.0)


# Explanations.


@each_row
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_explained_to_the_value_of_the_loss(row: SigmoidRow, reduction: str) -> None:
    logits, targets = row.family.make((4, 2))
    for form, target in targets.items():
        options = {"weight": [1, 2, 0, 1, 3], "pos_weight": POS_WEIGHT, "label_smoothing": 0.1}
        loss = row.build(reduction=reduction, **options, **row.family.ignoring(form))
        for samples in row.family.samples(row, logits):
            worked = sy.explain(loss, logits, target, samples)
            found = torch.tensor(worked.result, dtype=torch.float64)
            value = loss(logits, target, samples)
            torch.testing.assert_close(found.view(value.shape), value)
            assert "ignored" in str(worked)
            assert "<table>" in worked._repr_html_()
            assert json.dumps(worked.to_dict())


def test_the_arithmetic_is_shown() -> None:
    loss = sy.BCEWithLogitsLoss(pos_weight=2.0)
    worked = sy.explain(loss, torch.tensor([[2.0, 0.0]]), torch.tensor([[1, -1]]))
    lines = str(worked).splitlines()
    assert lines[1].split("  ")[0] == "cell"
    assert "0.126928" in lines[2]
    assert "ignored" in lines[3]
    assert lines[-1] == "mean = (0.253856) / 1 = 0.253856 / 1 = 0.253856"


def test_explain_finds_targets_that_are_none() -> None:
    for wrong in (1.5, -0.5, NAN):
        with raises(ValueError, f"target[0, 1] is {wrong}: expected numbers in [0, 1], or ignore"):
            sy.explain(sy.HillLoss(), torch.zeros(1, 2), torch.tensor([[1.0, wrong]]))


# Schedules, ranks, trainers.


@each_row
def test_deferred_reweighting(row: SigmoidRow) -> None:
    if row.own_weight is not None:
        return
    logits, targets = row.family.make((6,))
    target, weight = targets["hard"], [1.0, 2.0, 3.0, 4.0, 5.0]
    loss = sy.DeferredReweighting(row.build(), weight, start=2)
    assert torch.equal(loss(logits, target), row.build()(logits, target))
    loss.set_epoch(2)
    assert torch.equal(loss(logits, target), row.build(weight=weight)(logits, target))


def test_deferred_reweighting_of_one_class() -> None:
    loss = sy.DeferredReweighting(sy.BCEWithLogitsLoss(), [2.0], start=2)
    loss(torch.zeros(7), torch.zeros(7))


def test_one_rank_is_exact() -> None:
    cells_of_ranks.every_loss()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_are_exact(world_size: int) -> None:
    run_ranks(cells_of_ranks.every_loss, world_size)


def test_hugging_face_trains_several_labels(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from trainer_cases import bert

    from steelyard.integrations.transformers import ExactMeanTrainer

    model: Any = bert("sequence")
    model.config.problem_type = "multi_label_classification"
    ids = torch.randint(20, (6, 4), generator=torch.Generator().manual_seed(0))
    labels = (uniform((6, 3), 0) < 0.4).double()
    labels[1] = -1
    rows = [{"input_ids": i, "labels": t} for i, t in zip(ids, labels, strict=True)]
    loss = sy.BCEWithLogitsLoss(pos_weight=[1.0, 5.0, 2.0])
    expected = loss(model(ids).logits, labels)
    expected.backward()
    wanted = [p.detach() - p.grad for p in model.parameters()]
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = ExactMeanTrainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=3,
            max_steps=1,
            max_grad_norm=0.0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
        loss=loss,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    assert trainer.train().training_loss == pytest.approx(expected.item(), rel=1e-6)
    found: list[Tensor] = list(model.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)
