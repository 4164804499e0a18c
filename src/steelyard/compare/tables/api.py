"""The study of a table as a function call: what a notebook uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steelyard.compare.candidates import choose
from steelyard.compare.comparison import Comparison, write_results
from steelyard.compare.costs import read_costs
from steelyard.compare.given import Argument, check, check_names, is_path
from steelyard.compare.tables.data import from_any
from steelyard.compare.tables.references import choose_references
from steelyard.compare.tables.runner import run_study
from steelyard.compare.tables.study import Study

_OWN = ("losses", "references", "out", "workers", "backend", "address")


def run(
    features: Any,
    labels: Any,
    *,
    losses: Sequence[str] | None = None,
    references: Sequence[str] | None = None,
    out: str | Path | None = None,
    workers: int | None = 1,
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
            None takes the default set, an empty list the baselines alone.
        references: names of what is tuned and judged beside them and is no network:
            "logistic-regression" and "boosted-trees". None takes both, an empty list none.
        out: folder that keeps what is finished, so that an interrupted study resumes, and
            `results.json`. None keeps nothing.
        workers: processes on this machine; None takes its cores, as far as memory allows.
        backend: "local", "dask" or "ray".
        address: of the cluster's scheduler.
        **options: the fields of `Study`: seeds, draws, epochs, network, hidden, batch_size,
            select, positive, at, costs, validation, test, first_seed, device, dtype, group.

    Returns:
        A `Comparison`.

    Raises:
        StudyError: a ValueError that says what is wrong with the data or the options.

    Example:
        >>> from steelyard import compare
        >>> from sklearn.datasets import load_wine
        >>> study = compare.run(*load_wine(return_X_y=True), seeds=1, draws=1, epochs=1)
        >>> study.to_pandas()["candidate"].nunique()
        12
    """
    check_names(options, list(dict.fromkeys([*_OWN, *Study.option_names()])))
    check({"out": out}, {"out": Argument(is_path, "a folder")})
    if isinstance(options.get("costs"), str | Path):
        options["costs"] = read_costs(str(options["costs"]))
    data = from_any(features, labels)
    study = Study(
        losses=choose(losses, costs=options.get("costs") is not None),
        references=choose_references(references),
        **options,
    )
    folder = None if out is None else Path(out)
    results = run_study(data, study, folder, workers=workers, backend=backend, address=address)
    if folder is not None:
        write_results(results, folder)
    return Comparison(results)
