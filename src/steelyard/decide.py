"""From scores to decisions: what a mistake costs, thresholds, biases and a temperature.

All of it is for a model that is trained already. What is chosen here is chosen on validation rows:
on the training rows a model is too sure of itself, and on test rows the score is then a dream.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steelyard._biases import Score, named, scores_of, search_biases
from steelyard._given import CELLS_OF_NAMES
from steelyard._platt import search_scale_and_shift
from steelyard._validation import check_floating, check_tensor, rows_that_count
from steelyard.losses.cells import check_cells
from steelyard.losses.contract import described, warn_of_probabilities
from steelyard.losses.posthoc import unweight_logits
from steelyard.losses.vectors import PerClass

__all__ = ["decide", "fit_platt_scaling", "fit_temperature", "tune_biases", "tune_threshold"]

_COLDEST, _HOTTEST = 1e-3, 1e3
_HALVINGS = 80  # from there to neighbouring numbers


def decide(probabilities: Tensor, costs: Tensor | Sequence[Sequence[float]]) -> Tensor:
    """The decision with the least expected cost: ``argmin_k Σ_c p_c · costs[c, k]``.

    Args:
        probabilities: (N, C), (N, C, d1, …) or (C,), those of the data's mix: see
            `unweight_logits`, `adjust_logits` and `fit_temperature` for a model whose
            probabilities are not.
        costs: (C, K), ``costs[c, k]`` is the cost of deciding for k where c is true. K is C unless
            there are decisions that are no class, such as asking a person. Gains are negative.

    Returns:
        (N,), (N, d1, …) or (), int64; of equal costs the first.

    Raises:
        TypeError: probabilities are not a floating tensor, or costs no matrix of numbers.
        ValueError: costs are not a finite (C, K) matrix; on the CPU also: probabilities that are
            negative or do not sum to 1, as logits do not.

    Example:
        A fraud that is missed costs 100, an alarm 5: it is worth one from a probability of 0.05 on.

        >>> decide(torch.tensor([[0.97, 0.03], [0.93, 0.07]]), [[0, 5], [100, 0]])
        tensor([0, 1])

    Reference:
        Elkan, The foundations of cost-sensitive learning, IJCAI 2001.
    """
    check_floating("probabilities", probabilities)
    if probabilities.ndim == 0:
        raise ValueError("probabilities have shape (); expected (N, C), (N, C, d1, …) or (C,)")
    single = probabilities.ndim == 1
    rows = (probabilities.unsqueeze(0) if single else probabilities).movedim(1, -1)
    matrix = _cost_matrix(costs, rows)
    if rows.device.type == "cpu":
        _check_probabilities(rows)
    best = (rows.double() @ matrix).argmin(-1)
    return best[0] if single else best


def tune_threshold(probabilities: Tensor, labels: Tensor, score: str | Score = "f1") -> float:
    """The threshold t that scores best: positive where ``probabilities >= t``.

    All thresholds that decide differently are tried. Of those that score alike it is the one
    nearest to 0.5, halfway between two rows, so that it does not hang on one of them.

    Args:
        probabilities: (N,) of the positive class, of validation rows.
        labels: (N,) bool, or integers 0 and 1; 1 is the positive class.
        score: "f1", "balanced_accuracy", "macro_f1", "matthews", "geometric_mean",
            "worst_class_recall" or "accuracy"; or a function from confusion matrices (…, 2, 2),
            rows are the true classes, to scores (…).

    Returns:
        t, a number of the probabilities' dtype; inf where nothing should be called positive.

    Raises:
        TypeError: probabilities are not floating, or labels neither bool nor integers.
        ValueError: shapes that differ, no rows, numbers outside [0, 1], labels other than 0 and 1,
            no score of that name, or a score that is undefined at every threshold.

    Example:
        >>> tune_threshold(torch.tensor([0.1, 0.25, 0.375, 0.2]), torch.tensor([0, 1, 1, 0]))
        0.22499999403953552

    Reference:
        Lipton et al., Thresholding classifiers to maximize F1 score, 2014, arXiv:1402.1892.
    """
    check_floating("probabilities", probabilities)
    check_tensor("labels", labels, CELLS_OF_NAMES)
    p, truth = probabilities.detach().cpu(), labels.detach().cpu()
    if truth.is_floating_point() or truth.is_complex():
        raise TypeError(f"labels are {truth.dtype}; expected bool, or integers 0 and 1")
    if p.ndim != 1 or p.shape != truth.shape or not len(p):
        raise ValueError(
            f"probabilities have shape {tuple(p.shape)} and labels {tuple(truth.shape)}; expected "
            "(N,) of both, with the probability of the positive class"
        )
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities are not all in [0, 1]; logits go through .sigmoid() first")
    lowest = int(truth.min())
    if lowest < 0 and (truth == 0).any():  # of −1 and 1 alone, −1 may be the other class
        raise ValueError(
            f"labels hold {lowest}: leave out rows without a label, as in known = labels >= 0, "
            "sy.tune_threshold(probabilities[known], labels[known])"
        )
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError("labels are not all 0 or 1; compare them with the positive class first")
    ranks, order = p.sort(descending=True)
    hits = truth[order].long().cumsum(0)
    last = torch.cat([ranks[1:] != ranks[:-1], torch.ones(1, dtype=torch.bool)])
    tp = torch.cat([hits.new_zeros(1), hits[last]])  # at each threshold, the strictest first
    passing = torch.cat([hits.new_zeros(1), last.nonzero()[:, 0] + 1])
    fp, positives = passing - tp, hits[-1]
    negatives = len(p) - positives
    rows = torch.stack([negatives - fp, fp, positives - tp, tp], -1)
    values = scores_of(named(score), rows.view(-1, 2, 2))
    thresholds = _between(ranks[last])
    best = (values == values.max()).nonzero()[:, 0]
    return float(thresholds[best[(thresholds[best] - 0.5).abs().argmin()]])


def tune_biases(
    logits: Tensor,
    labels: Tensor,
    score: str | Score = "balanced_accuracy",
    *,
    start: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Biases b that score best: the decision is ``(logits + b).argmax(1)``.

    One class after the other gets the bias that is best while those of the others stay, found
    among all that decide differently, until no class gains any more (coordinate ascent). For two
    classes that is the best threshold; for more it is a peak from which no single bias leads up.
    Beyond N · 2C of four million (N · C² for a function as score), so many of them are tried, each
    as many rows apart.

    Args:
        logits: (N, C) or (N, C, d1, …), of validation rows.
        labels: class indices (N,) or (N, d1, …).
        score: as in `tune_threshold`, for C classes; "f1" is that of class 1.
        start: (C,) where the search begins; None is 0, the model's own decisions.
        ignore_index: rows of this label count nowhere.

    Returns:
        (C,) float64 on the CPU, to be added to logits.

    Raises:
        TypeError: logits are not floating, or labels no integers.
        ValueError: shapes that do not fit, no rows, NaN or +inf logits, no score of that name, or
            a score that is undefined whatever is decided.
        IndexError: a label outside 0 … C−1.

    Example:
        The second class is found as soon as its logit is within 1 of the first.

        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.5], [2.0, 1.5], [2.0, 3.0]])
        >>> tune_biases(logits, torch.tensor([0, 0, 1, 1]))
        tensor([0., 1.], dtype=torch.float64)

    Reference:
        Narasimhan et al., Consistent multiclass algorithms for complex performance measures,
        ICML 2015.
    """
    rows, target = rows_that_count(
        logits, labels, ignore_index, "sy.tune_threshold tunes a threshold of each"
    )
    classes, rate = rows.shape[1], named(score)
    if start is not None:
        check_tensor("start", start)
    biases = rows.new_zeros(classes) if start is None else start.detach().cpu().double().clone()
    if biases.shape != (classes,):
        raise ValueError(f"start has shape {tuple(biases.shape)}; expected ({classes},)")
    return search_biases(rows, target, biases, rate)


