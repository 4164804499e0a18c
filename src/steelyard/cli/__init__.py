"""The command `steelyard`: compare, weights, explain, report.

Only torch is needed to start it; what a subcommand needs beyond is imported when it runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from steelyard import __version__
from steelyard._text import first_line, printable
from steelyard.cli import compare, explain, report, weights
from steelyard.cli.usage import PROGRAM, UsageError

REFUSED, INTERRUPTED = 2, 130


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
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for subcommand in (compare, weights, explain, report):
        subcommand.add_to(commands)
    return parser
