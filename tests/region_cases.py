"""Inputs and parameters that the tests of region losses share."""

import pytest
import torch
from region_table import REGIONS
from table import C
from torch import Tensor

WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.0, 5.0], dtype=torch.float64)

# One image of one class: I = 1.731059, P = 2, T = 3.
A = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]], dtype=torch.float64)
A_TARGET = torch.tensor([[[[1, 0], [1, 1]]]])

each_row = pytest.mark.parametrize("row", REGIONS, ids=lambda row: row.id)
each_row_and_engine = pytest.mark.parametrize(
    ("row", "engine"),
    [(row, engine) for row in REGIONS for engine in row.family.engines if engine != "auto"],
    ids=lambda value: getattr(value, "id", value),
)
with_sums = pytest.mark.parametrize(
    "row", [row for row in REGIONS if row.of_sums], ids=lambda row: row.id
)
both_activations = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])


def make(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Logits, targets by form, and sample weights; class 4 is absent, and 3 in some images."""
    g = torch.Generator().manual_seed(seed)
    full = (shape[0], C, *shape[1:])
    logits = 2 * torch.randn(full, generator=g, dtype=torch.float64)
    index = torch.randint(0, 4, shape, generator=g)
    index[0] = index[0].clamp(max=2)
    index.view(-1)[:2] = 1  # something to ignore
    share = torch.rand(full, generator=g, dtype=torch.float64).softmax(1)
    share = share / share.sum(1, keepdim=True)
    share[:, 4] = 0
    cells = (torch.rand(full, generator=g) < 0.4).double()
    cells[:, 4] = 0
    soft = cells * torch.rand(full, generator=g, dtype=torch.float64)
    masked = cells.clone()
    masked.view(-1)[::3] = -1
    targets = {"index": index, "share": share, "cells": cells, "soft": soft, "masked": masked}
    return logits, targets, torch.rand(shape, generator=g, dtype=torch.float64)


def forms_of(activation: str) -> list[str]:
    return ["index", "share"] if activation == "softmax" else ["index", "cells", "soft", "masked"]
