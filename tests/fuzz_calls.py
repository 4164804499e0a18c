"""Random calls of every loss: arguments, layouts and values at their extremes, and oracles."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from oracle import (
    Truth,
    answer,
    focal,
    generalized,
    minus_log_p,
    poly,
    reduced,
    rows_of,
)
from region_table import REGIONS
from table import TABLE
from table_sigmoid import SIGMOID_TABLE
from torch import Tensor

import steelyard as sy

DTYPES = [torch.float64] * 4 + [torch.float32] * 4 + [torch.bfloat16, torch.float16]
KINKED = (sy.LovaszLoss, sy.HillLoss, sy.AsymmetricLoss)
SHAPES = [(), (0,), (1,), (2,), (7,), (33,), (3, 4), (2, 0), (1, 1), (2, 3, 2), (3, 2, 2, 2)]


@dataclass(frozen=True)
class Call:
    """One call, and what it is to give.

    Attributes:
        text: what a person has to know to see what is called.
        run: the library's value for these logits.
        truth: the oracle's, for logits in float64 or float32, in which it computes.
        logits: as given: any layout and dtype.
        size: how large the terms are of which the results are made.
        compiles: whether the whole call can be compiled.
        diverged: logits whose gradient means nothing, of the logits' shape: those of a position
            with NaN or +∞ that is not ignored, even where a weight of 0 makes its loss 0.
    """

    text: str
    run: Callable[[Tensor], Tensor]
    truth: Callable[[Tensor], Tensor]
    logits: Tensor
    size: float
    compiles: bool = True
    diverged: Tensor | None = None


class Draw(random.Random):
    """Chance, with tensors."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def maybe(self, share: float) -> bool:
        return self.random() < share

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def below(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self.generator)

    def layout(self, tensor: Tensor) -> Tensor:
        """The same numbers in other strides."""
        ways: list[Callable[[], Tensor]] = [tensor.contiguous]
        if tensor.ndim > 1 and tensor.numel():
            order = list(range(tensor.ndim))
            self.shuffle(order)
            back = [order.index(i) for i in range(tensor.ndim)]
            ways += [
                lambda: tensor.permute(order).contiguous().permute(back),
                lambda: tensor.movedim(1, -1).contiguous().movedim(-1, 1),
                lambda: tensor.repeat_interleave(2, -1)[..., ::2],
                lambda: torch.cat([tensor, tensor])[len(tensor) :],
            ]
            if tensor.ndim in (4, 5):
                of_images = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
                ways.append(lambda: tensor.contiguous(memory_format=of_images))
        return self.choice(ways)()


