"""The candidates of a study with the user's network: losses by name, the user's own, and methods.

Some cost no training of their own: they ride on the logits of cross-entropy, or train a new head
on its features. Others share the first four fifths of a training with another one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from steelyard._results import BASELINE
from steelyard.compare.candidates import CANDIDATES
from steelyard.compare.study import Candidate, Range, StudyError

Loss = Callable[[Tensor, Tensor], Tensor]
Rider = Literal["adjusted", "tuned", "normalised", "head-only"]
HEAD_ONLY = "-head-only"


@dataclass(frozen=True)
class Method:
    """One way to train the network.

    Attributes:
        name: as the user spells it.
        title: as tables show it.
        candidate: the library's loss, with its hyper-parameters and the head it needs.
        loss: the user's own: (logits, target) → mean.
        sampling: "plain", or "balanced": every class as often as any other.
        deferred: sampling or class weights begin at four fifths of the training.
        rider: what it takes from the training of cross-entropy instead of training the network.
    """

    name: str
    title: str
    candidate: Candidate | None = None
    loss: Loss | None = field(default=None, compare=False, repr=False)
    sampling: Literal["plain", "balanced"] = "plain"
    deferred: bool = False
    rider: Rider | None = None

    @property
    def space(self) -> tuple[Range, ...]:
        """The method's own hyper-parameters."""
        if self.rider == "normalised":
            return (Range("tau", 0.0, 2.0, 1.0),)
        return () if self.candidate is None else self.candidate.space

    @property
    def head(self) -> Literal["linear", "cosine"]:
        """The head that it needs."""
        return "linear" if self.candidate is None else self.candidate.head

    @property
    def per_row(self) -> bool:
        """Whether it needs one class per row, where masks and sequences have many."""
        return self.sampling == "balanced" or self.rider in ("tuned", "normalised", "head-only")

    @property
    def beginning(self) -> tuple[Any, ...]:
        """What decides the training before the deferral: methods with one beginning share it."""
        early = "plain" if self.deferred else self.sampling
        if self.candidate is None:
            return (self.name, early)
        kind = self.candidate
        return (kind.loss, kind.head, kind.counts, kind.space, early)


def _library(item: Candidate) -> Method:
    moved: Rider = "tuned" if item.tuned else "adjusted"
    return Method(
        item.name,
        item.title,
        item,
        sampling="balanced" if item.sampling == "balanced" else "plain",
        deferred=item.deferred,
        rider=moved if item.post_hoc else None,
    )


_PLAIN = next(item for item in CANDIDATES if item.name == BASELINE)
_DEFERRED = Candidate(
    "deferred-weighted", "Deferred class weights", "CrossEntropyLoss", deferred=True
)
_METHODS = (
    Method("tau-normalised", "τ-normalised head", _PLAIN, rider="normalised"),
    _library(_DEFERRED),
)
_WITHOUT_HEADS = {
    "linear": "the last layer of the network, as in head='fc'",
    "cosine": "a cosine head in place of the network's last layer: name that, as in head='fc'",
}


def _all() -> dict[str, Method]:
    """Every method by name, from the simplest to the most elaborate."""
    # Points between two rows are for numbers, not for images and text; costs are for tables.
    items = [item for item in CANDIDATES if not (item.by_costs or item.sampling == "smote")]
    library = [_library(item) for item in items]
    cheap, rest = library[:4], library[4:]  # cross-entropy, post-hoc, tuned, weighted
    whole = [*cheap[:3], _METHODS[0], cheap[3], *_METHODS[1:], *rest]
    heads = [
        replace(
            method,
            name=method.name + HEAD_ONLY,
            title=f"{method.title}, head only",
            rider="head-only",
            deferred=False,
        )
        for method in whole
        if method.rider is None
        and not method.deferred
        and (method.head == "linear" or method.name == "ldam")
    ]
    return {method.name: method for method in [*whole, *heads]}


METHODS = _all()
ALWAYS = (BASELINE, "post-hoc", "weighted-cross-entropy")
DEFAULT = (
    *ALWAYS,
    "tuned-decision",
    "deferred-weighted",
    "balanced-softmax",
    "logit-adjusted",
    "focal",
)
DEFAULT_WITH_HEAD = (*DEFAULT, "tau-normalised", "ldam-drw")


def choose(losses: Sequence[Any] | None, head: str | None) -> tuple[Method, ...]:
    """The methods of a study: those asked for and the baselines, simplest first.

    Args:
        losses: names, callables, or pairs (name, callable); None is the default set.
        head: the network's last layer, or None.

    Raises:
        StudyError: an unknown name, a name given twice, or a method that needs `head`.
    """
    asked: list[Any] = list((DEFAULT_WITH_HEAD if head else DEFAULT) if losses is None else losses)
    named = {by_name(item).name for item in asked if isinstance(item, str)} | set(ALWAYS)
    own = [_own(item) for item in asked if not isinstance(item, str)]
    methods = (*(m for name, m in METHODS.items() if name in named), *own)
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StudyError(
            f"{', '.join(map(repr, twice))} is in losses twice; name the second one yourself, as "
            f"in ('my {twice[0]}', loss)"
        )
    for method in methods:
        if head is None and (
            method.head == "cosine" or method.rider in ("normalised", "head-only")
        ):
            why = _WITHOUT_HEADS["cosine" if method.head == "cosine" else "linear"]
            raise StudyError(f"{method.name} needs {why}")
    return methods


def by_name(name: str) -> Method:
    """The method of that name.

    Raises:
        StudyError: there is none; the message lists the names.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        listed = ", ".join(known for known in METHODS if not known.endswith(HEAD_ONLY))
        raise StudyError(
            f"there is no loss called {name!r}.{hint} Choose from: {listed}; most of them also "
            f"with {HEAD_ONLY}"
        )
    return METHODS[name]


def _own(item: Any) -> Method:
    name, loss = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
    if not callable(loss) or isinstance(loss, type):
        raise StudyError(
            f"{loss!r} is in losses; expected a name, a callable (logits, target) → mean, or a "
            "pair (name, callable)"
        )
    if name is None:
        name = getattr(loss, "__name__", type(loss).__name__)
    return Method(str(name), str(name), loss=loss)


def trained(methods: Iterable[Method]) -> list[Method]:
    """Those that train the network themselves."""
    return [method for method in methods if method.rider is None]
