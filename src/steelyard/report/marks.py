"""What the pictures draw alike: the marks of a candidate, its intervals, a line of reference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from steelyard._results import Interval
from steelyard.report import numbers
from steelyard.report.reading import Entry, Reading
from steelyard.report.style import LEAD, MUTED, OTHER


class Look(NamedTuple):
    """How a candidate is drawn: colour, symbol and dashes all tell it from the other."""

    color: str
    symbol: str
    dash: str
    shift: float  # along an axis of classes, so that two intervals do not hide each other

    def marker(self, size: int) -> dict[str, Any]:
        """The marker of a trace."""
        line = {"width": 1.5, "color": self.color}
        return {"color": self.color, "symbol": self.symbol, "size": size, "line": line}

    def line(self, width: float) -> dict[str, Any]:
        """The line of a trace."""
        return {"color": self.color, "width": width, "dash": self.dash}


_BASELINE = Look(OTHER, "circle-open", "dot", -0.14)
_CHOSEN = Look(LEAD, "circle", "solid", 0.14)


def look(reading: Reading, entry: Entry) -> Look:
    """Cross-entropy is grey and open wherever it is drawn; the chosen candidate stands out."""
    return _BASELINE if entry is reading.baseline else _CHOSEN


def against(reading: Reading, entry: Entry) -> list[tuple[Entry, Look]]:
    """Cross-entropy, unless it is the entry itself or finished nothing, and the entry on top."""
    baseline = reading.baseline
    below = [] if baseline is None or baseline is entry else [baseline]
    return [(item, look(reading, item)) for item in (*below, entry)]


def listed(shown: Iterable[tuple[Entry, Look]]) -> str:
    """Titles of what is shown, for a label in words."""
    return " and ".join(str(entry["title"]) for entry, _ in shown)


def share_bars(rows: Iterable[Interval], color: str) -> dict[str, Any]:
    """Error bars of shares, which end at 0 and 1 whatever a t interval says."""

    def cut(share: float | None) -> float | None:
        return None if share is None else numbers.clip(share)

    shares: list[Interval] = [
        {
            "mean": cut(row["mean"]),
            "std": row["std"],
            "low": cut(row["low"]),
            "high": cut(row["high"]),
        }
        for row in rows
    ]
    return error_bars(shares, color)


def error_bars(rows: Iterable[Interval], color: str, scale: float = 1.0) -> dict[str, Any]:
    """Error bars from each mean to the ends of its interval; of no length where it has none."""
    up: list[float | None] = []
    down: list[float | None] = []
    for row in rows:
        mean, low, high = row["mean"], row["low"], row["high"]
        if mean is None or low is None or high is None:
            up.append(0.0)
            down.append(0.0)
        else:
            up.append(digits(scale * (high - mean)))
            down.append(digits(scale * (mean - low)))
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "color": color,
        "thickness": 2,
        "width": 0,
    }


def dashed(**ends: float | str) -> dict[str, Any]:
    """A line of reference between two ends; `yref` says what they count in, if not the axis."""
    line = {"color": MUTED, "width": 1, "dash": "dash"}
    return {"type": "line", "layer": "below", "line": line, **ends}


def digits(value: float | None) -> float | None:
    """Five digits: more than a picture can show, and half the bytes."""
    return None if value is None else float(f"{value:.5g}")