def fit_temperature(
    logits: Tensor, labels: Tensor, *, weight: PerClass | None = None, ignore_index: int = -100
) -> float:
    """The temperature T with the least log loss of ``(logits / T).softmax(1)``.

    It changes no decision and no order within a row, only how sure the model is. A loss that
    stretches logits, such as focal loss, stretches class weights with them. Give them as
    ``weight``: T is then that of ``unweight_logits(logits / T, weight).softmax(1)``.
    One logit for two classes, or several labels, have `fit_platt_scaling`.

    Args:
        logits: (N, C) or (N, C, d1, …), of validation rows.
        labels: class indices (N,) or (N, d1, …).
        weight: the class weights of the training, all > 0; None: there were none.
        ignore_index: rows of this label count nowhere.

    Returns:
        T in (0.001, 1000]. Where every row is right, the log loss falls as long as T does. Such
        rows do not say how sure the model may be, and T is 1. Where the logits know nothing of
        the labels, T is 1000.

    Raises:
        TypeError: logits are not floating, or labels no integers.
        ValueError: shapes that do not fit, no rows, NaN or +inf logits, a label that a logit of
            −inf rules out, a weight of 0, or weights of another number of classes.
        IndexError: a label outside 0 … C−1.

    Warns:
        UserWarning: logits that are probabilities.

    Example:
        Three of four rows are right, and the model says 95 %: at T = 2.73 it says 75 %.

        >>> logits = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
        >>> fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
        2.7307...

    Reference:
        Guo et al., On calibration of modern neural networks, ICML 2017, arXiv:1706.04599.
    """
    rows, target = rows_that_count(
        logits, labels, ignore_index, "sy.fit_platt_scaling fits a scale and a shift of each"
    )
    warn_of_probabilities(rows)
    of_label = rows.gather(1, target[:, None])
    if of_label.isinf().any():
        raise ValueError(
            "a label has the logit −inf, and no temperature makes it possible: leave such rows out"
        )
    rows = (rows - of_label).clamp_min(torch.finfo(torch.float64).min)
    moved = rows.new_zeros(rows.shape[1])  # by what no temperature divides
    if weight is not None:
        moved = unweight_logits(moved, weight)

    def slope(sharpness: float) -> float:
        """Of the log loss by 1/T: how much more the model expects than it gets."""
        p = (sharpness * rows + moved).softmax(1)
        return float(torch.where(p > 0, p * rows, 0.0).sum(1).mean())

    # The log loss is convex in 1/T, so its slope crosses 0 once.
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(low) >= 0:
        return _HOTTEST
    if slope(high) <= 0:
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / high


