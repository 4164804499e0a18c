"""What the project says of itself in several places is the same in all of them."""

import re
import tomllib
from pathlib import Path

import steelyard as sy

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOWEST = (ROOT / "tests/lowest.txt").read_text(encoding="utf-8").split("\n")
WORKFLOW = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")


def test_the_version_is_one():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE).group(1) == sy.__version__
    assert PROJECT["version"] == sy.__version__
    assert f"## {sy.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_python_that_is_promised_is_tested():
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if " :: 3." in line]
    tested = re.search(r"python: \[(.+)\]", WORKFLOW).group(1)
    assert re.findall(r'"(3\.\d+)"', tested) == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_oldest_torch_that_is_promised_is_tested():
    oldest = next(need for need in PROJECT["dependencies"] if need.startswith("torch"))
    assert f"torch=={oldest.removeprefix('torch>=')}.*" in WORKFLOW
    assert f"torch=={oldest.removeprefix('torch>=')}.0" in LOWEST
    numpy = next(need for need in EXTRAS["compare"] if need.startswith("numpy"))
    assert f"numpy=={numpy.removeprefix('numpy>=')}.0" in LOWEST
