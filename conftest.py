"""The examples of README.md, docs/ and the docstrings run as tests; their output is compared."""

import os
import shlex
import subprocess
import sys
import tempfile
from doctest import ELLIPSIS
from pathlib import Path
from typing import Any

import pytest
import torch
from sybil import Example, Sybil
from sybil.evaluators.doctest import NUMBER
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser
from xdist.scheduler import LoadScopeScheduling

import steelyard

COMMAND = [sys.executable, "-c", "import sys; from steelyard.cli import main; sys.exit(main())"]
# The steelyard of these tests, at the width of a narrow terminal.
ENVIRONMENT = {"PYTHONPATH": str(Path(steelyard.__file__).parents[1]), "COLUMNS": "80"}
SLOW = "compare"  # minutes: tests/ and `make demo` run it
COMPARE_NUMBERS = NUMBER | ELLIPSIS  # as many digits as are written; "..." stands for anything


def names_at_hand(namespace: dict[str, Any]) -> None:
    """Examples begin after ``import torch`` and ``from steelyard import *``, with some labels."""
    torch.manual_seed(0)
    namespace["train_labels"] = torch.arange(10).repeat_interleave(torch.arange(100, 0, -10))
    namespace["torch"] = torch
    namespace |= {name: getattr(steelyard, name) for name in steelyard.__all__}


def run_console_block(example: Example) -> str | None:
    """Run each ``$ steelyard …`` of a block where animals.csv lies, and compare what it prints."""
    for transcript in ("\n" + example.parsed.rstrip()).split("\n$ ")[1:]:
        line, _, expected = transcript.partition("\n")
        command, *arguments = shlex.split(line)
        if command != "steelyard" or (arguments[0] == SLOW and "--list" not in arguments):
            continue
        with tempfile.TemporaryDirectory() as folder:
            labels = ["cat"] * 1000 + ["dog"] * 100
            rows = "".join(f"{i},{label}\n" for i, label in enumerate(labels))
            Path(folder, "animals.csv").write_text(f"size,animal\n{rows}")
            done = subprocess.run(
                [*COMMAND, *arguments],
                cwd=folder,
                env=os.environ | ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,
            )
        printed = [text.rstrip() for text in done.stdout.strip().splitlines()]
        if done.returncode or printed != expected.strip().splitlines():
            return f"$ {line}\nprinted\n{done.stdout}{done.stderr}\nnot\n{expected}"
    return None


class ExamplesTogether(LoadScopeScheduling):
    """Gives one worker all examples of a file, for they build on each other; tests go singly."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::sybil:")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ExamplesTogether | None:
    """Schedule so unless another ``--dist`` was asked for."""
    return ExamplesTogether(config, log) if config.getoption("dist") == "load" else None


pytest_collect_file = (
    Sybil(
        [
            PythonCodeBlockParser(doctest_optionflags=COMPARE_NUMBERS),
            CodeBlockParser("console", run_console_block),
        ],
        patterns=["README.md", "README.zh-CN.md", "docs/*.md", "docs/*/*.md"],
        setup=names_at_hand,
        name="pages",
    )
    + Sybil(
        [DocTestParser(COMPARE_NUMBERS)],
        path="src",
        pattern="*.py",
        setup=names_at_hand,
        name="docstrings",
    )
).pytest()