class SoftmaxCalls:
    """The softmax family: arguments, options and values at their extremes."""

    name = "softmax"

    def draw(self, draw: Draw) -> Call:
        classes = draw.choice([1, 2, 2, 3, 5, 5, 7, 17])
        shape = draw.choice(SHAPES)
        if draw.maybe(0.02):
            shape, classes = (draw.choice([2500, 20_000]),), draw.choice([2, 17])
        function, module, arguments, truth = self.loss(draw, classes)
        options, plain_weight = self.options(draw, classes)
        logits, call = self.problem(draw, shape, classes, options)
        weight = options.get("weight")
        call |= {"plain_weight": plain_weight, "empty": options.get("empty", "zero")}
        call |= {"label_smoothing": options.get("label_smoothing", 0.0)}
        call |= {"reduction": options.get("reduction", "mean")}
        call |= {"mean_over": options.get("mean_over"), "denominator": None}
        given: dict[str, Any] = {"sample_weight": call["sample_weight"]}
        if call["reduction"] != "none" and draw.maybe(0.15):
            call["denominator"] = draw.choice([2, 0.37, 0, torch.tensor(3.5), torch.tensor(7)])
            given["denominator"] = call["denominator"]
        engine = draw.choice(["auto", "auto", "reference", "blocked"])
        target = call["target"]

        def run(z: Tensor) -> Tensor:
            return function(z, target, **arguments, **options, **given, engine=engine)

        if draw.maybe(0.5):
            loss = module(**arguments, **options, engine=engine)
            run = lambda z: loss(z, target, **given)  # noqa: E731
        form = f"{target.dtype}{tuple(target.shape)}"
        shown = {k: v for k, v in call.items() if k not in ("target", "plain_weight")}
        text = (
            f"{module.__name__}({arguments}, weight={weight}, {shown}, engine={engine!r}) of "
            f"{logits.dtype}{tuple(logits.shape)} strides {logits.stride()}, target {form}"
        )
        counts_of_tensor = isinstance(arguments.get("class_counts"), Tensor | np.ndarray)
        return Call(
            text,
            run,
            partial(self.truth, truth, call),
            logits,
            size(truth, call, logits),
            compiles=engine != "blocked" and not counts_of_tensor,
            diverged=diverged(call, logits),
        )

    def truth(self, truth: Truth, call: dict[str, Any], logits: Tensor) -> Tensor:
        return answer(truth, call, logits, logits.dtype)

    def loss(self, draw: Draw, classes: int) -> tuple[Any, Any, dict[str, Any], Truth]:
        counts = [draw.choice([0, 1, 3, 50, 1000, 10**6]) for _ in range(classes)]
        counts[draw.randrange(classes)] = 77
        n = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
        given = draw.choice(
            [counts, torch.tensor(counts), sy.ClassCounts(counts), np.array(counts)]
        )
        gamma: Any = draw.choice([0, 0.05, 0.1, 0.5, 1, 1.5, 2.0, 5, 30])
        if draw.maybe(0.3):
            each = [draw.choice([0.0, 0.05, 0.3, 1.0, 2.0, 5.0]) for _ in range(classes)]
            gamma = draw.choice([each, torch.tensor(each), np.array(each)])
        gammas = gamma if isinstance(gamma, Tensor) else torch.as_tensor(np.asarray(gamma, float))
        tail, steep = focal(gammas), 1 + float(gammas.max())
        bias, prior = n.log(), (n / n.sum()).log()
        tau, epsilon = draw.choice([0.0, 0.5, 1.0, -1.0, 3]), draw.choice([-1, -0.3, 0, 1.0, 6])
        q, scale = draw.choice([0.05, 0.3, 0.7, 1]), draw.choice([0.5, 1, 30.0])
        margin, power = draw.choice([0, 0.5, 2.0]), draw.choice([0.0, 0.3, 1])
        beta = draw.choice([0.0, 0.9, 0.9999])
        effective = [1.0 if c else 0.0 for c in counts]
        if beta:
            rate = math.log(beta)  # 1 − β^n cancels where β^n is nearly 1
            effective = [(beta - 1) / math.expm1(rate * c) if c else 0.0 for c in counts]
        own = torch.tensor(effective, dtype=torch.float64)
        own *= sum(c > 0 for c in counts) / sum(effective)
        known = {"class_counts": given}
        margins = scale * margin * (n.min() / n) ** 0.25
        spread = (n / n.max()) ** power
        s = torch.full((classes,), float(scale), dtype=torch.float64)
        return draw.choice(
            [
                (sy.cross_entropy_loss, sy.CrossEntropyLoss, {}, Truth(minus_log_p)),
                (sy.focal_loss, sy.FocalLoss, {"gamma": gamma}, Truth(tail, steepness=steep)),
                (sy.focal_loss, sy.FocalLoss, {"gamma": gamma}, Truth(tail, steepness=steep)),
                (
                    sy.poly_loss,
                    sy.PolyLoss,
                    {"epsilon": epsilon},
                    Truth(poly(epsilon), steepness=7),
                ),
                (
                    sy.generalized_cross_entropy_loss,
                    sy.GeneralizedCrossEntropyLoss,
                    {"q": q},
                    Truth(generalized(q), 1 / q),
                ),
                (
                    sy.class_balanced_loss,
                    sy.ClassBalancedLoss,
                    known | {"beta": beta, "gamma": gamma},
                    Truth(tail, own_weight=own, steepness=steep),
                ),
                (
                    sy.logit_adjusted_loss,
                    sy.LogitAdjustedLoss,
                    known | {"tau": tau},
                    Truth(minus_log_p, bias=tau * prior),
                ),
                (
                    sy.balanced_softmax_loss,
                    sy.BalancedSoftmaxLoss,
                    known,
                    Truth(minus_log_p, bias=bias),
                ),
                (
                    sy.ldam_loss,
                    sy.LDAMLoss,
                    known | {"scale": scale, "max_margin": margin},
                    Truth(minus_log_p, scale=s, margin=margins),
                ),
                (
                    sy.vs_loss,
                    sy.VSLoss,
                    known | {"gamma": power, "tau": tau},
                    Truth(minus_log_p, scale=spread, bias=tau * prior),
                ),
            ]
        )

    def options(self, draw: Draw, classes: int) -> tuple[dict[str, Any], Tensor | None]:
        """Options, and the class weights as a plain tensor."""
        options: dict[str, Any] = {"reduction": draw.choice(["mean", "mean", "sum", "none"])}
        if draw.maybe(0.3):
            options["label_smoothing"] = draw.choice([0.0, 0.1, 0.5, 1.0, 1])
        if draw.maybe(0.4):
            options["mean_over"] = draw.choice([None, "weight", "count"])
        if draw.maybe(0.3):
            options["empty"] = draw.choice(["zero", "nan"])
        if draw.maybe(0.4):
            return options, None
        values = [draw.choice([0.0, 0.5, 1.0, 2.0, 3.0, 100.0]) for _ in range(classes)]
        plain = torch.tensor(values, dtype=torch.float64)
        if draw.maybe(0.2):
            named = {c: value for c, value in enumerate(values) if draw.maybe(0.5)}
            options["weight"] = named
            filled = [named.get(c, 1.0) for c in range(classes)]
            return options, torch.tensor(filled, dtype=torch.float64)
        containers = [list, tuple, np.array, torch.tensor, partial(np.array, dtype=np.float16)]
        dtype = draw.choice([torch.float16, torch.bfloat16, torch.float32, torch.float64])
        containers.append(partial(torch.tensor, dtype=dtype))
        options["weight"] = draw.choice(containers)(values)
        if draw.maybe(0.1):
            options["weight"] = torch.tensor(values).repeat_interleave(2)[::2]
        return options, plain

    def problem(
        self, draw: Draw, shape: tuple[int, ...], classes: int, options: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits, target and sample weights."""
        full = (*shape[:1], classes, *shape[1:])
        dtype = draw.choice(DTYPES)
        spread = draw.choice([0.0, 0.1, 3.0, 3.0, 30.0, 100.0, 1000.0, 6e4])
        logits = spread * draw.normal(*full)
        if draw.maybe(0.2):  # saturated
            logits = logits.sign() * spread
        logits = logits.clamp(-6e4, 6e4)
        if dtype in (torch.float32, torch.float64) and draw.maybe(0.05):
            logits *= 1e25
        class_dim = min(1, len(full) - 1)
        soft = draw.maybe(0.35)
        ignore = -100
        if not soft and draw.maybe(0.5):
            ignore = draw.choice([-1, 0, classes - 1, 255, classes, 2**40])
            options["ignore_index"] = ignore
        index = draw.below(classes, *shape)
        masked = None
        if classes > 1 and draw.maybe(0.2):  # a class that is masked out, here and there
            masked = draw.randrange(classes)
            where = (draw.uniform(*full) < 0.6).select(class_dim, masked)
            logits.select(class_dim, masked).masked_fill_(where, -torch.inf)
            if draw.maybe(0.8):
                index = index.where(index != masked, (masked + 1) % classes)
        if draw.maybe(0.03) and logits.numel():
            place = draw.randrange(logits.numel())
            logits.view(-1)[place] = draw.choice([torch.inf, -torch.inf, torch.nan])
        if soft:
            target = draw.uniform(*full) ** draw.choice([1, 6])
            if masked is not None:
                target.select(class_dim, masked).zero_()
            target = target / target.sum(class_dim, keepdim=True).clamp(min=1e-9)
            if draw.maybe(0.3):
                target = target.eq(target.amax(class_dim, keepdim=True)).double()
            kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
            target = draw.layout(target.to(draw.choice(kinds)))
        else:
            kinds = [torch.int64, torch.int64, torch.int32, torch.int16, torch.int8]
            if ignore not in (-1, -100):
                kinds.append(torch.uint8)
            kind = draw.choice(kinds)
            if shape and torch.iinfo(kind).min <= ignore <= torch.iinfo(kind).max:
                gone = draw.uniform(*shape) < draw.choice([0.0, 0.3, 0.3, 1.0])
                index = index.masked_fill(gone, ignore)
                if draw.maybe(0.4):  # what is ignored may be anything
                    poison = draw.choice([torch.nan, torch.inf, -torch.inf, 1e4])
                    logits.masked_fill_((index == ignore).unsqueeze(class_dim), poison)
            target = index.to(kind)
        samples = None
        if draw.maybe(0.4):
            broad = [d if draw.maybe(0.7) else 1 for d in shape][draw.choice([0, 0, 1]) :]
            samples = draw.uniform(*broad).round(decimals=1) * draw.choice([1, 1, 100])
            kinds = [torch.float64, torch.float32, torch.float16, torch.bool, torch.int64]
            samples = samples.to(draw.choice(kinds))
        logits = draw.layout(logits.to(dtype))
        if len(shape) > 0 and shape[0] > 1 and draw.maybe(0.05) and target.ndim:
            logits = logits[:1].expand(logits.shape)
        call = {"target": target, "sample_weight": samples, "ignore_index": ignore}
        return logits, call


def diverged(call: dict[str, Any], logits: Tensor) -> Tensor:
    class_dim, target = min(1, logits.ndim - 1), call["target"]
    lost = (logits.isnan() | (logits == torch.inf)).any(class_dim, keepdim=True)
    lost |= (logits == -torch.inf).all(class_dim, keepdim=True)
    if not target.is_floating_point():
        lost &= (target.long() != call["ignore_index"]).unsqueeze(class_dim)
    return lost.expand_as(logits)


def size(truth: Truth, call: dict[str, Any], logits: Tensor) -> float:
    """How large the terms are of which a result is made, reduced as they are."""
    rows = rows_of(call, logits, truth, torch.float64)
    z = logits.detach().double().nan_to_num(0, 0, 0)
    largest = float(z.abs().max()) if z.numel() else 0.0
    largest *= 1 if truth.scale is None else float(truth.scale.max())
    for part in (truth.bias, truth.margin):
        largest += 0 if part is None else float(part.abs().max())
    smoothing = float(call["label_smoothing"])
    t = (1 - smoothing) * rows.t + smoothing / rows.t.shape[1]
    each = (rows.w * t).sum(1) * rows.s * rows.kept * (largest + 10) * truth.steepness
    terms = reduced(each, rows, call | {"empty": "zero"})
    return float(terms.abs().max()) if terms.numel() else 0.0


class TableCalls:
    """A family by the rows of its table: their arguments, its own options and its naive oracle.

    The oracles of a table are the formulas of papers, which hold for logits of ordinary size.
    """

    def __init__(self, name: str, rows: list[Any]) -> None:
        self.name = name
        self.rows = rows

    def draw(self, draw: Draw) -> Call:
        row = draw.choice(self.rows)
        family = row.family
        form = draw.choice(list(family.forms))
        shape = family.shapes[draw.choice(list(family.shapes))]
        seed = draw.randrange(2**31)
        logits, targets = family.make(shape, seed)
        options = draw.choice(list(family.options(form)))
        samples = draw.choice(family.samples(row, logits))
        engine = draw.choice(list(family.engines))
        logits = logits * draw.choice([0.1, 1.0])
        # On a kink, which the few numbers of half precisions hit, any slope between will do.
        dtypes = [d for d in DTYPES if row.module not in KINKED or d.itemsize > 2]
        logits = draw.layout(logits.to(draw.choice(dtypes)))
        target = draw.layout(targets[form])
        loss = row.build(**options, engine=engine)
        text = (
            f"{row.id} {row.arguments} {options} engine={engine!r}, {form} of seed {seed}, "
            f"sample_weight={samples is not None}, {logits.dtype}{tuple(logits.shape)} strides "
            f"{logits.stride()}"
        )
        largest = 200.0 * (logits.numel() if options.get("reduction") == "sum" else 1)
        for weight in (options.get("weight"), options.get("pos_weight"), row_weight(row)):
            largest *= 1 if weight is None else max(1.0, float(torch.as_tensor(weight).max()))
        if logits.dtype is torch.float64:  # what the formulas of the papers lose where p is near 1
            largest *= float(logits.abs().max().exp())

        def truth(z: Tensor) -> Tensor:
            return family.naive(row, z, target, sample_weight=samples, **options)

        def run(z: Tensor) -> Tensor:
            return loss(z, target, sample_weight=samples)

        return Call(text, run, truth, logits, largest, compiles=engine != "blocked")


def row_weight(row: Any) -> Tensor | None:
    return getattr(row, "own_weight", None)


FAMILIES = [
    SoftmaxCalls(),
    TableCalls("sigmoid", SIGMOID_TABLE),
    TableCalls("region", REGIONS),
    TableCalls("softmax table", TABLE),  # every row, also of a loss that SoftmaxCalls does not know
]
SHARES = [0.65, 0.2, 0.1, 0.05]
