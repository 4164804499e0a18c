"""What ``import steelyard`` brings, and what it does not."""

import subprocess
import sys
import types

import pytest

import steelyard as sy
from steelyard import classes, losses

OPTIONAL = [
    "accelerate",
    "joblib",
    "lightning",
    "numba",
    "pandas",
    "plotly",
    "polars",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "skorch",
    "skrub",
    "torchmetrics",
    "transformers",
    "triton",
]

USE = """
import steelyard as sy, torch
counts = sy.count_classes(torch.tensor([0, 0, 1]))
weight = sy.class_weights(counts)
loss = sy.FocalLoss(weight=weight, gamma=[1.0, 2.0])
logits = torch.tensor([[0.9, 0.1], [0.8, 0.2]], requires_grad=True)
loss(logits, torch.tensor([0, 1])).backward()
print(sy.explain(sy.LDAMLoss(class_counts=counts), logits, torch.tensor([0, 1])))
"""


def python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120
    )


def test_import_loads_nothing_optional() -> None:
    run = python("import steelyard", "-X", "importtime")
    assert run.returncode == 0, run.stderr
    rows = [line.split("|") for line in run.stderr.splitlines() if line.startswith("import time:")]
    loaded = {row[2].strip().split(".")[0] for row in rows}
    assert {"torch", "steelyard"} <= loaded
    assert not loaded & set(OPTIONAL)
    ours = [row for row in rows if row[2].strip().startswith("steelyard")]
    own, everything = (
        sum(int(row[0].removeprefix("import time:")) for row in part)
        for part in (ours, [row for row in rows if "self" not in row[0]])
    )
    assert own < 0.2 * everything, f"of {everything} µs of import {own} are our own"
    heavy = {row[2].strip() for row in ours} & {"steelyard.compare", "steelyard.cli"}
    assert not heavy


def test_the_losses_work_where_nothing_but_torch_is_installed() -> None:
    blocked = "import sys\n" + "".join(
        f"sys.modules[{name!r}] = None\n" for name in [*OPTIONAL, "numpy"]
    )
    # Without NumPy torch itself warns; nothing else may.
    quiet = "import warnings\nwarnings.filterwarnings('ignore', 'Failed to initialize NumPy')\n"
    run = python(blocked + quiet + USE, "-W", "error")
    assert run.returncode == 0, run.stderr
    assert "LDAMLoss" in run.stdout


@pytest.mark.parametrize("module", [sy, losses, classes], ids=lambda module: module.__name__)
def test_all_is_the_namespace(module: types.ModuleType) -> None:
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from steelyard import *", names)
    assert set(names) - {"__builtins__"} == set(sy.__all__)


def test_every_public_name_has_a_docstring() -> None:
    for name in sy.__all__:
        value = getattr(sy, name)
        if isinstance(value, type | types.FunctionType):
            assert (value.__doc__ or "").strip(), name
        if isinstance(value, type):
            for attribute, member in vars(value).items():
                if attribute.startswith("_") or not callable(member):
                    continue
                assert getattr(value, attribute).__doc__, f"{name}.{attribute}"
