"""Made-up results of a study, of any size and with any mishap, as `results.json` holds them."""

import math
import random

TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "few_shot_recall": "few-shot",
    "log_loss": "log loss",
}
CANDIDATES = {
    "cross-entropy": ("Cross-entropy", []),
    "post-hoc": ("Post-hoc logit adjustment", [("tau", "linear")]),
    "focal": ("Focal", [("gamma", "linear")]),
    "class-balanced": ("Class-balanced", [("beta", "complement")]),
}
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>&\"'%{x}"


def study(classes=5, seeds=5, draws=3, names=None, fail=(), failed_draws=()):
    """Results.

    Args:
        classes: how many.
        seeds: how many.
        draws: hyper-parameter draws for each candidate and seed.
        names: of the classes.
        fail: candidates that fail on every seed.
        failed_draws: (candidate, seed, draw) of single trials that fail.
    """
    dice = random.Random(0)
    names = list(names or (f"class {c}" for c in range(classes)))
    counts = [max(2, round(500 * 0.01 ** (c / max(1, classes - 1)))) for c in range(classes)]
    entries = [
        _entry(dice, name, k, counts, seeds, draws, name in fail, failed_draws)
        for k, name in enumerate(CANDIDATES)
    ]
    finished = [e for e in entries if e["scores"]["balanced_accuracy"]["mean"] is not None]
    best = max(finished, key=lambda e: e["scores"]["balanced_accuracy"]["mean"], default=None)
    told = best is not None and seeds >= 5
    return {
        "schema": 1,
        "study": {
            "losses": list(CANDIDATES),
            "seeds": seeds,
            "draws": draws,
            "epochs": 20,
            "hidden": 64,
            "batch_size": None,
            "select": "balanced_accuracy",
        },
        "data": {
            "name": "made-up.csv",
            "target": "kind",
            "sha256": "0123456789abcdef" * 4,
            "rows": 12345,
            "columns": 8,
            "classes": names,
            "counts": [2 * n for n in counts],
            "train_counts": counts,
            "split": {"train": sum(counts), "validation": 300, "test": 10 * classes},
            "notes": ["A column that held nothing was left out."],
        },
        "environment": {"steelyard": "0.1.0", "torch": "2.13.0", "cores": 2, "device": "cpu"},
        "scores": [
            {"name": name, "title": title, "higher_is_better": name != "log_loss"}
            for name, title in TITLES.items()
        ],
        "candidates": entries,
        "comparisons": {
            score: [_comparison(entry, entries[0], score, seeds) for entry in entries[1:]]
            for score in ("balanced_accuracy", "macro_f1")
        },
        "verdict": {
            "score": "balanced_accuracy",
            "sentences": [
                f"Highest mean: {best['title']}." if best else "No candidate finished.",
                *([f"Use {best['title']}."] if told else []),
            ],
            "best": best and best["name"],
            "tied": [best["name"]] if told else [],
            "recommended": best["name"] if told else None,
            "code": best["code"] if told else None,
        },
        "failures": [
            {"candidate": e["name"], "seed": cell["seed"], "draw": t["draw"], "reason": t["reason"]}
            for e in entries
            for cell in e["seeds"]
            for t in cell["trials"]
            if t["status"] == "failed"
        ],
        "times": {"seconds": 200.4},
    }


def _entry(dice, name, k, counts, seeds, draws, fails, failed_draws):
    title, space = CANDIDATES[name]
    cells = [_cell(dice, name, k, s, counts, draws, fails, failed_draws) for s in range(seeds)]
    done = [cell for cell in cells if cell["status"] == "done"]
    scores = {}
    for score in TITLES:
        values = [c["scores"][score] if c["status"] == "done" else None for c in cells]
        scores[score] = _interval(values) | {"values": values}
    return {
        "name": name,
        "title": title,
        "loss": "CrossEntropyLoss",
        "head": "linear",
        "deferred": False,
        "post_hoc": name == "post-hoc",
        "space": [
            {"name": option, "low": 0.25, "high": 2.0, "default": 1.0, "scale": scale}
            for option, scale in space
        ],
        "scores": scores,
        "recall": [_interval([c["recall"][i] for c in done]) for i in range(len(counts))]
        if done
        else [],
        "code": f'import steelyard as sy\nloss = sy.Loss(name="{name}")' if done else None,
        "seeds": cells,
    }


