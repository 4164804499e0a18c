"""The notebooks are the examples, and run from top to bottom."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"


def maker():
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = maker()


def sources(book):
    return [(cell.cell_type, cell.source) for cell in book.cells]


def beginnings(book):
    """The lines that `main()` printed, without the digits that another processor may round.

    Of a study its table: the verdict below may hang on such a digit.
    """
    printed = "".join(output.text for output in book.cells[-1].outputs)
    table = re.split(r"^(?:Better than|No candidate)", printed, flags=re.MULTILINE)[0]
    return [line[:12] for line in table.splitlines()]


def test_every_example_has_a_notebook():
    assert set(make.NAMES) == {script.stem for script in make.EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", make.NAMES)
def test_a_notebook_is_its_example(name):
    kept = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert sources(kept) == sources(make.notebook(name)), "run `make notebooks`"
    assert kept.cells[-1].outputs, "run `make notebooks`"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebooks_run(tmp_path):
    subprocess.run(
        [sys.executable, FOLDER / "make.py", tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    for name in make.NAMES:
        now, kept = (
            nbformat.read(folder / f"{name}.ipynb", as_version=4) for folder in (tmp_path, FOLDER)
        )
        assert beginnings(now) == beginnings(kept), name
