"""What a batch holds and how a network reads it: tensors, tuples, dicts, outputs with `.logits`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steelyard.classes.sources import LABEL_KEYS
from steelyard.compare.given import shown
from steelyard.compare.study import StudyError


def target_of(item: Any) -> Any:
    """The target of a sample or batch: its last element, or what a label's key holds."""
    return parted(item)[1]


def parted(item: Any) -> tuple[Any, Any]:
    """A sample or batch as (inputs, target).

    A mapping keeps all but its target; of a tuple with more than two elements the inputs stay a
    tuple.

    Raises:
        StudyError: it is neither, or holds no target.
    """
    if isinstance(item, Mapping):
        for key in LABEL_KEYS:
            if key in item:
                return {name: value for name, value in item.items() if name != key}, item[key]
        raise StudyError(
            f"a sample has the keys {', '.join(map(repr, item))}, and none of them is a target: "
            f"name it {' or '.join(map(repr, LABEL_KEYS))}"
        )
    if isinstance(item, tuple | list) and len(item) >= 2:
        inputs = item[0] if len(item) == 2 else tuple(item[:-1])
        return inputs, item[-1]
    raise StudyError(
        f"a sample is {shown(item)}; expected (input, target), (input, …, target), or a "
        "dict with 'labels'"
    )


def call(network: Any, inputs: Any) -> Any:
    """The network's output: a tuple is spread over its arguments, a dict over its keywords."""
    if isinstance(inputs, Mapping):
        return network(**inputs)
    if isinstance(inputs, tuple | list):
        return network(*inputs)
    return network(inputs)


def logits_of(output: Any, target: Tensor, classes: int) -> Tensor:
    """The logits (B, C, …) in a network's output, for targets (B, …).

    An output with `.logits` or the key "logits" is unwrapped, and (B, T, C) becomes (B, C, T);
    where T is C, the classes are taken to be the last.

    Raises:
        StudyError: no logits, or logits that do not fit targets and classes.
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise StudyError(
            f"the network returned {shown(output)}; expected logits, or an output with .logits"
        )
    positions = tuple(target.shape)
    if target.ndim == 2 and tuple(logits.shape) == (*positions, classes):
        return logits.movedim(-1, 1)
    if tuple(logits.shape) == (positions[0], classes, *positions[1:]):
        return logits
    found = logits.shape[1] if logits.ndim > 1 else 1
    if logits.ndim == target.ndim + 1 and found != classes:
        raise StudyError(
            f"the network gives {found} logits for each position and there are {classes} classes: "
            f"give it {classes} outputs, or say num_classes={found}"
        )
    raise StudyError(
        f"the network gives logits of shape {tuple(logits.shape)} for targets of shape "
        f"{positions}; expected {(positions[0], classes, *positions[1:])}"
    )


def moved(value: Any, device: str | torch.device) -> Any:
    """Tensors within tuples, lists and mappings, moved to a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(moved(item, device) for item in value)
    return value
