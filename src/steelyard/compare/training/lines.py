"""The unit of work: trainings that begin alike, trained once up to where they part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from steelyard.compare.training.methods import Method
from steelyard.compare.training.plan import Run


@dataclass(frozen=True)
class Line:
    """Runs of one seed that are one and the same training until the deferral.

    The first is trained from the beginning and leaves a checkpoint where they part; the others
    go on from there.

    Attributes:
        key: a name for files, the same for any runs with this beginning.
        runs: the trainings.
    """

    key: str
    runs: tuple[Run, ...]

    @property
    def seed(self) -> int:
        """Of all its runs."""
        return self.runs[0].seed


def plan_lines(
    runs: Iterable[Run], methods: Mapping[str, Method], forks: bool = True
) -> list[Line]:
    """Put runs that share their beginning into one line.

    Args:
        runs: the trainings.
        methods: the candidates by name.
        forks: False trains every run from the beginning.
    """
    lines: dict[str, list[Run]] = {}
    for run in runs:
        shared = (sorted(run.options.items()), *methods[run.method].beginning)
        beginning = (run.seed, *(shared if forks else (run.key,)))
        key = f"{run.seed}-{blake2b(repr(beginning).encode(), digest_size=6).hexdigest()}"
        lines.setdefault(key, []).append(run)
    return [Line(key, tuple(line)) for key, line in lines.items()]
