"""Scores of an order: how far positive rows stand above the others, whatever the threshold.

Rows of equal rank pass a threshold together or not at all, as in scikit-learn. All functions take
leading dimensions: (…, N) is a stack of rankings of N rows each. Logits (N, C) of several labels
have their rows first, so their scores are those of ``logits.T, target.T``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class _Steps(NamedTuple):
    """What passes a threshold at each row (…, N) of the sorted ranking; float64 counts.

    Only a row that is the last of its rank is a threshold; the others add nothing.
    """

    hits: Tensor  # positive rows that pass
    alarms: Tensor  # other rows that pass
    new_hits: Tensor  # positive rows that pass here and not at the threshold before
    new_alarms: Tensor
    last: Tensor  # bool, whether the row is the last of its rank


def average_precision(ranks: Tensor, positive: Tensor) -> Tensor:
    """Mean precision over the positive rows, each at the threshold that just lets it pass.

    ``Σ_k (R_k − R_{k−1}) · P_k`` over thresholds k, without interpolation. Chance gives the share
    of positive rows, so two scores compare on one set of rows only.

    Args:
        ranks: (…, N), any numbers that grow with the belief in the positive class.
        positive: (…, N), bool or 0 and 1.

    Returns:
        (…) float64; NaN without a positive row.

    Raises:
        ValueError: shapes that differ, no row, NaN in the ranks, or another number in ``positive``.

    Example:
        >>> from steelyard.metrics import average_precision
        >>> average_precision(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        tensor(0.8333, dtype=torch.float64)
    """
    steps = _steps(ranks, positive)
    passing = (steps.hits + steps.alarms).clamp_min(1)
    return (steps.new_hits * steps.hits / passing).sum(-1) / steps.hits[..., -1]


def roc_auc(ranks: Tensor, positive: Tensor) -> Tensor:
    """Probability that a positive row stands above another, ties counting one half.

    Args:
        ranks: (…, N), any numbers that grow with the belief in the positive class.
        positive: (…, N), bool or 0 and 1.

    Returns:
        (…) float64; NaN where all rows are positive, or none is.

    Example:
        >>> from steelyard.metrics import roc_auc
        >>> ranks, positive = torch.tensor([0.9, 0.8, 0.3, 0.1]), torch.tensor([1, 0, 1, 0])
        >>> roc_auc(ranks, positive)
        tensor(0.7500, dtype=torch.float64)
    """
    steps = _steps(ranks, positive)
    below = steps.hits - steps.new_hits / 2
    return (steps.new_alarms * below).sum(-1) / (steps.hits[..., -1] * steps.alarms[..., -1])


def recall_at_precision(ranks: Tensor, positive: Tensor, precision: float) -> Tensor:
    """Largest recall of a threshold whose precision is at least that; 0 where none is.

    Args:
        ranks: (…, N), any numbers that grow with the belief in the positive class.
        positive: (…, N), bool or 0 and 1.
        precision: in (0, 1].

    Returns:
        (…) float64; NaN without a positive row.

    Raises:
        ValueError: precision is not in (0, 1].

    Example:
        >>> from steelyard.metrics import recall_at_precision
        >>> ranks, positive = torch.tensor([0.9, 0.8, 0.3, 0.1]), torch.tensor([1, 0, 1, 0])
        >>> recall_at_precision(ranks, positive, 0.9)
        tensor(0.5000, dtype=torch.float64)
    """
    _check_share("precision", precision)
    steps = _steps(ranks, positive)
    enough = steps.last & (steps.hits / (steps.hits + steps.alarms) >= precision)
    recall = steps.hits / steps.hits[..., -1:]
    return torch.where(enough, recall, 0 * recall).amax(-1)  # 0 × NaN: undefined stays so


def precision_at_recall(ranks: Tensor, positive: Tensor, recall: float) -> Tensor:
    """Largest precision of a threshold whose recall is at least that.

    Args:
        ranks: (…, N), any numbers that grow with the belief in the positive class.
        positive: (…, N), bool or 0 and 1.
        recall: in (0, 1].

    Returns:
        (…) float64; NaN without a positive row.

    Raises:
        ValueError: recall is not in (0, 1].

    Example:
        >>> from steelyard.metrics import precision_at_recall
        >>> ranks, positive = torch.tensor([0.9, 0.8, 0.3, 0.1]), torch.tensor([1, 0, 1, 0])
        >>> precision_at_recall(ranks, positive, 0.9)
        tensor(0.6667, dtype=torch.float64)
    """
    _check_share("recall", recall)
    steps = _steps(ranks, positive)
    found = steps.hits / steps.hits[..., -1:]
    precision = steps.hits / (steps.hits + steps.alarms)
    enough = steps.last & (found >= recall)
    return torch.where(enough, precision, 0 * found).amax(-1)


def precision_curve(ranks: Tensor, positive: Tensor, recalls: Tensor) -> Tensor:
    """`precision_at_recall` at many recalls at once.

    Args:
        ranks: (N,), any numbers that grow with the belief in the positive class.
        positive: (N,), bool or 0 and 1.
        recalls: (K,) in [0, 1].

    Returns:
        (K,) float64; NaN without a positive row.

    Example:
        >>> from steelyard.metrics import precision_curve
        >>> ranks, positive = torch.tensor([0.9, 0.8, 0.3, 0.1]), torch.tensor([1, 0, 1, 0])
        >>> precision_curve(ranks, positive, torch.tensor([0.5, 1.0]))
        tensor([1.0000, 0.6667], dtype=torch.float64)
    """
    steps = _steps(ranks, positive)
    found = steps.hits[steps.last] / steps.hits[-1]
    precision = steps.hits[steps.last] / (steps.hits + steps.alarms)[steps.last]
    best = precision.flip(0).cummax(0).values.flip(0)  # from this threshold on
    return (
        best[torch.searchsorted(found, recalls.double()).clamp_max(len(best) - 1)] + 0 * found[-1]
    )


def roc_curve(ranks: Tensor, positive: Tensor, alarms: Tensor) -> Tensor:
    """Largest recall of a threshold that no larger share of the other rows passes.

    Args:
        ranks: (N,), any numbers that grow with the belief in the positive class.
        positive: (N,), bool or 0 and 1.
        alarms: (K,) shares of the other rows, in [0, 1].

    Returns:
        (K,) float64; NaN where all rows are positive, or none is.

    Example:
        >>> from steelyard.metrics import roc_curve
        >>> ranks, positive = torch.tensor([0.9, 0.8, 0.3, 0.1]), torch.tensor([1, 0, 1, 0])
        >>> roc_curve(ranks, positive, torch.tensor([0.0, 0.5]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    steps = _steps(ranks, positive)
    none = steps.hits.new_zeros(1)
    found = torch.cat([none, steps.hits[steps.last]]) / steps.hits[-1]
    passing = torch.cat([none, steps.alarms[steps.last]]) / steps.alarms[-1]
    place = torch.searchsorted(passing, alarms.double(), right=True) - 1
    return found[place.clamp_min(0)] + 0 * passing[-1]


def one_vs_rest(
    score: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor
) -> Tensor:
    """A score of each class against all others; its ``nanmean(-1)`` is the macro form.

    Args:
        score: such as `average_precision`.
        logits: (…, N, C); log-probabilities serve as well.
        target: class indices (…, N).

    Returns:
        (…, C) float64; NaN for a class whose score is undefined, as without rows.

    Example:
        The third class has no row.

        >>> from steelyard.metrics import average_precision, one_vs_rest
        >>> logits = torch.tensor([[2.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 1.0, 2.0]])
        >>> one_vs_rest(average_precision, logits, torch.tensor([0, 0, 1]))
        tensor([1., 1., nan], dtype=torch.float64)
    """
    log_p = logits.double().log_softmax(-1)
    per_class = [
        score(log_p[..., c], (target == c).expand(log_p.shape[:-1])) for c in range(log_p.shape[-1])
    ]
    return torch.stack(per_class, -1)


def _steps(ranks: Tensor, positive: Tensor) -> _Steps:
    if ranks.shape != positive.shape or not ranks.shape or not ranks.shape[-1]:
        raise ValueError(
            f"ranks have shape {tuple(ranks.shape)} and positive {tuple(positive.shape)}; expected "
            "one of each for every row, and one row at least"
        )
    if ranks.isnan().any():
        raise ValueError("ranks hold NaN, which has no place in an order")
    if positive.dtype != torch.bool and (wrong := (positive != 0) & (positive != 1)).any():
        where = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"positive{where} is {positive[tuple(where)].item()}, expected bool, or 0 and 1: give "
            "target == c for one class of several, and leave out rows without a label"
        )
    ranks, order = ranks.sort(-1, descending=True)
    truth = positive.gather(-1, order).double()
    last = torch.ones_like(order, dtype=torch.bool)
    last[..., :-1] = ranks[..., 1:] != ranks[..., :-1]
    hits, alarms = truth.cumsum(-1), (1 - truth).cumsum(-1)
    return _Steps(hits, alarms, _since(hits, last), _since(alarms, last), last)


def _since(counts: Tensor, last: Tensor) -> Tensor:
    """How much a count that only grows has grown since the threshold before; 0 between them."""
    ends = torch.where(last, counts, 0.0).cummax(-1).values
    before = torch.cat([torch.zeros_like(ends[..., :1]), ends[..., :-1]], -1)
    return torch.where(last, counts - before, 0.0)


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}; expected a share in (0, 1]")
