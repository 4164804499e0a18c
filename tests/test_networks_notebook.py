"""A notebook has no file of its functions, and a console of its own: studies mind both."""

import linecache
import sys

import pytest
import rich.console

from steelyard.compare.console import plain_console
from steelyard.compare.training.api import _source

CELL = """
from torch import nn

def network():
    return nn.Linear(2, {width})

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, {width})

class Loss:
    def __call__(self, logits, target):
        return {width} * logits.sum()
"""


@pytest.fixture
def typed(monkeypatch):
    """Runs a cell as a notebook does: in a `__main__` without a file, its lines kept in memory."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)

    def run(text):
        name = f"<cell {hash(text)}>"
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(True), name))
        namespace = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), namespace)
        return namespace

    return run


@pytest.mark.parametrize(
    "take",
    [lambda cell: cell["network"], lambda cell: cell["Network"], lambda cell: cell["Loss"]()],
    ids=["function", "class", "object"],
)
def test_a_study_in_a_notebook_knows_what_was_typed(typed, take):
    here = take(typed(CELL.format(width=3)))
    again = take(typed("# further down\n" + CELL.format(width=3)))
    other = take(typed(CELL.format(width=4)))
    assert _source([here]) == _source([again])
    assert _source([here]) != _source([other]), "an edited cell would find the old cell's results"


def test_what_has_no_text_at_all_has_a_name():
    namespace = {"__name__": "__main__"}
    exec("def network(): ...", namespace)
    assert _source([namespace["network"]]) != _source([len])


def test_a_printed_study_is_text_in_a_notebook_too(monkeypatch, capsys):
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    plain_console(width=100).print("Use cross-entropy.")
    assert capsys.readouterr().out == "Use cross-entropy.\n"
