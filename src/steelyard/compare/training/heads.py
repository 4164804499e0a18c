"""The network's last layer: replaced by a cosine head, read for its features, trained alone."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.compare.study import StudyError
from steelyard.compare.training.batches import call, moved, parted
from steelyard.compare.training.loading import Loader
from steelyard.heads import CosineLinear


def linear_head(network: nn.Module, path: str) -> nn.Linear:
    """The last layer of a network.

    Raises:
        StudyError: there is no such layer, or it is no `nn.Linear`.
    """
    try:
        head = operator.attrgetter(path)(network)
    except AttributeError:
        names = ", ".join(name for name, _ in network.named_children()) or "none"
        raise StudyError(
            f"head is {path!r}, and the network has no such layer; its layers are: {names}"
        ) from None
    if not isinstance(head, nn.Linear):
        raise StudyError(
            f"head is {path!r}, a {type(head).__name__}; cosine heads, τ-normalised heads and "
            "head-only candidates need an nn.Linear"
        )
    return head


def with_cosine_head(network: nn.Module, path: str, seed: int) -> None:
    """Put a cosine head in the place of the last layer, drawn from a stream of its own."""
    head = linear_head(network, path)
    with torch.random.fork_rng(()):
        torch.manual_seed(seed)
        cosine = CosineLinear(head.in_features, head.out_features)
    cosine.to(device=head.weight.device, dtype=head.weight.dtype)
    parent, _, name = path.rpartition(".")
    owner: Any = operator.attrgetter(parent)(network) if parent else network
    if isinstance(owner, nn.Sequential | nn.ModuleList):
        owner[int(name)] = cosine
    else:
        setattr(owner, name, cosine)


@torch.no_grad()
def features_of(
    network: nn.Module,
    path: str,
    loader: Loader,
    rows: np.ndarray,
    batch_size: int,
    device: str,
) -> Tensor:
    """What the last layer reads of some rows: (N, d) on the CPU."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept.append(inputs[0].detach().float().cpu())

    network.eval()
    handle = linear_head(network, path).register_forward_pre_hook(keep)
    try:
        number = -(-len(rows) // batch_size)
        for batch in loader(np.array_split(rows, number), -1):
            call(network, parted(moved(batch, device))[0])
    finally:
        handle.remove()
    features = torch.cat(kept)
    if features.ndim != 2 or len(features) != len(rows):
        raise StudyError(
            f"the head reads features of shape {tuple(features.shape)} for {len(rows)} rows; "
            "head-only candidates need one vector for each row"
        )
    return features
