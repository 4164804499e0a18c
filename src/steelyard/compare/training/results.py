"""What `results.json` holds of a study with the user's own network.

As of tables (see `steelyard.compare.results`), and beside that:

    kind         "networks"
    data         unit (what is tested: rows, images, groups), units (of each split), targets
                 ("classes", "masks" or "tokens"), test ("fixed" or "carved")
    candidates   rider ("adjusted", "tuned", "normalised", "head-only" or null), sampling; of masks
                 and sequences also iou and dice, per class mean, low, high; without many classes
                 confusion
    comparisons  detectable: the difference that four of five such studies would find
    times        trainings: mean seconds of one training by candidate
    panel        of masks: a few test images of the first seed, their targets and every candidate's
                 predictions as pictures, and the colours of the classes; null else

`columns` is 0 and `reliability` of masks and sequences is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from steelyard._results import BASELINE, SCHEMA
from steelyard.compare.code import Told, python_lines
from steelyard.compare.evidence import (
    Comparison,
    Evidence,
    Interval,
    RepeatedSplits,
    compare,
    interval,
)
from steelyard.compare.machine import environment
from steelyard.compare.results import failures, few_test_rows, score_names, verdict_of
from steelyard.compare.training import head_only
from steelyard.compare.training.judging import Judge, Judged, titles
from steelyard.compare.training.methods import Method
from steelyard.compare.training.panel import IMAGES, panel
from steelyard.compare.training.plan import WARM_UP, Plan
from steelyard.compare.training.problem import PlainLoop, Problem, adamw
from steelyard.compare.training.statistics import SCORES, few_seeds, resample
from steelyard.compare.verdict import join

_NO_SPREAD = 1e-9  # seeds that are all alike, as of a candidate that never decides otherwise
_FEW_ROWS = 10  # validation rows of a class: its recall is then known to 15 points or so
_SCHEDULES = {
    "cosine": f"a warm-up of {100 * WARM_UP:g} % of the steps and a cosine to zero",
    "constant": "a constant learning rate",
}


@dataclass(frozen=True)
class Facts:
    """What is known of the data before anything trains.

    Attributes:
        name: of the study's data.
        digest: of targets and fingerprint.
        classes: their names.
        unit: what is tested, in the plural.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    unit: str


def assemble(
    problem: Problem, plan: Plan, facts: Facts, judge_: Judge, times: Mapping[str, Any]
) -> dict[str, Any]:
    """The results of a finished study, as plain JSON values."""
    judged = {
        method.name: [judge_.judged(method, seed) for seed in plan.seed_list]
        for method in problem.methods
    }
    shown = titles(problem.kind)
    compared = [name for name in shown if name in SCORES]
    evidence, recall_variance = _evidence(problem, plan, judge_, judged, compared)
    every_row_counts = problem.kind == "classes" and plan.ignore_index == Plan.ignore_index
    ignored = None if every_row_counts else plan.ignore_index
    told = Told(_recipe(problem, plan), plan.select, None, facts.classes, ignore_index=ignored)
    entries = [
        _entry(method, judged[method.name], shown, evidence, recall_variance, told)
        for method in problem.methods
    ]
    comparisons = {name: compare(evidence[name], BASELINE) for name in compared}
    data = _data(problem, plan, facts, judge_)
    return {
        "schema": SCHEMA,
        "kind": "networks",
        "study": _options(plan),
        "data": data,
        "environment": environment(plan.device),
        "scores": score_names(shown),
        "candidates": entries,
        "comparisons": {name: [c.to_dict() for c in rows] for name, rows in comparisons.items()},
        "verdict": verdict_of(
            plan.select,
            evidence[plan.select],
            entries,
            shown,
            facts.classes,
            data["train_counts"],
            judge_.order,
            lambda _: _detectable(
                comparisons[plan.select], {e["name"]: e["title"] for e in entries}, plan.seeds
            ),
            _positive(problem),
        ),
        "failures": failures({name: [one.cell for one in row] for name, row in judged.items()}),
        "times": dict(times),
        "panel": _panel(problem, plan, facts, judge_, judged),
    }


def _panel(
    problem: Problem,
    plan: Plan,
    facts: Facts,
    judge_: Judge,
    judged: Mapping[str, Sequence[Judged]],
) -> dict[str, Any] | None:
    """The first few test masks as the first seed's candidates see them."""
    maps = {name: row[0].shown for name, row in judged.items() if row[0].shown is not None}
    rows = judge_.split(plan.first_seed).test[:IMAGES]
    dataset = problem.testing.dataset
    return panel(dataset, rows, maps, facts.classes, plan.ignore_index) if maps else None


