"""A study with the user's own network as a function call."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

import steelyard as sy
from steelyard._results import Results
from steelyard.compare.comparison import Comparison, write_results
from steelyard.compare.given import check_names, is_number, shown, takes
from steelyard.compare.study import StudyError
from steelyard.compare.training.carve import checked_groups
from steelyard.compare.training.given import (
    check_arguments,
    check_loop,
    check_network,
    check_optimizer,
)
from steelyard.compare.training.methods import Method, choose
from steelyard.compare.training.plan import SCHEDULES, Number, Plan, read_space
from steelyard.compare.training.problem import (
    Optimizer,
    Part,
    PlainLoop,
    Problem,
    Train,
    adamw,
)
from steelyard.compare.training.progress import watcher
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.results import Facts
from steelyard.compare.training.runner import Silence, run_study
from steelyard.compare.training.script import told
from steelyard.compare.training.targets import Targets, class_names, read_targets

_UNITS = {"classes": "rows", "masks": "images", "tokens": "sequences"}
_TUNED = 200  # classes up to which biases are tuned unasked: 20,000 rows of them take 90 s a seed
_STEPS = 100  # of a training that a schedule is asked about before the first one
_CARVED = 0.2  # share of the rows that test a study without a test set


def networks(
    network: Callable[[], nn.Module],
    *,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Comparison:
    """Compare losses with your own network, trained by the library's plain loop.

    Args:
        network: makes a fresh network; called under each trial's seed.
        optimizer: (parameters, learning_rate, weight_decay) → optimiser; None is AdamW. With one
            of your own, `space` gives its learning rates.
        **options: as for `trainings`.

    Returns:
        A `Comparison`.

    Raises:
        StudyError: a ValueError that says what is wrong with the data or the options.

    Example:
        >>> from steelyard import compare
        >>> from torch.utils.data import TensorDataset
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]).repeat(10)
        >>> data = TensorDataset(torch.nn.functional.one_hot(labels, 4).float(), labels)
        >>> study = compare.networks(
        ...     lambda: torch.nn.Linear(4, 3), train=data, losses=["focal"],
        ...     epochs=1, draws=1, seeds=1, progress=False)
        >>> [entry["title"] for entry in study.results["candidates"]]
        ['Cross-entropy', 'Post-hoc logit adjustment', 'Weighted cross-entropy', 'Focal']
    """
    check_network(network)
    check_optimizer(optimizer)
    loop = PlainLoop(network, optimizer or adamw)
    return _run(loop, [network, optimizer], optimizer is not None, **options)


def trainings(loop: Train, /, **options: Any) -> Comparison:
    """Compare losses with your own network and training loop.

    Args:
        loop: trains one `Trial` and returns its network; see there.
        **options: what both kinds of study take:

            - train: Dataset of (input, target); augmentation is its own
            - test: Dataset that every seed is judged on; None carves `test_share` (0.2) per seed
            - validation (0.15): share of train's rows to choose by, or a Dataset
            - unaugmented: the rows of train as they are to be seen when choosing and judging
            - groups, test_groups: one label per row; rows of one group are never parted
            - losses: names, callables (logits, target) → mean, or pairs (name, callable)
            - head: the network's last layer, as in "fc", for cosine heads and cheap candidates
            - space: {"learning_rate": (low, high, default), …}, or a number that stays
            - schedule ("cosine"): or "constant", or (step, steps) → share of the learning rate
            - classes: their names; num_classes: how many; unit: what a row is called
            - collate, loaders: of the DataLoader; fingerprint: a text that names the data
            - out: folder that keeps what is finished, and `results.json`; None keeps nothing
            - workers, backend, address: processes here, or a Dask or Ray cluster
            - progress: False trains in silence, and without timing a few steps first
            - forks: False trains every candidate from its first epoch
            - seeds (5): how many times every chosen candidate is trained; first_seed (0)
            - draws (4): hyper-parameter draws that each candidate is tuned with
            - tune ("once"): on the first seed; "every" tunes on each
            - epochs (30): passes over the training rows
            - batch_size (128): rows per step; micro_batch: rows per forward, None takes the step
            - select ("balanced_accuracy"): the score by which a draw is chosen on validation rows
            - keep ("last"): the network of the last epoch counts, or of the "best" by `select`
            - clip: largest norm of the gradient; precision ("float32"): or "bf16", mixed
            - ignore_index (-100): positions of this label count nowhere; device ("cpu")

    Returns:
        A `Comparison`.

    Raises:
        StudyError: a ValueError that says what is wrong with the data or the options.

    Example:
        >>> from steelyard import compare
        >>> from torch.utils.data import TensorDataset
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]).repeat(10)
        >>> data = TensorDataset(torch.nn.functional.one_hot(labels, 4).float(), labels)
        >>> def train(trial):
        ...     model = trial.prepare(torch.nn.Linear(4, 3))
        ...     optimizer = torch.optim.SGD(model.parameters(), trial.learning_rate)
        ...     for epoch in trial.epochs(model, optimizer):
        ...         for inputs, target in trial.batches(epoch):
        ...             trial.loss(model(inputs), target).backward()
        ...             trial.step(optimizer)
        ...     return model
        >>> study = compare.trainings(
        ...     train, train=data, losses=["focal"], space={"learning_rate": (0.1, 1.0, 0.5)},
        ...     epochs=1, draws=1, seeds=1, progress=False)
        >>> [entry["title"] for entry in study.results["candidates"]]
        ['Cross-entropy', 'Post-hoc logit adjustment', 'Weighted cross-entropy', 'Focal']
    """
    check_loop(loop)
    return _run(loop, [loop], True, **options)


def _run(loop: Train, sources: Sequence[Any], own_optimizer: bool, **options: Any) -> Comparison:
    """Run the study that is asked for, by the script and by whoever runs the script."""
    if (command := told()) is None:
        return Comparison(_study(loop, sources, own_optimizer, **options))
    options = command.replaced(options)
    results = _study(loop, sources, own_optimizer, **options)
    command.found.append((results, Path(options["out"])))
    return Comparison(results)


def _study(
    loop: Train,
    sources: Sequence[Any],
    own_optimizer: bool,
    *,
    train: Any = None,
    test: Any = None,
    test_share: float = _CARVED,
    validation: Any = 0.15,
    unaugmented: Any = None,
    groups: Sequence[Any] | None = None,
    test_groups: Sequence[Any] | None = None,
    losses: Sequence[Any] | None = None,
    head: str | None = None,
    space: Mapping[str, Number] | None = None,
    schedule: str | Callable[[int, int], float] = "cosine",
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    unit: str | None = None,
    name: str | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    loaders: int = 0,
    fingerprint: str | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    backend: str = "local",
    address: str | None = None,
    forks: bool = True,
    progress: bool = True,
    **options: Any,
) -> Results:
    check_arguments(locals())
    check_names(options, _option_names())
    methods = choose(losses, head)
    shares = is_number(validation)
    plan = Plan(
        losses=tuple(method.name for method in methods),
        space=read_space(space, own_optimizer),
        validation=validation if shares else None,
        test=test_share if test is None else None,
        schedule=schedule if isinstance(schedule, str) else "own",
        **options,
    )
    parts = _parts(plan, train, test, None if shares else validation, unaugmented, num_classes)
    training, validating, testing = parts
    if classes is not None:
        classes = [str(one) for one in classes]
        _check_class_names(classes, training.targets.classes)
    if losses is None:
        methods = tuple(method for method in methods if _fits(method, training.targets))
        plan = replace(plan, losses=tuple(method.name for method in methods))
    elif training.targets.kind != "classes":
        _refuse_without_classes(methods, training.targets)
    problem = Problem(
        loop,
        methods,
        training,
        validating,
        testing,
        _schedule(schedule),
        checked_groups(groups, len(training.targets)),
        None if test is None else checked_groups(test_groups, len(testing.targets), "test_groups"),
        head,
        collate,
        loaders,
    )
    grouped = problem.groups if test is None else problem.test_groups
    facts = Facts(
        name or type(train).__name__,
        _digest([training, validating, testing], fingerprint),
        tuple(classes or class_names(train, training.targets.classes)),
        unit or ("groups" if grouped is not None else _UNITS[training.targets.kind]),
    )
    identity = {
        "data": facts.digest[:12],
        **plan.to_dict(),
        "source": _source([*sources, schedule, *(m.loss for m in methods)]),
        "steelyard": sy.__version__,
        "torch": torch.__version__,
    }
    folder = None if out is None else Path(out)
    first = Ranks.here(plan.device).first
    shown = watcher(problem, plan, sys.stderr) if progress and first else nullcontext(Silence())
    with shown as watching:
        found = run_study(
            problem,
            plan,
            facts,
            identity,
            folder,
            watcher=watching,
            workers=workers,
            backend=backend,
            address=address,
            forks=forks,
            rehearsal=progress,
        )
    results = cast("Results", found)
    if folder is not None and first:
        write_results(results, folder)
    return results


def _check_class_names(names: Sequence[str], classes: int) -> None:
    if len(names) != classes:
        raise StudyError(f"classes has {len(names)} names and there are {classes} classes")
    if len(set(names)) < classes:
        twice = next(name for name in names if names.count(name) > 1)
        raise StudyError(f"classes has {twice!r} twice; every class needs a name of its own")


def _option_names() -> list[str]:
    """The names of all that a study takes."""
    parameters = inspect.signature(_study).parameters.values()
    own = [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    return list(dict.fromkeys([*own, *Plan.option_names()]))


def _parts(
    plan: Plan, train: Any, test: Any, validation: Any, unaugmented: Any, num_classes: int | None
) -> tuple[Part, Part, Part]:
    """The three parts, their targets read once, all with the same number of classes."""
    named = {"train": train, "validation": validation, "test": test}
    targets = {
        name: read_targets(dataset, name, plan.ignore_index, num_classes)
        for name, dataset in named.items()
        if dataset is not None
    }
    if len({each.kind for each in targets.values()}) > 1:
        kinds = ", ".join(f"{name} of {each.kind}" for name, each in targets.items())
        raise StudyError(f"the targets differ in kind: {kinds}")
    classes = max(each.classes for each in targets.values())
    targets = {name: each.widened(classes) for name, each in targets.items()}
    absent = [c for c, n in enumerate(targets["train"].counts()) if not n]
    if absent:
        raise StudyError(
            f"class {absent[0]} has no row in train: there are {classes} classes, and each needs "
            "one to learn from"
        )
    if unaugmented is not None and len(unaugmented) != len(train):
        raise StudyError(
            f"unaugmented has {len(unaugmented)} rows and train has {len(train)}; expected the "
            "same rows without augmentation"
        )
    plain = train if unaugmented is None else unaugmented
    training = Part("train", train, targets["train"])
    carved = Part("train" if unaugmented is None else "unaugmented", plain, targets["train"])
    return (
        training,
        carved if validation is None else Part("validation", validation, targets["validation"]),
        carved if test is None else Part("test", test, targets["test"]),
    )


def _fits(method: Method, targets: Targets) -> bool:
    """Whether a study that names no losses has this one."""
    if targets.kind != "classes":
        return not method.per_row
    return method.rider != "tuned" or targets.classes <= _TUNED


def _refuse_without_classes(methods: Sequence[Method], targets: Targets) -> None:
    for method in methods:
        if method.per_row:
            raise StudyError(f"{method.name} needs one class per row, and these are {targets.kind}")


def _schedule(given: str | Callable[[int, int], float]) -> Callable[[int, int], float]:
    schedule = SCHEDULES.get(given) if isinstance(given, str) else given
    if schedule is None or isinstance(schedule, type) or not takes(schedule, 2):
        raise StudyError(
            f"schedule is {shown(given)}; choose from {', '.join(SCHEDULES)}, or give a function "
            "(step, steps) → share of the learning rate"
        )
    share = schedule(0, _STEPS)
    if not is_number(share):
        raise StudyError(
            f"schedule(0, {_STEPS}) is {shown(share)}; expected the share of the learning rate "
            "that the first of so many steps uses, as in 1.0"
        )
    return schedule


def _digest(parts: Sequence[Part], fingerprint: str | None) -> str:
    """A digest of targets, of tensors where they are at hand, and of the user's fingerprint."""
    digest = hashlib.sha256((fingerprint or "").encode())
    for part in parts:
        held = part.targets.held
        for array in (held.data, held.indices, held.indptr):
            digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        dataset = part.dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        if isinstance(dataset, TensorDataset):
            for tensor in dataset.tensors:
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _source(parts: Sequence[Any]) -> str:
    """A digest of the user's functions: their names, and the files that they come from."""
    digest = hashlib.sha256()
    files = set()
    for part in parts:
        kind = part if inspect.isroutine(part) or inspect.isclass(part) else type(part)
        digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        try:
            path = inspect.getsourcefile(kind)
        except (TypeError, OSError):  # built in, or a class that was typed into a notebook
            path = None
        if path is None or not Path(path).is_file():
            digest.update(_typed(kind).encode())
        elif "site-packages" not in path:
            files.add(path)
    for path in sorted(files):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:12]


def _typed(kind: Any) -> str:
    """The text of a function, or of a class's methods, that has no file: a notebook's cell."""
    functions = vars(kind).values() if inspect.isclass(kind) else [kind]
    try:
        return "".join(inspect.getsource(one) for one in functions if inspect.isfunction(one))
    except OSError:
        return ""
