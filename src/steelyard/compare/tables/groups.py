"""A study is cut into groups of trials: each trains as a whole, and is stored as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from steelyard._results import BASELINE, Cell
from steelyard.compare.candidates import candidate
from steelyard.compare.machine import one_thread
from steelyard.compare.tables.cells import cells_of
from steelyard.compare.tables.data import Data
from steelyard.compare.tables.drawn import draw
from steelyard.compare.tables.prepare import Prepared, prepare
from steelyard.compare.tables.references import reference_cell
from steelyard.compare.tables.study import Study
from steelyard.compare.tables.trained import train_stack

Tick = Callable[[float], None]


@dataclass(frozen=True)
class Group:
    """The unit of work and of durability: some candidates, with all their draws, on some seeds.

    Attributes:
        seeds: the seeds.
        candidates: their names; or that of one reference, on one seed.
        reference: whether it is that.
    """

    seeds: tuple[int, ...]
    candidates: tuple[str, ...]
    reference: bool = False

    @property
    def cells(self) -> list[tuple[int, str]]:
        """The (seed, candidate) pairs that it finishes."""
        return [(seed, name) for seed in self.seeds for name in self.candidates]


def timed_group(
    data: Data, study: Study, group: Group, tick: Tick | None = None
) -> tuple[Group, list[Cell], float]:
    """A group, its cells, and the seconds they took."""
    started = time.monotonic()
    cells = run_group(data, study, group, tick)
    return group, cells, time.monotonic() - started


@one_thread()
def run_group(data: Data, study: Study, group: Group, tick: Tick | None = None) -> list[Cell]:
    """Train a group's trials, choose, and judge.

    Args:
        data: the rows.
        study: the options.
        group: which seeds and candidates.
        tick: called with the share of the group that is done.
    """
    prepared = {seed: prepare(data, seed, study.validation, study.test) for seed in group.seeds}
    scoring = study.scoring(data.classes, data.counts().tolist())
    if group.reference:
        (seed,), (name,) = group.seeds, group.candidates
        return [reference_cell(study, scoring, prepared[seed], seed, name, tick or _nobody)]
    cells: list[Cell] = []
    for seeds in _of_one_shape(group.seeds, prepared):
        share, done = len(seeds) / len(group.seeds), len(cells) / len(group.cells)

        def advance(part: float, share: float = share, done: float = done) -> None:
            if tick is not None:
                tick(done + share * part)

        parts = [prepared[seed] for seed in seeds]
        drawn = draw(study, group.candidates, seeds, [part.counts for part in parts])
        cells += cells_of(train_stack(study, scoring, drawn, parts, advance))
    order = {cell: place for place, cell in enumerate(group.cells)}
    return sorted(cells, key=lambda cell: order[cell["seed"], cell["candidate"]])


def _nobody(share: float) -> None:
    """Who is told of progress where nobody watches."""


def _of_one_shape(seeds: Sequence[int], prepared: Mapping[int, Prepared]) -> Iterator[list[int]]:
    """The seeds with equally many features: categories are learnt per seed, so widths differ."""

    def shape(seed: int) -> tuple[int, int]:
        return prepared[seed].width, prepared[seed].numeric

    for _, run in groupby(sorted(seeds, key=lambda seed: (shape(seed), seed)), key=shape):
        yield list(run)


def plan_groups(names: Iterable[str], seeds: Sequence[int], draws: int, trials: int) -> list[Group]:
    """Cut a study into groups of at most about `trials` trials.

    A group is whole seeds where that fits, else a part of one seed's candidates. A candidate's
    draws stay together, for they are chosen among; so do post-hoc adjustment and the baseline.
    Those that read other rows train apart, for a stack reads its rows once.
    """
    reading: dict[tuple[str, bool], list[str]] = {}
    for name in names:
        item = candidate(name)
        reading.setdefault((item.sampling, item.deferred and not item.reweighted), []).append(name)
    return [
        group for some in reading.values() for group in _of_one_reading(some, seeds, draws, trials)
    ]


def _of_one_reading(names: list[str], seeds: Sequence[int], draws: int, trials: int) -> list[Group]:
    units = _units(names)
    per_seed = draws * sum(map(len, units))
    if per_seed <= trials:
        n = trials // per_seed
        everything = tuple(name for unit in units for name in unit)
        return [Group(tuple(seeds[i : i + n]), everything) for i in range(0, len(seeds), n)]
    groups: list[list[str]] = [[]]
    for unit in units:
        if groups[-1] and draws * (len(groups[-1]) + len(unit)) > trials:
            groups.append([])
        groups[-1] += unit
    return [Group((seed,), tuple(part)) for seed in seeds for part in groups]


def reference_groups(names: Iterable[str], seeds: Sequence[int]) -> list[Group]:
    """A group for each reference on each seed: none of them takes long."""
    return [Group((seed,), (name,), reference=True) for seed in seeds for name in names]


def _units(names: list[str]) -> list[list[str]]:
    riders = [name for name in names if candidate(name).post_hoc]
    return [[name, *riders] if name == BASELINE else [name] for name in names if name not in riders]
