"""What is finished is on disk, and nothing else: resumed, refused, and never half written."""

import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from steelyard.compare.store import FILE, Store
from steelyard.compare.study import StudyError

CELL = {"seed": 0, "candidate": "focal", "trials": [], "status": "failed", "reason": "all failed"}


def test_cells_survive_and_an_unfinished_group_leaves_nothing(tmp_path):
    with Store(tmp_path) as store:
        store.claim({"seeds": 5}, {"group": 72})
        store.add([CELL, CELL | {"seed": 1}], 1.5)

        def half():
            yield CELL | {"seed": 2}
            raise RuntimeError("the group died")

        with pytest.raises(RuntimeError):
            store.add(half(), 1.0)
    with Store(tmp_path) as store:
        assert set(store.cells()) == {(0, "focal"), (1, "focal")}
        assert store.seconds() == 1.5


def test_what_was_chosen_first_is_kept(tmp_path):
    with Store(tmp_path) as store:
        assert store.claim({"seeds": 5}, {"group": 72}) == {"group": 72}
    with Store(tmp_path) as store:
        assert store.claim({"seeds": 5}, {"group": 8}) == {"group": 72}


def test_another_study_is_refused_with_the_difference_named(tmp_path):
    identity = {"data": "a.csv (12ab)", "seeds": 5, "losses": ["focal", "vs"]}
    with Store(tmp_path) as store:
        store.claim(identity, {})
        changed = identity | {"seeds": 6, "losses": ["focal"]}
        with pytest.raises(StudyError) as caught:
            store.claim(changed, {})
    assert str(caught.value) == (
        f"{tmp_path} holds another study (seeds was 5, now 6; losses was focal, vs, now focal); "
        "choose another folder (--out, in Python out=), or ask for the same study again to resume "
        "it"
    )


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(
        StudyError, match=r"file is a file; name a folder \(--out, in Python out=\)"
    ):
        Store(occupied)
    with pytest.raises(StudyError, match="cannot be used: "):
        Store(occupied / "below")


def test_a_damaged_store_is_refused_in_words(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(StudyError, match=r"is damaged, or no study .*not a database"):
        Store(tmp_path)


def test_a_full_disk_is_said_and_corrupts_nothing(tmp_path):
    with Store(tmp_path) as store:
        store.claim({"seeds": 5}, {})
        store.add([CELL], 1.0)
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        big = [CELL | {"seed": seed, "padding": "x" * 5000} for seed in range(1, 9)]
        with pytest.raises(StudyError, match=r"disk is full.*what was finished before is safe"):
            store.add(big, 1.0)
    with Store(tmp_path) as store:
        assert set(store.cells()) == {(0, "focal")}


def test_the_database_names_its_tables(tmp_path):
    with Store(tmp_path) as store:
        store.claim({"seeds": 5}, {})
        store.add([CELL], 1.0)
    rows = sqlite3.connect(tmp_path / FILE)
    try:
        ((payload,),) = rows.execute("SELECT payload FROM cell").fetchall()
    finally:
        rows.close()
    assert json.loads(payload) == CELL


# Ten kills mean twelve starts of the command. Importing it takes seconds, so it is imported once,
# by a process that has started no thread, and forked from there.
DRIVER = """
import os, random, signal, sys, time
import skrub, sklearn.datasets
import steelyard.compare.tables.command, steelyard.report
from steelyard.cli import main

# One group for each of sixteen seeds, in the process that is killed.
ARGUMENTS = "compare --loss focal --no-references --seeds 16 --draws 2 --epochs 8".split()
ARGUMENTS += "--group 8 --workers 1 --out".split()

def start(folder):
    end, start = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(start, 2)
        os._exit(main([*ARGUMENTS, folder]))
    os.close(start)
    return child, os.fdopen(end)

def finish(folder):
    child, said = start(folder)
    text = said.read()
    assert os.waitpid(child, 0)[1] == 0, text
    return text

whole, killed = sys.argv[1:]
began = time.monotonic()
finish(whole)
longest = (time.monotonic() - began) / 12
moments = random.Random(0)
for _ in range(10):
    child, said = start(killed)
    said.readline()  # training has begun
    time.sleep(moments.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said.close()
    assert not os.path.exists(killed + "/results.json")
print(finish(killed), file=sys.__stdout__)
"""


def without_times(folder):
    results = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in results.items() if key != "times"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ten_kills_and_then_the_same_results(tmp_path):
    """Killed ten times at random moments, a study ends as if nothing had been."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(whole), str(killed)],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^resuming: [1-9]\d* of 64 were finished before$", done.stdout, re.MULTILINE)
    assert without_times(killed) == without_times(whole)
