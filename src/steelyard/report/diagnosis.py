"""Pictures of how it came about: learning curves, calibration, hyper-parameters.

A picture belongs to a candidate; one function makes the pictures of one candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from steelyard import _units
from steelyard._results import Curve, Trial, chosen_trial
from steelyard.report import numbers
from steelyard.report.marks import Look, against, dashed, digits, listed, look
from steelyard.report.reading import (
    Entry,
    Reading,
    done,
    mean_of,
    option_names,
    positive_reliability,
    reliability,
)
from steelyard.report.style import LEAD, OTHER, Picture, picture, safe

_Shown = Literal["train_loss", "validation"]
_TRIED = Look(OTHER, "circle-open", "solid", 0.0)
_CHOSEN = Look(LEAD, "circle", "solid", 0.0)
_ENDS = ("confidence", "accuracy")


def curves(reading: Reading, entry: Entry) -> list[Picture]:
    """Training loss of a candidate, and its validation score beside cross-entropy's."""
    epochs = {"title": {"text": "epoch"}, "showgrid": False}
    pictures = []
    if _cells_with(entry, "train_loss"):
        pictures.append(
            picture(
                f"Training loss by epoch: {entry['title']}.",
                _curve_traces(entry, "train_loss", look(reading, entry), ".4g"),
                xaxis=epochs,
                yaxis={"title": {"text": "training loss"}},
            )
        )
    shown = [item for item in against(reading, entry) if _cells_with(item[0], "validation")]
    if shown:
        score = f"validation {reading.select_title}"
        pictures.append(
            picture(
                f"{score.capitalize()} by epoch: {listed(shown)}.",
                [
                    trace
                    for item, how in shown
                    for trace in _curve_traces(item, "validation", how, _number(reading))
                ],
                xaxis=epochs,
                yaxis={"title": {"text": score}, **_ticks(reading)},
            )
        )
    return pictures


def _number(reading: Reading) -> str:
    """How the deciding score is written."""
    return ".1%" if _units.is_share(reading.select) else ".4g"


def _ticks(reading: Reading) -> dict[str, str]:
    return {"tickformat": ".0%"} if _units.is_share(reading.select) else {}


def _cells_with(entry: Entry, curve: _Shown) -> list[Curve]:
    """Curves of the seeds that have this one; post-hoc adjustment validates no epoch."""
    return [cell["curve"] for cell in done(entry) if cell["curve"][curve]]


def _curve_traces(entry: Entry, curve: _Shown, look: Look, number: str) -> list[Any]:
    """A faint line for each seed and a strong one for their mean."""
    cells = _cells_with(entry, curve)
    seeds = [
        go.Scatter(
            x=cell["epoch"],
            y=[digits(value) for value in cell[curve] or ()],
            mode="lines",
            line=look.line(1),
            opacity=0.35,
            hoverinfo="skip",
            showlegend=False,
        )
        for cell in cells
    ]
    epochs = cells[0]["epoch"]
    by_epoch = zip(*(cell[curve] or () for cell in cells), strict=True)
    mean = go.Scatter(
        x=epochs,
        y=[digits(mean_of(values)) for values in by_epoch],
        mode="lines" if len(epochs) > 1 else "markers",
        name=safe(entry["title"]),
        line=look.line(3),
        marker=look.marker(9),
        showlegend=True,
        hovertemplate=f"epoch %{{x}}<br>%{{y:{number}}}",
    )
    return [*seeds, mean]


def calibration(reading: Reading, entry: Entry) -> list[Picture]:
    """How far probabilities are what they say, over all seeds' test rows."""
    return _of_class(reading, entry) or _of_confidence(reading, entry)


def _of_class(reading: Reading, entry: Entry) -> list[Picture]:
    """Of two classes the share of the positive one by its probability."""
    shown = [item for item in against(reading, entry) if positive_reliability(item[0])]
    if not shown:
        return []
    name = safe(reading.classes[reading.positive])
    ends = [b[end] for item, _ in shown for b in positive_reliability(item) for end in _ENDS]
    share = {"tickformat": ".3~p", "range": [-0.03 * max(ends), 1.05 * max(ends)], "nticks": 6}
    return [
        picture(
            f"Share of the positive class by its probability, on the diagonal where honest. "
            f"{listed(shown)}.",
            [
                go.Scatter(
                    x=[digits(b["confidence"]) for b in bins],
                    y=[digits(b["accuracy"]) for b in bins],
                    mode="lines+markers",
                    name=safe(item["title"]),
                    line=how.line(2),
                    marker=how.marker(8),
                    customdata=[numbers.whole(int(b["rows"])) for b in bins],
                    hovertemplate="mean probability %{x:.2%}<br>share %{y:.2%}<br>"
                    "%{customdata} rows",
                )
                for item, how in shown
                for bins in [positive_reliability(item)]
            ],
            height=400,
            shapes=[dashed(x0=0, x1=max(ends), y0=0, y1=max(ends))],
            xaxis={**share, "title": {"text": f"mean probability of {name}"}},
            yaxis={**share, "title": {"text": f"share that is {name}"}},
        )
    ]


