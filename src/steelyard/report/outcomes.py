"""Pictures of what came out: recall by class, differences to cross-entropy, confusion matrices.

A picture belongs to a choice, a candidate or a score; one function makes those of one choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import plotly.graph_objects as go

from steelyard import _units
from steelyard._results import BASELINE, Comparison
from steelyard.report import numbers
from steelyard.report.marks import (
    Look,
    against,
    dashed,
    digits,
    error_bars,
    listed,
    share_bars,
)
from steelyard.report.reading import Entry, Reading, confusion
from steelyard.report.style import (
    FAINT,
    FEW_BAND,
    LEAD,
    MEDIUM_BAND,
    MUTED,
    OTHER,
    SEQUENTIAL,
    WORSE,
    Picture,
    picture,
    safe,
    wrapped,
)

_FEW, _MANY = 20, 100  # training rows: below, few-shot; above, many-shot
_NAMED = 150  # classes: beyond, names under an axis cannot be read at any width
_CALM = 40  # classes: beyond, an interval for each would hide the means
_WRITTEN = 15  # classes: beyond, numbers do not fit into a matrix
# Judgement → colour, marker, name. Shape and filling say what the colour says.
_JUDGED = {
    "better": (LEAD, "circle", "better"),
    "worse": (WORSE, "diamond", "worse"),
    "no detectable difference": (OTHER, "circle-open", "no detectable difference"),
    "too few seeds": (OTHER, "x-thin-open", "too few seeds to judge"),
}


def recall(reading: Reading, entry: Entry) -> list[Picture]:
    """Recall of every class, the most frequent first, above the training rows of each."""
    order = reading.by_frequency
    counts = [reading.counts[c] for c in order]
    names = [safe(reading.classes[c], 18) for c in order]
    shown = against(reading, entry)
    shapes, notes = _bands(counts)
    label = (
        f"Recall of each class, from the most frequent to the rarest: {listed(shown)}. "
        "Bars below give the training rows."
    )
    return [
        picture(
            label,
            [_rows_bars(reading), *(_recalls(reading, *item, len(shown)) for item in shown)],
            min_width=min(len(order), 100) * 9 + 90 if len(order) > 12 else 0,
            max_width=260 + 110 * len(order),
            height=430,
            shapes=shapes,
            annotations=notes,
            xaxis={
                **_class_axis(names if len(order) <= _NAMED else []),
                "range": [-0.6, len(order) - 0.4],
                "anchor": "y2",
                "title": {"text": "most frequent → rarest"},
            },
            yaxis={
                "domain": [0.32, 0.97],
                "range": [-0.02, 1.03],
                "tickformat": ".0%",
                "title": {"text": "recall"},
            },
            yaxis2={"domain": [0, 0.24], "type": "log", "dtick": 1, "title": {"text": "rows"}},
            legend={"y": 1.02},
        )
    ]


def _rows_bars(reading: Reading) -> Any:
    order = reading.by_frequency
    return go.Bar(
        x=list(range(len(order))),
        y=[reading.counts[c] or None for c in order],
        yaxis="y2",
        marker={"color": FAINT},
        customdata=[safe(reading.classes[c]) for c in order],
        hovertemplate="%{customdata}<br>%{y:,} training rows<extra></extra>",
        showlegend=False,
    )


def _recalls(reading: Reading, entry: Entry, look: Look, of: int) -> Any:
    """Points of one candidate, a little aside where another's stand beside them."""
    order = reading.by_frequency
    rows = [entry["recall"][c] for c in order]
    calm = len(order) <= _CALM
    shift = look.shift if of > 1 else 0.0
    return go.Scatter(
        x=[place + shift for place in range(len(order))],
        y=[digits(row["mean"]) for row in rows],
        error_y=share_bars(rows, look.color) if calm else None,
        mode="markers",
        name=safe(entry["title"]),
        marker=look.marker(9 if calm else 7),
        customdata=[
            [safe(reading.classes[c]), numbers.interval("recall", row)]
            for c, row in zip(order, rows, strict=True)
        ],
        hovertemplate="%{customdata[0]}<br>recall %{y:.1%}<br>%{customdata[1]}",
    )


