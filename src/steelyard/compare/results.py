"""What `results.json` holds. Everything the report and the tables show is in it.

    schema       1
    study        every option that decides the numbers, seeds included
    data         name, target, sha256, rows, columns, classes, counts (whole table), train_counts
                 (one seed's training split), split (rows per split), notes
    environment  versions, machine, device
    scores       the scores in order: name, title, whether higher is better
    candidates   simplest first; each with
                   name, title, loss, head, deferred, post_hoc, space (its hyper-parameters)
                   scores: per score mean, std, low, high (95 %) and values, one per seed
                   recall: per class mean, low, high
                   code: lines of Python with the draw that validated best
                   seeds: one cell per seed: status, reason, chosen (a draw's number), trials
                   (draw, options, status, reason, validation, train_loss), scores, recall and
                   precision per class, confusion (rows are true classes), reliability (15 bins:
                   count, confidence, accuracy), positive_reliability (of two classes, the same by
                   the probability of the positive one: 15 bins of as many rows; its share is
                   accuracy), curve (epoch, train_loss, validation),
                   temperature, ranking (precision by recall, share found by share of false
                   alarms; of more than two classes the mean of each against the rest; of two
                   where the decision stands), cost_curve (of two classes, with costs)
    costs        where there are costs: row by true class, in the order of the classes
    comparisons  per score that may select: candidates against cross-entropy, paired by
                 seed: seeds, difference (mean, std, low, high), p, p_holm, judgement,
                 detectable (the difference that four of five such studies would find)
    references   what is no network (of tables alone): entries, with what candidates have in common
                 and the model; comparisons of each on the selecting score with one candidate, the
                 recommended one or else the best, named by against
    verdict      score, sentences, best, tied, recommended, code
    failures     every trial that failed: candidate, seed, draw, reason
    times        seconds; the one part that differs between two runs of one study

A number that does not exist (the recall of a class without test rows, the mean of an empty
group, an interval from one seed) is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steelyard import _units
from steelyard._results import BASELINE, Cell, Failure, ScoreName, Verdict
from steelyard.compare.candidates import BY_COSTS
from steelyard.compare.evidence import Evidence
from steelyard.compare.learning import said_of_learning
from steelyard.compare.prices import prices, said_of_dearer, said_of_price
from steelyard.compare.verdict import Measure, judge

# Of balanced accuracy above 1 / C, and of ROC AUC above 1/2: so little is no learning. Means over
# seeds are held to it: one lucky seed is no learning either, and an interval from few seeds is so
# wide that it holds chance whatever was learnt.
_CHANCE = 0.02
# Below this ROC AUC an order may as well be that of a network that is not trained yet.
_ORDERED = 0.8
_FEW_TEST_ROWS = 20  # of a class: with fewer, one row moves its recall by more than five points
_PRICED = ("balanced_accuracy", "macro_f1", "accuracy")


def score_names(titles: Mapping[str, str]) -> list[ScoreName]:
    """The entry `scores` for scores with these titles."""
    return [
        {"name": name, "title": title, "higher_is_better": _units.sign(name) > 0}
        for name, title in titles.items()
    ]


def failures(cells: Mapping[str, Sequence[Cell]]) -> list[Failure]:
    """The entry `failures` from the cells of each candidate."""
    return [
        {
            "candidate": name,
            "seed": cell["seed"],
            "draw": trial["draw"],
            "reason": trial["reason"] or "it says none",
        }
        for name, row in cells.items()
        for cell in row
        for trial in cell["trials"]
        if trial["status"] == "failed"
    ]


def verdict_of(
    select: str,
    evidence: Evidence,
    entries: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    classes: Sequence[str],
    train_counts: Sequence[int],
    order: Callable[[], float | None],
    more: Callable[[str | None], Sequence[str]] = lambda _: (),
    positive: int | None = None,
    others: Sequence[float] = (),
) -> Verdict:
    """The entry `verdict`.

    Args:
        select: the score that decides.
        evidence: that score of every candidate on every seed.
        entries: the entry `candidates`.
        titles: of the scores.
        classes: their names.
        train_counts: (C,) training rows of one seed.
        order: works out how cross-entropy's scores order the rows: the mean ROC AUC of each class
            against the rest; None where nothing is known of it. Asked only where decisions are at
            chance.
        more: what else is said of the recommended candidate, or of none.
        positive: of two classes, the position of the one that is looked for.
        others: means of the score that decides, of what is no network.
    """
    named = {entry["name"]: entry["title"] for entry in entries}
    preferred = BY_COSTS if BY_COSTS in named else None
    baseline = next(entry for entry in entries if entry["name"] == BASELINE)
    price = prices(select, entries)
    measure = Measure(select, titles[select])
    found = judge(evidence, named, BASELINE, measure, preferred, price, others)
    code = {entry["name"]: entry["code"] for entry in entries}
    return {
        "score": select,
        "sentences": [
            *found.sentences,
            *said_of_dearer(found, price, named),
            *more(found.recommended),
            *_chance(baseline, classes, order),
            *(said_of_learning(baseline, train_counts) if found.recommended else ()),
            *_found(found.recommended, entries, classes, positive),
            *_price(select, found.recommended, entries, titles),
            *said_of_price(found, price, named),
            *_never_found(found.recommended, entries),
            *_probabilities(found.recommended, entries, classes, positive),
        ],
        "best": found.best,
        "tied": list(found.tied),
        "recommended": found.recommended,
        "code": code[found.recommended] if found.recommended else None,
    }


def few_test_rows(counts: Sequence[int], classes: Sequence[str]) -> list[str]:
    """That the recall of some class moves in coarse steps, in one sentence; none where none does.

    Args:
        counts: (C,) test rows of one seed.
        classes: their names.
    """
    few = [c for c, n in enumerate(counts) if n < _FEW_TEST_ROWS]
    if not few:
        return []
    least = min(few, key=lambda c: counts[c])
    rows, name = int(counts[least]), classes[least]
    steps = (
        f"its recall moves in steps of {int(100 / rows + 0.5)} points"
        if rows
        else "it has no recall"
    )
    if len(few) == 1:
        return [f"The test rows hold {rows or 'none'} of class {name}: {steps}."]
    return [
        f"{len(few)} classes have fewer than {_FEW_TEST_ROWS} test rows; class {name} "
        f"has {rows or 'none'}: {steps}."
    ]


def _found(
    recommended: str | None,
    entries: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    positive: int | None,
) -> list[str]:
    """Recall and precision of the positive class as the recommended candidate decides."""
    if recommended is None or positive is None:
        return []
    cells = {entry["name"]: entry["seeds"] for entry in entries}
    named = repr(classes[positive])
    said = [
        _recall_and_precision(cells[name], positive, named)
        for name in dict.fromkeys((recommended, BASELINE))
    ]
    beside = f" (cross-entropy: {said[1]})" if len(said) > 1 else ""
    return [f"Recall and precision of {named} on the test rows: {said[0]}{beside}."]


def _recall_and_precision(cells: Sequence[Cell], positive: int, named: str) -> str:
    """Both as means over seeds; precision over those where any row is called positive."""
    done = [cell for cell in cells if cell["status"] == "done"]
    recall, precision = (
        [value for value in values if value is not None]
        for values in (
            [cell["recall"][positive] for cell in done],
            [cell["precision"][positive] for cell in done],
        )
    )
    if not recall:
        return "unknown"
    found = _units.in_words("recall", sum(recall) / len(recall))
    if not precision:
        return f"{found} and no precision, for no row is called {named}"
    return f"{found} and {_units.in_words('precision', sum(precision) / len(precision))}"


def _price(
    select: str,
    recommended: str | None,
    entries: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
) -> list[str]:
    """What the recommended candidate does to the scores it was not chosen by, in one sentence.

    Costs say themselves what a mistake is worth: where they judge, points of other scores do not.
    """
    if select == "mean_cost":
        return []
    means = {
        entry["name"]: {score: entry["scores"][score]["mean"] for score in _PRICED}
        for entry in entries
    }
    if recommended is None or recommended == BASELINE or None in means[BASELINE].values():
        return []
    changes = [
        f"{titles[score]} {100 * (means[recommended][score] - means[BASELINE][score]):+.1f}"
        for score in _PRICED
        if score != select
    ]
    return [f"What it does to the other scores, in points: {', '.join(changes)}."]


def _chance(
    baseline: Mapping[str, Any],
    classes: Sequence[str],
    order: Callable[[], float | None],
) -> list[str]:
    """That cross-entropy decides at chance, and whether it has learnt nothing or only to order.

    The largest score may be a frequent class's in every row, and still rank the rare rows first.
    """
    mean, chance = baseline["scores"]["balanced_accuracy"]["mean"], 1 / len(classes)
    if mean is None or mean > chance + _CHANCE:
        return []
    area = order()
    said = f"Cross-entropy is at chance: balanced accuracy {100 * mean:.1f} %, 1/{len(classes)}"
    mend = "Look at the data, or try other learning rates or more epochs."
    if area is None:
        return [
            f"{said}. Either it has learnt nothing, or only what does not change its decision. "
            f"{mend}"
        ]
    if area <= 0.5 + _CHANCE:
        return [
            f"{said}, and ROC AUC {area:.2f}: the network has learnt nothing, so nothing can be "
            f"said of losses. {mend}"
        ]
    decides = (
        f"Cross-entropy decides at chance (balanced accuracy {100 * mean:.1f} %, "
        f"1/{len(classes)}){_unnamed(baseline['seeds'], classes)}. But its scores order the rows"
    )
    if area < _ORDERED:
        return [
            f"{decides} a little (ROC AUC {area:.2f}, where 0.50 is chance). Either the decision "
            "has to move, or the network is not trained yet: repeat the study with twice the "
            "epochs before you believe its differences."
        ]
    return [
        f"{decides} (ROC AUC {area:.2f}, where 0.50 is chance), so it is the decision that has to "
        "move."
    ]


def _unnamed(cells: Sequence[Cell], classes: Sequence[str]) -> str:
    """Which classes the largest score names in no test row of any seed."""
    matrices = [cell["confusion"] for cell in cells if cell["status"] == "done"]
    rows = [row for matrix in matrices for row in matrix]  # none where classes are very many
    missing = [name for c, name in enumerate(classes) if rows and not any(row[c] for row in rows)]
    if not missing:
        return ""
    what = repr(missing[0]) if len(missing) == 1 else f"{len(missing)} of {len(classes)} classes"
    return f": its largest score names {what} for no test row, as happens to rare classes"


def _never_found(recommended: str | None, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """That the recommended candidate finds no row of the class that it is worst at."""
    scores = {entry["name"]: entry["scores"] for entry in entries}
    if recommended is None or scores[recommended]["worst_class_recall"]["mean"] != 0:
        return []
    return ["On no seed does it find a single row of the class that it is worst at."]


def _probabilities(
    recommended: str | None,
    entries: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    positive: int | None,
) -> list[str]:
    """Whether the recommended candidate's probabilities mean what they say, and what mends them."""
    name = "calibration_error" if positive is None else "positive_calibration_error"
    scores = {entry["name"]: entry["scores"] for entry in entries}
    if recommended is None or f"{name}_tempered" not in scores[recommended]:
        return []
    means = (
        (scores[recommended][score]["mean"], words)
        for score, words in (
            (name, "as trained"),
            (f"{name}_corrected", "with the loss's shift undone"),
            (f"{name}_tempered", "with a temperature"),
        )
    )
    said = ", ".join(
        f"{_units.in_words(name, mean)} {words}" for mean, words in means if mean is not None
    )
    if positive is None:
        return [f"Calibration error of its probabilities: {said}."]
    # Of a rare class every error is small: the reader needs the one that no model has.
    cells = next(entry["seeds"] for entry in entries if entry["name"] == recommended)
    rows = [row for cell in cells if cell["status"] == "done" for row in cell["confusion"]]
    there = sum(map(sum, rows[positive :: len(classes)])) / sum(map(sum, rows))
    return [
        f"Calibration error of its probability of {classes[positive]!r}: {said}; a probability of "
        f"0 for every row would have {_units.in_words(name, there)}."
    ]
