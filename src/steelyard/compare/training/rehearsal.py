"""Before anything trains: what the study will take, from a few steps of its first training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from steelyard._results import BASELINE
from steelyard.compare.evidence import detectable
from steelyard.compare.study import StudyError
from steelyard.compare.training.course import Course
from steelyard.compare.training.lines import plan_lines
from steelyard.compare.training.methods import trained
from steelyard.compare.training.plan import Plan, Run, draw_options
from steelyard.compare.training.problem import Problem
from steelyard.compare.training.progress import duration
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.streams import restored
from steelyard.compare.training.trial import Trial, bare
from steelyard.compare.training.work import new_trial, run_users_loop

_STEPS = 4  # of which the first, which warms up, is not timed
_FORWARD = 1 / 3  # of a step's time: what it costs to predict a batch
_DISAGREEMENT = 0.1  # share of test rows on which two losses differ, at least


class _EnoughError(Exception):
    """The rehearsal has seen what it came for."""


class _Rehearsed(Trial):
    """A trial that stops after a few steps, and remembers what they took."""

    seconds: float
    state_bytes = 0
    _begun = 0.0

    def epochs(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[int]:
        self._trained = (network, optimizer)
        return super().epochs(network, optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        stepped = super().step(optimizer)
        if not stepped:
            return False
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        if self._step == 1:
            self._begun = time.perf_counter()
        last = self.steps_per_epoch * self.plan.epochs
        if self._step in (_STEPS, last):
            timed = max(1, self._step - 1)
            self.seconds = (time.perf_counter() - self._begun) / timed
            network, optimizer = self._trained
            self.state_bytes = _size(bare(network).state_dict()) + _size(optimizer.state_dict())
            raise _EnoughError
        return True


def rehearse(
    problem: Problem, plan: Plan, course: Course, workers: int, ranks: Ranks
) -> Iterator[str]:
    """Train a few steps, forget them, and say what the study will take.

    Args:
        problem: the user's part.
        plan: the options.
        course: what is already there.
        workers: processes that train at the same time.
        ranks: those that train one network together; each of them rehearses.

    Raises:
        StudyError: what would befall every training: better now than in an hour.
    """
    trial = rehearsed(problem, plan, ranks)
    split = problem.split(plan, plan.first_seed)
    predicted = len(split.validation) + len(split.test)
    looks = plan.epochs * len(split.validation) if plan.keep == "best" else 0
    batches = (predicted + looks) / plan.batch_size
    epochs = _epochs(plan, course)
    trainings = course.trainings() - len(course.networks())
    seconds = trial.seconds * (epochs * trial.steps_per_epoch + trainings * batches * _FORWARD)
    tuning = "each seed" if plan.tune == "every" else "the first seed"
    more = plan.seeds - len(plan.tuning_seeds)
    rest = f", then the chosen draw on {more} more" if more else ""
    left = f"{trainings} of {course.trainings()}" if course.outcomes else str(trainings)
    yield (
        f"{left} trainings of {plan.epochs} epochs: {len(trained(problem.methods))} losses × "
        f"{plan.draws} draws on {tuning}{rest}. About {duration(seconds / workers)}; epochs "
        "that trainings share are counted once."
    )
    per_row = problem.classes if problem.kind == "classes" else problem.classes**2
    yield (
        f"On disk: at most {_bytes(4 * per_row * predicted * course.trainings())} of predictions, "
        f"and {_bytes(2 * workers * trial.state_bytes)} of checkpoints while it runs."
    )
    if (smallest := smallest_difference(problem, plan)) is not None:
        yield (
            f"With {plan.seeds} seeds and {len(split.test)} test rows, differences below about "
            f"{100 * smallest:.1f} points cannot be expected to show."
        )
    elif plan.seeds < 2:
        yield "One seed shows no difference: a verdict takes five."


def smallest_difference(problem: Problem, plan: Plan) -> float | None:
    """The difference in balanced accuracy that the test rows alone would hide.

    Two losses that disagree on a share d of the rows differ in mean recall with a variance of
    Σ d / n_c ÷ C² for each seed. What the training adds is not known before it.
    """
    if problem.kind != "classes" or plan.seeds < 2:
        return None
    counts = problem.testing.targets.counts(problem.split(plan, plan.first_seed).test)
    present = counts[counts > 0]
    variance = float((_DISAGREEMENT / present).sum()) / len(present) ** 2
    return detectable(math.sqrt(variance / plan.seeds), plan.seeds)


def rehearsed(problem: Problem, plan: Plan, ranks: Ranks) -> _Rehearsed:
    """A trial of which a few steps were taken."""
    run = Run(BASELINE, plan.first_seed, 0, draw_options(plan, problem.method(BASELINE), 0)[0])
    split = problem.split(plan, plan.first_seed)
    with restored():
        trial = new_trial(problem, plan, run, split, ranks, kind=_Rehearsed)
        assert isinstance(trial, _Rehearsed)
        try:
            run_users_loop(problem, trial, passing=_EnoughError)
        except _EnoughError:
            return trial
    raise StudyError(
        "train took no optimiser step: call trial.step(optimizer) after each backward, for every "
        "batch of trial.batches(epoch)"
    )


def _epochs(plan: Plan, course: Course) -> int:
    """Epochs of training that are left, at most: later draws may share their beginning too."""
    methods = {method.name: method for method in course.methods}
    lines = plan_lines(
        [
            run
            for method in trained(course.methods)
            for seed in plan.tuning_seeds
            for run in course.runs(method, seed)
            if run.key not in course.outcomes
        ],
        methods,
    )
    fork = plan.deferral_epoch
    tuned = sum(plan.epochs + (len(line.runs) - 1) * (plan.epochs - fork) for line in lines)
    later = course.trainings() - len(course.networks()) - sum(len(line.runs) for line in lines)
    return tuned + max(0, later) * plan.epochs


def _size(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(_size, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_size, state))
    return 0


def _bytes(number: float) -> str:
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 1000:
            return f"{max(1, round(number))} {unit}"
    return f"{number / 1000:.1f} TB"
