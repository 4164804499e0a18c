"""The course of a study: tune once, then seeds; what is chosen, and what is left to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from steelyard._results import BASELINE
from steelyard.compare.training.lines import Line, plan_lines
from steelyard.compare.training.methods import Method, trained
from steelyard.compare.training.plan import Plan, Run, draw_options
from steelyard.compare.training.work import Outcome


@dataclass
class Course:
    """What has been trained, and what follows from it.

    Attributes:
        plan: the options.
        methods: the candidates.
        outcomes: finished trainings by key.
    """

    plan: Plan
    methods: tuple[Method, ...]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def runs(self, method: Method, seed: int) -> list[Run]:
        """The trainings of a method on one seed, as far as they can be known yet."""
        draws = draw_options(self.plan, method, self._drawn_by(seed))
        if seed in self.plan.tuning_seeds:
            return [Run(method.name, seed, k, options) for k, options in enumerate(draws)]
        chosen = self.chosen(method, self.plan.first_seed)
        return [] if chosen is None else [Run(method.name, seed, chosen, draws[chosen])]

    def chosen(self, method: Method, seed: int) -> int | None:
        """The draw that a method is judged by on a seed; None where nothing finished.

        The highest validation score counts, of equals the earliest draw: so the published
        defaults before anything else. It is chosen on the tuning seed, and kept.
        """
        if seed not in self.plan.tuning_seeds:
            return self.chosen(method, self.plan.first_seed)
        return best(self._scores(method, seed))

    def stage(self, forks: bool = True) -> list[Line]:
        """What can be trained now; nothing is left once the list is empty."""
        for seeds in (self.plan.tuning_seeds, self.plan.seed_list):
            runs = [
                run
                for seed in seeds
                for method in trained(self.methods)
                for run in self.runs(method, seed)
                if run.key not in self.outcomes
            ]
            if runs:
                return plan_lines(runs, {m.name: m for m in self.methods}, forks)
        return []

    def trainings(self) -> int:
        """How many trainings the whole study takes."""
        plan, number = self.plan, len(trained(self.methods))
        tuning = len(plan.tuning_seeds)
        return number * (tuning * plan.draws + plan.seeds - tuning)

    def judged(self) -> set[str]:
        """Keys of the trainings whose test rows are looked at."""
        keys = set()
        for method in trained(self.methods):
            for seed in self.plan.seed_list:
                draw = self.chosen(method, seed)
                keys |= {run.key for run in self.runs(method, seed) if run.draw == draw}
        for method in self.methods:
            if method.rider == "head-only":
                for seed in self.plan.seed_list:
                    draw = self.chosen_head(method, seed)
                    keys |= {run.key for run in self.head_runs(method, seed) if run.draw == draw}
        return keys

    def baseline_run(self, seed: int) -> Run | None:
        """The training of cross-entropy that riders ride on."""
        method = next(m for m in self.methods if m.name == BASELINE)
        draw = self.chosen(method, seed)
        return next((run for run in self.runs(method, seed) if run.draw == draw), None)

    def _scores(self, method: Method, seed: int) -> dict[int, float | None]:
        scores = {}
        for run in self.runs(method, seed):
            outcome = self.outcomes.get(run.key)
            scores[run.draw] = None if outcome is None else outcome.score
        return scores

    def _drawn_by(self, seed: int) -> int:
        """The seed whose sequence of draws counts: that of the tuning."""
        return seed if seed in self.plan.tuning_seeds else self.plan.first_seed

    def head_runs(self, method: Method, seed: int) -> list[Run]:
        """The heads of a head-only method on the body that cross-entropy is judged by."""
        base = self.baseline_run(seed)
        if base is None:
            return []
        drawn = enumerate(draw_options(self.plan, method, self.plan.first_seed))
        return [Run(method.name, seed, k, options, base.draw) for k, options in drawn]

    def chosen_head(self, method: Method, seed: int) -> int | None:
        """As `chosen`: on the tuning seed, and kept."""
        tuned = seed if seed in self.plan.tuning_seeds else self.plan.first_seed
        runs = self.head_runs(method, tuned)
        found = {run.draw: self.outcomes.get(run.key) for run in runs}
        return best({k: None if outcome is None else outcome.score for k, outcome in found.items()})

    def networks(self) -> list[Outcome]:
        """The finished trainings of whole networks."""
        return [outcome for outcome in self.outcomes.values() if outcome.run.on is None]

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Finished trainings, with the heads that belong to them."""
        for outcome in outcomes:
            self.outcomes |= {one.run.key: one for one in (*outcome.heads, outcome)}


def best(scores: Mapping[int, float | None]) -> int | None:
    """The draw with the highest score, of equals the first; None where none has one."""
    known = {draw: score for draw, score in scores.items() if score is not None}
    return max(known, key=lambda draw: (known[draw], -draw)) if known else None
