"""The command itself: how it starts, what it does without a library, and how it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
from commands import run

from steelyard.cli import main

THREE = "[[.9, .1], [.8, .2], [.7, .3]]"


def test_a_missing_extra_is_one_sentence():
    """In a process of its own, where scikit-learn, polars and rich cannot be imported."""
    script = (
        "import sys\n"
        "for name in ('polars', 'rich', 'sklearn', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from steelyard.cli import main\n"
        "print(main(['compare']), main(['weights', 'x.csv']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "2 2\n"
    for line in done.stderr.splitlines():
        assert line.endswith(
            "which is not installed: pip install 'steelyard[compare]', or in "
            "a checkout pip install '.[compare]'"
        )


def test_the_command_starts_with_torch_alone():
    script = (
        "import sys, steelyard.cli\n"
        "heavy = {'sklearn', 'polars', 'pandas', 'scipy', 'rich', 'plotly'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'rhich'", name="rhich"),
            "this needs rhich, which is not installed: pip install 'steelyard[compare]'",
        ),
        (
            ModuleNotFoundError("No module named 'polars._plr'", name="polars._plr"),
            "polars._plr is installed and cannot be imported: No module named 'polars._plr'",
        ),
        (
            ImportError("libgomp.so.1: cannot open shared object file\nmore", name="sklearn"),
            "sklearn is installed and cannot be imported: libgomp.so.1: cannot open shared",
        ),
        (ImportError("half a wheel"), "a library is installed and cannot be imported: half a"),
    ],
)
def test_a_broken_library_is_not_a_missing_one(capsys, monkeypatch, error, said):
    def fail(_):
        raise error

    monkeypatch.setattr("steelyard.cli.weights._run", fail)
    code, _, found = run(capsys, "weights", "x.csv")
    assert code == 2
    assert found.startswith(f"steelyard: {said}")
    assert found.count("\n") == 1


def test_a_missing_module_of_our_own_is_a_defect_and_looks_like_one(monkeypatch):
    def fail(_):
        raise ModuleNotFoundError("No module named 'steelyard.lost'", name="steelyard.lost")

    monkeypatch.setattr("steelyard.cli.weights._run", fail)
    with pytest.raises(ModuleNotFoundError, match=r"steelyard\.lost"):
        main(["weights", "x.csv"])


def test_a_terminal_that_knows_ascii_only_gets_everything():
    script = "import sys; from steelyard.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["explain", "--logits", THREE, "--target", "[0,1,0]"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert r"1\xb70.371101" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("wait", [0.05, 0.3, 0.8, 1.5])
def test_ctrl_c_while_importing_is_quiet(wait):
    script = "import _steelyard, signal, sys; sys.argv[1:] = ['compare', '--out', '/dev/null/x']\n"
    script += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever runs the tests
    script += "print(flush=True); sys.exit(_steelyard.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in said
