"""Pictures of an order and of thresholds: precision-recall and ROC curves, cost by threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from steelyard._results import DoneCell
from steelyard.report.marks import Look, against, dashed, digits, listed
from steelyard.report.reading import Entry, Reading, done, mean_of
from steelyard.report.style import Picture, picture, safe

Points = tuple[Sequence[float | None], Sequence[float | None]]


def rankings(reading: Reading, entry: Entry) -> list[Picture]:
    """Precision-recall and ROC curves over seeds, and where the decisions stand on them."""
    if not all("ranking" in cell for cell in done(entry)):
        return []
    shown = [item for item in against(reading, entry) if "ranking" in done(item[0])[0]]
    share = {"tickformat": ".0%", "range": [-0.02, 1.03]}
    what = "of the positive class" if len(reading.classes) == 2 else "mean over classes"
    return [
        picture(
            f"Precision by recall, {what}: {listed(shown)}.",
            _traces(shown, _precision, ("recall", "precision")),
            xaxis={**share, "title": {"text": "recall"}},
            yaxis={**share, "title": {"text": "precision"}},
        ),
        picture(
            f"ROC curve, {what}: {listed(shown)}.",
            _traces(shown, _roc, ("alarms", "recall")),
            shapes=[dashed(x0=0, x1=1, y0=0, y1=1)],
            xaxis={**share, "title": {"text": "share of the others that pass"}},
            yaxis={**share, "title": {"text": "recall"}},
        ),
    ]


def _precision(cell: DoneCell) -> Points:
    return cell["ranking"]["recall"], cell["ranking"]["precision"]


def _roc(cell: DoneCell) -> Points:
    return cell["ranking"]["alarms"], cell["ranking"]["found"]


def costs(reading: Reading, entry: Entry) -> list[Picture]:
    """Mean cost by the threshold for the probability of the positive class, after all repairs."""
    shown = [item for item in against(reading, entry) if "cost_curve" in done(item[0])[0]]
    if not shown:
        return []
    return [
        picture(
            f"Mean cost by threshold: {listed(shown)}.",
            _traces(shown, _cost, None, number=".4g"),
            shapes=[dashed(x0=_best(reading), x1=_best(reading), yref="paper", y0=0, y1=1)],
            xaxis={
                "type": "log",
                "tickvals": [0.001, 0.01, 0.1, 0.5],
                "ticktext": ["0.1 %", "1 %", "10 %", "50 %"],
                "title": {"text": "positive from this probability on"},
            },
            yaxis={"rangemode": "tozero", "title": {"text": "mean cost per row"}},
        )
    ]


def _cost(cell: DoneCell) -> Points:
    return cell["cost_curve"]["threshold"], cell["cost_curve"]["cost"]


def _best(reading: Reading) -> float:
    """The threshold of the least expected cost, where the probabilities are right."""
    (a, b), (c, d) = reading.results["costs"]
    first, second = b - a, c - d  # what a mistake costs more than no mistake, by true class
    of_second = first / (first + second)
    return of_second if reading.positive else 1 - of_second


def _traces(
    shown: Sequence[tuple[Entry, Look]],
    points: Callable[[DoneCell], Points],
    decision: tuple[str, str] | None,
    number: str = ".1%",
) -> list[Any]:
    """A faint line for each seed, a strong one for their mean, and a mark for the decision."""
    traces: list[Any] = []
    for entry, look in shown:
        cells = done(entry)
        for x, y in map(points, cells):
            traces.append(
                go.Scatter(
                    x=list(x),
                    y=list(y),
                    mode="lines",
                    line=look.line(1),
                    opacity=0.25,
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        x = points(cells[0])[0]
        columns = zip(*(points(cell)[1] for cell in cells), strict=True)
        traces.append(
            go.Scatter(
                x=list(x),
                y=[digits(mean_of(values)) for values in columns],
                mode="lines",
                name=safe(entry["title"]),
                line=look.line(3),
                showlegend=True,
                hovertemplate=f"%{{x:.3g}}<br>%{{y:{number}}}",
            )
        )
        if decision is not None and "decision" in cells[0]["ranking"]:
            where = [
                digits(mean_of([cell["ranking"]["decision"][name] for cell in cells]))
                for name in decision
            ]
            traces.append(
                go.Scatter(
                    x=where[:1],
                    y=where[1:],
                    mode="markers",
                    marker=look.marker(12),
                    hovertemplate=f"decision of {safe(entry['title'])}<br>%{{y:.1%}}"
                    "<extra></extra>",
                    showlegend=False,
                )
            )
    return traces
