"""How long the rest will take, and a bar on a terminal."""

import io

import pytest
from rich.console import Console

from steelyard.compare import progress
from steelyard.compare.progress import LiveBar, Pace, bare_table, clock


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand."""
    hands = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: hands[0])
    return hands


def test_the_pace_is_that_of_this_run(now):
    pace = Pace(total=10, before=4)
    now[0] += 30
    assert pace.left(4) == ""  # what an earlier run did tells nothing
    assert pace.left(5) == "about 2:30 min left"
    assert pace.left(7) == "about 30 s left"
    assert pace.left(10) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.4, "59 s"), (60, "1:00 min"), (3599, "59:59 min"), (7260, "2:01 h")],
)
def test_times_as_a_person_would_say_them(seconds, words):
    assert clock(seconds) == words


def test_a_bar_shows_what_is_done_and_takes_names_as_they_are(now):
    stream = io.StringIO()
    table = bare_table()
    table.add_column("loss")
    table.add_row("focal")
    with LiveBar(Console(file=stream, force_terminal=True, width=80)) as bar:
        pace = Pace(4)
        now[0] += 10
        bar.update(table, pace, 2)
        bar.note("[red]\x1b[2Jname")
    shown = stream.getvalue()
    assert "focal" in shown
    assert "50 %" in shown
    assert "about 10 s left" in shown
    assert "[red]\\x1b[2Jname" in shown
