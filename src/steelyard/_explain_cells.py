"""The arithmetic of a sigmoid loss: what one would write to work it out by hand."""

import html
import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard import ops
from steelyard.losses.cells import SigmoidLoss, check_cell_weight, check_cells
from steelyard.losses.forms import CellForm

_SHOWN = 100


@dataclass(frozen=True)
class Cell:
    """``weight · (pos_weight · target · there + (1 − target) · absent)``, target smoothed.

    ``weight`` is class weight, sample weight and whatever else multiplies both sides; ``there`` and
    ``absent`` are what the cell costs if its class is there and if it is not.
    """

    index: tuple[int, ...]
    label: float
    ignored: bool
    logit: float
    probability: float
    target: float
    there: float
    absent: float
    weight: float
    pos_weight: float
    contribution: float

    headings: ClassVar = (
        "cell",
        "target",
        "edited logit",
        "p",
        "if there",
        "if absent",
        "weight",
        "pos_weight",
        "contribution",
    )

    def row(self) -> list[str]:
        """As cells of a table."""
        place = ", ".join(map(str, self.index))
        if self.ignored:
            return [place, f"{self.label:g}", "ignored", "", "", "", "", "", "0"]
        numbers = (self.logit, self.probability, self.there, self.absent)
        shown = [f"{number:.6f}" for number in numbers]
        weights = [f"{self.weight:g}", f"{self.pos_weight:g}"]
        return [place, f"{self.target:.3g}", *shown, *weights, f"{self.contribution:.6f}"]


@dataclass(frozen=True)
class WholePosition:
    """``sample_weight · (log(1 + absent) + log(1 + there))``.

    ``absent`` is Σ w (1 − t) e^z over the classes, ``there`` is Σ w pos_weight t e^−z.
    """

    index: tuple[int, ...]
    ignored: bool
    absent: float
    there: float
    sample_weight: float
    contribution: float

    headings: ClassVar = ("position", "Σ absent e^z", "Σ there e^-z", "weight", "contribution")

    def row(self) -> list[str]:
        """As cells of a table."""
        place = ", ".join(map(str, self.index))
        if self.ignored:
            return [place, "ignored", "", "", "0"]
        sums = [f"{self.absent:.6f}", f"{self.there:.6f}", f"{self.sample_weight:g}"]
        return [place, *sums, f"{self.contribution:.6f}"]


@dataclass(frozen=True)
class CellExplanation:
    """One value of a sigmoid loss, step by step; see :class:`steelyard.explain.Explanation`."""

    loss: str
    reduction: str
    cells: tuple[Any, ...]  # of what has headings, a row, and a contribution
    numerator: float
    denominator: float | None
    result: float | tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        return asdict(self)

    def __str__(self) -> str:
        """The arithmetic as plain text."""
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([self.loss, *lines, *self._hidden(), "", self._sum()])

    def _repr_html_(self) -> str:
        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        head, *body = self._rows()
        rows = "".join(line(row, "td") for row in body)
        under = "".join(f"<p>{html.escape(text)}</p>" for text in [*self._hidden(), self._sum()])
        return (
            f"<p><code>{html.escape(self.loss)}</code></p><table><thead>{line(head, 'th')}</thead>"
            f"<tbody>{rows}</tbody></table>{under}"
        )

    def _rows(self) -> list[list[str]]:
        headings = self.cells[0].headings if self.cells else Cell.headings
        return [list(headings), *[cell.row() for cell in self.cells[:_SHOWN]]]

    def _hidden(self) -> list[str]:
        hidden = len(self.cells) - _SHOWN
        return [f"… and {hidden} more"] if hidden > 0 else []

    def _sum(self) -> str:
        if self.reduction == "none":
            return "none: one value each"
        counted = [cell for cell in self.cells if not cell.ignored]
        over = " + ".join(f"{cell.contribution:.6f}" for cell in counted) or "0"
        if len(counted) > _SHOWN:
            over = f"{self.numerator:.6f}"
        if self.denominator is None:
            return f"{self.reduction} = {over} = {self.result:.6f}"
        return (
            f"{self.reduction} = ({over}) / {self.denominator:g} = {self.numerator:.6f} / "
            f"{self.denominator:g} = {self.result:.6f}"
        )


