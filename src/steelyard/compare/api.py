"""The study as a function call: what a notebook uses."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard._files import write_atomically
from steelyard.compare.candidates import choose
from steelyard.compare.data import from_any
from steelyard.compare.runner import run_study
from steelyard.compare.study import Study, StudyError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """What a study found.

    `str()` is the table and the verdict as the command prints them; a notebook shows them as
    HTML.

    Attributes:
        results: everything, as `results.json` has it; `steelyard.compare.results` documents it.
    """

    results: dict[str, Any] = field(repr=False)

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return " ".join(self.results["verdict"]["sentences"])

    @property
    def code(self) -> str | None:
        """Lines of Python that use the recommended loss; None where there is no verdict."""
        code: str | None = self.results["verdict"]["code"]
        return code

    def to_pandas(self) -> pd.DataFrame:
        """One row per candidate and seed: the chosen draw's options and every score."""
        import pandas as pd

        rows = []
        for entry in self.results["candidates"]:
            for cell in entry["seeds"]:
                row = {"candidate": entry["name"], "seed": cell["seed"], "status": cell["status"]}
                if cell["status"] == "done":
                    row |= cell["trials"][cell["chosen"]]["options"]
                    row |= cell["scores"]
                rows.append(row)
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        from steelyard.compare.console import plain_console, print_results

        text = io.StringIO()
        print_results(self.results, plain_console(file=text, width=100))
        return text.getvalue()

    def _repr_html_(self) -> str:
        select = self.results["study"]["select"]
        frame = self.to_pandas()
        scores = [score["name"] for score in self.results["scores"]]
        order = [entry["name"] for entry in self.results["candidates"]]
        means = frame.groupby("candidate")[scores].mean().reindex(order)
        table = means.sort_values(select, ascending=False).to_html(float_format="{:.3f}".format)
        code = f"<pre>{html.escape(self.code)}</pre>" if self.code else ""
        return f"<p>{html.escape(self.verdict)}</p>{table}{code}"


def run(
    features: Any,
    labels: Any,
    *,
    losses: Sequence[str] | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    backend: str = "local",
    address: str | None = None,
    **options: Any,
) -> Comparison:
    """Compare losses on your data by the protocol of `steelyard compare`.

    Args:
        features: (N, …) numbers as array or tensor, or a pandas or polars DataFrame with numbers,
            text, categories, dates and missing values.
        labels: (N,) classes: integers or strings.
        losses: names of candidates, as the command spells them; the baselines are always added.
            None takes the default set.
        out: folder that keeps what is finished, so that an interrupted study resumes, and
            `results.json`. None keeps nothing.
        workers: processes on this machine.
        backend: "local", "dask" or "ray".
        address: of the cluster's scheduler.
        **options: the fields of `Study`: seeds, draws, epochs, hidden, batch_size, select,
            validation, test, first_seed, device, dtype, group.

    Returns:
        A `Comparison`.

    Raises:
        StudyError: a ValueError that says what is wrong with the data or the options.

    Example:
        >>> from steelyard import compare
        >>> from sklearn.datasets import load_wine
        >>> study = compare.run(*load_wine(return_X_y=True), seeds=1, draws=1, epochs=1)
        >>> study.to_pandas()["candidate"].nunique()
        9
    """
    data = from_any(features, labels)
    study = Study(losses=choose(losses), **options)
    folder = None if out is None else Path(out)
    results = run_study(data, study, folder, workers=workers, backend=backend, address=address)
    if folder is not None:
        write_results(results, folder)
    return Comparison(results)


def write_results(results: dict[str, Any], folder: Path) -> Path:
    """Write `results.json` in one step, and return its path.

    Raises:
        StudyError: the folder cannot be written or the disk is full; an older file is untouched.
    """
    path = folder / "results.json"
    text = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False)
    try:
        write_atomically(path, text + "\n")
    except OSError as error:
        raise StudyError(f"{path} could not be written: {error.strerror}") from error
    return path
