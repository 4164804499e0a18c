"""The sigmoid losses' rows: formulas in naive float64, and the family's contract, written apart."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from families import WEIGHT, Batch, C, Family, random_logits, uniform
from table import COUNTS, GAMMAS, effective, rows_of
from torch import Tensor

import steelyard as sy

NAN = float("nan")
TOTAL = 1000
POS_WEIGHT = torch.tensor([2.0, 0.5, 1.0, 3.0, 0.0], dtype=torch.float64)
N = torch.tensor(COUNTS, dtype=torch.float64)

Cost = Callable[[Tensor], Tensor]
Costs = Callable[[Tensor], tuple[Tensor, Tensor]]


def p_of(z: Tensor) -> Tensor:
    return 1 / (1 + (-z).exp())


def nll(z: Tensor) -> Tensor:
    """−log σ(z)."""
    return (1 + (-z.abs()).exp()).log() + (-z).clamp(min=0)


def focal(gamma: Any, alpha: Any = None) -> Costs:
    g = torch.as_tensor(gamma, dtype=torch.float64)
    a = 1.0 if alpha is None else torch.as_tensor(alpha, dtype=torch.float64)
    b = 1.0 if alpha is None else 1 - a

    def costs(z: Tensor) -> tuple[Tensor, Tensor]:
        p = p_of(z)
        return a * (1 - p) ** g * nll(z), b * p**g * nll(-z)

    return costs


def asymmetric(gamma_pos: float, gamma_neg: float, clip: float) -> Costs:
    def costs(z: Tensor) -> tuple[Tensor, Tensor]:
        p = p_of(z)
        m = (p - clip).clamp(min=0)
        return (1 - p) ** gamma_pos * nll(z), -(m**gamma_neg) * (1 - m).log()

    return costs


def poly(epsilon: float, gamma: float) -> Costs:
    def costs(z: Tensor) -> tuple[Tensor, Tensor]:
        positive, negative = focal(gamma)(z)
        p = p_of(z)
        more = epsilon * (1 - p) ** (gamma + 1), epsilon * p ** (gamma + 1)
        return positive + more[0], negative + more[1]

    return costs


def hill(z: Tensor) -> tuple[Tensor, Tensor]:
    p = p_of(z)
    return (1 - p_of(z - 1)) ** 2 * nll(z - 1), (1.5 - p) * p**2


def adjusted(tau: float) -> Costs:
    odds = (N / TOTAL) / (1 - N / TOTAL)
    return lambda z: focal(0.0)(z + tau * odds.log())


def distribution_balanced(kappa: float, scale: float) -> Costs:
    def costs(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z - kappa / scale * (TOTAL / N - 1).log()
        return focal(2.0)(z)[0], focal(2.0)(scale * z)[1] / scale

    return costs


def rebalanced(t: Tensor) -> Tensor:
    r = (1 / N) / (t / N).sum(-1, keepdim=True)
    return 0.1 + 1 / (1 + (-10 * (r - 0.2)).exp())


@dataclass(frozen=True)
class SigmoidRow:
    """A public loss of the family.

    ``costs(z)`` gives what cells (rows, C) cost that are there, and that are not there.
    """

    module: type[sy.SigmoidLoss]
    function: Callable[..., Tensor]
    arguments: dict[str, Any]
    costs: Costs
    limit: dict[str, Any] | None
    own_weight: Tensor | None = None
    cell_weight: Callable[[Tensor], Tensor] | None = None  # from t (rows, C)
    whole_positions: bool = False
    id: str = field(default="")

    @property
    def family(self) -> "Sigmoid":
        return Positions() if self.whole_positions else Sigmoid()

    def build(self, **options: Any) -> sy.SigmoidLoss:
        return self.module(**self.arguments, **options)


def cells(name: str, module: Any, function: Any, arguments: Any, *rest: Any, **more: Any) -> Any:
    return SigmoidRow(module, function, arguments, *rest, **more, id=name)


COUNTED = {"class_counts": COUNTS, "total": TOTAL}
ALPHAS = [0.25, 0.5, 1.0, 0.0, 0.9]
FOCAL = (sy.SigmoidFocalLoss, sy.sigmoid_focal_loss)
ASYMMETRIC = (sy.AsymmetricLoss, sy.asymmetric_loss)
BALANCED = (sy.DistributionBalancedLoss, sy.distribution_balanced_loss)
NO_GAMMA = {"gamma_pos": 0, "gamma_neg": 0, "clip": 0}

SIGMOID_TABLE = [
    cells("bce", sy.BCEWithLogitsLoss, sy.bce_with_logits_loss, {}, focal(0.0), {}),
    cells("sigmoid-focal", *FOCAL, {}, focal(2.0), {"gamma": 0}),
    cells(
        "sigmoid-focal-alpha",
        *FOCAL,
        {"gamma": 0.5, "alpha": 0.25},
        focal(0.5, 0.25),
        None,
    ),
    cells(
        "sigmoid-focal-per-class",
        *FOCAL,
        {"gamma": GAMMAS, "alpha": ALPHAS},
        focal(GAMMAS, ALPHAS),
        {"gamma": [0.0] * C},
    ),
    cells("asymmetric", *ASYMMETRIC, {}, asymmetric(1, 4, 0.05), NO_GAMMA),
    cells(
        "asymmetric-below-one",
        *ASYMMETRIC,
        {"gamma_pos": 0, "gamma_neg": 0.5, "clip": 0.2},
        asymmetric(0, 0.5, 0.2),
        NO_GAMMA,
    ),
    cells(
        "asymmetric-unclipped",
        *ASYMMETRIC,
        {"gamma_neg": 2, "clip": 0},
        asymmetric(1, 2, 0),
        NO_GAMMA,
    ),
    cells("sigmoid-poly", sy.SigmoidPolyLoss, sy.sigmoid_poly_loss, {}, poly(1, 0), {"epsilon": 0}),
    cells(
        "sigmoid-poly-focal",
        sy.SigmoidPolyLoss,
        sy.sigmoid_poly_loss,
        {"epsilon": -0.5, "gamma": 1.5},
        poly(-0.5, 1.5),
        {"epsilon": 0},
    ),
    cells(
        "sigmoid-class-balanced",
        sy.SigmoidClassBalancedLoss,
        sy.sigmoid_class_balanced_loss,
        {"class_counts": COUNTS, "beta": 0.99, "gamma": 1.0},
        focal(1.0),
        {"class_counts": [7] * C},
        own_weight=effective(COUNTS, 0.99),
    ),
    cells(
        "sigmoid-logit-adjusted",
        sy.SigmoidLogitAdjustedLoss,
        sy.sigmoid_logit_adjusted_loss,
        {**COUNTED, "tau": 1.3},
        adjusted(1.3),
        {**COUNTED, "tau": 0},
    ),
    cells(
        "distribution-balanced",
        *BALANCED,
        COUNTED,
        distribution_balanced(0.05, 5),
        None,
        cell_weight=rebalanced,
    ),
    cells(
        "distribution-balanced-other",
        *BALANCED,
        {**COUNTED, "kappa": 0.2, "negative_scale": 2},
        distribution_balanced(0.2, 2),
        None,
        cell_weight=rebalanced,
    ),
    cells("hill", sy.HillLoss, sy.hill_loss, {}, hill, None),
    cells("zlpr", sy.ZLPRLoss, sy.zlpr_loss, {}, focal(0.0), None, whole_positions=True),
]


def like(rows: Tensor, logits: Tensor) -> Tensor:
    """(rows, C) back to the logits' shape."""
    moved = logits.movedim(1, -1)
    return rows.reshape(moved.shape).movedim(-1, 1)


