"""One line of trainings from rows to predictions: what a process, here or elsewhere, does."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from steelyard._results import BASELINE
from steelyard.compare.given import shown
from steelyard.compare.study import StudyError
from steelyard.compare.training.evaluation import Marks, NotFiniteError, Predictions, predict
from steelyard.compare.training.head_only import Features, Head, train_heads, unit_scale
from steelyard.compare.training.heads import features_of, linear_head
from steelyard.compare.training.lines import Line
from steelyard.compare.training.methods import Method
from steelyard.compare.training.panel import IMAGES, class_maps
from steelyard.compare.training.plan import Plan, Run, draw_options
from steelyard.compare.training.problem import Part, Problem, Split
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.riders import adjustments
from steelyard.compare.training.statistics import score
from steelyard.compare.training.streams import restored
from steelyard.compare.training.trial import DivergedError, Judge, Trial, bare

Tick = Callable[[Run, float], None]


@dataclass(frozen=True)
class Outcome:
    """What is left of one training.

    Attributes:
        run: which.
        status: "done" or "failed".
        reason: why it failed.
        curve: mean training loss of each epoch.
        seconds: that it took.
        score: the selecting score on the validation rows.
        validation: packed predictions of the validation rows.
        test: packed predictions of the test rows; only a chosen draw's are ever looked at.
        head: norms of the last layer's class vectors and its bias, where it is a linear one.
        heads: what new heads on this network's body left.
    """

    run: Run
    status: Literal["done", "failed"]
    reason: str | None
    curve: tuple[float, ...]
    seconds: float
    score: float | None = None
    validation: bytes | None = None
    test: bytes | None = None
    head: dict[str, list[float]] | None = None
    heads: tuple[Outcome, ...] = ()


def run_line(
    problem: Problem,
    plan: Plan,
    line: Line,
    folder: Path | None,
    ranks: Ranks | None = None,
    tick: Tick | None = None,
) -> Iterator[Outcome]:
    """Train the runs of a line one after the other.

    Args:
        problem: the user's part.
        plan: the options.
        line: what to train.
        folder: for checkpoints; None keeps them where they vanish with this process.
        ranks: those that train together.
        tick: told how far a run is.

    Raises:
        StudyError: something that would befall every run: data that cannot be loaded, a network
            with the wrong number of classes, an error in the user's code.
    """
    ranks = ranks or Ranks()
    split = problem.split(plan, line.seed)
    with restored(), _place(folder, ranks) as place:
        fork = place / f"{line.key}.fork.pt"
        for run in line.runs:
            # The last one leaves nothing behind, but may begin where an earlier one did.
            leave = run is not line.runs[-1]
            yield _run(problem, plan, run, split, place, (fork, leave), ranks, tick)
        if ranks.first:
            fork.unlink(missing_ok=True)


@contextmanager
def _place(folder: Path | None, ranks: Ranks) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    own = tempfile.mkdtemp(prefix="steelyard-") if ranks.first else None
    place = Path(ranks.from_first(own))
    try:
        yield place
    finally:
        if ranks.first:
            shutil.rmtree(place, ignore_errors=True)


def _run(
    problem: Problem,
    plan: Plan,
    run: Run,
    split: Split,
    place: Path,
    fork: tuple[Path, bool],
    ranks: Ranks,
    tick: Tick | None,
) -> Outcome:
    begun = time.monotonic()
    method = problem.method(run.method)
    counts = problem.training.targets.counts(split.train)
    adjust = _adjustments(problem, plan, run, counts)

    def said_of(network: nn.Module, part: Part, rows: np.ndarray) -> Predictions:
        return predictions(problem, plan, method, run, network, part, rows, ranks, adjust)

    def judge(network: nn.Module) -> float | None:
        validation = said_of(network, problem.validating, split.validation)
        return selecting_score(problem, plan, validation, split.validation)

    checkpoint = place / f"{run.key}.pt"
    trial = new_trial(problem, plan, run, split, ranks, checkpoint, fork, tick, judge=judge)
    outcome = Outcome(run, "done", None, (), 0.0)
    try:
        network = run_users_loop(problem, trial)
        validation = said_of(network, problem.validating, split.validation)
        test = said_of(network, problem.testing, split.test)
        if problem.kind == "masks" and problem.classes < 255:
            loader = problem.loader(problem.testing, run.seed)
            few = split.test[:IMAGES]
            maps = class_maps(bare(network), loader, few, problem.classes, plan.device)
            test = replace(test, shown=maps)
        outcome = replace(
            outcome,
            score=selecting_score(problem, plan, validation, split.validation),
            head=_head_of(network, problem.head, method),
            validation=validation.packed(),
            test=test.packed(),
            heads=tuple(_heads(problem, plan, run, bare(network), split)),
        )
    except (DivergedError, NotFiniteError) as error:
        outcome = replace(outcome, status="failed", reason=f"the training diverged: {error}")
    if ranks.first:
        checkpoint.unlink(missing_ok=True)
    return replace(outcome, curve=tuple(trial.curve), seconds=time.monotonic() - begun)


def new_trial(
    problem: Problem,
    plan: Plan,
    run: Run,
    split: Split,
    ranks: Ranks,
    checkpoint: Path | None = None,
    fork: tuple[Path, bool] | None = None,
    tick: Tick | None = None,
    kind: type[Trial] = Trial,
    judge: Judge | None = None,
) -> Trial:
    """A trial, ready for the user's loop."""
    method = problem.method(run.method)
    return kind(
        plan,
        method,
        run,
        train_set=problem.training.dataset,
        rows=split.train,
        labels=problem.labels(problem.training, split.train),
        counts=problem.training.targets.counts(split.train),
        loader=problem.loader(problem.training, run.seed, pin=plan.device.startswith("cuda")),
        schedule=problem.schedule,
        head=problem.head,
        ranks=ranks,
        checkpoint=checkpoint,
        fork=fork,
        tick=None if tick is None else lambda share: tick(run, share),
        judge=judge if plan.keep == "best" else None,
    )


