"""One group of trials from rows to finished cells: train, choose on validation, test once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard._results import BASELINE
from steelyard.compare.candidates import candidate, draw_trials
from steelyard.compare.data import Data
from steelyard.compare.network import Networks
from steelyard.compare.objective import Objective, build_loss, stack_order
from steelyard.compare.prepare import Prepared, prepare
from steelyard.compare.scores import SELECTORS, confusion_matrix, score_predictions
from steelyard.compare.study import Study, Trial
from steelyard.compare.train import Plan, Rows, batch_size_for, train
from steelyard.losses import adjust_logits

CURVE_POINTS = 20
Cell = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The unit of work and of durability: some candidates, with all their draws, on some seeds."""

    seeds: tuple[int, ...]
    candidates: tuple[str, ...]

    @property
    def cells(self) -> list[tuple[int, str]]:
        """The (seed, candidate) pairs that it finishes."""
        return [(seed, name) for seed in self.seeds for name in self.candidates]


def run_group(
    data: Data, study: Study, group: Group, tick: Callable[[float], None] | None = None
) -> list[Cell]:
    """Train a group's trials, choose, and judge.

    Args:
        data: the rows.
        study: the options.
        group: which seeds and candidates.
        tick: called with the share of the group that is done.

    Returns:
        One plain dict per seed and candidate, as `results.json` documents it.
    """
    prepared = {seed: prepare(data, seed, study.validation, study.test) for seed in group.seeds}
    with _one_thread():
        return _run_group(study, group, prepared, tick)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread; more cores are for more groups.

    Sums come out the same whatever the machine, and small operations do not wait for each other
    where another program wants a core too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_group(
    study: Study,
    group: Group,
    prepared: Mapping[int, Prepared],
    tick: Callable[[float], None] | None,
) -> list[Cell]:
    # Categories are learnt per seed, so two seeds may see different numbers of features.
    by_width = sorted(group.seeds, key=lambda seed: (_width(prepared[seed]), seed))
    cells: list[Cell] = []
    for _, run in groupby(by_width, key=lambda seed: _width(prepared[seed])):
        seeds = list(run)
        share, done = len(seeds) / len(group.seeds), len(cells) / len(group.cells)

        def advance(part: float, share: float = share, done: float = done) -> None:
            if tick is not None:
                tick(done + share * part)

        stack = _Stack(study, group, seeds, [prepared[seed] for seed in seeds])
        stack.train(advance)
        cells += stack.cells()
    order = {cell: place for place, cell in enumerate(group.cells)}
    return sorted(cells, key=lambda cell: order[cell["seed"], cell["candidate"]])


def timed_group(
    data: Data, study: Study, group: Group, tick: Callable[[float], None] | None = None
) -> tuple[Group, list[Cell], float]:
    """A group, its cells, and the seconds they took."""
    started = time.monotonic()
    cells = run_group(data, study, group, tick)
    return group, cells, time.monotonic() - started


def _width(prepared: Prepared) -> int:
    return int(prepared.train.features.shape[1])


@dataclass
class _Curves:
    epochs: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)  # (S, T) each
    scores: list[np.ndarray] = field(default_factory=list)  # (S, T) each


