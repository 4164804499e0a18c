"""How long a study will take, told before it begins: a few of its steps, timed."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence

import torch
from sklearn.exceptions import ConvergenceWarning

from steelyard.compare.candidates import candidate
from steelyard.compare.machine import one_thread
from steelyard.compare.tables.drawn import draw
from steelyard.compare.tables.draws import draw_options
from steelyard.compare.tables.groups import Group
from steelyard.compare.tables.objective import Objective
from steelyard.compare.tables.prepare import Part, Prepared
from steelyard.compare.tables.references import reference
from steelyard.compare.tables.sampler import Sampler
from steelyard.compare.tables.stack import Networks
from steelyard.compare.tables.study import Study
from steelyard.compare.tables.train import Plan, Rows, train
from steelyard.compare.tables.trained import CURVE_POINTS

_STEPS = 4
_FORWARD = 1 / 3  # of a step's time: the logits of as many rows
_FITTED = 100  # iterations of a reference that stops by itself, about


def rehearse(study: Study, first: Prepared, groups: Sequence[Group]) -> float:
    """About how many seconds of one process some groups take.

    Args:
        study: the options.
        first: the first seed's rows.
        groups: what is to be trained.
    """
    stacks = [group for group in groups if not group.reference]
    beside = [group.candidates[0] for group in groups if group.reference]
    each = {name: _seconds_of_a_reference(study, first, name) for name in dict.fromkeys(beside)}
    return _seconds_of_stacks(study, first, stacks) + sum(each[name] for name in beside)


def _seconds_of_stacks(study: Study, first: Prepared, groups: Sequence[Group]) -> float:
    if not groups:
        return 0.0
    trainings = {group: _trainings(study, group) for group in groups}
    largest = max(groups, key=lambda group: trainings[group] / len(group.seeds))
    rows = len(first.train.labels)
    epochs, size = study.budget(rows)
    steps = epochs * math.ceil(rows / size)
    steps_of_looks = min(CURVE_POINTS, epochs) * len(first.validation.labels) / size * _FORWARD
    each = _seconds_of_a_step(study, first, largest, size) / (
        trainings[largest] / len(largest.seeds)
    )
    return each * sum(trainings.values()) * (steps + steps_of_looks)


@one_thread()
def _seconds_of_a_reference(study: Study, first: Prepared, name: str) -> float:
    """Of all draws on one seed: a few iterations of the first, timed."""
    item = reference(name)
    drawn = draw_options(item.space, study.first_seed, study.draws)

    def fitted(iterations: int) -> float:
        model = item.model(**(item.keywords(drawn[0]) | {"max_iter": iterations}))
        started = time.perf_counter()
        model.fit(first.train.features, first.train.labels)
        return time.perf_counter() - started

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted(1)  # the first one ever also loads what others find
        beginning = fitted(1)
        each = max(0.0, fitted(1 + _STEPS) - beginning) / _STEPS
    iterations = sum(options.get("max_iter", _FITTED) for options in drawn)
    return beginning * len(drawn) + each * iterations


def _trainings(study: Study, group: Group) -> int:
    """How many networks a group trains."""
    trained = [name for name in group.candidates if not candidate(name).post_hoc]
    return len(group.seeds) * study.draws * len(trained)


@one_thread()
def _seconds_of_a_step(study: Study, first: Prepared, group: Group, size: int) -> float:
    """Of a group's candidates on one seed."""
    seed = group.seeds[0]
    drawn = draw(study, group.candidates, [seed], [first.counts])
    dtype = getattr(torch, study.dtype)
    shape = study.shape(first.width, first.numeric, len(first.counts))
    networks = Networks.initial(
        [seed], len(drawn.trials[0]), drawn.linear, shape, study.device, dtype
    )
    part = Part(first.train.features[:size], first.train.labels[:size])
    ends: list[float] = []

    def after_step(epoch: int, losses: torch.Tensor) -> None:  # noqa: ARG001
        losses.sum().item()  # a GPU has then done its work
        ends.append(time.perf_counter())

    train(
        networks,
        Objective(drawn.losses, len(first.counts), study.device, dtype),
        Rows.stacked([part.features], [part.labels], study.device, dtype),
        torch.tensor(drawn.option("learning_rate"), device=study.device, dtype=dtype),
        torch.tensor(drawn.option("weight_decay"), device=study.device, dtype=dtype),
        Plan([Sampler(seed, part, candidate(group.candidates[0]))], 1 + _STEPS, size),
        after_step,
    )
    return (ends[-1] - ends[0]) / _STEPS  # the first step also makes what the others find
