"""What the recommended candidate saves where costs judge: against training as usual, and no model.

An answer that is the same for every row needs no model. With rare and dear mistakes it is hard to
beat, and a candidate that does not beat it saves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from steelyard import _units
from steelyard._results import BASELINE, Candidate
from steelyard.compare.decisions import Costs
from steelyard.compare.evidence import Interval, RepeatedSplits
from steelyard.compare.verdict import Measure

_SCORE = "mean_cost"
_MEASURE = Measure(_SCORE, "mean cost")
_CONSTANT = "the cheapest answer that is the same for every row"


def said_of_savings(
    recommended: str | None,
    entries: Sequence[Candidate],
    costs: Costs,
    classes: Sequence[str],
    overlap: float,
) -> list[str]:
    """What the recommended candidate saves per row, with intervals.

    Args:
        recommended: its name; None leaves the cost of the answer that needs no model.
        entries: the entry `candidates`.
        costs: (C, C), row by true class.
        classes: their names.
        overlap: rows tested on ÷ rows learnt from.
    """
    values = {entry["name"]: entry["scores"][_SCORE]["values"] for entry in entries}
    answer, constant = _cheapest(entries, costs)
    evidence = RepeatedSplits({**values, _CONSTANT: constant}, overlap)
    cost = evidence.interval(_CONSTANT).mean
    if cost is None:
        return []
    price = _units.in_words(_SCORE, cost)
    every = f"To call every row {classes[answer]!r}"
    if recommended is None:
        return [f"{every} would cost {price}."]
    title = {entry["name"]: entry["title"] for entry in entries}[recommended]
    against = {
        name: _saving(evidence.against(recommended, name).difference)
        for name in (BASELINE, _CONSTANT)
    }
    if _alike(values[BASELINE], constant):
        same = f"{every} costs {price}, and plain cross-entropy costs the same"
        if recommended == BASELINE:
            return [f"{same}: it saves nothing."]
        return [f"{same}. {title} saves {against[_CONSTANT].format('both')}."]
    said = [f"{every} would cost {price}. {title} saves {against[_CONSTANT].format('that')}."]
    if recommended != BASELINE:
        said.insert(0, f"{title} saves {against[BASELINE].format('plain cross-entropy')}.")
    return said


def _cheapest(entries: Sequence[Candidate], costs: Costs) -> tuple[int, list[float | None]]:
    """The class that every row is called most cheaply, and what that costs a row on each seed."""
    matrix = np.asarray(costs, dtype=np.float64)
    by_seed: list[np.ndarray | None] = []
    for cells in zip(*(entry["seeds"] for entry in entries), strict=True):
        # All candidates of a seed have the same test rows.
        done = next((cell for cell in cells if cell["status"] == "done"), None)
        rows = None if done is None else np.asarray(done["confusion"]).sum(1)
        by_seed.append(None if rows is None else rows @ matrix / rows.sum())
    known = [each for each in by_seed if each is not None]
    answer = int(np.mean(known, axis=0).argmin()) if known else 0
    return answer, [None if each is None else float(each[answer]) for each in by_seed]


def _saving(difference: Interval) -> str:
    """How much less it costs, and against {}: a text to format."""
    mean, std, low, high = difference.mean, difference.std, difference.low, difference.high
    if mean is None or low is None or high is None:
        return "an unknown amount against {}"
    saved = Interval(-mean, std, -high, -low)
    if mean >= 0:
        return f"nothing against {{}} ({_MEASURE.change(saved)})"
    luck = ", and that holds 0: it may be luck" if high >= 0 else ""
    amount = _units.in_words(_SCORE, -mean)
    return f"{amount} against {{}} ({_MEASURE.interval(saved)}{luck})"


def _alike(values: Sequence[float | None], others: Sequence[float | None]) -> bool:
    """Whether two answers cost the same on every seed that both finished."""
    pairs = [(a, b) for a, b in zip(values, others, strict=True) if a is not None and b is not None]
    return bool(pairs) and all(math.isclose(a, b, rel_tol=1e-9) for a, b in pairs)