def explain_cells(
    loss: SigmoidLoss,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    denominator: float | Tensor | None,
) -> CellExplanation:
    """Work out one value of a sigmoid loss by hand, in float64; see :func:`steelyard.explain`."""
    check_cells(logits, target, loss.options.ignore_index)
    expected = loss(logits, target, sample_weight, denominator).detach().double().cpu()
    z, t = logits.detach().cpu().double(), target.detach().cpu()
    t = t.double() if t.is_floating_point() else t
    one_class = z.ndim == 1
    if one_class:
        z, t = z.unsqueeze(1), t.unsqueeze(1)
    form: CellForm = loss.form
    samples = None
    if sample_weight is not None:
        given = sample_weight.detach().cpu()
        samples = check_cell_weight(given, z.shape, form.whole_positions).double()
    problem = form.fit(z).problem(loss.options, t, samples)
    _check_targets(problem, one_class)
    each = _positions(problem, z) if form.whole_positions else _cells(problem, z, one_class)
    numerator = math.fsum(cell.contribution for cell in each)
    divisor: float | None = None
    result: float | tuple[float, ...] = tuple(cell.contribution for cell in each)
    if loss.options.reduction != "none":
        if denominator is not None:
            divisor = float(denominator)
        elif loss.options.reduction == "mean":
            divisor = float(problem.count(form.over(loss.options)))
        result = numerator if divisor is None else numerator / (divisor or math.inf)
        if divisor == 0 and loss.options.empty == "nan":
            result = math.nan
    found = torch.tensor(result, dtype=torch.float64).view(expected.shape)
    # The loss computed in float32 unless the logits were float64; the arithmetic here did not.
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise RuntimeError(
            f"the arithmetic gives {result}, but {loss} returned {expected.tolist()}: please "
            "report this with the logits and the target"
        )
    return CellExplanation(repr(loss), loss.options.reduction, each, numerator, divisor, result)


def _cells(problem: ops.CellProblem, z: Tensor, one_class: bool) -> tuple[Cell, ...]:
    kept = problem.kept().expand(z.shape)
    edited = problem.edited(z.where(kept, 0), None)
    present = problem.present(kept).double()
    target = (1 - problem.smoothing) * present + problem.smoothing / 2
    weight = problem.cell_weight(present)
    columns = (
        problem.target.double(),
        edited,
        edited.sigmoid(),
        target,
        _cost(problem.positive, edited),
        _cost(problem.negative, -edited),
        (torch.ones(()) if weight is None else weight).expand(z.shape),
        _along(problem.pos_weight, z),
    )
    rows = zip(*(column.flatten().tolist() for column in columns), strict=True)
    found = []
    for place, counts, row in zip(_places(z), kept.flatten().tolist(), rows, strict=True):
        label, logit, p, t, there, absent, w, pw = row
        parts = (w * pw * t, there), (w * (1 - t), absent)
        total = math.fsum(share * cost for share, cost in parts if share) if counts else 0.0
        index = place[:1] if one_class else place
        found.append(Cell(index, label, not counts, logit, p, t, there, absent, w, pw, total))
    return tuple(found)


def _positions(problem: ops.CellProblem, z: Tensor) -> tuple[WholePosition, ...]:
    kept = problem.kept().expand(z.shape)
    target = (1 - problem.smoothing) * problem.present(kept).double() + problem.smoothing / 2
    weight = _along(problem.weight, z)
    absent = (weight * (1 - target)).where(kept, 0), z
    there = (weight * _along(problem.pos_weight, z) * target).where(kept, 0), -z
    sums = [(share * u.exp()).where(share > 0, 0).sum(1) for share, u in (absent, there)]
    samples = problem.sample_weight
    s = torch.ones_like(sums[0]) if samples is None else samples.squeeze(1).double()
    value = s * (sums[0].log1p() + sums[1].log1p())
    columns = (~kept.any(1), *sums, s, value)
    rows = zip(*(column.flatten().tolist() for column in columns), strict=True)
    places = _places(sums[0])
    return tuple(WholePosition(place, *row) for place, row in zip(places, rows, strict=True))


def _places(of: Tensor) -> list[tuple[int, ...]]:
    return [tuple(place) for place in torch.ones(of.shape).nonzero().tolist()]


def _cost(side: ops.Side, u: Tensor) -> Tensor:
    log_p = F.logsigmoid(side.scale * u - side.margin)
    return side.factor_along(u) * side.penalty.value(log_p, side.parameter_along(u))


def _along(vector: Tensor | None, z: Tensor) -> Tensor:
    if vector is None:
        return torch.ones_like(z)
    return ops.along_classes(vector, z).expand(z.shape)


def _check_targets(problem: ops.CellProblem, one_class: bool) -> None:
    target = problem.target.double()
    wrong = problem.kept() & ~((target >= 0) & (target <= 1))
    if wrong.any():
        where = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"target{where[:1] if one_class else where} is {target[tuple(where)].item():g}: "
            f"expected numbers in [0, 1], or ignore_index={problem.ignore_index} where the label "
            "is missing"
        )
