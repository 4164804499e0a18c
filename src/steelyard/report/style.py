"""What every picture shares: colours, fonts, and the making of safe text."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

# Light colour → dark colour. Pictures are made in the light ones and the page swaps them.
# Blue and vermilion are Okabe and Ito's, told apart by all common kinds of colour vision; shapes
# say the same once more.
INK, MUTED, GRID, PAPER = "#1b2127", "#5c6873", "#e1e6ea", "#ffffff"
LEAD, WORSE, OTHER = "#0072b2", "#d55e00", "#78838d"
FAINT, MEDIUM_BAND, FEW_BAND = "#b8c1c9", "#f1f4f6", "#fbeedd"
SEQUENTIAL = ("#fbfdff", "#d6e6f4", "#8fc1e0", "#2f7ebc", "#08306b")
DARK = {
    INK: "#e6e9ec",
    MUTED: "#a3aeb9",
    GRID: "#313941",
    PAPER: "#171c21",
    LEAD: "#56b4e9",
    WORSE: "#f0903f",
    OTHER: "#96a1ab",
    FAINT: "#56616c",
    MEDIUM_BAND: "#1e252b",
    FEW_BAND: "#33281a",
    **dict(zip(SEQUENTIAL, ("#1a2026", "#143654", "#1f6296", "#4fa3d9", "#d3ebfb"), strict=True)),
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "zeroline": False,
    "ticks": "",
    "automargin": True,
    "fixedrange": True,
    "title": {"font": {"color": MUTED, "size": 12}, "standoff": 8},
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 12, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "margin": {"l": 8, "r": 12, "t": 36, "b": 8},
        "xaxis": _AXIS,
        "yaxis": _AXIS,  # and of yaxis2
        # Touching a picture must not keep a page on a phone from scrolling.
        "dragmode": False,
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": MUTED, "font": {"color": INK, "size": 12}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
            "itemclick": False,
            "itemdoubleclick": False,
        },
    }
)


class Picture(NamedTuple):
    """One picture: what it shows in words, its plotly figure, and bounds of its width in pixels.

    Where there is less room than `min_width` the picture scrolls; `max_width` keeps two classes
    from being stretched over a whole page.
    """

    label: str
    figure: dict[str, Any]
    min_width: int
    max_width: int | None


def picture(
    label: str,
    traces: Sequence[Any],
    *,
    min_width: int = 0,
    max_width: int | None = None,
    **layout: Any,
) -> Picture:
    """A picture in the page's style."""
    figure = go.Figure(traces, {"template": _TEMPLATE, "height": 320, **layout})
    return Picture(label, figure.to_dict(), min_width, max_width)


def safe(text: str, limit: int = 60) -> str:
    """A name as plotly shows it: one line, cut to length, and never read as markup."""
    line = " ".join(text.split())
    return html.escape(line if len(line) <= limit else line[: limit - 1] + "…", quote=False)


def wrapped(text: str, width: int = 16) -> str:
    """A title for an axis, broken into lines so that it leaves room for the picture."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(text, width))
