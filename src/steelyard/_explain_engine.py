"""Which engine a loss uses for these tensors, and why."""

from torch import Tensor, nn

from steelyard import ops
from steelyard.linear import engine_of_head
from steelyard.losses.cells import SigmoidLoss, check_cells
from steelyard.losses.compound import CompoundLoss
from steelyard.losses.forms import CellForm, Form
from steelyard.losses.images import look
from steelyard.losses.module import Loss
from steelyard.losses.positions import check_shapes
from steelyard.losses.regions import RegionLoss
from steelyard.losses.softmax import CrossEntropyLoss
from steelyard.schedule import DeferredReweighting


def explain_engine(
    logits: Tensor,
    target: Tensor,
    *,
    loss: Loss | None = None,
    label_smoothing: float = 0.0,
    engine: str = "auto",
    head: Tensor | nn.Linear | None = None,
) -> ops.EngineChoice:
    """Which engine a loss uses for these tensors, and why.

    Args:
        logits: as for a loss; the values are not read.
        target: as for a loss; the values are not read.
        loss: the loss, whose own options count; None stands for one of one class per position.
        label_smoothing: as for the loss: a smoothed target needs log p of all classes.
        engine: as for the loss.
        head: the last layer, or its weight (C, D), for :func:`linear_loss`: ``logits`` are then
            the features (…, D) that it reads.

    Returns:
        ``engine``, its name, and ``reason``; of a head, how its logits are cut and what they take.

    Raises:
        TypeError: a sum of losses, of which each part has its own.
        ValueError: no engine of that name.

    Example:
        >>> import torch
        >>> explain_engine(torch.randn(8, 3), torch.zeros(8, dtype=torch.long)).engine
        'pytorch'
        >>> features, weight = torch.randn(2048, 64), torch.randn(32000, 64)
        >>> chosen = explain_engine(features, torch.zeros(2048).long(), head=weight)
        >>> print(chosen.reason.partition(", where")[0])
        tiles of ... × 32,000 logits take ... MB beside the gradients
    """
    if head is not None:
        whole = loss or CrossEntropyLoss(label_smoothing=label_smoothing, engine=engine)
        return engine_of_head(whole, logits, head, target)
    if isinstance(loss, DeferredReweighting):
        loss = loss.current
    if isinstance(loss, CompoundLoss):
        raise TypeError(
            "each part of a CompoundLoss has an engine of its own: give one part as loss"
        )
    if isinstance(loss, SigmoidLoss):
        return _engine_of_cells(loss, logits, target)
    if isinstance(loss, RegionLoss):
        images = look(loss.options, logits, target, None, squared=loss.form.squared)
        if not loss.form.of_sums:
            return ops.EngineChoice("reference", "no other sorts errors")
        overlap = images.overlap
        return ops.choose_engine(loss.options.engine, images.logits, overlap, overlap.tensors)
    if loss is None:
        loss = CrossEntropyLoss(engine=engine, label_smoothing=label_smoothing)
    options = loss.options
    check_shapes(logits, target)
    batch = logits.unsqueeze(0) if logits.ndim == 1 else logits
    form: Form = loss.form.fit(batch)
    problem = form.problem(options, target, None)
    return ops.choose_engine(options.engine, batch, problem, problem.tensors)


def _engine_of_cells(loss: SigmoidLoss, logits: Tensor, target: Tensor) -> ops.EngineChoice:
    check_cells(logits, target, loss.options.ignore_index)
    if logits.ndim == 1:
        logits, target = logits.unsqueeze(1), target.unsqueeze(1)
    form: CellForm = loss.form
    problem = form.fit(logits).problem(loss.options, target, None)
    return ops.choose_engine(loss.options.engine, logits, problem, problem.tensors)