def naive_cells(
    row: SigmoidRow,
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    ignore_index: float = -1,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    mean_over: str | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The contract for one loss in float64; what is ignored is selected, never multiplied."""
    kept = rows_of(~target.isnan() if math.isnan(ignore_index) else target != ignore_index)
    z = torch.where(kept, rows_of(logits.double()), 0.0)
    t = torch.where(kept, rows_of(target.double()), 0.0)
    s = torch.ones_like(z)
    if sample_weight is not None:
        per_cell = sample_weight.ndim == logits.ndim
        wide = sample_weight.double() if per_cell else sample_weight.double().unsqueeze(1)
        s = rows_of(wide.expand(logits.shape))
    w = torch.ones(C, dtype=torch.float64) if weight is None else weight.double()
    if row.own_weight is not None:
        w = w * row.own_weight
    w = w.expand(z.shape)
    if row.cell_weight is not None:
        w = w * row.cell_weight(t)
    pw = torch.ones(C, dtype=torch.float64) if pos_weight is None else pos_weight.double()
    share = (1 - label_smoothing) * t + label_smoothing / 2
    if row.whole_positions:
        mask = kept.double()
        negative = (mask * w * (1 - share) * z.exp()).sum(1)
        positive = (mask * w * pw * share * (-z).exp()).sum(1)
        each = s[:, 0] * ((1 + negative).log() + (1 + positive).log())
    else:
        positive, negative = row.costs(z)
        each = torch.where(kept, s * w * (pw * share * positive + (1 - share) * negative), 0.0)
    if reduction == "none":
        if row.whole_positions:
            return each.reshape(logits.shape[:1] + logits.shape[2:])
        return like(each, logits)
    if reduction == "sum":
        return each.sum()
    if mean_over == "weight":
        divisor = (s * w * (pw * t + 1 - t))[kept].sum()
    elif mean_over == "positive":
        divisor = (s * t)[kept].sum()
    elif mean_over == "position" or row.whole_positions:
        divisor = kept.any(1).double().sum()
    else:
        divisor = kept.double().sum()
    return each.sum() / divisor if divisor != 0 else 0 * each.sum()


class Sigmoid(Family):
    """Several labels per position, some of them missing: −1 in hard targets, NaN in soft ones."""

    engines = ("reference", "blocked")
    forms = ("hard", "soft")
    shapes: ClassVar = {"N": (7,), "N-d": (3, 4), "N-d1-d2": (2, 3, 2)}
    mean_overs = (None, "weight", "position", "positive")

    def make(
        self, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> Batch:
        logits = random_logits(shape, seed, dtype)
        missing = uniform(logits.shape, seed + 3) < 0.2
        missing[:2] = False
        missing[:1] = True  # a position of which nothing is known
        hard = (uniform(logits.shape, seed + 1) < 0.4).double()
        if len(shape) == 1:
            hard[1:2] = 0  # one of which nothing is there
        soft = uniform(logits.shape, seed + 2)
        return Batch(
            logits, {"hard": hard.masked_fill(missing, -1), "soft": soft.masked_fill(missing, NAN)}
        )

    def ignoring(self, form: str) -> dict[str, Any]:
        return {} if form == "hard" else {"ignore_index": NAN}

    def ignored(self, target: Tensor, logits: Tensor) -> Tensor:
        return target.isnan() | (target == -1)

    def options(self, form: str) -> Iterator[dict[str, Any]]:
        for weight, pos_weight, smoothing, (reduction, mean_over) in itertools.product(
            (None, WEIGHT),
            (None, POS_WEIGHT),
            (0.0, 0.2),
            [("sum", None), ("none", None), *(("mean", over) for over in self.mean_overs)],
        ):
            yield {
                "weight": weight,
                "pos_weight": pos_weight,
                "label_smoothing": smoothing,
                "reduction": reduction,
                "mean_over": mean_over,
                **self.ignoring(form),
            }

    def samples(self, row: SigmoidRow, logits: Tensor) -> list[Tensor | None]:
        found = [None, uniform(logits.shape[:1] + logits.shape[2:], 1)]
        return found if row.whole_positions else [*found, uniform(logits.shape, 2)]

    def naive(self, row: SigmoidRow, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return naive_cells(row, logits, target, **options)

    def torchs(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor | None:
        if options["mean_over"]:
            return None
        kept = ~self.ignored(target, logits)
        smoothing = options["label_smoothing"]
        share = (1 - smoothing) * target.where(kept, 0) + smoothing / 2
        weights = {  # along the classes, where PyTorch takes the last dimension
            name: None if options[name] is None else options[name].view(C, *[1] * (kept.ndim - 2))
            for name in ("weight", "pos_weight")
        }
        each = F.binary_cross_entropy_with_logits(logits, share, reduction="none", **weights)
        each = each.where(kept, 0)
        if options["reduction"] == "none":
            return each
        return each.sum() if options["reduction"] == "sum" else each.sum() / kept.sum()

    def alike(self, batch: Batch) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        hard = batch.targets["hard"]
        known = hard.clamp(min=0)
        for options in ({}, {"mean_over": "positive"}, {"reduction": "none"}):
            yield options, hard, hard.long()
            yield options, hard, hard.half()
            yield options, known, known.bool()
            yield {**options, "label_smoothing": 0.1}, known, known.int()

    def permuted(self, target: Tensor, order: Tensor) -> Tensor:
        return target[:, order]

    def saturated(self, dtype: torch.dtype, size: float) -> Batch:
        extreme = torch.tensor([size, -size, 0.0, 50.0, -50.0])
        logits = torch.stack([extreme.roll(i) for i in range(C)] * 2).to(dtype)
        hard = torch.cat([torch.zeros(C, C), torch.ones(C, C)])
        return Batch(logits, {"hard": hard, "soft": 0.5 * hard + 0.25})

    def masked_out(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        logits, targets = self.make((6,))
        logits[:, C - 1] = -float("inf")
        for target in targets["hard"].clamp(min=0), targets["soft"].nan_to_num(0.5):
            target[:, C - 1] = 0
            yield logits, target, {}

    def nothing(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        logits, targets = self.make((4,))
        hard = targets["hard"]
        yield logits[:0], hard[:0], {}
        yield logits, torch.full_like(hard, -1), {}
        yield logits, torch.full_like(hard, NAN), {"ignore_index": NAN}
        yield logits, hard, {"weight": 0, "mean_over": "weight"}

    def integers(self) -> list[torch.dtype]:
        return [torch.int8, torch.int16, torch.int32, torch.int64, torch.float16]

    def wrong_targets(self, hard: Tensor) -> Iterator[tuple[Tensor, type[Exception], str]]:
        target = hard.long()
        target[2, 1, 1] = 7
        yield target, ValueError, r"target\[2, 1, 1\] is 7: expected 0, 1 or ignore_index=-1"
        target[2, 1, 1] = -100
        yield target, ValueError, r"is -100: .*; if it marks missing labels, give ignore_index=-100"


class Positions(Sigmoid):
    """The same of losses that rank the classes of a position, for which there is no tiled walk."""

    engines = ("auto", "reference")
