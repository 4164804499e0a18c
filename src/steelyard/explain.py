"""One loss value as arithmetic: what one would write to work it out by hand."""

import html
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from steelyard import ops
from steelyard._explain_cells import CellExplanation, explain_cells
from steelyard._explain_compound import CompoundExplanation, explain_compound
from steelyard._explain_regions import explain_regions
from steelyard.losses.cells import SigmoidLoss
from steelyard.losses.compound import CompoundLoss
from steelyard.losses.contract import check_probabilities, check_sample_weight
from steelyard.losses.forms import Form
from steelyard.losses.module import Loss
from steelyard.losses.options import Options
from steelyard.losses.positions import SoftmaxLoss, check_shapes
from steelyard.losses.regions import RegionLoss
from steelyard.schedule import DeferredReweighting

_SHOWN_POSITIONS = 50
_SHOWN_CLASSES = 8


@dataclass(frozen=True)
class ClassTerm:
    """One class's part in one position: ``weight · target · tail``."""

    index: int
    target: float
    logit: float
    probability: float
    minus_log_p: float
    tail: float
    weight: float

    @property
    def product(self) -> float:
        """What the class adds to the position's loss; nothing where weight · target is 0."""
        factor = self.weight * self.target
        return factor * self.tail if factor else 0.0


@dataclass(frozen=True)
class Position:
    """The arithmetic of one position: its classes with a share in the target, and the sum.

    ``share`` is what the position adds to the denominator, ``contribution`` what it adds to the
    numerator. An ignored position has no terms.
    """

    index: tuple[int, ...]
    target: int | None
    ignored: bool
    edited_logits: tuple[float, ...]
    softmax: tuple[float, ...]
    terms: tuple[ClassTerm, ...]
    sample_weight: float
    share: float
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """One loss value, step by step.

    ``str()`` is a table for a terminal, a notebook shows it as one, and :meth:`to_dict` gives the
    numbers. ``denominator`` is None where nothing is divided.
    """

    loss: str
    reduction: str
    positions: tuple[Position, ...]
    numerator: float
    denominator: float | None
    result: float | tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        return asdict(self)

    def __str__(self) -> str:
        """The arithmetic as plain text."""
        rows = [_cells(position) for position in self.positions[:_SHOWN_POSITIONS]]
        lines = [self.loss, *_aligned([list(_HEADINGS), *rows])]
        if (hidden := len(self.positions) - _SHOWN_POSITIONS) > 0:
            lines.append(f"… and {hidden} more positions")
        return "\n".join([*lines, "", self._sum()])

    def _repr_html_(self) -> str:
        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = [row(_cells(position), "td") for position in self.positions[:_SHOWN_POSITIONS]]
        return (
            f"<p><code>{html.escape(self.loss)}</code></p>"
            f"<table><thead>{row(list(_HEADINGS), 'th')}</thead>"
            f"<tbody>{''.join(body)}</tbody></table><p>{html.escape(self._sum())}</p>"
        )

    def _sum(self) -> str:
        counted = [p for p in self.positions if not p.ignored]
        if self.reduction == "none":
            return "none: one value per position"
        name = self.reduction
        if len(counted) > _SHOWN_POSITIONS:
            over = f"{self.numerator:.6f}"
        else:
            over = " + ".join(_by_hand(p) for p in counted) or "0"
        if self.denominator is None:
            return f"{name} = {over} = {self.result:.6f}"
        shares = " + ".join(f"{p.share:g}" for p in counted)
        shown = f"({shares})" if 1 < len(counted) <= _SHOWN_POSITIONS else ""
        # Per-call denominators, and "count", are not the sum of the shares that are shown.
        if not shown or not math.isclose(sum(p.share for p in counted), self.denominator):
            shown = f"{self.denominator:g}"
        line = f"{name} = ({over}) / {shown}"
        return f"{line} = {self.numerator:.6f} / {self.denominator:g} = {self.result:.6f}"


