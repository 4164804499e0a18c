"""The unit of work: trainings that begin alike, trained once up to where they part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from steelyard.compare.networks.methods import Method
from steelyard.compare.networks.plan import Run


@dataclass(frozen=True)
class Line:
    """Runs of one seed that are one and the same training until the deferral.

    The first is trained from the beginning and leaves a checkpoint where they part; the others
    go on from there.
    """

    runs: tuple[Run, ...]

    @property
    def seed(self) -> int:
        """Of all its runs."""
        return self.runs[0].seed

    @property
    def key(self) -> str:
        """A name for files."""
        return self.runs[0].key


def plan_lines(
    runs: Iterable[Run], methods: Mapping[str, Method], forks: bool = True
) -> list[Line]:
    """Put runs that share their beginning into one line.

    Args:
        runs: the trainings.
        methods: the candidates by name.
        forks: False trains every run from the beginning.
    """
    lines: dict[object, list[Run]] = {}
    for run in runs:
        options = tuple(sorted(run.options.items()))
        key = (run.seed, options, *methods[run.method].beginning)
        lines.setdefault(key if forks else run.key, []).append(run)
    return [Line(tuple(line)) for line in lines.values()]


def trained_epochs(lines: Iterable[Line], epochs: int, fork: int) -> int:
    """Epochs of network training that some lines take."""
    return sum(epochs + (len(line.runs) - 1) * (epochs - fork) for line in lines)