def _evidence(
    problem: Problem,
    plan: Plan,
    judge_: Judge,
    judged: Mapping[str, Sequence[Judged]],
    compared: Sequence[str],
) -> tuple[Mapping[str, Evidence], Mapping[str, np.ndarray] | None]:
    """The test that belongs to the kind of test set; for a fixed one, recall's variance too."""
    if plan.test is None:
        marks = {name: [one.marks for one in row] for name, row in judged.items()}
        some = next((one for row in marks.values() for one in row if one is not None), None)
        if some is not None:
            resampling = resample(marks, _strata(some.there), compared, plan.first_seed)
            return resampling.tests, resampling.recall
    overlap = _overlap(problem, plan, judge_)
    return {
        name: RepeatedSplits(
            {
                candidate: [
                    one.cell["scores"][name] if one.cell["status"] == "done" else None
                    for one in row
                ]
                for candidate, row in judged.items()
            },
            overlap,
        )
        for name in compared
    }, None


def _strata(there: Any) -> np.ndarray:
    """The class of each unit; of a unit with several the rarest."""
    total = np.asarray(there.sum(axis=0)).ravel()
    order = np.argsort(np.argsort(total, kind="stable"), kind="stable")
    strata = np.full(there.shape[0], len(total))
    rows = np.repeat(np.arange(there.shape[0]), np.diff(there.indptr))
    np.minimum.at(strata, rows[there.data > 0], order[there.indices[there.data > 0]])
    return strata


def _overlap(problem: Problem, plan: Plan, judge_: Judge) -> float:
    """Units tested on ÷ units learnt from."""
    split = judge_.split(plan.first_seed)
    return _units(problem.groups, split.test) / _units(problem.groups, split.train)


def _units(groups: np.ndarray | None, rows: np.ndarray) -> int:
    return len(rows) if groups is None else len(np.unique(groups[rows]))


def _entry(
    method: Method,
    row: Sequence[Judged],
    shown: Mapping[str, str],
    evidence: Mapping[str, Evidence],
    recall_variance: Mapping[str, np.ndarray] | None,
    told: Told,
) -> dict[str, Any]:
    cells = [one.cell for one in row]
    done = [cell for cell in cells if cell["status"] == "done"]
    scores = {}
    for name in shown:
        values = [cell["scores"][name] if cell["status"] == "done" else None for cell in cells]
        found = evidence[name].interval(method.name) if name in evidence else interval(values, 0.0)
        scores[name] = asdict(found) | {"values": values}
    variance = None if recall_variance is None else recall_variance.get(method.name)
    per_class: dict[str, Any] = {
        name: [
            asdict(_of_class([cell[name][c] for cell in done], variance, c, name))
            for c in range(len(done[0][name]))
        ]
        if done
        else []
        for name in ("recall", "iou", "dice")
        if name == "recall" or (done and name in done[0])
    }
    kind = method.candidate
    return {
        "name": method.name,
        "title": method.title,
        "loss": "your own" if kind is None else kind.loss,
        "head": method.head,
        "deferred": method.deferred,
        "post_hoc": method.rider in ("adjusted", "tuned", "normalised"),
        "rider": method.rider,
        "sampling": method.sampling,
        "space": [item.to_dict() for item in method.space],
        "scores": scores,
        **per_class,
        "code": _code(method, done, told),
        "seeds": cells,
    }


def _of_class(
    values: Sequence[float | None], variance: np.ndarray | None, c: int, name: str
) -> Interval:
    known = np.array([value for value in values if value is not None])
    if variance is None or name != "recall" or len(known) < 2:
        return interval(values, 0.0)
    return few_seeds(known, float(variance[c]))[0]


def _recipe(problem: Problem, plan: Plan) -> str:
    """What every network was trained with, as far as the study knows it."""
    parts = [f"{plan.epochs} epoch{'s' * (plan.epochs != 1)}", f"{plan.batch_size} rows a step"]
    parts.append(_SCHEDULES.get(plan.schedule, "your schedule"))
    if isinstance(problem.train, PlainLoop) and problem.train.optimizer is adamw:
        parts.insert(0, "AdamW")  # any other is the user's own
    return f"# {', '.join(parts)}"


