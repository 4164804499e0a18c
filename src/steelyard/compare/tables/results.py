"""From the cells of a table's study to its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from steelyard._results import (
    BASELINE,
    SCHEMA,
    Cell,
    DataFacts,
    DoneCell,
    Reference,
    References,
    Results,
    Score,
    Split,
    Tried,
    Verdict,
    chosen_trial,
)
from steelyard._results import Candidate as Entry
from steelyard._units import sign
from steelyard.compare.candidates import candidate
from steelyard.compare.code import Told, python_lines
from steelyard.compare.evidence import RepeatedSplits, compare, interval
from steelyard.compare.machine import environment
from steelyard.compare.results import failures, few_test_rows, score_names, verdict_of
from steelyard.compare.savings import said_of_savings
from steelyard.compare.scores import Scoring
from steelyard.compare.study import Candidate
from steelyard.compare.tables.data import Data
from steelyard.compare.tables.prepare import Prepared
from steelyard.compare.tables.references import Reference as ReferenceModel
from steelyard.compare.tables.references import reference
from steelyard.compare.tables.study import Study
from steelyard.compare.verdict import Measure, said_of_references


def assemble(
    data: Data,
    study: Study,
    first: Prepared,
    cells: Mapping[tuple[int, str], Cell],
    seconds: float,
) -> Results:
    """The results of a finished study, as plain JSON values.

    Args:
        data: the rows.
        study: the options.
        first: the first seed's splits.
        cells: every cell by seed and candidate.
        seconds: that the study took.
    """
    facts = _facts(data, first)
    overlap = facts["split"]["test"] / facts["split"]["train"]
    rows = {name: [cells[seed, name] for seed in study.seed_list] for name in study.names}
    scoring = study.scoring(data.classes, data.counts().tolist())
    positive = scoring.looked_for
    titles = scoring.titles
    entries = [
        _entry(candidate(name), rows[name], overlap, scoring, study.select, data.classes)
        for name in study.losses
    ]
    evidence = {
        score: RepeatedSplits(
            {entry["name"]: entry["scores"][score]["values"] for entry in entries}, overlap
        )
        for score in scoring.selectable
    }
    baseline = next(entry for entry in entries if entry["name"] == BASELINE)
    others = [_reference(name, study, rows[name], overlap, scoring) for name in study.references]
    verdict = verdict_of(
        study.select,
        evidence[study.select],
        entries,
        titles,
        facts["classes"],
        facts["train_counts"],
        lambda: baseline["scores"]["roc_auc"]["mean"],
        partial(_of_costs, study=study, entries=entries, scoring=scoring, facts=facts),
        positive,
        [mean for e in others if (mean := e["scores"][study.select]["mean"]) is not None],
    )
    beside, said = _references(study, others, overlap, scoring, entries, verdict)
    results: Results = {
        "schema": SCHEMA,
        "study": _as_run(study, first, None if positive is None else data.classes[positive]),
        "data": facts,
        "environment": environment(study.device),
        "scores": score_names(titles),
        "candidates": entries,
        "comparisons": {
            score: [found.to_dict() for found in compare(evidence[score], BASELINE, sign(score))]
            for score in scoring.selectable
        },
        "references": beside,
        "verdict": {**verdict, "sentences": [*verdict["sentences"], *said]},
        "failures": failures(rows),
        "times": {"seconds": round(seconds, 3)},
    }
    if scoring.costs is not None:
        results["costs"] = [list(row) for row in scoring.costs]
    return results


def _reference(
    name: str, study: Study, row: list[Cell], overlap: float, scoring: Scoring
) -> Reference:
    """One model that is no network."""
    item = reference(name)
    tried = _tried(item, row, overlap, scoring)
    own = {"model": item.model.__name__, "code": _reference_code(item, tried, study.select)}
    return cast("Reference", tried | own)


def _references(
    study: Study,
    found: list[Reference],
    overlap: float,
    scoring: Scoring,
    entries: Sequence[Entry],
    verdict: Verdict,
) -> tuple[References, list[str]]:
    """The entry `references`, and what it adds to the verdict."""
    against = verdict["recommended"] or verdict["best"]
    if against is None or not found:
        return {"against": None, "entries": found, "comparisons": []}, []
    titles = {entry["name"]: entry["title"] for entry in (*entries, *found)}
    compared = [entry for entry in entries if entry["name"] == against]
    values = {e["name"]: e["scores"][study.select]["values"] for e in (*compared, *found)}
    comparisons = compare(RepeatedSplits(values, overlap), against, sign(study.select))
    said = []
    if verdict["recommended"] is not None:
        said = said_of_references(
            comparisons, titles, against, Measure(study.select, scoring.titles[study.select])
        )
    return {
        "against": against,
        "entries": found,
        "comparisons": [comparison.to_dict() for comparison in comparisons],
    }, said


def _of_costs(
    recommended: str | None,
    *,
    study: Study,
    entries: Sequence[Entry],
    scoring: Scoring,
    facts: DataFacts,
) -> list[str]:
    """What is saved where costs judge; else that they do not, for whoever gives some expects it."""
    if scoring.costs is None:
        return []
    if study.select == "mean_cost":
        overlap = facts["split"]["test"] / facts["split"]["train"]
        return said_of_savings(recommended, entries, scoring.costs, facts["classes"], overlap)
    return [
        f"Judged by {study.select_title}, not by the costs: --select mean_cost (in Python "
        "select='mean_cost') judges by them."
    ]


def _as_run(study: Study, first: Prepared, positive: str | None) -> dict[str, Any]:
    """The options, with what the rows decided in the place of None."""
    shape = study.shape(first.width, first.numeric, len(first.counts))
    return {
        **study.to_dict(),
        **study.budget(len(first.train.labels))._asdict(),
        "positive": positive,
        "hidden": shape.hidden,
        "shape": shape.in_words,
    }


def _facts(data: Data, first: Prepared) -> DataFacts:
    tested = np.bincount(first.test.labels, minlength=len(data.classes)).tolist()
    split: Split = {
        "train": len(first.train.labels),
        "validation": len(first.validation.labels),
        "test": len(first.test.labels),
    }
    return {
        "name": data.name,
        "target": data.target,
        "sha256": data.digest,
        "rows": data.rows,
        "columns": data.columns,
        "classes": list(data.classes),
        "counts": data.counts().tolist(),
        "train_counts": first.counts.tolist(),
        "split": split,
        "notes": [*data.notes, *few_test_rows(tested, data.classes)],
    }


def _entry(
    item: Candidate,
    row: list[Cell],
    overlap: float,
    scoring: Scoring,
    select: str,
    classes: Sequence[str],
) -> Entry:
    tried = _tried(item, row, overlap, scoring)
    own = {
        "loss": item.loss,
        "head": item.head,
        "deferred": item.deferred,
        "post_hoc": item.post_hoc,
        "code": _code(item, tried, scoring, select, classes),
    }
    return cast("Entry", tried | own)


def _tried(
    item: Candidate | ReferenceModel, row: list[Cell], overlap: float, scoring: Scoring
) -> Tried:
    """What candidates and references have in common; the code is for each to add."""
    done = _done(row)
    scores: dict[str, Score] = {}
    for score in scoring.titles:
        values = [cell["scores"][score] if cell["status"] == "done" else None for cell in row]
        scores[score] = {**interval(values, overlap).to_dict(), "values": values}
    classes = len(done[0]["recall"]) if done else 0
    return {
        "name": item.name,
        "title": item.title,
        "space": [range_.to_dict() for range_ in item.space],
        "scores": scores,
        "recall": [
            interval([cell["recall"][c] for cell in done], overlap).to_dict()
            for c in range(classes)
        ],
        "code": None,
        "seeds": row,
    }


def _done(row: Sequence[Cell]) -> list[DoneCell]:
    return [cell for cell in row if cell["status"] == "done"]


def _best_options(tried: Tried, select: str) -> dict[str, float] | None:
    """The draw that validated best of all seeds' chosen ones."""
    trials = [chosen_trial(cell) for cell in _done(tried["seeds"])]
    if not trials:
        return None
    return max(trials, key=lambda trial: sign(select) * (trial["validation"] or 0.0))["options"]


def _reference_code(item: ReferenceModel, tried: Tried, select: str) -> str | None:
    """Lines of Python that fit a reference."""
    options = _best_options(tried, select)
    return None if options is None else item.python_lines(options)


def _code(
    item: Candidate, tried: Tried, scoring: Scoring, select: str, classes: Sequence[str]
) -> str | None:
    """Lines of Python that use a candidate."""
    options = _best_options(tried, select)
    if options is None:
        return None
    recipe = (
        f"# trained by AdamW, learning rate {options['learning_rate']:g}, "
        f"weight decay {options['weight_decay']:g}; then at prediction:"
    )
    tuned_for = scoring.tuned_for(select)
    told = Told(recipe, tuned_for, scoring.costs, classes, scoring.positive)
    return python_lines(item, options, told)
