"""The study of a table from data to results: plan, run what is missing, assemble."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

import steelyard as sy
from steelyard._results import Cell, Results
from steelyard._text import printable
from steelyard.compare.machine import (
    check_backend,
    check_device,
    fitting_workers,
    free_memory,
    in_words,
    processes_pay,
)
from steelyard.compare.progress import clock
from steelyard.compare.store import Store
from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import Data
from steelyard.compare.tables.groups import Group, plan_groups, reference_groups, timed_group
from steelyard.compare.tables.prepare import Prepared, prepare
from steelyard.compare.tables.rehearsal import rehearse
from steelyard.compare.tables.results import assemble
from steelyard.compare.tables.shape import Shape
from steelyard.compare.tables.study import Study

_LARGEST_GROUP = 32  # trials: on a CPU more gain nothing, and a kill would cost more
_MEMORY_SHARE = 0.25
_LONG = 60  # seconds: a study of less needs no notice


class Watcher(Protocol):
    """Whoever wants to see a study run."""

    def note(self, sentence: str) -> None:
        """Something that the user should know before the study begins."""

    def begin(self, groups: Sequence[Group], cells: Sequence[Cell]) -> None:
        """The groups still to run, and the cells that an earlier run has finished."""

    def tick(self, group: Group, share: float) -> None:
        """A group under way in this process is so far done."""

    def finished(self, group: Group, cells: Sequence[Cell]) -> None:
        """A group is done and stored."""


class Silence:
    """Watches nothing."""

    def note(self, sentence: str) -> None:
        """See `Watcher`."""

    def begin(self, groups: Sequence[Group], cells: Sequence[Cell]) -> None:
        """See `Watcher`."""

    def tick(self, group: Group, share: float) -> None:
        """See `Watcher`."""

    def finished(self, group: Group, cells: Sequence[Cell]) -> None:
        """See `Watcher`."""


def run_study(
    data: Data,
    study: Study,
    out: Path | None = None,
    *,
    watcher: Watcher | None = None,
    workers: int | None = 1,
    backend: str = "local",
    address: str | None = None,
) -> Results:
    """Run a study, or what is left of it, and return its results.

    Args:
        data: the rows.
        study: the options.
        out: folder of the store; None keeps nothing.
        watcher: told of progress.
        workers: processes on this machine; None takes its cores, as far as memory allows, or this
            process alone where others would take longer to start than they save.
        backend: "local", "dask" or "ray".
        address: of the cluster's scheduler.

    Raises:
        StudyError: the study cannot be run, or the folder holds another one.
    """
    check_backend(workers, backend, address)
    watcher = watcher or Silence()
    check_device(study.device)
    scoring = study.scoring(data.classes, data.counts().tolist())
    first = prepare(data, study.first_seed, study.validation, study.test)  # also checks the data
    if study.select in scoring.of_both and len(set(first.validation.labels.tolist())) < 2:
        raise StudyError(
            f"select is {study.select!r}, and the rarer class has no row left to choose by; find "
            "more rows of it"
        )
    size = _group_size(study, first)
    with Store(out) as store:
        chosen = store.claim(
            _identity(data, study), {"group": size}, {"data": printable(data.name)}
        )
        groups = [
            *plan_groups(study.losses, study.seed_list, study.draws, chosen["group"]),
            *reference_groups(study.references, study.seed_list),
        ]
        stored = store.cells()
        for sentence in store.damaged:
            watcher.note(f"{sentence}; it is trained again")
        wanted = [cell for group in groups for cell in group.cells]
        cells = {key: stored[key] for key in wanted if key in stored}
        missing = [group for group in groups if not cells.keys() >= set(group.cells)]
        processes = 1
        if missing:
            store.check_writable()
            watcher.note(_announcement(study, first))
            each = min(chosen["group"], study.draws * len(study.losses)) * _trial_bytes(
                study, first
            )
            processes = workers or fitting_workers(study.device, each)
            if backend == "local":
                processes = _paced(study, first, missing, watcher, processes, workers is None)
        watcher.begin(missing, list(cells.values()))
        for group, new, seconds in _execute(
            data, study, missing, watcher, processes, backend, address
        ):
            store.add(new, seconds)
            cells |= {(cell["seed"], cell["candidate"]): cell for cell in new}
            watcher.finished(group, new)
        return assemble(data, study, first, cells, store.seconds())


def _paced(
    study: Study,
    first: Prepared,
    missing: Sequence[Group],
    watcher: Watcher,
    most: int,
    may_be_one: bool,
) -> int:
    """How many processes of this machine take the groups; a long study is announced.

    Args:
        study: the options.
        first: the first seed's rows.
        missing: the groups.
        watcher: told of the time.
        most: processes that there may be.
        may_be_one: nobody asked for them, so one takes all where the others would not pay.
    """
    processes = min(most, len(missing))
    may_be_one = may_be_one and processes > 1
    if isinstance(watcher, Silence) and not may_be_one:
        return processes
    seconds = rehearse(study, first, missing)
    if may_be_one and not processes_pay(seconds, processes):
        processes = 1
    if seconds / processes > _LONG:
        about = clock(seconds / processes)
        watcher.note(f"about {about} in all, by a few steps that were timed")
    return processes


def _identity(data: Data, study: Study) -> dict[str, Any]:
    """What decides the results: two studies with one identity have one outcome."""
    return {
        "data": data.digest[:12],
        "target": data.target,
        **study.to_dict(),
        "steelyard": sy.__version__,
        "torch": torch.__version__,
    }


def _group_size(study: Study, first: Prepared) -> int:
    """How many trials train as one stack.

    Raises:
        StudyError: not even one candidate's draws fit into memory.
    """
    each = _trial_bytes(study, first)
    free = free_memory(study.device)
    fit = max(1, int(_MEMORY_SHARE * free) // each)
    size = study.group or (min(fit, _LARGEST_GROUP) if study.device == "cpu" else fit)
    # A candidate's draws train together, and never more than there are.
    trials = min(max(size, study.draws), study.draws * len(study.losses) * study.seeds)
    if trials * each > free:
        hidden = _shape(study, first).hidden
        networks = "1 network" if trials == 1 else f"{trials:,} networks"
        raise StudyError(
            f"{networks} with {first.width:,} features and {hidden:,} hidden units "
            f"train as one stack, which takes about {in_words(trials * each)} of memory, and "
            f"{in_words(free)} are free; take fewer hidden units, draws or trials in a group"
        )
    return size


def _announcement(study: Study, first: Prepared) -> str:
    """What each training is, said before the first of them."""
    rows = len(first.train.labels)
    epochs, batch_size = study.budget(rows)
    return (
        f"network: {study.network}, {_shape(study, first).in_words}; a training takes "
        f"{math.ceil(rows / batch_size) * epochs:,} steps of {batch_size:,} rows"
    )


def _trial_bytes(study: Study, first: Prepared) -> int:
    rows = len(first.train.labels)
    return _shape(study, first).trial_bytes(min(rows, study.budget(rows).batch_size))


def _shape(study: Study, first: Prepared) -> Shape:
    return study.shape(first.width, first.numeric, len(first.counts))


def _execute(
    data: Data,
    study: Study,
    groups: Sequence[Group],
    watcher: Watcher,
    workers: int,
    backend: str,
    address: str | None,
) -> Iterator[tuple[Group, list[Cell], float]]:
    """Run the groups here or elsewhere, and yield each as it comes in."""
    if backend == "local" and (workers == 1 or len(groups) <= 1):
        for group in groups:
            yield timed_group(data, study, group, partial(watcher.tick, group))
        return
    from steelyard.compare.cluster import run_parallel

    calls = [(study, group) for group in groups]
    yield from run_parallel(timed_group, data, calls, workers, backend, address)
