"""A head and its loss in one, without logits in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from steelyard import ops
from steelyard.losses.contract import described
from steelyard.losses.module import Loss
from steelyard.losses.regions import RegionLoss
from steelyard.ops.linear import choose_engine
from steelyard.ops.linear import losses as losses_of_head
from steelyard.ops.linear_tiles import Head
from steelyard.schedule import DeferredReweighting

__all__ = ["linear_loss"]


def linear_loss(
    loss: Loss | DeferredReweighting,
    features: Tensor,
    weight: Tensor | nn.Linear,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> Tensor:
    """``loss(F.linear(features, weight, bias), target)`` without the logits in memory.

    With many classes the logits and their gradient are the largest tensors of a training: 4,096
    tokens of 32,000 classes are 0.5 GB, three times over. Here they are computed in tiles of rows,
    each of which becomes its part of the gradients at once. What stays is the gradients of
    features, weight and bias, and one tile of at most 64 MB (0.5 GB on an accelerator). Values and
    gradients are those of the two steps, but for rounding; those of the head are summed in at least
    float32. What is frozen, features or weight, costs no product.

    Args:
        loss: any loss of the softmax or the sigmoid family with its options, or a
            :class:`DeferredReweighting` of one. A loss over regions needs all logits of an image.
        features: (N, D), (B, T, D), with any number of dimensions in front, or (D,); floating.
        weight: the last layer, an ``nn.Linear``, of which weight and bias are used (its hooks do
            not run); or a weight alone, (C, D).
        target: class indices (N,), (B, T) or (); or one number per class, (N, C), (B, T, C) or
            (C,): the classes come last here, as the features do. These are of the logits' size
            themselves, and are read in tiles. Targets are those of each row of features: for next
            tokens shift them before.
        bias: (C,), beside a weight alone; None: there is none, or the layer's own.
        sample_weight: as for the loss: broadcastable to (N,) or (B, T), or (B, T, C) where the
            loss takes one per cell.
        denominator: as for the loss.

    Returns:
        A 0-d tensor; with reduction="none" (N,) or (B, T), and (B, T, C) for a loss per cell.

    Raises:
        TypeError: not a loss of these families, a tensor that is none, or another layer.
        ValueError: shapes that do not fit, a bias beside a layer, or a sharded weight.

    Under ``torch.compile`` it is an op of its own. Under ``torch.func`` and ``torch.export``, with
    ``engine="reference"``, and for gradients of gradients, the logits are computed all at once. A
    head that FSDP2 shards is whole inside the ``forward`` of the module that it belongs to: call it
    there.

    Example:
        >>> features, target = torch.randn(2, 5, 16), torch.randint(0, 1000, (2, 5))
        >>> head = torch.nn.Linear(16, 1000)
        >>> loss = FocalLoss(gamma=2.0)
        >>> two_steps = loss(head(features).movedim(-1, 1), target)
        >>> one_step = linear_loss(loss, features, head, target)
        >>> torch.allclose(one_step, two_steps)
        True
    """
    return _computed(
        losses_of_head, loss, features, weight, target, bias, sample_weight, denominator
    )


def engine_of_head(
    loss: Loss | DeferredReweighting, features: Tensor, weight: Tensor | nn.Linear, target: Tensor
) -> ops.EngineChoice:
    """Which engine :func:`linear_loss` uses for these tensors, and why."""
    found: list[ops.EngineChoice] = []

    def look(head: Head, problem: ops.Problem, engine: str, reduction: ops.Reduction) -> Tensor:
        found.append(choose_engine(head, problem, engine, reduction))
        return head.features.new_zeros(())

    _computed(look, loss, features, weight, target)
    return found[0]


def _computed(
    compute_of_head: Callable[[Head, ops.Problem, str, ops.Reduction], Tensor],
    loss: Loss | DeferredReweighting,
    features: Tensor,
    weight: Tensor | nn.Linear,
    target: Tensor,
    bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> Tensor:
    """What is computed of the head, for what the loss makes of the rest."""
    in_force: Any = loss.current if isinstance(loss, DeferredReweighting) else loss
    if not isinstance(in_force, Loss) or isinstance(in_force, RegionLoss):
        regions = isinstance(in_force, RegionLoss)
        why = " of regions, which needs all logits of an image at once" if regions else ""
        raise TypeError(
            f"loss is a {type(in_force).__name__}{why}: expected a loss of the softmax or the "
            "sigmoid family, such as steelyard.FocalLoss()"
        )
    weight, bias = _parts(weight, bias)
    check_head(features, weight, bias)
    shape = features.shape[:-1]
    head = Head(features.reshape(-1, features.shape[-1]), weight, bias)

    def compute(_: Tensor, problem: ops.Problem, engine: str, reduction: ops.Reduction) -> Tensor:
        return compute_of_head(head, problem, engine, reduction)

    rows, weights = _as_rows(target, sample_weight, shape, weight.shape[0])
    value = in_force.computed_by(compute, head.like_logits, rows, weights, denominator)
    return value if value.ndim == 0 else value.reshape((*shape, *value.shape[1:]))


def _parts(weight: Tensor | nn.Linear, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, or those that were given."""
    if not isinstance(weight, nn.Linear):
        return weight, bias
    kind = type(weight)
    if kind.forward is not nn.Linear.forward:
        raise TypeError(
            f"weight is {described(weight)}, which computes its logits in its own way: expected an "
            "nn.Linear, or the weight (C, D) by which features are multiplied"
        )
    if bias is not None:
        raise ValueError(
            f"bias is given beside {described(weight)}, which brings its own: leave it out, or "
            "give the weight alone, head.weight"
        )
    return weight.weight, weight.bias


