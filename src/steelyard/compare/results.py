"""What `results.json` holds. Everything the report and the tables show is in it.

    schema       1
    study        every option that decides the numbers, seeds included
    data         name, target, sha256, rows, columns, classes, counts (whole table), train_counts
                 (one seed's training split), split (rows per split), notes
    environment  versions, machine, device
    scores       the scores in order: name, title, whether higher is better
    candidates   simplest first; each with
                   name, title, loss, head, deferred, post_hoc, space (its hyper-parameters)
                   scores: per score mean, std, low, high (95 %) and values, one per seed
                   recall: per class mean, low, high
                   code: lines of Python with the draw that validated best
                   seeds: one cell per seed: status, reason, chosen (a draw's number), trials
                   (draw, options, status, reason, validation, train_loss), scores, recall and
                   precision per class, confusion (rows are true classes), reliability (15 bins:
                   count, confidence, accuracy), curve (epoch, train_loss, validation)
    comparisons  per score that higher is better for: candidates against cross-entropy, paired by
                 seed: seeds, difference (mean, std, low, high), p, p_holm, judgement,
                 detectable (the difference that four of five such studies would find)
    verdict      score, sentences, best, tied, recommended, code
    failures     every trial that failed: candidate, seed, draw, reason
    times        seconds; the one part that differs between two runs of one study

A number that does not exist (the recall of a class without test rows, the mean of an empty
group, an interval from one seed) is null.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import steelyard as sy
from steelyard._results import BASELINE, SCHEMA
from steelyard.compare.candidates import candidate, python_lines
from steelyard.compare.data import Data
from steelyard.compare.group import Cell
from steelyard.compare.prepare import Prepared
from steelyard.compare.scores import LOWER_IS_BETTER, TITLES
from steelyard.compare.study import SELECTABLE, Candidate, Study
from steelyard.compare.verdict import RepeatedSplits, compare, interval, judge

_PACKAGES = ("numpy", "scikit-learn", "skrub", "polars", "scipy", "statsmodels")


def assemble(
    data: Data,
    study: Study,
    first: Prepared,
    cells: Mapping[tuple[int, str], Cell],
    seconds: float,
) -> dict[str, Any]:
    """The results of a finished study, as plain JSON values."""
    sizes = {name: len(getattr(first, name).labels) for name in ("train", "validation", "test")}
    overlap = sizes["test"] / sizes["train"]
    chosen = [candidate(name) for name in study.losses]
    per_candidate = {
        item.name: [cells[seed, item.name] for seed in study.seed_list] for item in chosen
    }
    entries = [_candidate(item, per_candidate[item.name], overlap) for item in chosen]
    return {
        "schema": SCHEMA,
        "study": study.to_dict(),
        "data": {
            "name": data.name,
            "target": data.target,
            "sha256": data.digest,
            "rows": data.rows,
            "columns": data.columns,
            "classes": list(data.classes),
            "counts": data.counts().tolist(),
            "train_counts": first.counts.tolist(),
            "split": sizes,
            "notes": list(data.notes),
        },
        "environment": environment(study.device),
        "scores": [
            {"name": name, "title": title, "higher_is_better": name not in LOWER_IS_BETTER}
            for name, title in TITLES.items()
        ],
        "candidates": entries,
        "comparisons": {
            score: [
                asdict(comparison)
                for comparison in compare(
                    RepeatedSplits(_values(entries, score), overlap), BASELINE
                )
            ]
            for score in SELECTABLE
        },
        "verdict": _verdict(study, entries, overlap),
        "failures": [
            {"candidate": name, "seed": cell["seed"], "draw": t["draw"], "reason": t["reason"]}
            for name, row in per_candidate.items()
            for cell in row
            for t in cell["trials"]
            if t["status"] == "failed"
        ],
        "times": {"seconds": round(seconds, 3)},
    }


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, so that a result can be placed."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - only where metadata was stripped
            installed[package] = "unknown"
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {
        "steelyard": sy.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **installed,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "device": where,
    }


def _candidate(item: Candidate, row: list[Cell], overlap: float) -> dict[str, Any]:
    done = [cell for cell in row if cell["status"] == "done"]
    scores = {}
    for score in TITLES:
        values = [cell["scores"][score] if cell["status"] == "done" else None for cell in row]
        scores[score] = asdict(interval(values, overlap)) | {"values": values}
    classes = len(done[0]["recall"]) if done else 0
    recall = [
        asdict(interval([cell["recall"][c] for cell in done], overlap)) for c in range(classes)
    ]
    return {
        "name": item.name,
        "title": item.title,
        "loss": item.loss,
        "head": item.head,
        "deferred": item.deferred,
        "post_hoc": item.post_hoc,
        "space": [asdict(range_) for range_ in item.space],
        "scores": scores,
        "recall": recall,
        "code": _code(item, done),
        "seeds": row,
    }


def _code(item: Candidate, done: list[Cell]) -> str | None:
    """Lines of Python with the draw that validated best of all seeds' chosen ones."""
    if not done:
        return None
    trials = [cell["trials"][cell["chosen"]] for cell in done]
    options = max(trials, key=lambda trial: trial["validation"])["options"]
    recipe = (
        f"# trained by AdamW, learning rate {options['learning_rate']:g}, "
        f"weight decay {options['weight_decay']:g}"
    )
    return f"{python_lines(item, options)}\n{recipe}"


def _values(entries: list[dict[str, Any]], score: str) -> dict[str, list[float | None]]:
    return {entry["name"]: entry["scores"][score]["values"] for entry in entries}


def _verdict(study: Study, entries: list[dict[str, Any]], overlap: float) -> dict[str, Any]:
    titles = {entry["name"]: entry["title"] for entry in entries}
    evidence = RepeatedSplits(_values(entries, study.select), overlap)
    verdict = judge(evidence, titles, BASELINE, TITLES[study.select])
    code = {entry["name"]: entry["code"] for entry in entries}
    return {
        "score": study.select,
        "sentences": [*verdict.sentences, *_price(study.select, verdict.recommended, entries)],
        "best": verdict.best,
        "tied": list(verdict.tied),
        "recommended": verdict.recommended,
        "code": code[verdict.recommended] if verdict.recommended else None,
    }


def _price(select: str, recommended: str | None, entries: list[dict[str, Any]]) -> list[str]:
    """What the recommended candidate does to the scores it was not chosen by, in one sentence."""
    if recommended in (None, BASELINE):
        return []
    means = {
        entry["name"]: {score: entry["scores"][score]["mean"] for score in SELECTABLE}
        for entry in entries
    }
    if None in means[BASELINE].values():
        return []
    changes = [
        f"{TITLES[score]} {100 * (means[recommended][score] - means[BASELINE][score]):+.1f}"
        for score in ("balanced_accuracy", "macro_f1", "accuracy")
        if score != select
    ]
    return [f"What it does to the other scores, in points: {', '.join(changes)}."]
