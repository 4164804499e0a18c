"""What the owner of a table would take instead of a network: no losses, tuned and judged alike."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import steelyard as sy
from steelyard import _results
from steelyard._results import Cell
from steelyard._units import sign
from steelyard.compare.candidates import candidate
from steelyard.compare.decisions import Costs, Decided, Rule, cheapest
from steelyard.compare.given import check_list
from steelyard.compare.repairs import Undo
from steelyard.compare.scores import Scoring, repair, score_predictions
from steelyard.compare.study import Range, StudyError
from steelyard.compare.tables.draws import draw_options
from steelyard.compare.tables.prepare import Part, Prepared
from steelyard.compare.tables.study import Study, Trial
from steelyard.decide import fit_temperature

# Drawn as a switch: 1 gives every class as much weight as any other.
_BALANCED = Range("balanced", 0.0, 1.0, 0.0, "switch")


@dataclass(frozen=True)
class Reference:
    """A model of scikit-learn's, with the hyper-parameters that it draws.

    Attributes:
        name: as the API spells it.
        title: as tables show it.
        model: its class.
        fixed: keywords that are always given.
        space: its hyper-parameters; draw 0 is scikit-learn's defaults.
        seeded: whether the model draws random numbers.
    """

    name: str
    title: str
    model: type
    fixed: Mapping[str, Any]
    space: tuple[Range, ...]
    seeded: bool = False

    def keywords(self, options: Mapping[str, float]) -> dict[str, Any]:
        """What one draw gives to the model."""
        whole = {item.name for item in self.space if item.scale == "whole"}
        given = {k: int(v) if k in whole else v for k, v in options.items() if k != _BALANCED.name}
        weight = {"class_weight": "balanced"} if options[_BALANCED.name] else {}
        return {**self.fixed, **given, **weight}

    def python_lines(self, options: Mapping[str, float]) -> str:
        """The lines of Python that fit this model with one draw."""
        module = ".".join(part for part in self.model.__module__.split(".") if part[0] != "_")
        module = ".".join(module.split(".")[:2])  # where scikit-learn exports it
        given = ", ".join(f"{key}={value!r}" for key, value in self.keywords(options).items())
        return (
            f"from {module} import {self.model.__name__}\n"
            f"model = {self.model.__name__}({given})\n"
            "model.fit(train_features, train_labels)"
        )


REFERENCES = (
    Reference(
        "logistic-regression",
        "Logistic regression",
        LogisticRegression,
        {"max_iter": 1000},
        (_BALANCED, Range("C", 1e-2, 1e2, 1.0, "log")),
    ),
    Reference(
        "boosted-trees",
        "Gradient-boosted trees",
        HistGradientBoostingClassifier,
        # It would stop early on rows that it takes from the training rows, two of each class.
        {"early_stopping": False},
        (
            _BALANCED,
            Range("learning_rate", 0.03, 0.3, 0.1, "log"),
            # Without it the leaves of rare classes grow until nothing else counts.
            Range("l2_regularization", 0.0, 2.0, 0.0),
            Range("max_iter", 50, 300, 100, "whole"),
            Range("max_leaf_nodes", 8, 64, 31, "whole"),
            Range("min_samples_leaf", 5, 50, 20, "whole"),
        ),
        seeded=True,
    ),
)
_BY_NAME = {item.name: item for item in REFERENCES}


def reference(name: str) -> Reference:
    """The reference of that name."""
    return _BY_NAME[name]


def title_of(name: str) -> str:
    """The title of a candidate or a reference."""
    return _BY_NAME[name].title if name in _BY_NAME else candidate(name).title


def choose_references(names: Sequence[str] | None) -> tuple[str, ...]:
    """The references of a study, simplest first: those asked for, or all of them.

    Raises:
        StudyError: the names are one text, or one of them names nothing.
    """
    check_list("references", names, "boosted-trees")
    for name in names or ():
        if name not in _BY_NAME:
            near = difflib.get_close_matches(name, _BY_NAME, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise StudyError(
                f"there is no reference called {name!r}.{hint} Choose from: {', '.join(_BY_NAME)}"
            )
    return tuple(name for name in _BY_NAME if names is None or name in names)


def reference_cell(
    study: Study,
    scoring: Scoring,
    prepared: Prepared,
    seed: int,
    name: str,
    advance: Callable[[float], None],
) -> Cell:
    """Fit every draw of a reference, choose by the validation rows, read the test rows once.

    Args:
        study: the options.
        scoring: how it is scored.
        prepared: the rows of that seed, as the networks read them.
        seed: of the study.
        name: of the reference.
        advance: called with the share of the draws that is done.
    """
    item = reference(name)
    fitted, trials = [], []
    labels = torch.from_numpy(prepared.validation.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after that many steps it is as it is
        for draw, options in enumerate(draw_options(item.space, seed, study.draws)):
            model = item.model(**item.keywords(options))
            if item.seeded:
                model.set_params(random_state=seed)
            model.fit(_double(prepared.train.features), prepared.train.labels)
            logits = _logits(model, prepared.validation)
            undo = _undo(options, prepared.counts)
            rule: Rule = Decided
            if study.select == "mean_cost" and scoring.costs is not None:
                rule = _cheapest(logits, labels, undo, scoring.costs)
            fitted.append((model, rule, undo))
            value = scoring.score(study.select, rule(logits), labels)
            trials.append(
                _record(Trial(name, seed, draw, options), None if math.isnan(value) else value)
            )
            advance((draw + 1) / study.draws)
        better = sign(study.select)
        best = int(
            np.argmax(
                [
                    -math.inf if trial["validation"] is None else better * trial["validation"]
                    for trial in trials
                ]
            )
        )
        model, rule, undo = fitted[best]
        chosen, test = _logits(model, prepared.validation), _logits(model, prepared.test)
    truth = torch.from_numpy(prepared.test.labels)
    repaired = repair(scoring, (chosen, labels), (test, truth), undo)
    return {
        "seed": seed,
        "candidate": name,
        "trials": trials,
        "status": "done",
        "reason": None,
        "chosen": best,
        **score_predictions(rule(test), truth, prepared.counts, scoring, repaired),
        "curve": {"epoch": [], "train_loss": [], "validation": None},
    }


def _logits(model: Any, part: Part) -> Tensor:
    """What a model says of some rows, (n, C)."""
    logits = model.decision_function(_double(part.features))
    if logits.ndim == 1:  # of two classes it gives the log-odds of the second
        logits = np.stack([np.zeros_like(logits), logits], 1)
    return torch.from_numpy(logits)


def _undo(options: Mapping[str, float], counts: np.ndarray) -> Undo | None:
    """Class weights are taken out of the logits as they are for a loss."""
    if not options[_BALANCED.name]:
        return None
    return partial(sy.unweight_logits, weight=sy.class_weights(counts))


def _cheapest(logits: Tensor, labels: Tensor, undo: Undo | None, costs: Costs) -> Rule:
    """Whoever is judged by costs decides by them."""
    correct = undo or (lambda logits: logits)
    decide = cheapest(fit_temperature(correct(logits), labels), costs)
    return lambda logits: Decided(logits, decide(correct(logits)).decision)


def _record(trial: Trial, validation: float | None) -> _results.Trial:
    return {
        "draw": trial.draw,
        "options": trial.options,
        "status": "done",
        "reason": None,
        "validation": validation,
        "train_loss": None,
    }


def _double(features: np.ndarray) -> np.ndarray:
    return features.astype(np.float64)
