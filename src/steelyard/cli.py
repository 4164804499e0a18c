"""The command `steelyard`: compare, weights, explain, report.

Only torch is needed to start it; what a subcommand needs beyond is imported when it runs.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

import steelyard as sy
from steelyard._text import first_line, printable
from steelyard.losses import SoftmaxLoss

PROGRAM = "steelyard"
REFUSED, INTERRUPTED = 2, 130


class UsageError(Exception):
    """What was asked for cannot be done; the message is all the user sees."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 2 for what cannot be done, 130 for Ctrl-C."""
    _make_streams_write_anything()
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        with _ended_by_signals():
            command(options)
    except UsageError as error:
        return _refuse(str(error))
    except ImportError as error:
        return _refuse(_unimportable(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `steelyard … | head` is no mistake
        sys.stderr.close()
        return 0
    return 0


def _make_streams_write_anything() -> None:
    """Write a character that the terminal's encoding lacks as its escape, and go on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal raise, so that whoever holds something lets go of it."""
    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield
        return

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _unimportable(error: ImportError) -> str:
    """What to do about a library that is not there, or is there and broken."""
    name = error.name or ""
    library = name.partition(".")[0]
    if library == PROGRAM:
        raise error
    if library and importlib.util.find_spec(library) is None:
        return (
            f"this needs {library}, which is not installed: pip install "
            "'steelyard[compare]', or in a checkout pip install '.[compare]'"
        )
    return f"{name or 'a library'} is installed and cannot be imported: {first_line(error)}"


def _refuse(message: str) -> int:
    print(f"{PROGRAM}: {printable(message)}", file=sys.stderr)
    return REFUSED


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the other errors do."""

    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"{PROGRAM}: {printable(message)} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Losses, class weights and honest comparisons for imbalanced classes.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {sy.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_compare, _add_weights, _add_explain, _add_report):
        add(commands)
    return parser


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


Commands = Any  # argparse keeps the type of its subparsers to itself


def _add_compare(commands: Commands) -> None:
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
        "--seeds", action=_Told, type=int, default=5, help="splits and trainings (%(default)s)"
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
        help="processes on this machine; default: its cores, as far as memory allows; 1 for a "
        "script",
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
    compare.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> None:
    if options.data is not None and options.data.suffix == ".py":
        _compare_script(options)
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
    page = _write_page(results, folder)
    if not options.json:
        print(f"\nWritten: {printable(str(path))} and {page.name}")


_OF_TABLES = ("target", "losses", "network", "hidden", "group", "costs")


def _compare_script(options: argparse.Namespace) -> None:
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
        page = _write_page(results, folder)
        if not options.json:
            print(f"\nWritten: {printable(str(folder / 'results.json'))} and {page.name}")


def _add_weights(commands: Commands) -> None:
    weights = commands.add_parser(
        "weights",
        help="count the classes of a file and print the weights of every scheme",
        description="Count the classes of a file, however large, and print the weights of every "
        "scheme with the line of Python to paste.",
    )
    weights.add_argument("data", type=Path, metavar="DATA", help="CSV, TSV, Parquet or NPZ")
    weights.add_argument("--target", metavar="COLUMN", help="the column that holds the classes")
    weights.add_argument("--json", action="store_true", help="print counts and weights as JSON")
    weights.set_defaults(command=_weights)


def _weights(options: argparse.Namespace) -> None:
    from steelyard.compare.study import StudyError
    from steelyard.compare.tables.weights import print_weights

    try:
        print_weights(options.data, options.target, as_json=options.json)
    except StudyError as error:
        raise UsageError(str(error)) from error


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report",
        help="write report.html again from results.json",
        description="Write report.html again from the results.json in a folder.",
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of a study")
    report.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> None:
    path = options.folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no {path}; `steelyard compare --out …` writes it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} could not be read: {error}") from error
    try:
        print(_write_page(results, options.folder))
    except ValueError as error:
        raise UsageError(f"{path} does not hold the results of a study: {error}") from error


def _write_page(results: Mapping[str, Any], folder: Path) -> Path:
    from steelyard.report import write

    page = folder / "report.html"
    try:
        write(results, page)
    except OSError as error:
        raise UsageError(f"{page} could not be written: {error.strerror}") from error
    return page


def _add_explain(commands: Commands) -> None:
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
    explain.add_argument("--class-counts", metavar="N,N,…", help="one count per class")
    for name in _numbers_of_losses():
        explain.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X")
    explain.add_argument("--ignore-index", type=int, metavar="CLASS")
    for name in ("reduction", "mean-over", "empty", "engine"):
        explain.add_argument(f"--{name}", metavar="NAME")
    explain.add_argument("--sample-weight", metavar="JSON", help="one number per position")
    explain.add_argument("--denominator", type=float, metavar="X")
    explain.add_argument("--json", action="store_true", help="print the numbers as JSON")
    explain.set_defaults(command=_explain)


_NOT_THE_LOSS = {
    "command", "logits", "target", "loss", "sample_weight", "denominator", "json",
}  # fmt: skip


def _explain(options: argparse.Namespace) -> None:
    names = losses_by_name()
    if options.loss not in names:
        raise UsageError(f"there is no loss {options.loss!r}; choose from: {', '.join(names)}")
    keywords = {
        name: value
        for name, value in vars(options).items()
        if name not in _NOT_THE_LOSS and value is not None
    }
    for name in ("weight", "class_counts"):
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


def losses_by_name() -> dict[str, type[SoftmaxLoss]]:
    """The losses of one class per position by their names here: `FocalLoss` is "focal"."""
    classes = (getattr(sy, name) for name in sy.losses.__all__ if name.endswith("Loss"))
    return {
        _kebab(kind.__name__.removesuffix("Loss")): kind
        for kind in classes
        if issubclass(kind, SoftmaxLoss) and kind is not SoftmaxLoss
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
    """LogitAdjusted → logit-adjusted, LDAM → ldam."""
    if name.isupper():
        return name.lower()
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


# What reading a text raises (a very deep one, too), and what making a tensor of it does.
_NOT_PYTHON = (ValueError, SyntaxError, RecursionError, MemoryError)
_NOT_A_TENSOR = (ValueError, TypeError, RuntimeError, OverflowError)


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


if __name__ == "__main__":
    sys.exit(main())
