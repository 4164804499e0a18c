"""What scores are counted in, and which way is better: terminal, verdict and page agree on it."""

from __future__ import annotations

# Every score is a share and reads best in percent, but for these.
_UNITS = {
    "log_loss": "nats",
    "matthews": "−1 to 1",
    "mean_cost": "per row",
    "least_cost": "per row",
}
_LOWER = (
    "calibration_error",
    "positive_calibration_error",
    "log_loss",
    "brier",
    "mean_cost",
    "least_cost",
)
# Scores of probabilities have one form more for each repair.
REPAIRS = ("corrected", "tempered")


def plain(score: str) -> str:
    """The name of a score without the repair that the probabilities have had."""
    name, _, repair = score.rpartition("_")
    return name if repair in REPAIRS else score


def is_share(score: str) -> bool:
    """Whether a score is shown in percent."""
    return plain(score) not in _UNITS


def unit(score: str) -> str:
    """What a score is counted in."""
    return _UNITS.get(plain(score), "%")


def step(score: str) -> str:
    """What a difference of two scores is counted in."""
    if is_share(score):
        return "points"
    return "" if plain(score) == "matthews" else unit(score)


def sign(score: str) -> int:
    """1 where more is better, −1 where less is."""
    return -1 if plain(score) in _LOWER else 1


def shown(score: str, value: float, *, change: bool = False) -> str:
    """A score as a number without its unit; a change has its sign, unless it reads as zero.

    Costs may be of any size: they have four digits, and before the point all.
    """
    text = _shown(score, value, "+" if change else "")
    return text if text.strip("+-0.") else text.lstrip("+-")


def _shown(score: str, value: float, plus: str) -> str:
    if is_share(score):
        return f"{100 * value:{plus}.1f}"
    if unit(score) == "per row":
        return f"{value:{plus},.0f}" if abs(value) >= 1000 else f"{value:{plus}.4g}"
    return f"{value:{plus}.3f}"


def in_words(score: str, value: float) -> str:
    """A score with its unit, inside a sentence."""
    named = "" if plain(score) == "matthews" else f" {unit(score)}"
    return shown(score, value) + named
