"""From finished trainings to cells: each candidate on each seed, chosen, and judged once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from steelyard._results import Cell, DoneCell, FailedCell, Trial
from steelyard._results import Judged as TestRows
from steelyard.compare.decisions import Decided
from steelyard.compare.scores import TITLES, Scoring, score_predictions
from steelyard.compare.training.course import Course, best
from steelyard.compare.training.evaluation import Marks, Predictions
from steelyard.compare.training.kept import TrialStore
from steelyard.compare.training.methods import Method
from steelyard.compare.training.plan import Plan, Run, draw_options
from steelyard.compare.training.problem import Problem, Split
from steelyard.compare.training.riders import ridden, wide
from steelyard.compare.training.statistics import SCORES, score
from steelyard.compare.training.work import selecting_score
from steelyard.decide import tune_biases

DENSE_TITLES = {
    "balanced_accuracy": "mean recall",
    "mean_iou": "mean IoU",
    "macro_f1": "mean Dice",
    "accuracy": "accuracy",
    "worst_class_recall": "worst class",
    "geometric_mean": "geometric mean",
}
_LISTED = 200  # classes up to which results hold a confusion matrix for each seed


def titles(kind: str) -> dict[str, str]:
    """The scores of a study by name, for classes, or for masks and sequences."""
    return TITLES if kind == "classes" else DENSE_TITLES


@dataclass(frozen=True)
class Judged:
    """A cell as results hold it, and what the statistics need of its test rows."""

    cell: Cell
    marks: Marks | None
    shown: np.ndarray | None = None


class Judge:
    """Chooses and judges; reads the test predictions of chosen trainings alone.

    Args:
        problem: the user's part.
        plan: the options.
        course: what was trained.
        store: holds predictions.
    """

    def __init__(self, problem: Problem, plan: Plan, course: Course, store: TrialStore) -> None:
        self.problem, self.plan, self.course, self.store = problem, plan, course, store
        self._splits: dict[int, Split] = {}
        self._ridden: dict[str, int | None] = {}

    def split(self, seed: int) -> Split:
        """The rows of a seed."""
        if seed not in self._splits:
            self._splits[seed] = self.problem.split(self.plan, seed)
        return self._splits[seed]

    def units(self, seed: int) -> np.ndarray:
        """(n,) the unit of each test row: itself, or its group."""
        rows = self.split(seed).test
        groups = self.problem.groups if self.plan.test is not None else self.problem.test_groups
        if groups is None:
            return np.arange(len(rows))
        return np.unique(groups[rows], return_inverse=True)[1]

    def judged(self, method: Method, seed: int) -> Judged:
        """One candidate on one seed."""
        course = self.course
        if method.rider is None:
            return self._trained(
                method, seed, course.runs(method, seed), course.chosen(method, seed)
            )
        if method.rider == "head-only":
            heads = course.head_runs(method, seed)
            chosen = course.chosen_head(method, seed)
            # Every seed has all heads, for they cost nothing; the first one's choice is kept.
            shown = [r for r in heads if seed in self.plan.tuning_seeds or r.draw == chosen]
            return self._trained(method, seed, shown, chosen)
        return self._rider(method, seed)

    def order(self) -> float | None:
        """Cross-entropy's mean ROC AUC, over seeds, of each class against the rest on test rows.

        None for masks and sequences, of whose logits only decisions are kept.
        """
        if self.problem.kind != "classes":
            return None
        scoring, areas = Scoring(self.problem.classes), []
        for seed in self.plan.seed_list:
            run, labels = self.course.baseline_run(seed), self._labels(seed)
            if run is not None and self.course.outcomes[run.key].status == "done":
                logits = self.store.predictions(run, "test").logits
                assert logits is not None
                assert labels is not None
                said = wide(logits), torch.from_numpy(labels)
                areas.append(scoring.of_logits("roc_auc", *said))
        known = [area for area in areas if not np.isnan(area)]
        return float(np.mean(known)) if known else None

    def _trained(self, method: Method, seed: int, runs: list[Run], draw: int | None) -> Judged:
        trials = [self._trial(run) for run in runs]
        run = next((run for run in runs if run.draw == draw), None)
        if run is None or self.course.outcomes[run.key].status != "done":
            return self._failed(method, seed, trials)
        return self._scored(method, seed, trials, run, self.store.predictions(run, "test"))

    def _rider(self, method: Method, seed: int) -> Judged:
        base = self.course.baseline_run(seed)
        if base is None or self.course.outcomes[base.key].status != "done":
            return self._failed(method, seed, [])
        outcome = self.course.outcomes[base.key]
        split = self.split(seed)
        counts = self.problem.training.targets.counts(split.train)
        own = {item.name for item in method.space}
        shared = dict(base.options)

        def said(part: Any, draw: int) -> Predictions:
            kept = self.store.predictions(base, part)
            return ridden(method, draws[draw], draw, kept, counts, outcome.head, biases)

        draws = [
            shared | {name: options[name] for name in own}
            for options in draw_options(self.plan, method, self.plan.first_seed)
        ]
        draws = draws if own else draws[:1]  # without any of its own all are alike
        biases = self._biases(base, split) if method.rider == "tuned" else None
        tuning = seed in self.plan.tuning_seeds
        wanted = range(len(draws)) if tuning else [self._ridden[method.name]]
        scores = {
            k: selecting_score(self.problem, self.plan, said("validation", k), split.validation)
            for k in wanted
            if k is not None
        }
        chosen = best(scores)
        if tuning and seed == self.plan.first_seed:
            self._ridden[method.name] = chosen
        trials = [
            _trial_record(k, draws[k], "done", None, value, outcome.curve[-1:])
            for k, value in scores.items()
        ]
        if chosen is None:
            return self._failed(method, seed, trials)
        run = Run(method.name, seed, chosen, draws[chosen])
        return self._scored(method, seed, trials, run, said("test", chosen), curve=False)

    def _biases(self, base: Run, split: Split) -> torch.Tensor:
        """(C,) of the decision that scores best on a seed's validation rows."""
        logits = self.store.predictions(base, "validation").logits
        labels = self.problem.labels(self.problem.validating, split.validation)
        assert logits is not None
        assert labels is not None
        return tune_biases(wide(logits), torch.from_numpy(labels), self.plan.select)

    def _labels(self, seed: int) -> np.ndarray | None:
        """(n,) classes of a seed's test rows; None for masks and sequences."""
        return self.problem.labels(self.problem.testing, self.split(seed).test)

    def _trial(self, run: Run) -> Trial:
        outcome = self.course.outcomes[run.key]
        return _trial_record(
            run.draw,
            dict(run.options),
            outcome.status,
            outcome.reason,
            outcome.score,
            outcome.curve[-1:],
        )

    def _failed(self, method: Method, seed: int, trials: list[Trial]) -> Judged:
        reasons = dict.fromkeys(trial["reason"] for trial in trials if trial["reason"])
        reason = "; ".join(reasons) or "no draw of the first seed finished"
        cell: FailedCell = {
            "seed": seed,
            "candidate": method.name,
            "trials": trials,
            "status": "failed",
            "reason": reason,
        }
        return Judged(cell, None)

    def _scored(
        self,
        method: Method,
        seed: int,
        trials: list[Trial],
        run: Run,
        test: Predictions,
        curve: bool = True,
    ) -> Judged:
        labels = self._labels(seed)
        marks = Marks.of(test, labels, self.units(seed))
        counts = self.problem.training.targets.counts(self.split(seed).train)
        outcome = self.course.outcomes.get(run.key)
        losses: list[float | None] = list(outcome.curve) if outcome is not None and curve else []
        cell: DoneCell = {
            "seed": seed,
            "candidate": method.name,
            "trials": trials,
            "status": "done",
            "reason": None,
            "chosen": run.draw,
            **_scores(test, labels, marks, counts),
            "curve": {
                "epoch": list(range(1, len(losses) + 1)),
                "train_loss": losses,
                "validation": None,
            },
        }
        return Judged(cell, marks, test.shown)