def _code(method: Method, done: Sequence[Mapping[str, Any]], told: Told) -> str | None:
    """Lines of Python with the chosen draw's options."""
    if not done:
        return None
    trials = [t for cell in done for t in cell["trials"] if t["draw"] == cell["chosen"]]
    options = max(trials, key=lambda trial: trial["validation"])["options"]
    recipe = [
        told.recipe,
        f"# learning rate {options['learning_rate']:g}, weight decay {options['weight_decay']:g}",
    ]
    if method.rider == "head-only":
        recipe[0] = (
            "# the last layer alone, on what cross-entropy's network gives it: AdamW, "
            f"{head_only.EPOCHS} epochs, {head_only.BATCH_SIZE} rows a step, {_SCHEDULES['cosine']}"
        )
    if method.candidate is None:
        return "\n".join([f"loss = {method.name}  # your own", *recipe])
    recipe.append("# then at prediction:")
    if method.rider == "normalised":
        recipe.append("norm = weight.norm(dim=1)  # weight and bias of the last layer")
        recipe += [
            f"{logits} = ({logits} - bias) / norm ** {options['tau']:.12g}"
            for logits in ("validation_logits", "logits")
        ]
    return python_lines(method.candidate, options, replace(told, recipe="\n".join(recipe)))


def _options(plan: Plan) -> dict[str, Any]:
    """The options as plain values."""
    options = plan.to_dict()
    space = [
        f"{item.name} {item.default:g}"
        if item.low == item.high
        else f"{item.name} {item.low:g} to {item.high:g}, {item.default:g} first"
        for item in plan.space
    ]
    return options | {"space": space}


def _data(problem: Problem, plan: Plan, facts: Facts, judge_: Judge) -> dict[str, Any]:
    split = judge_.split(plan.first_seed)
    targets = problem.training.targets
    carved = plan.test is not None
    return {
        "name": facts.name,
        "target": "target",
        "sha256": facts.digest,
        "rows": len(targets),
        "columns": 0,
        "classes": list(facts.classes),
        "counts": targets.counts().tolist(),
        "train_counts": targets.counts(split.train).tolist(),
        "split": {
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        "notes": notes(problem, plan, facts, judge_),
        "targets": problem.kind,
        "unit": facts.unit,
        "units": {
            "train": _units(problem.groups, split.train),
            "test": _units(problem.groups if carved else problem.test_groups, split.test),
        },
        "test": "carved" if carved else "fixed",
    }


def notes(problem: Problem, plan: Plan, facts: Facts, judge_: Judge) -> list[str]:
    """What a reader should bear in mind, one sentence each."""
    split = judge_.split(plan.first_seed)
    found = []
    if problem.kind == "classes":
        counts = problem.validating.targets.counts(split.validation)
        few = [c for c, n in enumerate(counts) if n < _FEW_ROWS]
        if few:
            least = min(few, key=lambda c: counts[c])
            known = (
                f"its recall is known to some ±{50 / np.sqrt(counts[least]):.0f} points"
                if counts[least]
                else "it has no say in what is chosen"
            )
            plural = "class has" if len(few) == 1 else "classes have"
            found.append(
                f"{len(few)} {plural} fewer than {_FEW_ROWS} validation rows; "
                f"class {facts.classes[least]} has {counts[least]}: {known}."
            )
        tested = problem.testing.targets.counts(split.test)
        found += few_test_rows(tested.tolist(), facts.classes)
    if plan.tune == "once" and plan.seeds > 1:
        found.append(
            "Hyper-parameters were tuned on the first seed alone: what another tuning would have "
            "found is not in the intervals."
        )
    return found


def _positive(problem: Problem) -> int | None:
    """Of two classes of rows, the rarer one."""
    if problem.kind != "classes" or problem.classes != 2:
        return None
    first, second = problem.training.targets.counts()
    return int(second <= first)


def _detectable(
    comparisons: Sequence[Comparison], named: Mapping[str, str], seeds: int
) -> list[str]:
    """How large a difference from cross-entropy would have shown, where one did not."""
    sizes = [
        f"{100 * c.detectable:.1f} points ({named[c.candidate]})"
        for c in comparisons
        if c.judgement == "no detectable difference" and c.detectable and c.detectable > _NO_SPREAD
    ]
    if not sizes:
        return []
    return [
        f"Unclear means: with {seeds} seeds and these test rows, four of five studies would find "
        f"a difference from cross-entropy of {join(sizes)}."
    ]