def fit_platt_scaling(
    logits: Tensor, target: Tensor, *, ignore_index: float = -1
) -> tuple[Tensor, Tensor]:
    """Scale a and shift b of each label with the least log loss of ``(a * logits + b).sigmoid()``.

    For losses of several labels that move the logits as well as stretch them, such as
    `asymmetric_loss` and `hill_loss`: no temperature mends that. No label's rows change their
    order, unless its a comes out below 0: then the order is worse than chance.

    Rows that are all right would ask for an a without end. So, as Platt has it, a label that is
    there counts as (n₊ + 1) / (n₊ + 2), and one that is not as 1 / (n₋ + 2), if n₊ rows have it
    and n₋ do not.

    Args:
        logits: (N, C) or (N, C, d1, …), of validation rows; or (N,), one label.
        target: of the same shape, 0 and 1, bool, or numbers in [0, 1].
        ignore_index: a label of this value is not known and counts nowhere; may be NaN.

    Returns:
        a and b, (C,) each, or () for one label; float64 on the CPU. Where a label is in all rows
        or in none, a is 0: nothing says what its logits tell.

    Raises:
        TypeError: logits are not floating, or the target is no tensor of real numbers.
        ValueError: shapes that do not fit, a target outside [0, 1], NaN or infinite logits, or a
            label that no row knows.

    Example:
        Of 50 rows with the logit 3, 49 have the label; of 150 with −1, where the model says 27 %,
        2 have it.

        >>> logits = torch.tensor([3.0] * 50 + [-1.0] * 150)
        >>> there = torch.tensor([1] * 49 + [0] + [1] * 2 + [0] * 148)
        >>> scale, shift = fit_platt_scaling(logits, there)
        >>> (scale * torch.tensor([3.0, -1.0]) + shift).sigmoid()
        tensor([0.9616, 0.0196])

    Reference:
        Platt, Probabilistic outputs for support vector machines and comparisons to regularized
        likelihood methods, 1999.
    """
    check_cells(logits, target, ignore_index)
    z, t = (
        (cells.unsqueeze(1) if cells.ndim == 1 else cells).movedim(1, -1).flatten(0, -2)
        for cells in (logits.detach().cpu().double(), target.detach().cpu().double())
    )
    kept = ~t.isnan() if math.isnan(ignore_index) else t != ignore_index
    if not ((t[kept] >= 0) & (t[kept] <= 1)).all():
        raise ValueError(
            f"target holds numbers outside [0, 1] that are not ignore_index={ignore_index}"
        )
    if not z[kept].isfinite().all():
        raise ValueError("logits hold NaN or infinity where the label is known: leave those out")
    if not kept.any(0).all():
        label = int((~kept.any(0)).nonzero()[0])
        raise ValueError(
            f"label {label} is not known in any row: leave its column out, or give other rows"
        )
    scale, shift = search_scale_and_shift(z, t, kept)
    return (scale[0], shift[0]) if logits.ndim == 1 else (scale, shift)


