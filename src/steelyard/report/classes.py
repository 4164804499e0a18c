"""What becomes of each class, in tables; the rarest class first."""

from __future__ import annotations

from steelyard._results import Interval
from steelyard.report import numbers
from steelyard.report.reading import Reading, confusion, done, mean_of
from steelyard.report.tables import Cell

_MISTAKES = 10


def recalls(reading: Reading) -> list[tuple[str, str, list[Cell]]]:
    """Class, training rows, and each finished candidate's recall; the rarest class first."""
    return [
        (
            reading.classes[c],
            numbers.whole(reading.counts[c]),
            [
                Cell(
                    numbers.percent(entry["recall"][c]["mean"]),
                    numbers.interval("recall", entry["recall"][c]),
                )
                for entry in reading.finished
            ],
        )
        for c in reversed(reading.by_frequency)
    ]


def found(reading: Reading) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
    """Precision and recall as cross-entropy decides and as the lead does.

    Returns:
        The titles of the two (or of one, where they are the same), and per class its name, its
        training rows, and precision and recall of each.
    """
    entries = [entry for entry in (reading.baseline, reading.lead) if entry is not None]
    compared = {entry["name"]: entry for entry in entries}.values()
    return [entry["title"] for entry in compared], [
        (
            reading.classes[c],
            numbers.whole(reading.counts[c]),
            [
                numbers.percent(mean_of([values[c] for values in by_seed]))
                for entry in compared
                for by_seed in (
                    [cell["precision"] for cell in done(entry)],
                    [cell["recall"] for cell in done(entry)],
                )
            ],
        )
        for c in reversed(reading.by_frequency)
    ]


def overlaps(reading: Reading) -> list[tuple[str, list[tuple[Cell, Cell]]]]:
    """Class, and each finished candidate's IoU and Dice; the rarest class first."""
    entries = [(e["iou"], e["dice"]) for e in reading.finished if e.get("iou") and e.get("dice")]
    if not entries:
        return []
    return [
        (reading.classes[c], [(_of_class(iou[c]), _of_class(dice[c])) for iou, dice in entries])
        for c in reversed(reading.by_frequency)
    ]


def _of_class(found: Interval) -> Cell:
    return Cell(numbers.percent(found["mean"]), numbers.interval("recall", found))


def mistakes(reading: Reading) -> list[tuple[str, str, str, str]]:
    """The lead's largest shares of a class taken for another: true, taken for, share, rows."""
    if reading.lead is None:
        return []
    matrix = confusion(reading.lead)
    found = [
        (count / sum(row), count, true, guess)
        for true, row in enumerate(matrix)
        for guess, count in enumerate(row)
        if count and true != guess
    ]
    found.sort(key=lambda item: (-item[0], -item[1], item[2], item[3]))
    return [
        (
            reading.classes[true],
            reading.classes[guess],
            numbers.percent(share),
            f"{numbers.whole(count)} of {numbers.whole(sum(matrix[true]))}",
        )
        for share, count, true, guess in found[:_MISTAKES]
    ]
