"""What candidates cost in accuracy, which nobody should learn only after deploying one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steelyard._results import BASELINE
from steelyard.compare.verdict import DEAR, Verdict, join


def prices(select: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Accuracy that each candidate loses against cross-entropy; 0 where it loses none.

    None have a price where costs judge: they say themselves what a mistake is worth.

    Args:
        select: the score that decides.
        entries: the entry `candidates`.
    """
    means = {entry["name"]: entry["scores"]["accuracy"]["mean"] for entry in entries}
    if select == "mean_cost" or means[BASELINE] is None:
        return {}
    return {name: max(0.0, means[BASELINE] - m) for name, m in means.items() if m is not None}


def said_of_price(
    found: Verdict, price: Mapping[str, float], titles: Mapping[str, str]
) -> list[str]:
    """What the recommended candidate costs, and the best where that is another price.

    Args:
        found: the verdict.
        price: of each candidate.
        titles: the names to show, by name.
    """
    if found.recommended is None or found.best is None or found.recommended not in price:
        return []
    own = price[found.recommended]
    best = price.get(found.best, own)
    said = f"It costs {_points(own)} of accuracy" if own else "It costs no accuracy"
    if abs(best - own) > DEAR:
        said += f", {titles[found.best]} {_points(best)}"
    elif own <= DEAR:
        return []
    return [
        f"{said}: take it only if the rare classes are worth that." if own > DEAR else f"{said}."
    ]


def said_of_dearer(
    found: Verdict, price: Mapping[str, float], titles: Mapping[str, str]
) -> list[str]:
    """Which simpler candidates were not recommended because of their price.

    Args:
        found: the verdict.
        price: of each candidate.
        titles: the names to show, by name.
    """
    if not found.dearer or found.recommended is None:
        return []
    named = join([f"{titles[name]} ({_points(price[name])})" for name in found.dearer])
    return [
        f"Simpler and not told from the best either, but dearer in accuracy: {named}, where "
        f"{titles[found.recommended]} costs {_points(price[found.recommended])}."
    ]


def _points(price: float) -> str:
    return f"{100 * price:.1f} points" if price else "none"
