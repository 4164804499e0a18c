"""What is no table, no labels and no option of a table's study: one sentence says so."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from steelyard import compare

LABELS = np.array([0] * 12 + [1] * 6)
NUMBERS = np.random.default_rng(0).normal(size=(18, 2))
DATASET = TensorDataset(torch.tensor(NUMBERS), torch.tensor(LABELS))
ROWS = "with one entry for each row"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"features": DATASET},
            f"features is a TensorDataset; expected an array, a tensor or a DataFrame {ROWS}; "
            "a Dataset is for compare.networks",
        ),
        ({"features": DataLoader(DATASET)}, "features is a DataLoader; expected an array"),
        ({"features": pl.LazyFrame({"a": [1]})}, "features is a LazyFrame; expected an array"),
        (
            {"features": "data.csv"},
            f"features is 'data.csv'; expected an array, a tensor or a DataFrame {ROWS}, as "
            "polars.read_csv reads it; the command `steelyard compare` takes files",
        ),
        ({"labels": "y"}, f"labels is 'y'; expected an array, a tensor or a column {ROWS}"),
        ({"labels": None}, "labels is None; expected an array"),
        ({"losses": "focal"}, "losses is 'focal'; expected a list of names, as in ['focal']"),
        ({"losses": torch.nn.MSELoss()}, "losses is a MSELoss; expected a list of names"),
        (
            {"losses": [torch.nn.CrossEntropyLoss()]},
            "a CrossEntropyLoss is in losses; a study of a table has losses by name, as in "
            "'focal', and a loss of your own is for compare.networks",
        ),
        ({"references": False}, "references is False; expected a list of names, as in ['boosted"),
        ({"out": 3}, "out is 3; expected a folder"),
        ({"epoch": 3}, "there is no option 'epoch'. Did you mean epochs? The options are: losses"),
        ({"costs": "costs.json"}, "costs in costs.json could not be read: No such file"),
    ],
)
def test_an_argument_that_is_something_else(given, text):
    with pytest.raises(compare.StudyError) as caught:
        compare.run(**{"features": NUMBERS, "labels": LABELS, **given})
    assert str(caught.value).startswith(text)


def test_costs_may_lie_in_a_file_and_a_device_may_be_torchs_own(tmp_path):
    (tmp_path / "costs.json").write_text(json.dumps({"0": {"1": 2}, "1": {"0": 9}}))
    study = compare.run(
        NUMBERS,
        LABELS,
        costs=tmp_path / "costs.json",
        device=torch.device("cpu"),
        losses=[],
        references=[],
        network="small",
        seeds=1,
        draws=1,
        epochs=1,
    )
    assert study.results["costs"] == [[0, 2], [9, 0]]
    assert len(study.results["candidates"]) == 4  # none was asked for: the baselines