def _cost_matrix(costs: Any, rows: Tensor) -> Tensor:
    """Costs as float64 (C, K), where the rows (…, C) are."""
    classes = rows.shape[-1]
    expected = (
        "expected a row for each true class and a column for each decision, both in the order of "
        "the class indices, as in [[0, 5], [100, 0]]"
    )
    try:
        given = costs if isinstance(costs, Tensor) else torch.as_tensor(costs, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        given = None
    if given is None or given.is_complex():
        hint = ". Of a data frame in that order it is costs.to_numpy()" * hasattr(costs, "to_numpy")
        raise TypeError(f"costs are {described(costs)}, no matrix of numbers; {expected}{hint}")
    if given.ndim != 2 or given.shape[0] != classes or not given.shape[1]:
        hint = ""
        if given.ndim < 2:
            hint = "; a threshold t of class c needs no costs: probabilities[:, c] >= t"
        elif 1 in rows.shape:  # (N, 1), or (N,) as a single row
            hint = "; of two classes probabilities have two columns: torch.stack([1 - p, p], -1)"
        there = "is 1 class" if classes == 1 else f"are {classes} classes"
        raise ValueError(
            f"costs have shape {tuple(given.shape)}, and there {there}; {expected}{hint}"
        )
    if not given.isfinite().all():
        raise ValueError("costs hold NaN or infinity; expected finite numbers")
    return given.to(rows.device, torch.float64)


def _check_probabilities(rows: Tensor) -> None:
    """Rows (…, C) that are no probabilities are logits, mostly."""
    room = 1e-3 if rows.dtype in (torch.float32, torch.float64) else 2e-2
    sums = rows.double().sum(-1)
    if not ((rows >= 0).all() and ((sums - 1).abs() <= room).all()):
        raise ValueError(
            "probabilities are negative or do not sum to 1 over the classes; logits go through "
            ".softmax(1) first"
        )


def _between(ranks: Tensor) -> Tensor:
    """Thresholds (K + 1,) apart from distinct ranks (K,) in falling order, the strictest first."""
    lower = torch.cat([ranks[1:], ranks.new_zeros(1)]).double()
    halfway = ((ranks.double() + lower) / 2).to(ranks.dtype)
    # Of two neighbouring numbers there is none in between: then the upper row itself.
    halfway = torch.where(halfway > lower, halfway, ranks)
    above = ((1 + ranks[:1].double()) / 2).to(ranks.dtype)
    return torch.cat([torch.where(above > ranks[:1], above, torch.inf), halfway])