def _bands(counts: Sequence[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shades behind the medium-shot and the few-shot classes, of counts in falling order."""
    medium = sum(n > _MANY for n in counts)
    few = sum(n >= _FEW for n in counts)
    shapes, notes = [], []
    for start, end, color, text in (
        (medium, few, MEDIUM_BAND, f"{_FEW} to {_MANY} rows"),
        (few, len(counts), FEW_BAND, f"under {_FEW} rows"),
    ):
        if end == start:
            continue
        box = {"x0": start - 0.5, "x1": end - 0.5, "yref": "paper", "y0": 0, "y1": 0.97}
        filling = {"layer": "below", "line": {"width": 0}, "fillcolor": color}
        shapes.append({"type": "rect", **filling, **box})
        if end - start >= 0.15 * len(counts):  # else the words would stick out of the shade
            where = {"x": (start + end - 1) / 2, "yref": "paper", "y": 0.27, "yanchor": "middle"}
            font = {"size": 11, "color": MUTED}
            notes.append({"text": text, "showarrow": False, "font": font, **where})
    return shapes, notes


def forest(reading: Reading, score: str) -> list[Picture]:
    """Differences to cross-entropy, paired by seed, with their intervals; the best on top."""
    sign = _units.sign(score)
    compared = reading.against_baseline(score).values()
    known = [(sign * m, row) for row in compared if (m := row["difference"]["mean"]) is not None]
    rows = [row for _, row in sorted(known, key=itemgetter(0))]
    if not rows:
        return []
    places = {row["candidate"]: place for place, row in enumerate(rows)}
    judged = [
        _differences(reading, score, [row for row in rows if row["judgement"] == judgement], places)
        for judgement in _JUDGED
        if any(row["judgement"] == judgement for row in rows)
    ]
    return [
        picture(
            f"Difference to cross-entropy in {reading.score_titles[score]} for each candidate, "
            "with 95 % intervals.",
            [_seed_strokes(reading, score, places), *judged],
            height=110 + 38 * len(rows),
            shapes=[dashed(x0=0, x1=0, y0=-0.6, y1=len(rows) - 0.4)],
            xaxis={"title": {"text": _axis_title(score)}},
            yaxis={
                "tickvals": list(places.values()),
                "ticktext": [wrapped(reading.title(name), 18) for name in places],
                "range": [-0.6, len(rows) - 0.4],
                "showgrid": False,
            },
        )
    ]


def _axis_title(score: str) -> str:
    side = "right" if _units.sign(score) > 0 else "left"
    step = _units.step(score)
    return f"{step and f'{step} '}above cross-entropy; {side} is better"


def _number(score: str) -> str:
    return "+.1f" if _units.is_share(score) else "+.4g"


def _scale(score: str) -> float:
    """Shares are drawn in points."""
    return 100.0 if _units.is_share(score) else 1.0


def _differences(
    reading: Reading, score: str, rows: Sequence[Comparison], places: Mapping[str, int]
) -> Any:
    """Candidates of one judgement."""
    color, symbol, name = _JUDGED[rows[0]["judgement"]]
    differences, scale = [row["difference"] for row in rows], _scale(score)
    return go.Scatter(
        x=[digits(scale * (difference["mean"] or 0.0)) for difference in differences],
        y=[places[row["candidate"]] for row in rows],
        error_x=error_bars(differences, color, scale),
        mode="markers",
        name=name,
        marker=Look(color, symbol, "solid", 0.0).marker(11),
        customdata=[
            [safe(reading.title(row["candidate"])), numbers.difference(score, row["difference"])]
            for row in rows
        ],
        hovertemplate=f"%{{customdata[0]}}<br>%{{x:{_number(score)}}} {_units.step(score)}<br>"
        "%{customdata[1]}<extra></extra>",
    )


def _seed_strokes(reading: Reading, score: str, places: Mapping[str, int]) -> Any:
    """Each seed's own difference, faint: what the intervals are made of."""

    def values(name: str) -> list[float | None]:
        found: list[float | None] = reading.by_name[name]["scores"][score]["values"]
        return found

    pairs = [
        (digits(_scale(score) * (value - reference)), place)
        for name, place in places.items()
        for value, reference in zip(values(name), values(BASELINE), strict=True)
        if value is not None and reference is not None
    ]
    return go.Scatter(
        x=[x for x, _ in pairs],
        y=[y for _, y in pairs],
        mode="markers",
        name="one seed",
        marker=Look(FAINT, "line-ns-open", "solid", 0.0).marker(9),
        hovertemplate=f"one seed: %{{x:{_number(score)}}} {_units.step(score)}<extra></extra>",
    )


def mistakes(reading: Reading, entry: Entry) -> list[Picture]:
    """The confusion matrix over all seeds, each row as shares of its true class."""
    order = reading.by_frequency
    if len(order) > _NAMED:
        return []
    axis = _class_axis([safe(reading.classes[c], 16) for c in order])
    side = max(340, 100 + len(order) * (34 if len(order) <= _WRITTEN else 10))
    return [
        picture(
            f"Confusion matrix of {entry['title']}: rows are true classes, columns predictions.",
            [_heat(reading, confusion(entry))],
            min_width=side if len(order) > 10 else 0,
            max_width=200 + 90 * len(order),
            height=side,
            xaxis={**axis, "title": {"text": "predicted"}},
            yaxis={
                **axis,
                "tickangle": 0,
                "autorange": "reversed",
                "title": {"text": "true class"},
            },
        )
    ]


def _heat(reading: Reading, matrix: Sequence[Sequence[int]]) -> Any:
    order = reading.by_frequency
    gap = 1 if len(order) <= _CALM else 0
    shares = []
    for true in order:
        rows = sum(matrix[true])
        shares.append([digits(matrix[true][guess] / rows) if rows else None for guess in order])
    heat = go.Heatmap(
        z=shares,
        zmin=0,
        zmax=1,
        colorscale=[[k / (len(SEQUENTIAL) - 1), color] for k, color in enumerate(SEQUENTIAL)],
        xgap=gap,
        ygap=gap,
        hovertemplate="true %{y}<br>predicted %{x}<br>%{z:.1%}<extra></extra>",
        colorbar={"tickformat": ".0%", "thickness": 10, "outlinewidth": 0},
    )
    if len(order) <= _WRITTEN:
        text = [[_written(share) for share in row] for row in shares]
        heat.update(text=text, texttemplate="%{text}", showscale=False)
    return heat


def _written(share: float | None) -> str:
    """A share in a cell, where room is short: nothing for zero."""
    if not share:
        return ""
    return f"{100 * share:.0f}" if share >= 0.005 else "·"


def _class_axis(names: Sequence[str]) -> dict[str, Any]:
    """An axis with a name at each place, upright where the names would run into each other."""
    crowded = len(names) > 12 or (len(names) > 5 and max(map(len, names)) > 6)
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": list(names),
        "tickangle": -90 if crowded else 0,
        "tickfont": {"size": 9 if len(names) > _CALM else 11},
        "showgrid": False,
    }
