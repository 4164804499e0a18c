"""Names in the place of targets: torch has no tensor of them; the error says what they become."""

import re

import numpy as np
import pytest
import torch

import steelyard as sy
from steelyard.metrics import confusion_matrix

LOGITS = torch.zeros(3, 3)
NAMES = ["ok", "bent", "ok"]
INDICES = "class indices instead of names: "
MENDED = "torch.tensor([class_counts.names.index(name) for name in names])"
CELLS = "0 and 1 instead of names: of one class torch.tensor([name == positive for name in names])"
MASKS = torch.zeros(1, 3, 4)


@pytest.mark.parametrize("names", [NAMES, tuple(NAMES), np.array(NAMES), [["ok"], ["bent"]]])
@pytest.mark.parametrize(
    "call",
    [
        lambda names: sy.CrossEntropyLoss()(LOGITS, names),
        lambda names: sy.CrossEntropyLoss(weight=[1, 2, 3]).denominator(names),
        lambda names: sy.linear_loss(sy.FocalLoss(), LOGITS, LOGITS, names),
        lambda names: sy.DiceLoss()(MASKS, names),
        lambda names: sy.DiceLoss().denominator(names),
        lambda names: sy.DiceLoss(activation="sigmoid")(MASKS, names),
        lambda names: sy.DiceCELoss()(MASKS, names),
        lambda names: sy.explain(sy.CrossEntropyLoss(), LOGITS, names),
        lambda names: sy.explain_engine(LOGITS, names),
        lambda names: sy.fit_temperature(LOGITS, names),
        lambda names: sy.tune_biases(LOGITS, names),
        lambda names: confusion_matrix(LOGITS.argmax(1), names, 3),
    ],
)
def test_the_error_says_how_names_become_class_indices(call, names):
    with pytest.raises(TypeError, match=re.escape(f"expected {INDICES}{MENDED}")):
        call(names)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sy.BCEWithLogitsLoss()(LOGITS[0], NAMES),
        lambda: sy.tune_threshold(torch.rand(3), NAMES),
        lambda: sy.fit_platt_scaling(LOGITS[0], NAMES),
    ],
)
def test_of_one_logit_it_says_how_they_become_0_and_1(call):
    with pytest.raises(TypeError, match=re.escape(f"expected {CELLS}")):
        call()


def test_what_it_says_works():
    class_counts, names, positive = sy.count_classes(NAMES), NAMES, "bent"
    namespace = {"torch": torch, **locals()}
    target = eval(MENDED, namespace)
    assert sy.count_classes(target).counts.tolist() == class_counts.counts.tolist() == [1, 2]
    assert sy.CrossEntropyLoss()(LOGITS, target).isfinite()
    there = eval(CELLS.partition("class ")[2], namespace)
    assert there.tolist() == [False, True, False]
    assert sy.BCEWithLogitsLoss()(LOGITS[0], there).isfinite()


@pytest.mark.parametrize("given", [[0, 1], [], {1}, np.array(0), 7, None])
def test_what_holds_no_names_is_to_be_a_tensor(given):
    with pytest.raises(TypeError, match=r"expected a tensor: torch\.as_tensor\(…\)$"):
        sy.CrossEntropyLoss()(LOGITS, given)