def _of_confidence(reading: Reading, entry: Entry) -> list[Picture]:
    """Accuracy by confidence, above the rows in each bin."""
    if not reliability(entry):  # masks and sequences keep no confidence
        return []
    shown = against(reading, entry)
    share = {"tickformat": ".0%"}
    return [
        picture(
            f"Reliability: accuracy by confidence, on the diagonal where honest. {listed(shown)}.",
            [trace for item in shown for trace in _reliability_traces(*item)],
            height=460,
            shapes=[dashed(x0=0, x1=1, y0=0, y1=1)],
            xaxis={**share, "range": [0, 1.02], "anchor": "y2", "title": {"text": "confidence"}},
            yaxis={
                **share,
                "domain": [0.3, 1],
                "range": [0, 1.03],
                "title": {"text": "accuracy"},
            },
            yaxis2={
                **share,
                "domain": [0, 0.2],
                "rangemode": "tozero",
                "nticks": 4,
                "title": {"text": "rows"},
            },
        )
    ]


def _reliability_traces(entry: Entry, look: Look) -> list[Any]:
    bins = reliability(entry)
    total = sum(b["rows"] for b in bins)
    x = [digits(b["confidence"]) for b in bins]
    accuracy = go.Scatter(
        x=x,
        y=[digits(b["accuracy"]) for b in bins],
        mode="lines+markers",
        name=safe(entry["title"]),
        line=look.line(2),
        marker=look.marker(8),
        customdata=[numbers.whole(int(b["rows"])) for b in bins],
        hovertemplate="confidence %{x:.1%}<br>accuracy %{y:.1%}<br>%{customdata} rows",
    )
    rows = go.Scatter(
        x=x,
        y=[digits(b["rows"] / total) for b in bins],
        yaxis="y2",
        mode="lines+markers",
        line=look.line(1.5),
        marker=look.marker(5),
        hovertemplate="confidence %{x:.1%}<br>%{y:.1%} of the rows<extra></extra>",
        showlegend=False,
    )
    return [accuracy, rows]


def tuning(reading: Reading, entry: Entry) -> list[Picture]:
    """Every draw of each hyper-parameter with its validation score, the chosen ones marked."""
    tried = [t for cell in entry["seeds"] for t in cell["trials"] if t["validation"] is not None]
    chosen = [chosen_trial(cell) for cell in done(entry)]
    found = [score for trial in tried if (score := trial["validation"]) is not None]
    complements = {item["name"] for item in entry["space"] if item["scale"] == "complement"}
    low, high = min(found, default=0.0), max(found, default=1.0)
    room = 0.04 if _units.is_share(reading.select) else 0.06 * (high - low)
    top = 1.04 if _units.is_share(reading.select) else math.inf
    number = _number(reading)
    return [
        picture(
            f"{entry['title']}: {name} of every draw against its validation score.",
            [
                _draws(label, _values(some, name, name in complements), some, how, number)
                for label, some, how in (("tried", tried, _TRIED), ("chosen", chosen, _CHOSEN))
            ],
            height=250,
            xaxis={
                "title": {"text": safe(f"1 − {name}" if name in complements else name)},
                "showgrid": False,
                **_scale(_values(tried, name, name in complements)),
            },
            yaxis={
                **_ticks(reading),
                "nticks": 5,
                "range": [max(0.0, low - room) if low >= 0 else low - room, min(top, high + room)],
            },
            showlegend=place == 0,
        )
        for place, name in enumerate(option_names(entry))
    ]


def _values(trials: Sequence[Trial], name: str, complement: bool) -> list[float]:
    """Values of one hyper-parameter; one that nears 1 is told apart by what it lacks."""
    values = [trial["options"][name] for trial in trials]
    return [round(1 - value, 12) for value in values] if complement else values


def _draws(name: str, x: Sequence[float], trials: Sequence[Trial], look: Look, number: str) -> Any:
    return go.Scatter(
        x=x,
        y=[digits(trial["validation"]) for trial in trials],
        mode="markers",
        name=name,
        marker=look.marker(6 if look is _TRIED else 9),
        hovertemplate=f"%{{x}}<br>validation %{{y:{number}}}",
    )


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """An axis for drawn values: logarithmic, with ticks 1, 3, 10, …, where they span decades."""
    low, high = min(values), max(values)
    if low == high:
        return {"tickvals": [low], "ticktext": [f"{low:.6g}"]}
    if low <= 0 or high < 10 * low:
        return {"nticks": 5}
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [k * 10.0**d for d in decades for k in ((1, 3) if len(decades) < 4 else (1,))]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