def _cell(dice, name, k, seed, counts, draws, fails, failed_draws):
    options = ["learning_rate", "weight_decay", *(o for o, _ in CANDIDATES[name][1])]
    trials = []
    for draw in range(draws):
        failed = fails or (name, seed, draw) in failed_draws
        trials.append(
            {
                "draw": draw,
                "options": {o: round(10 ** dice.uniform(-3, -0.1), 4) for o in options},
                "status": "failed" if failed else "done",
                "reason": "the training diverged: its loss is not finite" if failed else None,
                "validation": None if failed else dice.uniform(0.5, 0.9),
                "train_loss": None if failed else dice.uniform(0.1, 1),
            }
        )
    cell = {"seed": seed, "candidate": name, "trials": trials}
    known = [t for t in trials if t["status"] == "done"]
    if not known:
        return cell | {"status": "failed", "reason": "the training of every draw diverged"}
    recall = [
        min(1.0, max(0.0, 0.2 + 0.1 * k + 0.1 * math.log(n) + dice.gauss(0, 0.05))) for n in counts
    ]
    confusion = _confusion(recall)
    curve = [0.4 + 0.1 * e for e in range(4)]
    return cell | {
        "status": "done",
        "reason": None,
        "chosen": max(known, key=lambda t: t["validation"])["draw"],
        "scores": {
            "balanced_accuracy": sum(recall) / len(recall),
            "macro_f1": sum(recall) / len(recall) - 0.02,
            "few_shot_recall": None,
            "log_loss": dice.uniform(0.2, 1.0),
        },
        "recall": recall,
        "precision": recall,
        "confusion": confusion,
        "reliability": {
            "count": [0] * 8 + [7, 12, 20, 40, 60, 80, 90],
            "confidence": [None] * 8 + [(b + 0.5) / 15 for b in range(8, 15)],
            "accuracy": [None] * 8 + [(b + 0.5) / 15 - 0.05 for b in range(8, 15)],
        },
        "curve": {
            "epoch": [1, 7, 14, 20],
            "train_loss": [1.0, 0.5, 0.3, 0.2],
            "validation": None if name == "post-hoc" else curve,
        },
    }


def _confusion(recall):
    size = len(recall)
    matrix = [[0] * size for _ in range(size)]
    for c, share in enumerate(recall):
        right = round(10 * share)
        matrix[c][c] = right
        matrix[c][0 if c else 1] += 10 - right
    return matrix


def _interval(values):
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "std": None, "low": None, "high": None}
    mean = sum(known) / len(known)
    if len(known) == 1:
        return {"mean": mean, "std": None, "low": None, "high": None}
    std = math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1))
    return {"mean": mean, "std": std, "low": mean - 2 * std, "high": mean + 2 * std}


def _comparison(entry, baseline, score, seeds):
    pairs = zip(entry["scores"][score]["values"], baseline["scores"][score]["values"], strict=True)
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    interval = _interval(differences)
    judgement = "failed" if not differences else "too few seeds"
    if differences and seeds >= 5:
        low = interval["low"]
        judgement = "better" if low is not None and low > 0 else "no detectable difference"
    p = 0.00001 if judgement == "better" else 0.4
    return {
        "candidate": entry["name"],
        "seeds": len(differences),
        "difference": interval,
        "p": p if seeds >= 5 else None,
        "p_holm": p if seeds >= 5 else None,
        "detectable": 0.03 if seeds >= 5 else None,
        "judgement": judgement,
    }
