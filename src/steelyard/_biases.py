"""The search for biases: one class after the other, each over all its thresholds at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steelyard import metrics
from steelyard.metrics.confusion import Tally, tally

# From confusion matrices (…, C, C), rows are the true classes, to scores (…); higher is better.
Score = Callable[[Any], Tensor]
# Those by name read no more of a matrix than its tally.
SCORES: dict[str, Score] = {
    "accuracy": metrics.accuracy,
    "balanced_accuracy": metrics.balanced_accuracy,
    "f1": metrics.f1,
    "geometric_mean": metrics.geometric_mean,
    "macro_f1": metrics.macro_f1,
    "matthews": metrics.matthews,
    "worst_class_recall": metrics.worst_class_recall,
}
_CELLS = 2**22  # numbers of the counts that one search may compare: 32 MB
_SWEEPS = 100  # more than any search took; each sweep must raise the score


def search_biases(rows: Tensor, target: Tensor, biases: Tensor, score: Score) -> Tensor:
    """The biases (C,) from which no single one leads to a better score.

    Args:
        rows: (M, C) logits, float64 on the CPU.
        target: (M,) their classes.
        biases: (C,) to begin with; they are changed.
        score: to be raised.
    """
    best = scores_of(score, _confusions(rows, target, biases)).item()
    for _ in range(_SWEEPS):
        before = best
        for c in (*range(1, len(biases)), 0):  # two classes are done after the first
            bias, value = _line_search(rows, target, biases, c, score)
            if value > best:
                biases[c], best = bias, value
        if best == before:
            break
    return biases


def named(score: str | Score) -> Score:
    """The score of that name, or the one that was given."""
    if callable(score):
        return score
    if score not in tuple(SCORES):  # whatever was given, also what has no hash
        raise ValueError(
            f"there is no score {score!r}; choose from: {', '.join(SCORES)}, or give a function "
            "of confusion matrices (…, C, C)"
        )
    return SCORES[score]


def scores_of(score: Score, counts: Tensor | Tally) -> Tensor:
    """Scores of confusion matrices (K, C, C) or their tallies, −inf where one is undefined."""
    values = score(counts).double()
    shape = counts.there.shape if isinstance(counts, Tally) else counts.shape
    if values.shape != shape[:1]:
        raise ValueError(
            f"the score gave {tuple(values.shape)} for confusion matrices "
            f"{tuple(shape)}; expected one number for each"
        )
    if values.isnan().all():
        raise ValueError("the score is undefined whatever is decided: are there rows to score?")
    return values.nan_to_num(-torch.inf)


def _confusions(rows: Tensor, target: Tensor, biases: Tensor) -> Tensor:
    """The confusion matrix (1, C, C) of decisions with these biases."""
    guess = (rows + biases).argmax(1)
    return metrics.confusion_matrix(guess, target, rows.shape[1])[None]


def _line_search(
    rows: Tensor, target: Tensor, biases: Tensor, c: int, score: Score
) -> tuple[float, float]:
    """The best bias of class c while the others stay, and its score."""
    classes = rows.shape[1]
    rivals = rows + biases
    rivals[:, c] = -torch.inf
    height, other = rivals.max(1)
    margin = height - rows[:, c]  # class c is decided for where its bias exceeds this
    always, never = margin == -torch.inf, margin == torch.inf
    confusion = metrics.confusion_matrix(torch.where(always, c, other), target, classes)
    free = ~(always | never)
    margin, order = margin[free].sort()
    truth, other = target[free][order], other[free][order]
    if not len(margin):
        return float(biases[c]), float(scores_of(score, confusion[None]))
    last = torch.ones_like(margin, dtype=torch.bool)
    last[:-1] = margin[1:] != margin[:-1]
    ends = last.nonzero()[:, 0]  # of each run of equal margins
    most = max(1, _CELLS // (2 * classes if _reads_tallies(score) else classes**2))
    if len(ends) > most:
        ends = ends[torch.linspace(0, len(ends) - 1, most).long()]
    # Score k is of a bias above the margins up to the end k − 1: those rows have moved to c.
    moved = slice(0, int(ends[-1]) + 1)
    step = torch.bucketize(torch.arange(moved.stop), ends) + 1
    found = _scores_of_moves(confusion, truth[moved], other[moved], c, step, score)
    # A bias below all margins, halfway to the next one, or above all.
    upper = torch.cat([margin, margin[-1:] + 2])[ends + 1]
    choices = torch.cat([margin[:1] - 1, (margin[ends] + upper) / 2])
    apart = torch.ones_like(choices, dtype=torch.bool)
    apart[1:] = (choices[1:] > margin[ends]) & (choices[1:] < upper)
    found = torch.where(apart, found, -torch.inf)
    best = (found == found.max()).nonzero()[:, 0]
    nearest = best[(choices[best] - biases[c]).abs().argmin()]
    return float(choices[nearest]), float(found[nearest])


def _reads_tallies(score: Score) -> bool:
    return any(score is known for known in SCORES.values())


def _scores_of_moves(
    confusion: Tensor, truth: Tensor, other: Tensor, c: int, step: Tensor, score: Score
) -> Tensor:
    """Scores (K + 1,) while rows move to class c, from before the first step to after the last.

    Args:
        confusion: (C, C) before any of them has moved.
        truth: (M,) their classes.
        other: (M,) what is decided for them before.
        c: what is decided for them afterwards.
        step: (M,) when each moves, rising from 1 to K.
        score: to be worked out.
    """
    leave, arrive = -torch.ones_like(step), torch.ones_like(step)

    def counted(start: Tensor, left: Tensor, reached: Tensor, less: Tensor, more: Tensor) -> Tensor:
        """Counts (K + 1, …) of places (M,), from those at the start."""
        moves = start.new_zeros(int(step[-1]) + 1, len(start))
        place, change = torch.cat([left, reached]), torch.cat([less, more]).to(start)
        moves.index_put_((step.repeat(2), place), change, accumulate=True)
        return start + moves.cumsum(0)

    if _reads_tallies(score):
        before, to_c = tally(confusion), torch.full_like(other, c)
        right, found = leave * (truth == other), arrive * (truth == c)
        return scores_of(
            score,
            Tally(
                counted(before.found, other, to_c, right, found),
                before.there.expand(int(step[-1]) + 1, -1),
                counted(before.predicted, other, to_c, leave, arrive),
            ),
        )
    row = truth * len(confusion)
    cells = counted(confusion.flatten(), row + other, row + c, leave, arrive)
    return scores_of(score, cells.view(-1, *confusion.shape))
