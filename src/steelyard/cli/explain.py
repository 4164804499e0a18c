"""`steelyard explain`: the arithmetic of one loss value."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
from typing import Any

import torch

import steelyard as sy
from steelyard.cli.usage import Commands, UsageError
from steelyard.losses.module import Loss


def add_to(commands: Commands) -> None:
    """Add `explain` to the subcommands, with every number that a loss takes."""
    explain = commands.add_parser(
        "explain",
        help="print the arithmetic of one loss value",
        description="Print the arithmetic of one loss value, as one would do it by hand.",
    )
    explain.add_argument("--logits", required=True, metavar="JSON", help="as in '[[.9, .1]]'")
    explain.add_argument("--target", required=True, metavar="JSON", help="as in '[0]'")
    explain.add_argument(
        "--loss",
        default="cross-entropy",
        metavar="NAME",
        help=f"one of: {', '.join(losses_by_name())} (%(default)s)",
    )
    explain.add_argument("--weight", metavar="W,W,…", help="one number per class")
    explain.add_argument("--pos-weight", metavar="W,W,…", help="the same, of several labels")
    explain.add_argument("--class-counts", metavar="N,N,…", help="one count per class")
    explain.add_argument("--total", type=int, metavar="N", help="samples, of several labels")
    for name in _numbers_of_losses():
        explain.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X")
    explain.add_argument("--ignore-index", type=int, metavar="CLASS")
    for name in ("reduction", "mean-over", "empty", "engine"):
        explain.add_argument(f"--{name}", metavar="NAME")
    for name in ("activation", "per", "absent", "weighting"):
        explain.add_argument(f"--{name}", metavar="NAME", help="of a loss of regions")
    explain.add_argument("--squared", action="store_true", default=None, help="of Dice")
    explain.add_argument("--sample-weight", metavar="JSON", help="one number per position")
    explain.add_argument("--denominator", type=float, metavar="X")
    explain.add_argument("--json", action="store_true", help="print the numbers as JSON")
    explain.set_defaults(command=_run)


_NOT_THE_LOSS = {
    "command", "logits", "target", "loss", "sample_weight", "denominator", "json",
}  # fmt: skip


def _run(options: argparse.Namespace) -> None:
    names = losses_by_name()
    if options.loss not in names:
        raise UsageError(f"there is no loss {options.loss!r}; choose from: {', '.join(names)}")
    keywords = {
        name: value
        for name, value in vars(options).items()
        if name not in _NOT_THE_LOSS and value is not None
    }
    for name in ("weight", "pos_weight", "class_counts"):
        if name in keywords:
            keywords[name] = _numbers(name, keywords[name])
    sample_weight = options.sample_weight and _tensor("sample-weight", options.sample_weight)
    try:
        loss = names[options.loss](**keywords)
        explanation = sy.explain(
            loss,
            _tensor("logits", options.logits).float(),
            _tensor("target", options.target),
            sample_weight=sample_weight,
            denominator=options.denominator,
        )
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise UsageError(str(error)) from error
    print(json.dumps(explanation.to_dict()) if options.json else explanation)


def losses_by_name() -> dict[str, type[Loss | sy.CompoundLoss]]:
    """Every loss that numbers and names build, by its name here: `FocalLoss` is "focal"."""
    classes = (getattr(sy, name) for name in sy.losses.__all__ if name.endswith("Loss"))
    return {
        _kebab(kind.__name__.removesuffix("Loss")): kind
        for kind in classes
        if kind not in (sy.SoftmaxLoss, sy.SigmoidLoss, sy.RegionLoss, sy.CompoundLoss)
    }


def _numbers_of_losses() -> list[str]:
    """The keywords of all losses that are one number, as `gamma` is."""
    keywords = (
        parameter
        for kind in losses_by_name().values()
        for parameter in inspect.signature(kind).parameters.values()
    )
    return sorted({keyword.name for keyword in keywords if isinstance(keyword.default, float)})


def _kebab(name: str) -> str:
    """LogitAdjusted → logit-adjusted, LDAM → ldam, DiceCE → dice-ce."""
    return re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # JSON has no .9, which is what people type
        return ast.literal_eval(text)


def _cut(text: str) -> str:
    """As much of a text as an error needs to show."""
    return text if len(text) <= 60 else f"{text[:59]}…"


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.strip("[] ").split(",")]
    except ValueError as error:
        option = name.replace("_", "-")
        raise UsageError(
            f"--{option} is {_cut(text)!r}; expected one number per class, as in 1,2.5"
        ) from error


def _tensor(name: str, text: str) -> torch.Tensor:
    try:
        return torch.tensor(_parsed(text))
    except (
        ValueError,
        TypeError,
        SyntaxError,
        RuntimeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise UsageError(
            f"--{name} is {_cut(text)!r}; expected numbers as JSON, as in "
            "'[[0.9, 0.1], [0.8, 0.2]]'"
        ) from error
