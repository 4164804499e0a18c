"""What a user writes: tests/test_typed.py runs type checkers over this file."""

from typing import assert_type

import numpy as np
import torch
from torch import Tensor, nn

import steelyard as sy

logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])

counts = sy.count_classes(["cat", "dog", "cat"])
assert_type(counts, sy.ClassCounts)
assert_type(sy.class_weights(counts), Tensor)

criterion: nn.Module = sy.CrossEntropyLoss([1.0, 2.0, 1.0], ignore_index=255)
for loss in (
    sy.CrossEntropyLoss(weight=np.ones(3), label_smoothing=0.1),
    sy.FocalLoss(gamma=2.0, weight={2: 10.0}, reduction="none"),
    sy.LogitAdjustedLoss(class_counts=[900, 90, 10], tau=1.5),
    sy.DeferredReweighting(sy.CrossEntropyLoss(), weight=[1, 1, 5], start=80),
):
    value: Tensor = loss(logits, target)

several = torch.tensor([[1, 0, -1]] * 4)  # -1: nobody knows
assert_type(sy.bce_with_logits_loss(logits, several, pos_weight=[1, 2, 3]), Tensor)
assert_type(sy.dice_loss(torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)), Tensor)

assert_type(sy.focal_loss(logits, target, gamma=1.0, sample_weight=torch.ones(4)), Tensor)
assert_type(sy.adjust_logits(logits, counts), Tensor)
assert_type(sy.unweight_logits(logits, [1.0, 2.0, 1.0]), Tensor)
assert_type(sy.step_denominator(sy.CrossEntropyLoss(), [target]), Tensor)
print(sy.explain(sy.FocalLoss(), logits, target), sy.explain_engine(logits, target))