def predictions(
    problem: Problem,
    plan: Plan,
    method: Method,
    run: Run,
    network: nn.Module,
    part: Part,
    rows: np.ndarray,
    ranks: Ranks,
    adjust: Tensor | None = None,
) -> Predictions:
    """What a trained network says of some rows of a part."""
    return predict(
        bare(network),
        problem.loader(part, run.seed),
        rows,
        part.targets.kind,
        problem.classes,
        batch_size=plan.micro_batch or -(-plan.batch_size // ranks.number),
        device=plan.device,
        ranks=ranks,
        ignore_index=plan.ignore_index,
        # No decision changes, but cosines are in [−1, 1]: probabilities need training's scale.
        scale=run.options.get("scale", 1.0) if method.head == "cosine" else 1.0,
        adjust=adjust,
    )


def _adjustments(problem: Problem, plan: Plan, run: Run, counts: np.ndarray) -> Tensor | None:
    """What post-hoc adjustment subtracts, where it cannot be done with kept logits."""
    rider = next((method for method in problem.methods if method.rider == "adjusted"), None)
    if run.method != BASELINE or rider is None or problem.kind == "classes":
        return None
    return adjustments(draw_options(plan, rider, plan.first_seed), counts)


def _heads(
    problem: Problem, plan: Plan, run: Run, network: nn.Module, split: Split
) -> Iterator[Outcome]:
    """New heads on the body of cross-entropy's network."""
    riders = [method for method in problem.methods if method.rider == "head-only"]
    if run.method != BASELINE or not riders:
        return
    assert problem.head is not None
    path = problem.head

    def features(part: Part, rows: np.ndarray) -> Features:
        loader = problem.loader(part, run.seed)
        found = features_of(network, path, loader, rows, plan.batch_size, plan.device)
        labels = problem.labels(part, rows)
        assert labels is not None
        return Features(found, labels)

    parts = {
        "train": features(problem.training, split.train),
        "validation": features(problem.validating, split.validation),
        "test": features(problem.testing, split.test),
    }
    scale = unit_scale(parts["train"].rows)
    for part in parts.values():
        part.rows.mul_(scale)
    wanted = [
        (method, draw, options)
        for method in riders
        for draw, options in enumerate(draw_options(plan, method, plan.first_seed))
    ]
    begun = time.monotonic()
    counts = problem.training.targets.counts(split.train)
    trained = [(method, options) for method, _, options in wanted]
    heads = train_heads(trained, parts["train"], counts, run.seed)
    seconds = (time.monotonic() - begun) / len(heads)
    for (method, draw, options), head in zip(wanted, heads, strict=True):
        own = Run(method.name, run.seed, draw, options, run.draw)
        yield _head_outcome(problem, plan, own, head, parts, split, seconds)


def _head_outcome(
    problem: Problem,
    plan: Plan,
    run: Run,
    head: Head,
    parts: dict[str, Features],
    split: Split,
    seconds: float,
) -> Outcome:
    said = {name: head.logits(parts[name].rows) for name in ("validation", "test")}
    if not all(np.isfinite(logits).all() for logits in said.values()):
        reason = "the training diverged: its logits are not finite"
        return Outcome(run, "failed", reason, (), seconds)
    validation = Predictions(logits=said["validation"])
    return Outcome(
        run,
        "done",
        None,
        (head.last_loss,),
        seconds,
        score=selecting_score(problem, plan, validation, split.validation),
        validation=validation.packed(),
        test=Predictions(logits=said["test"]).packed(),
    )


def selecting_score(
    problem: Problem, plan: Plan, predictions: Predictions, rows: np.ndarray
) -> float | None:
    """The score by which draws are chosen, on validation rows."""
    labels = problem.labels(problem.validating, rows)
    value = score(plan.select, Marks.of(predictions, labels, np.arange(len(rows))))
    return None if math.isnan(value) else value


def run_users_loop(
    problem: Problem, trial: Trial, passing: type[Exception] = DivergedError
) -> nn.Module:
    """The user's loop, its errors in one sentence, but for those that are to pass."""
    try:
        network = problem.train(trial)
        trial.finish()
    except (StudyError, DivergedError, NotFiniteError, passing):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise StudyError(
            f"the training of {trial.candidate} (seed {trial.seed}, draw {trial.draw}) failed: "
            f"{type(error).__name__}: {text}"
        ) from error
    if not isinstance(network, nn.Module):
        raise StudyError(
            f"the loop returned {shown(network)}; expected the trained network, which the library "
            "scores"
        )
    return network


def _head_of(network: nn.Module, path: str | None, method: Method) -> dict[str, list[float]] | None:
    if path is None or method.head != "linear":
        return None
    head = linear_head(bare(network), path)
    weight = head.weight.detach().double().cpu()
    bias: Any = head.bias  # None where the layer was built without
    values = [0.0] * len(weight) if bias is None else bias.detach().double().cpu().tolist()
    return {"norms": weight.norm(dim=1).tolist(), "bias": values}