def _trial_record(
    draw: int,
    options: dict[str, float],
    status: Literal["done", "failed"],
    reason: str | None,
    validation: float | None,
    last_loss: tuple[float, ...],
) -> Trial:
    return {
        "draw": draw,
        "options": options,
        "status": status,
        "reason": reason,
        "validation": validation,
        "train_loss": last_loss[0] if last_loss and status == "done" else None,
    }


def _scores(
    test: Predictions, labels: np.ndarray | None, marks: Marks, counts: np.ndarray
) -> TestRows:
    """What a cell holds of its test rows."""
    found: TestRows
    if test.logits is not None:
        assert labels is not None
        logits = wide(test.logits)
        found = score_predictions(Decided(logits), torch.from_numpy(labels), counts)
    else:
        matrix = test.matrix(None)
        hits, true, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        found = {
            "scores": {name: _known(score(name, marks)) for name in SCORES},
            "recall": _ratio(hits, true),
            "precision": _ratio(hits, said),
            "iou": _ratio(hits, true + said - hits),
            "dice": _ratio(2 * hits, true + said),
            "confusion": matrix.tolist(),
            "reliability": {"count": [], "confidence": [], "accuracy": []},
        }
    if len(counts) > _LISTED:
        found["confusion"] = []
    return found


def _ratio(part: Any, whole: Any) -> list[float | None]:
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [a / b if b else None for a, b in pairs]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