def check_head(features: Any, weight: Any, bias: Any) -> None:
    """Raise unless features and the last layer fit."""
    for name, given, expected in (
        ("features", features, "(N, D), (B, T, D) or (D,)"),
        ("weight", weight, "(C, D), or an nn.Linear"),
        ("bias", bias, "(C,)"),
    ):
        if name == "bias" and given is None:
            continue
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise TypeError(
                f"{name} is {described(given)}, expected a floating-point tensor {expected}"
            )
        if hasattr(given, "full_tensor"):
            raise ValueError(
                f"{name} is sharded (a {type(given).__name__}): call linear_loss in the forward of "
                f"the module that is wrapped, where it is whole, or give {name}.full_tensor()"
            )
    if weight.ndim != 2 or features.ndim == 0 or features.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and weight {tuple(weight.shape)}: "
            "expected (…, D) and (C, D) with the same D"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}, expected one number per class, "
            f"{tuple(weight.shape[:1])}"
        )
    if not weight.shape[0]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: expected at least one class")


def _as_rows(target: Any, sample_weight: Any, shape: torch.Size, classes: int) -> tuple[Any, Any]:
    """Target and sample weights as they meet logits (N, C); what does not fit stays as it is."""
    if isinstance(target, Tensor):
        if target.shape == shape:
            target = target.reshape(-1)
        elif target.shape == (*shape, classes):
            target = target.reshape(-1, classes)
        else:
            raise ValueError(
                f"target has shape {tuple(target.shape)}: expected class indices of shape "
                f"{tuple(shape)}, or one number per class, {(*shape, classes)}, for features of "
                f"{tuple(shape)} positions and a weight of {classes} classes"
            )
    if isinstance(sample_weight, Tensor):
        per_cell = sample_weight.ndim > len(shape)
        places = (*shape, classes) if per_cell else shape
        try:
            sample_weight = sample_weight.expand(places)
        except RuntimeError:
            raise ValueError(
                f"sample_weight has shape {tuple(sample_weight.shape)}, which does not broadcast "
                f"to the positions {tuple(shape)}"
            ) from None
        sample_weight = (
            sample_weight.reshape(-1, classes) if per_cell else sample_weight.reshape(-1)
        )
    return target, sample_weight
