"""A study from the user's parts to results: plan, train what is missing, judge."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from steelyard.compare.machine import check_backend, check_device
from steelyard.compare.study import StudyError
from steelyard.compare.training.course import Course
from steelyard.compare.training.judging import Judge, titles
from steelyard.compare.training.kept import TrialStore
from steelyard.compare.training.lines import Line
from steelyard.compare.training.plan import Plan, Run
from steelyard.compare.training.problem import Problem
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.rehearsal import rehearse, rehearsed
from steelyard.compare.training.results import Facts, assemble
from steelyard.compare.training.statistics import SCORES
from steelyard.compare.training.work import Outcome, run_line

CHECKPOINTS = "checkpoints"
# What the first rank says before all take a few steps; lines, an error or None are the rest.
_REHEARSE = True


class Watcher(Protocol):
    """Whoever wants to see a study run."""

    def note(self, sentence: str) -> None:
        """Something that the user should know before the study begins."""

    def begin(self, trainings: int, outcomes: Sequence[Outcome]) -> None:
        """So many trainings in all, and those that an earlier run has finished."""

    def tick(self, run: Run, share: float) -> None:
        """A training under way in this process is so far done."""

    def finished(self, outcome: Outcome) -> None:
        """A training is done and stored."""


class Silence:
    """Watches nothing."""

    def note(self, sentence: str) -> None:
        """See `Watcher`."""

    def begin(self, trainings: int, outcomes: Sequence[Outcome]) -> None:
        """See `Watcher`."""

    def tick(self, run: Run, share: float) -> None:
        """See `Watcher`."""

    def finished(self, outcome: Outcome) -> None:
        """See `Watcher`."""


def run_study(
    problem: Problem,
    plan: Plan,
    facts: Facts,
    identity: Mapping[str, Any],
    out: Path | None,
    *,
    watcher: Watcher | None = None,
    workers: int = 1,
    backend: str = "local",
    address: str | None = None,
    forks: bool = True,
    rehearsal: bool = False,
) -> dict[str, Any]:
    """Run a study, or what is left of it, and return its results.

    Args:
        problem: the user's part.
        plan: the options.
        facts: about the data.
        identity: what decides the results, beside the options.
        out: folder of the store and of checkpoints; None keeps nothing.
        watcher: told of progress.
        workers: processes on this machine.
        backend: "local", "dask" or "ray".
        address: of the cluster's scheduler.
        forks: whether trainings that begin alike share their beginning.
        rehearsal: train a few steps first, and tell the watcher what the study will take.

    Raises:
        StudyError: the study cannot be run, or the folder holds another one.
    """
    check_backend(workers, backend, address)
    _check_score(plan, problem)
    ranks = Ranks.here(plan.device)
    if ranks.number > 1 and (workers > 1 or backend != "local"):
        raise StudyError(
            "torchrun already says which processes train: leave out workers and backend"
        )
    check_device(plan.device)
    if not ranks.first:
        return _follow(problem, plan, ranks)
    try:
        results = _lead(
            problem, plan, facts, identity, out, watcher or Silence(), workers, backend, address,
            forks, rehearsal, ranks,
        )  # fmt: skip
    except BaseException as error:
        with suppress(Exception):
            ranks.from_first(str(error) or type(error).__name__)
        raise
    ranks.from_first(None)
    ranks.from_first(results)
    return results


def _lead(
    problem: Problem,
    plan: Plan,
    facts: Facts,
    identity: Mapping[str, Any],
    out: Path | None,
    watcher: Watcher,
    workers: int,
    backend: str,
    address: str | None,
    forks: bool,
    rehearsal: bool,
    ranks: Ranks,
) -> dict[str, Any]:
    with TrialStore(out) as store:
        chosen = store.claim(identity, {"threads": _threads(workers)})
        torch.set_num_threads(chosen["threads"])
        course = Course(plan, problem.methods)
        course.add(store.outcomes())
        if rehearsal and len(course.networks()) < course.trainings():
            ranks.from_first(_REHEARSE)
            for sentence in rehearse(problem, plan, course, workers, ranks):
                watcher.note(sentence)
        watcher.begin(course.trainings(), course.networks())
        folder = None if out is None else out / CHECKPOINTS
        while lines := course.stage(forks):
            for outcome in _execute(
                problem, plan, lines, folder, watcher, workers, backend, address,
                chosen["threads"], ranks,
            ):  # fmt: skip
                store.keep(outcome)
                course.add([outcome])
                watcher.finished(outcome)
        store.forget_tests(course.judged())
        if folder is not None:
            # What kills left there: all trainings are done.
            shutil.rmtree(folder, ignore_errors=True)
        judge = Judge(problem, plan, course, store)
        return assemble(problem, plan, facts, judge, _times(course, store))


def _follow(problem: Problem, plan: Plan, ranks: Ranks) -> dict[str, Any]:
    """Train what the first rank says, until it says no more."""
    while (said := ranks.from_first(None)) is not None:
        if isinstance(said, str):
            raise StudyError(said)
        if said is _REHEARSE:
            rehearsed(problem, plan, ranks)
            continue
        lines, folder, threads = said
        torch.set_num_threads(threads)
        for line in lines:
            for _ in run_line(problem, plan, line, folder, ranks):
                pass
    results: dict[str, Any] = ranks.from_first(None)
    return results


def _execute(
    problem: Problem,
    plan: Plan,
    lines: Sequence[Line],
    folder: Path | None,
    watcher: Watcher,
    workers: int,
    backend: str,
    address: str | None,
    threads: int,
    ranks: Ranks,
) -> Iterator[Outcome]:
    """Train lines here or elsewhere, and yield what each training leaves."""
    if backend == "local" and workers == 1:
        ranks.from_first((lines, folder, threads))
        for line in lines:
            yield from run_line(problem, plan, line, folder, ranks, watcher.tick)
        return
    from steelyard.compare.training.spread import run_elsewhere

    yield from run_elsewhere(problem, plan, lines, folder, workers, backend, address, threads)


def _threads(workers: int) -> int:
    """Threads of one training: kept with the study, for sums depend on them in their last bits."""
    return max(1, torch.get_num_threads() // workers)


def _times(course: Course, store: TrialStore) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    for outcome in course.outcomes.values():
        seconds.setdefault(outcome.run.method, []).append(outcome.seconds)
    return {
        "seconds": round(store.seconds(), 3),
        "trainings": {name: round(sum(each) / len(each), 3) for name, each in seconds.items()},
    }


def _check_score(plan: Plan, problem: Problem) -> None:
    known = [name for name in titles(problem.kind) if name in SCORES]
    if plan.select not in known:
        raise StudyError(f"select is {plan.select!r}; choose from: {', '.join(known)}")