class _Stack:
    """Seeds of one width and their trials, ordered by head and tail as the stack wants them."""

    def __init__(
        self, study: Study, group: Group, seeds: Sequence[int], prepared: Sequence[Prepared]
    ) -> None:
        self.study, self.group, self.seeds, self.prepared = study, group, seeds, prepared
        self.dtype = getattr(torch, study.dtype)
        drawn = [draw_trials(group.candidates, seed, study.draws) for seed in seeds]
        # Post-hoc adjustment costs no training: it reads the baseline's networks.
        self.post_hoc = [[t for t in row if candidate(t.candidate).post_hoc] for row in drawn]
        trained = [[t for t in row if not candidate(t.candidate).post_hoc] for row in drawn]
        losses = [
            [
                build_loss(candidate(t.candidate), t.options, part.counts, study.deferral_epoch)
                for t in row
            ]
            for row, part in zip(trained, prepared, strict=True)
        ]
        kinds = [candidate(t.candidate) for t in trained[0]]
        order = stack_order(kinds, losses[0])
        self.trials = [[row[i] for i in order] for row in trained]
        self.linear = sum(kind.head == "linear" for kind in kinds)
        classes = len(prepared[0].counts)
        self.objective = Objective(
            [[row[i] for i in order] for row in losses], classes, study.device, self.dtype
        )
        self.networks = Networks.initial(
            list(seeds),
            len(order),
            self.linear,
            (_width(prepared[0]), study.hidden, classes),
            study.device,
            self.dtype,
        )
        self.curves = _Curves()

    def train(self, advance: Callable[[float], None]) -> None:
        study = self.study
        rows = self._rows("train")
        validation = self._rows("validation")
        epochs = set(np.linspace(1, study.epochs, min(CURVE_POINTS, study.epochs)).astype(int))

        def after_epoch(epoch: int, losses: Tensor) -> None:
            if epoch + 1 in epochs:
                self.curves.epochs.append(epoch + 1)
                self.curves.losses.append(losses)
                self.curves.scores.append(self._validate(validation))
            advance((epoch + 1) / study.epochs)

        plan = Plan(
            self.seeds, study.epochs, study.batch_size or batch_size_for(rows.labels.shape[1])
        )
        rate, decay = (self._option(name) for name in ("learning_rate", "weight_decay"))
        train(self.networks, self.objective, rows, rate, decay, plan, after_epoch)
        self.validation = validation

    def _rows(self, split: str) -> Rows:
        parts = [getattr(part, split) for part in self.prepared]
        return Rows.stacked(
            [part.features for part in parts],
            [part.labels for part in parts],
            self.study.device,
            self.dtype,
        )

    def _option(self, name: str) -> Tensor:
        values = [[trial.options[name] for trial in row] for row in self.trials]
        return torch.tensor(values, device=self.study.device, dtype=self.dtype)

    def _validate(self, rows: Rows) -> np.ndarray:
        """The selecting score of every network on the validation rows, (S, T)."""
        return self._score(self._confusions(self.networks, rows))

    def _score(self, confusions: Tensor) -> np.ndarray:
        """The selecting score (S, T) of confusion matrices (S, T, C, C)."""
        return SELECTORS[self.study.select](confusions).cpu().numpy()

    def _confusions(self, networks: Networks, rows: Rows, adjust: Tensor | None = None) -> Tensor:
        """Confusion matrices (S, T, C, C); `adjust` (S, T, C) is subtracted from the logits."""
        parts = []
        for where, logits in networks.logits_in_chunks(rows.features):
            if adjust is not None:
                logits = logits - adjust.unsqueeze(3)
            parts.append(confusion_matrix(logits, rows.labels[:, where]))
        return torch.stack(parts).sum(0)

    def cells(self) -> list[Cell]:
        """Choose every candidate's draw on the validation rows, and read the test rows once."""
        cells = []
        scores, losses = self.curves.scores[-1], self.curves.losses[-1].cpu().numpy()
        for s in range(len(self.seeds)):
            names = [trial.candidate for trial in self.trials[s]]
            for name in dict.fromkeys(names):
                places = [place for place, other in enumerate(names) if other == name]
                cells.append(self._cell(s, name, places, scores[s, places], losses[s, places]))
            for name, run in groupby(self.post_hoc[s], key=lambda trial: trial.candidate):
                cells.append(self._post_hoc_cell(s, name, list(run), losses[s]))
        return cells

    def _cell(
        self,
        s: int,
        name: str,
        places: Sequence[int],
        scores: np.ndarray,
        losses: np.ndarray,
        adjust: Tensor | None = None,
        trials: Sequence[Trial] | None = None,
    ) -> Cell:
        """One candidate on one seed. `adjust` (T, C) belongs to post-hoc adjustment."""
        trials = trials or [self.trials[s][place] for place in places]
        finite = np.isfinite(losses) & np.isfinite(scores) & self.networks.finite()[s, places]
        records = [
            {
                "draw": trial.draw,
                "options": trial.options,
                "status": "done" if ok else "failed",
                "reason": None if ok else "the training diverged: its loss is not finite",
                "validation": float(score) if ok else None,
                "train_loss": float(loss) if ok else None,
            }
            for trial, ok, score, loss in zip(trials, finite, scores, losses, strict=True)
        ]
        cell: Cell = {"seed": self.seeds[s], "candidate": name, "trials": records}
        best = choose_draw(scores, finite)
        if best is None:
            return cell | {"status": "failed", "reason": "the training of every draw diverged"}
        chosen = None if adjust is None else adjust[best]
        return cell | {
            "status": "done",
            "reason": None,
            "chosen": best,
            **self._judge(s, places[best], chosen),
            "curve": self._curve(s, places[best], with_scores=adjust is None),
        }

    def _post_hoc_cell(
        self, s: int, name: str, trials: Sequence[Trial], losses: np.ndarray
    ) -> Cell:
        by_draw = {
            trial.draw: place
            for place, trial in enumerate(self.trials[s])
            if trial.candidate == BASELINE
        }
        places = [by_draw[trial.draw] for trial in trials]
        counts = self.prepared[s].counts
        zero = torch.zeros(len(counts), dtype=self.dtype)
        adjust = torch.stack(
            [-adjust_logits(zero, counts, tau=trial.options["tau"]) for trial in trials]
        ).to(self.study.device)
        rows = Rows(self.validation.features[s : s + 1], self.validation.labels[s : s + 1])
        confusions = self._confusions(self.networks.select(s, places), rows, adjust.unsqueeze(0))
        scores = self._score(confusions)[0]
        return self._cell(s, name, places, scores, losses[places], adjust, trials)

    def _judge(self, s: int, place: int, adjust: Tensor | None) -> Cell:
        """Every score of one network on the test rows, which nothing else reads."""
        test = self.prepared[s].test
        features = torch.from_numpy(test.features).to(self.study.device, self.dtype)
        network = self.networks.select(s, [place])
        chunks = [logits[0, 0] for _, logits in network.logits_in_chunks(features.unsqueeze(0))]
        logits = torch.cat(chunks, 1).T  # (n, C)
        if adjust is not None:
            logits = logits - adjust
        trial = self.trials[s][place]
        if candidate(trial.candidate).head == "cosine":
            # No decision changes, but cosines are in [-1, 1]: probabilities need training's scale.
            logits = logits * trial.options["scale"]
        return score_predictions(logits, torch.from_numpy(test.labels), self.prepared[s].counts)

    def _curve(self, s: int, place: int, with_scores: bool) -> Cell:
        curves = self.curves
        return {
            "epoch": curves.epochs,
            "train_loss": [float(values[s, place]) for values in curves.losses],
            "validation": [float(v[s, place]) for v in curves.scores] if with_scores else None,
        }


def choose_draw(scores: np.ndarray, finite: np.ndarray) -> int | None:
    """The draw that validated best among those that did not diverge; None if all did.

    Ties go to the earliest draw, so to the published defaults before anything else.
    """
    if not finite.any():
        return None
    return int(np.argmax(np.where(finite, scores, -math.inf)))


def plan_groups(names: Iterable[str], seeds: Sequence[int], draws: int, trials: int) -> list[Group]:
    """Cut a study into groups of at most about `trials` trials.

    A group is whole seeds where that fits, else a part of one seed's candidates. A candidate's
    draws stay together, for they are chosen among; so do post-hoc adjustment and the baseline.
    """
    units = _units(list(names))
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


def _units(names: list[str]) -> list[list[str]]:
    riders = [name for name in names if candidate(name).post_hoc]
    return [[name, *riders] if name == BASELINE else [name] for name in names if name not in riders]
