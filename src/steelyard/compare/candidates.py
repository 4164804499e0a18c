"""The candidates: which losses a study tries, what each may tune, and how each is built.

They are listed from the simplest to the most elaborate: among candidates that cannot be told
apart, a verdict recommends the first.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import steelyard as sy
from steelyard._results import BASELINE
from steelyard.compare.given import check_list, shown
from steelyard.compare.study import Candidate, Range, StudyError
from steelyard.losses import SoftmaxLoss

BY_COSTS = "expected-cost"  # where a study has costs

_TAU = Range("tau", 0.25, 2.0, 1.0)
_MARGINS = (Range("max_margin", 0.1, 0.9, 0.5), Range("scale", 10.0, 40.0, 30.0, "log"))

CANDIDATES = (
    Candidate("cross-entropy", "Cross-entropy", "CrossEntropyLoss"),
    Candidate(BY_COSTS, "Least expected cost", "CrossEntropyLoss", post_hoc=True, by_costs=True),
    Candidate("post-hoc", "Post-hoc logit adjustment", "CrossEntropyLoss", (_TAU,), post_hoc=True),
    Candidate("tuned-decision", "Tuned decision", "CrossEntropyLoss", post_hoc=True, tuned=True),
    Candidate(
        "weighted-cross-entropy",
        "Weighted cross-entropy",
        "CrossEntropyLoss",
        (Range("power", 0.25, 1.0, 1.0),),
    ),
    Candidate(
        "balanced-sampling", "Class-balanced sampling", "CrossEntropyLoss", sampling="balanced"
    ),
    Candidate(
        "deferred-sampling",
        "Deferred balanced sampling",
        "CrossEntropyLoss",
        sampling="balanced",
        deferred=True,
    ),
    Candidate("smote", "SMOTE", "CrossEntropyLoss", sampling="smote"),
    Candidate("balanced-softmax", "Balanced softmax", "BalancedSoftmaxLoss", counts=True),
    Candidate("logit-adjusted", "Logit-adjusted", "LogitAdjustedLoss", (_TAU,), counts=True),
    Candidate("focal", "Focal", "FocalLoss", (Range("gamma", 0.5, 5.0, 2.0),)),
    Candidate(
        "class-balanced",
        "Class-balanced",
        "ClassBalancedLoss",
        (Range("beta", 0.9, 0.9999, 0.9999, "complement"),),
        counts=True,
    ),
    Candidate("poly", "Poly-1", "PolyLoss", (Range("epsilon", -1.0, 4.0, 1.0),)),
    Candidate(
        "generalized-cross-entropy",
        "Generalised cross-entropy",
        "GeneralizedCrossEntropyLoss",
        (Range("q", 0.1, 1.0, 0.7),),
    ),
    Candidate(
        "vs",
        "Vector scaling",
        "VSLoss",
        (Range("gamma", 0.0, 0.5, 0.3), _TAU),
        counts=True,
    ),
    Candidate("ldam", "LDAM", "LDAMLoss", _MARGINS, counts=True, head="cosine"),
    Candidate(
        "ldam-drw",
        "LDAM, deferred weights",
        "LDAMLoss",
        _MARGINS,
        counts=True,
        head="cosine",
        deferred=True,
    ),
)
# A fancier loss must have something to beat, so these are in every study.
ALWAYS = (BASELINE, "post-hoc", "weighted-cross-entropy")
DEFAULT = (
    BASELINE,
    "post-hoc",
    "tuned-decision",
    "weighted-cross-entropy",
    "balanced-softmax",
    "logit-adjusted",
    "focal",
    "class-balanced",
    "vs",
    "ldam-drw",
)
_BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}


def candidate(name: str) -> Candidate:
    """The candidate of that name.

    Raises:
        StudyError: there is none; the message lists the names.
    """
    if not isinstance(name, str):
        raise StudyError(
            f"{shown(name)} is in losses; a study of a table has losses by name, as in 'focal', "
            "and a loss of your own is for compare.networks"
        )
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise StudyError(
            f"there is no loss called {name!r}.{hint} Choose from: {', '.join(_BY_NAME)}"
        )
    return _BY_NAME[name]


def choose(names: Sequence[str] | None, *, costs: bool = False) -> tuple[str, ...]:
    """The candidates of a study: those asked for and the baselines, simplest first.

    Args:
        names: those asked for; None takes the default set.
        costs: the study has costs, so one candidate decides by them.

    Raises:
        StudyError: the names are one text, or one of them names nothing.
    """
    check_list("losses", names, "focal")
    always = (*ALWAYS, BY_COSTS) if costs else ALWAYS
    wanted = {candidate(name).name for name in (DEFAULT if names is None else names)} | set(always)
    return tuple(item.name for item in CANDIDATES if item.name in wanted)


def build_loss(
    candidate: Candidate, options: Mapping[str, float], counts: np.ndarray, start: int
) -> SoftmaxLoss | sy.DeferredReweighting:
    """The loss of one trial, as a user would build it.

    Args:
        candidate: which loss.
        options: one draw; learning rate and weight decay are not the loss's and are passed over.
        counts: rows of each class in the training split.
        start: the epoch from which deferred weights count.
    """
    keywords: dict[str, Any] = {"label_smoothing": options["label_smoothing"]}
    for item in candidate.space:
        if item.name == "power":
            keywords["weight"] = sy.class_weights(counts, "power", power=options["power"])
        elif not candidate.post_hoc:
            keywords[item.name] = options[item.name]
    if candidate.counts:
        keywords["class_counts"] = counts
    loss: SoftmaxLoss = getattr(sy, candidate.loss)(**keywords)
    if not candidate.reweighted:
        return loss
    weight = sy.class_weights(counts, "effective")
    return sy.DeferredReweighting(loss, weight, start)
