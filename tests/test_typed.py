"""A user's mypy and Pyright accept what a user writes, and see mistakes: py.typed is honest."""

import ast
import json
import os
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import steelyard as sy

USER_CODE = Path(__file__).parent / "user_code.py"
SOURCE = str(Path(sy.__file__).parents[1])
MISTAKES = """\
import steelyard as sy

sy.FocalLoss(gamma={0: "two"})
sy.CrossEntropyLoss(alpha=0.25)
sy.class_weights([1, 2], "balanced").append(3)
"""
CHECKERS = {
    "mypy": "--strict --config-file= --cache-dir=/dev/null right.py mistakes.py",
    "basedpyright": f"--level error --pythonpath {sys.executable} --project pyright.json",
}


def test_every_loss_is_exported_where_type_checkers_look():
    """They follow no star in ``__all__``, and to mypy what is not written there is not there."""
    rooms = [
        import_module(f"steelyard.losses.{room.name}")
        for room in pkgutil.iter_modules(sy.losses.__path__)
    ]
    names = {name for room in rooms for name in getattr(room, "__all__", [])}
    assert not names - set(sy.losses.__all__), "add to __all__ of steelyard/losses/__init__.py"
    assert not set(sy.losses.__all__) - set(sy.__all__), "add to __all__ of steelyard/__init__.py"
    for module in (sy, sy.losses):
        source = Path(module.__file__).read_text(encoding="utf-8")
        written = re.search(r"__all__ = (\[.*?\])", source, re.DOTALL).group(1)
        assert ast.literal_eval(written) == module.__all__


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_type_checker_accepts_what_is_right_and_sees_each_mistake(checker, tmp_path):
    if find_spec(checker) is None:
        pytest.skip(f"no {checker} here")
    (tmp_path / "right.py").write_text(USER_CODE.read_text(encoding="utf-8"))
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    project = {"typeCheckingMode": "standard", "extraPaths": [SOURCE]}
    (tmp_path / "pyright.json").write_text(json.dumps(project))
    done = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker].split()],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": SOURCE},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"(\w+)\.py:(\d+)(?::\d+)?(?: -|:) error", done.stdout)
    assert set(found) == {("mistakes", line) for line in "345"}, done.stdout + done.stderr
