"""What a study of the user's own network takes, and what it is to be given instead."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from steelyard.compare.given import (
    Argument,
    check,
    is_number,
    is_path,
    is_several,
    is_text,
    is_whole,
    shown,
    takes,
)
from steelyard.compare.study import StudyError

_DATASET = "a Dataset of (input, target), which has a length and can be indexed"
_GROUPS = "one label for each row"


def check_network(network: Any) -> None:
    """Raise a StudyError unless calls of it can make networks."""
    if isinstance(network, nn.Module):
        name = type(network).__name__
        raise StudyError(
            f"network is {shown(network)} that is made already, and every training needs a new "
            f"one; give a function that makes it, as in `lambda: {name}(…)`"
        )
    if not takes(network, 0):
        name = f"{network.__name__}(…)" if isinstance(network, type) else "Net()"
        is_loop = inspect.isroutine(network) and takes(network, 1)
        loop = "; a loop of your own is for compare.trainings" if is_loop else ""
        raise StudyError(
            f"network is {shown(network)}; expected a function without arguments that makes a new "
            f"network, as in `lambda: {name}`{loop}"
        )


def check_optimizer(optimizer: Any) -> None:
    """Raise a StudyError unless it takes parameters, a learning rate and a weight decay."""
    if optimizer is None:
        return
    kind = getattr(optimizer, "func", optimizer)  # of a functools.partial
    # What the third argument of a class means differs: SGD's is momentum.
    is_class = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if is_class or not takes(optimizer, 3):
        name = kind.__name__ if is_class else "SGD"
        raise StudyError(
            f"optimizer is {shown(kind if is_class else optimizer)}; expected a function of "
            "(parameters, learning_rate, weight_decay) that makes an optimiser, as in "
            f"`lambda p, rate, decay: torch.optim.{name}(p, lr=rate, weight_decay=decay)`"
        )


def check_loop(loop: Any) -> None:
    """Raise a StudyError unless it can train a Trial."""
    is_class = isinstance(loop, type) and issubclass(loop, nn.Module)
    if is_class or isinstance(loop, nn.Module) or not takes(loop, 1):
        raise StudyError(
            f"loop is {shown(loop)}; expected a function that takes a Trial, trains a new network "
            "and returns it. A network without a loop is for compare.networks"
        )


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raise a StudyError for the first argument that is something else than it should be."""
    for name in ("train", "test", "validation", "unaugmented"):
        _check_dataset(name, given[name])
    check(given, _ARGUMENTS)
    if given["test"] is None and given["test_groups"] is not None:
        raise StudyError("test_groups are of a Dataset test=, and there is none; give groups alone")


def _check_dataset(name: str, value: Any) -> None:
    may_lack, may_be_share = name in ("test", "unaugmented"), name == "validation"
    if (may_lack and value is None) or (may_be_share and is_number(value)):
        return
    if _indexed(value):
        return
    expected = f"{_DATASET}{', or a share of the rows of train' if may_be_share else ''}"
    if isinstance(value, DataLoader):
        expected = f"its Dataset, as in {name}=loader.dataset: the study makes its own batches"
    elif _arrays(value):
        expected = f"{_DATASET}, as torch.utils.data.TensorDataset(inputs, targets) makes one"
    elif name == "test" and is_number(value):
        expected = f"{_DATASET}; for a share of the rows of train say test_share={value}"
    raise StudyError(f"{name} is {shown(value)}; expected {expected}")


def _indexed(value: Any) -> bool:
    """Whether it may be a map-style Dataset: a list of samples is one too."""
    other = isinstance(value, type | str | bytes | Mapping | Tensor | np.ndarray) or _arrays(value)
    return not other and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _arrays(value: Any) -> bool:
    """Whether it is arrays of all inputs and all targets, which are no samples."""
    return isinstance(value, Tensor | np.ndarray) or (
        isinstance(value, tuple)
        and bool(value)
        and all(isinstance(part, Tensor | np.ndarray) for part in value)
    )


def _one_each(value: Any) -> bool:
    return value is None or (is_several(value) and getattr(value, "ndim", 1) == 1)


_ARGUMENTS = {
    "test_share": Argument(is_number, "a share of the rows, as in 0.2"),
    "groups": Argument(_one_each, f"{_GROUPS} of train"),
    "test_groups": Argument(_one_each, f"{_GROUPS} of test"),
    "losses": Argument(
        lambda value: value is None or is_several(value),
        'a list of names, of callables (logits, target) → mean, or of pairs, as in ["focal", '
        '("mine", my_loss)]',
    ),
    "head": Argument(is_text, "the name of the network's last layer, as in 'fc'"),
    "space": Argument(
        lambda value: value is None or isinstance(value, Mapping),
        "a dict, as in {'learning_rate': (low, high, default)}",
    ),
    "classes": Argument(lambda value: value is None or is_several(value), "a list of names"),
    "num_classes": Argument(
        lambda value: value is None or is_whole(value), "a whole number, at least 1"
    ),
    "unit": Argument(is_text, "a name, as in 'images'"),
    "name": Argument(is_text, "a name of the data"),
    "collate": Argument(
        lambda value: value is None or takes(value, 1), "a function from samples to a batch"
    ),
    "loaders": Argument(lambda value: is_whole(value, 0), "a number of processes, 0 or more"),
    "fingerprint": Argument(is_text, "a text that names the data"),
    "out": Argument(is_path, "a folder"),
    "workers": Argument(is_whole, "a number of processes, at least 1"),
}
