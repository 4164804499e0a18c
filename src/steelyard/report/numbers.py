"""How numbers read on the page."""

from __future__ import annotations

from typing import Any

from steelyard import _units
from steelyard._results import Interval

NOTHING = "–"


def percent(value: float | None, decimals: int = 1, *, sign: bool = False) -> str:
    """A share in percent without the unit."""
    if value is None:
        return NOTHING
    return _minus(f"{100 * value:{'+' if sign else ''}.{decimals}f}")


def score(name: str, value: float | None, *, change: bool = False) -> str:
    """A score in percent, or as it is where percent would mean nothing."""
    return NOTHING if value is None else _minus(_units.shown(name, value, change=change))


def interval(name: str, numbers: Interval) -> str:
    """The two ends of a score's interval; empty where there is none.

    The ends of a share's interval are cut to what a share can be: a t interval over few seeds
    does not know that recall ends at 100 %, nor that log loss begins at 0.
    """
    low, high = numbers["low"], numbers["high"]
    if low is None or high is None or low == high:  # seeds alike do not tell how far off they are
        return ""
    if _units.is_share(name):
        low, high = clip(low), clip(high)
    elif _units.plain(name) == "log_loss":
        low = max(0.0, low)
    return f"{score(name, low)}–{score(name, high)}"


def difference(name: str, numbers: Interval) -> str:
    """The two ends of a difference's interval in a score, with signs; empty without one."""
    if numbers["low"] is None or numbers["high"] is None:
        return ""
    low, high = (score(name, numbers[end], change=True) for end in ("low", "high"))
    return f"{low} to {high}"


def clip(value: float) -> float:
    """The nearest share in [0, 1]."""
    return min(1.0, max(0.0, value))


def p_value(value: float | None) -> str:
    """A p value with three decimals, never as zero."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def option(value: Any) -> str:
    """The value of an option or a hyper-parameter. Draws are rounded already: all digits count."""
    if value is None:
        return NOTHING
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(option, value))
    if isinstance(value, int):
        return whole(value)
    return _minus(f"{value:.12g}")


def whole(value: int) -> str:
    """A number of things, in groups of three digits from 10,000 on."""
    return f"{value:,}" if abs(value) >= 10_000 else str(value)


def duration(seconds: float) -> str:
    """A time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _minus(text: str) -> str:
    """A minus sign for a hyphen, and none before a zero."""
    if not text.startswith("-"):
        return text
    return "−" + text[1:] if text.strip("-0.") else text[1:]
