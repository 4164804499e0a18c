"""`steelyard compare`: of a table, or of the script that calls the library."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from steelyard._text import printable
from steelyard.cli.report import write_page
from steelyard.cli.usage import Commands, UsageError


class _Told(argparse.Action):
    """Stores a value, and that it was given: what a script says stands unless it was."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.given = {*getattr(namespace, "given", ()), self.dest}


def add_to(commands: Commands) -> None:
    """Add `compare` and its options to the subcommands."""
    compare = commands.add_parser(
        "compare",
        help="train every loss on your data and say which is better than cross-entropy",
        description="Train one small network per loss, tuning draw and seed, choose the draws on "
        "validation rows, and judge them on test rows. Interrupted, the same command resumes.",
    )
    compare.add_argument(
        "data",
        nargs="?",
        type=Path,
        metavar="DATA",
        help="CSV, TSV, Parquet, or NPZ with X and y; or a script that calls compare.networks or "
        "compare.trainings; default: scikit-learn's digits, made long-tailed",
    )
    compare.add_argument("--target", metavar="COLUMN", help="the column that holds the classes")
    compare.add_argument(
        "--loss",
        action="append",
        metavar="NAME",
        dest="losses",
        help="a candidate; repeat for more; --list shows them. The baselines are always in the "
        "study",
    )
    compare.add_argument(
        "--no-references",
        action="store_false",
        dest="references",
        help="leave out logistic regression and boosted trees, which are tuned and judged beside "
        "the candidates",
    )
    compare.add_argument("--list", action="store_true", help="print every candidate, and end")
    compare.add_argument(
        "--seeds",
        action=_Told,
        type=int,
        default=5,
        help="splits and trainings (%(default)s; fewer than 5 give no verdict)",
    )
    compare.add_argument(
        "--draws",
        action=_Told,
        type=int,
        default=8,
        help="tuning draws per loss and seed (%(default)s)",
    )
    compare.add_argument(
        "--epochs",
        action=_Told,
        type=int,
        help="passes over the rows; default: as many as come to about 1,500 steps, within 5 to 60",
    )
    compare.add_argument(
        "--network",
        action=_Told,
        default="standard",
        metavar="SIZE",
        help="small (one hidden layer of 64), standard (two of 256, numbers embedded) or large "
        "(three of 512, likewise); the larger the better and the slower (%(default)s)",
    )
    compare.add_argument(
        "--hidden",
        action=_Told,
        type=int,
        metavar="UNITS",
        help="of a hidden layer; default: the network's",
    )
    compare.add_argument(
        "--batch-size", action=_Told, type=int, metavar="ROWS", help="default: by the rows"
    )
    compare.add_argument(
        "--select",
        action=_Told,
        default="balanced_accuracy",
        metavar="SCORE",
        help="what draws are chosen by and losses judged on; an unknown SCORE lists what there is "
        "(%(default)s)",
    )
    compare.add_argument(
        "--positive",
        action=_Told,
        metavar="CLASS",
        help="of two classes, the one that is looked for; default: the rarer",
    )
    compare.add_argument(
        "--at",
        action=_Told,
        type=float,
        default=0.9,
        metavar="SHARE",
        help="the precision at which recall is read, and the recall at which precision is "
        "(%(default)s)",
    )
    compare.add_argument(
        "--costs",
        metavar="FILE",
        help="what each decision costs: a JSON or CSV file, or JSON itself, as in "
        '\'{"fraud": {"honest": 100}, "honest": {"fraud": 5}}\', the true class first',
    )
    compare.add_argument(
        "--device", action=_Told, default="cpu", help="where to train, as in cuda (%(default)s)"
    )
    compare.add_argument(
        "--out",
        action=_Told,
        type=Path,
        metavar="DIR",
        help="folder of results.json, report.html and the store; default: steelyard-results/ and "
        "the name of the data",
    )
    compare.add_argument(
        "--workers",
        action=_Told,
        type=int,
        metavar="N",
        help="processes on this machine; default: its cores, as far as memory allows, or 1 where "
        "more would not pay; 1 for a script",
    )
    compare.add_argument(
        "--group",
        action=_Told,
        type=int,
        metavar="TRIALS",
        help="trained as one stack; default: by the memory",
    )
    compare.add_argument(
        "--backend", action=_Told, default="local", help="local, dask or ray (%(default)s)"
    )
    compare.add_argument("--address", action=_Told, metavar="URL", help="the cluster's scheduler")
    compare.add_argument("--json", action="store_true", help="print results.json instead of tables")
    compare.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    if options.data is not None and options.data.suffix == ".py":
        _run_script(options)
        return
    from steelyard.compare.comparison import write_results
    from steelyard.compare.study import StudyError
    from steelyard.compare.tables.command import listing, run_command, show

    if options.list:
        print(listing())
        return
    try:
        results, folder = run_command(options)
        # Shown first: whatever happens to the files, the answer is not lost.
        show(results, as_json=options.json)
        path = write_results(results, folder)
    except StudyError as error:
        raise UsageError(str(error)) from error
    page = write_page(results, folder)
    if not options.json:
        print(f"\nWritten: {printable(str(path))} and {page.name}")


_OF_TABLES = ("target", "losses", "network", "hidden", "group", "costs")


def _run_script(options: argparse.Namespace) -> None:
    from steelyard.compare.study import StudyError
    from steelyard.compare.tables.command import default_folder, say_how_to_resume
    from steelyard.compare.training.ranks import Ranks
    from steelyard.compare.training.script import Told, run_script

    given: set[str] = getattr(options, "given", set())
    if not options.references:
        raise UsageError(f"--no-references belongs to tables; {options.data} has none")
    for name in _OF_TABLES:
        if name in given or (
            name in ("target", "losses", "costs") and getattr(options, name) is not None
        ):
            option = {"losses": "loss"}.get(name, name)
            raise UsageError(f"--{option} belongs to tables; {options.data} says it itself")
    told = Told({name: getattr(options, name) for name in given}, default_folder(options.data))
    try:
        run_script(options.data, told)
    except StudyError as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt:
        say_how_to_resume(told.begun[-1] if told.begun else told.folder)
        raise
    if not Ranks.here().first:
        return
    for results, folder in told.found:
        if options.json:
            print(json.dumps(results, indent=1, allow_nan=False))
        page = write_page(results, folder)
        if not options.json:
            print(f"\nWritten: {printable(str(folder / 'results.json'))} and {page.name}")