_HEADINGS = (
    "position",
    "class",
    "edited logits",
    "softmax",
    "-log p",
    "tail",
    "weight",
    "sample weight",
    "contribution",
)


def explain(
    loss: Loss | CompoundLoss | DeferredReweighting,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> Explanation | CellExplanation | CompoundExplanation:
    """Work out one loss value by hand, in float64.

    Args:
        loss: a loss of this library.
        logits: as for the loss.
        target: as for the loss.
        sample_weight: as for the loss.
        denominator: as for the loss.

    Returns:
        For each position the edited logits, softmax, −log p, tail, class weight, sample weight
        and contribution; of several labels, for each cell its edited logit, p, what it costs if
        its class is there and if not, weights and contribution; of regions, for each class in each
        image I, P, T, the ratio, the loss, weight and contribution. Then numerator, denominator
        and result. Of a sum of losses that of each part, their factors and the sum.

    Raises:
        ValueError: probabilities that are negative, NaN, or do not sum to 1, or targets of cells
            outside [0, 1]: of all positions, where the loss looks at the first alone.
        RuntimeError: the arithmetic does not end at ``loss(logits, target)``: a bug to report.

    Example:
        >>> import steelyard as sy
        >>> logits = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
        >>> worked = sy.explain(sy.CrossEntropyLoss(weight=[1, 2]), logits, torch.tensor([0, 1]))
        >>> print(str(worked).splitlines()[-1])
        mean = (1·0.371101 + 2·1.037488) / (1 + 2) = 2.446077 / 3 = 0.815359
    """
    if isinstance(loss, DeferredReweighting):
        loss = loss.current
    if isinstance(loss, SigmoidLoss):
        return explain_cells(loss, logits, target, sample_weight, denominator)
    if isinstance(loss, RegionLoss):
        return explain_regions(loss, logits, target, sample_weight, denominator)
    if isinstance(loss, CompoundLoss):
        return explain_compound(loss, logits, target, sample_weight, denominator, explain)
    if not isinstance(loss, SoftmaxLoss):
        raise TypeError(f"loss is a {type(loss).__name__}, expected a loss of steelyard")
    check_shapes(logits, target)
    expected = loss(logits, target, sample_weight, denominator).detach().double()
    if target.is_floating_point():
        rows = target.detach().double()
        check_probabilities(rows.unsqueeze(0) if rows.ndim == 1 else rows, 1 - 1e-3, 1 + 1e-3)
    single = logits.ndim == 1
    wide, aim = logits.detach().cpu().double(), target.detach().cpu()
    if single:
        wide, aim = wide.unsqueeze(0), aim.unsqueeze(0)
    # Classes last: one row per position.
    shape = wide.shape[:1] + wide.shape[2:]
    rows = wide.movedim(1, -1).flatten(0, -2)
    aims = aim.movedim(1, -1).flatten(0, -2) if aim.is_floating_point() else aim.flatten()
    factors = torch.ones(shape, dtype=torch.float64)
    if sample_weight is not None:
        factors = check_sample_weight(sample_weight, shape).detach().cpu().double()
    places = [tuple(place) for place in torch.ones(shape).nonzero().tolist()]
    form = loss.form.fit(wide)
    positions = tuple(
        _position(form, loss.options, () if single else place, *row)
        for place, *row in zip(places, rows, aims, factors.flatten().tolist(), strict=True)
    )
    return _summed(loss, positions, expected, denominator)


def _position(
    form: Form,
    options: Options,
    place: tuple[int, ...],
    logits: Tensor,
    target: Tensor,
    sample_weight: float,
) -> Position:
    """The arithmetic of one row of logits (C,) and its target, () or (C,)."""
    soft = target.is_floating_point()
    if not soft and int(target) == options.ignore_index:
        return Position(place, int(target), True, (), (), (), sample_weight, 0.0, 0.0)
    classes = logits.shape[0]
    if soft:
        share = target.double()
    else:
        share = torch.zeros(classes, dtype=torch.float64)
        share[int(target)] = 1.0
    edited = ops.edited(logits[None], share[None], form.scale, form.bias, form.margin)
    log_p = edited.log_softmax(1)
    parameter = form.parameter
    tail = form.tail(log_p, parameter)
    weight = torch.ones(classes) if form.weight is None else form.weight
    smoothing = float(options.label_smoothing)
    smoothed = (1 - smoothing) * share + smoothing / classes
    columns = (smoothed, edited[0], log_p[0].exp(), -log_p[0], tail[0], weight)
    terms = tuple(
        ClassTerm(index, *numbers)
        for index, numbers in enumerate(zip(*(c.tolist() for c in columns), strict=True))
        if numbers[0] > 0
    )
    contribution = sample_weight * sum(t.product for t in terms) if sample_weight else 0.0
    if options.mean_over == "count":
        counts = 1.0
    elif soft and options.mean_over is None:
        counts = sample_weight
    else:
        counts = sample_weight * float((weight * share).sum())
    return Position(
        place,
        None if soft else int(target),
        False,
        tuple(edited[0].tolist()),
        tuple(log_p[0].exp().tolist()),
        terms,
        sample_weight,
        counts,
        contribution,
    )


def _summed(
    loss: SoftmaxLoss,
    positions: tuple[Position, ...],
    expected: Tensor,
    denominator: float | Tensor | None,
) -> Explanation:
    """Reduce the positions, and compare with what the loss itself returned."""
    options = loss.options
    numerator = math.fsum(p.contribution for p in positions)
    divisor: float | None = None
    result: float | tuple[float, ...]
    if options.reduction == "none":
        result = tuple(p.contribution for p in positions)
    else:
        if denominator is not None:
            divisor = float(denominator)
        elif options.reduction == "mean":
            divisor = math.fsum(p.share for p in positions)
        if divisor == 0:
            result = 0.0 if options.empty == "zero" else math.nan
        else:
            result = numerator / divisor if divisor is not None else numerator
    found = torch.tensor(result, dtype=torch.float64).view(expected.shape)
    # The loss computed in float32 unless the logits were float64; the arithmetic here did not.
    if not torch.allclose(found, expected.cpu(), rtol=1e-4, atol=1e-5, equal_nan=True):
        raise RuntimeError(
            f"the arithmetic gives {result}, but {loss} returned {expected.tolist()}: please "
            "report this with the logits and the target"
        )
    return Explanation(repr(loss), options.reduction, positions, numerator, divisor, result)


def _by_hand(position: Position) -> str:
    factor = position.sample_weight
    if len(position.terms) == 1:
        term = position.terms[0]
        return f"{factor * term.weight * term.target:g}·{term.tail:.6f}"
    inner = position.contribution / factor if factor else 0.0
    return f"{factor:g}·{inner:.6f}"


def _cells(position: Position) -> list[str]:
    place = ", ".join(map(str, position.index)) or "–"
    if position.ignored:
        return [place, f"{position.target}", "ignored", "", "", "", "", "", "0"]
    terms = position.terms[:_SHOWN_CLASSES]
    cut = ", …" if len(position.terms) > _SHOWN_CLASSES else ""
    if position.target is None or len(position.terms) > 1:
        label = ", ".join(f"{t.target:.3g}·{t.index}" for t in terms) + cut
    else:
        label = str(position.target)
    return [
        place,
        label,
        _numbers(position.edited_logits),
        _numbers(position.softmax),
        ", ".join(f"{t.minus_log_p:.6f}" for t in terms) + cut,
        ", ".join(f"{t.tail:.6f}" for t in terms) + cut,
        ", ".join(f"{t.weight:g}" for t in terms) + cut,
        f"{position.sample_weight:g}",
        f"{position.contribution:.6f}",
    ]


def _numbers(values: tuple[float, ...]) -> str:
    cut = ", …" if len(values) > _SHOWN_CLASSES else ""
    return ", ".join(f"{v:.6f}" for v in values[:_SHOWN_CLASSES]) + cut


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
