"""What the project says of itself in several places is the same in all of them."""

import os
import re
import tomllib
from pathlib import Path

import pytest

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


def test_forms_and_workflows_can_be_read_and_run_what_is_there():
    yaml = pytest.importorskip("yaml")
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"]
    read = {file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    jobs = [job for name in ("tests.yml", "site.yml") for job in read[name]["jobs"].values()]
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake (\w+)", "\n".join(runs)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert any(".ci/run" in run for run in runs)
    assert os.access(ROOT / ".ci/run", os.X_OK)
    for form in ("bug.yml", "loss.yml"):
        assert {part["type"] for part in read[form]["body"]} == {"textarea"}
