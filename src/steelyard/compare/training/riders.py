"""Candidates that ride on a training of cross-entropy: its logits, read in another way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from steelyard.compare.training.evaluation import Predictions
from steelyard.compare.training.methods import Method
from steelyard.losses import adjust_logits


def ridden(
    method: Method,
    options: Mapping[str, float],
    draw: int,
    predictions: Predictions,
    counts: np.ndarray,
    head: Mapping[str, list[float]] | None,
    biases: torch.Tensor | None = None,
) -> Predictions:
    """What a rider says of the rows that cross-entropy gave these logits for.

    Args:
        method: the rider.
        options: its hyper-parameters.
        draw: their number.
        predictions: of cross-entropy's network.
        counts: (C,) its training rows.
        head: of its last layer the norms of the class vectors and the bias.
        biases: (C,) of a tuned decision.
    """
    if predictions.logits is None:
        # The logits of masks are not kept: what each draw makes of them was counted with them.
        assert predictions.adjusted is not None
        return Predictions(confusion=predictions.adjusted[draw])
    logits = wide(predictions.logits)
    if method.rider == "adjusted":
        moved = adjust_logits(logits, counts, tau=options["tau"])
    elif method.rider == "tuned":
        assert biases is not None
        moved = logits + biases
    else:
        assert head is not None
        moved = tau_normalised(logits, head, options["tau"])
    return Predictions(logits=moved.numpy())


def wide(logits: np.ndarray) -> torch.Tensor:
    """Kept logits as a tensor; what was kept in float16 is computed with in float32."""
    return torch.from_numpy(logits.astype(np.promote_types(logits.dtype, np.float32)))


def adjustments(draws: Sequence[Mapping[str, float]], counts: np.ndarray) -> torch.Tensor:
    """(A, C) what each draw of post-hoc adjustment subtracts from logits."""
    zero = torch.zeros(len(counts), dtype=torch.float64)
    return torch.stack([-adjust_logits(zero, counts, tau=draw["tau"]) for draw in draws])


def tau_normalised(
    logits: torch.Tensor, head: Mapping[str, list[float]], tau: float
) -> torch.Tensor:
    """Logits of the head whose class vectors are divided by their norm to the power τ.

    The bias is left out, as in the paper: w·f / ‖w‖^τ = (z − b) / ‖w‖^τ, so logits, norms and
    bias are all it takes.

    Reference:
        Kang et al., Decoupling representation and classifier, ICLR 2020, arXiv:1910.09217.
    """
    norms, bias = (torch.tensor(head[key], dtype=torch.float64) for key in ("norms", "bias"))
    return ((logits.double() - bias) / norms.pow(tau)).to(logits.dtype)
