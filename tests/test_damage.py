"""Damaged files: results cut or changed by hand, databases with broken rows."""

import copy
import io
import json
import random
import sqlite3
from contextlib import suppress

import pytest
from studies import study

from steelyard._results import read_results
from steelyard.cli import main
from steelyard.compare.store import FILE, Store
from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import load_digits
from steelyard.compare.tables.progress import PlainLines
from steelyard.compare.tables.runner import run_study
from steelyard.compare.tables.study import Study
from steelyard.report import render

OTHERS = [
    None,
    True,
    -1,
    0,
    3,
    2.5,
    10**400,
    float("nan"),
    "",
    "x",
    "\ud800",
    [],
    [1],
    {},
    {"a": 1},
]


def places(value, path=()):
    """Every place in nested lists and dicts, the outermost left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def mutated(results, dice):
    """One value gone, or of another kind; and where."""
    place = dice.choice(list(places(results)))
    changed = copy.deepcopy(results)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    if dice.random() < 0.5:
        del parent[place[-1]]
    else:
        parent[place[-1]] = dice.choice(OTHERS)
    return changed, place


@pytest.mark.parametrize("seed", range(12))
def test_a_mutated_file_is_shown_or_refused_with_the_place(seed, tmp_path, capsys):
    dice = random.Random(seed)
    changed, place = mutated(study(classes=3, seeds=2, draws=2), dice)
    (tmp_path / "results.json").write_text(json.dumps(changed))
    code = main(["report", str(tmp_path)])
    said = capsys.readouterr().err
    assert said.count("\n") == (code != 0), said
    if code:
        assert code == 2
        assert said.startswith(f"steelyard: {tmp_path / 'results.json'} does not hold the results")
        assert not (tmp_path / "report.html").exists()
        names = [part for part in place if isinstance(part, str)]
        assert any(name in said for name in names), (place, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["data"].pop("rows"), "data.rows is missing"),
        (lambda r: r["candidates"][1].pop("title"), r"candidates\[1\].title is missing"),
        (
            lambda r: r["candidates"][0]["seeds"][1]["scores"].update(macro_f1="high"),
            r"candidates\[0\].seeds\[1\].scores.macro_f1 should be a valid number",
        ),
        (
            lambda r: r["candidates"][0]["seeds"][0]["confusion"].pop(),
            r"candidates\[0\].seeds\[0\] confusion and recall differ in length",
        ),
        (
            lambda r: r["verdict"].update(recommended="x"),
            "candidates lacks 'x', which verdict",
        ),
        (lambda r: r["data"]["classes"].pop(), "data.counts and data.classes differ in length"),
        (lambda r: r["study"].update(select="x"), r"scores lacks study.select, 'x'"),
        (
            lambda r: r["candidates"][2]["seeds"][0].update(chosen=7),
            r"candidates\[2\].seeds\[0\] chosen is 7, which is no draw that was validated",
        ),
    ],
)
def test_the_place_is_named(change, said):
    results = study(classes=3, seeds=2, draws=2)
    change(results)
    with pytest.raises(ValueError, match=said):
        render(results)


def test_what_a_study_writes_is_what_is_declared():
    small = Study(("cross-entropy", "post-hoc", "ldam-drw"), seeds=2, draws=2, epochs=2, hidden=4)
    results = json.loads(json.dumps(run_study(load_digits(), small), allow_nan=False))
    assert read_results(results) is results


SMALL = Study(("cross-entropy", "focal"), seeds=3, draws=1, epochs=1, hidden=4, group=2)


def without_times(results):
    return {key: value for key, value in results.items() if key != "times"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, without_times(run_study(load_digits(), SMALL, folder))


DAMAGE = {
    "no JSON": "UPDATE cell SET payload = substr(payload, 1, 80) WHERE seed = 1",
    "no number": """UPDATE cell SET payload = replace(payload, '"draw": 0', '"draw": "0"')
        WHERE seed = 1""",
    "bytes": "UPDATE cell SET payload = CAST(x'ff00fe' AS TEXT) WHERE seed = 1",
    "a blob": "UPDATE cell SET payload = x'ff00fe' WHERE seed = 1",
    "another's": """UPDATE cell SET (payload, sha256) = (SELECT payload, sha256 FROM cell
        WHERE seed = 0 AND candidate = 'focal') WHERE seed = 1""",
    "deep": f"UPDATE cell SET payload = '{'[' * 50_000}' WHERE seed = 1",
}


def damaged(finished, folder, *commands):
    (folder / FILE).write_bytes((finished[0] / FILE).read_bytes())
    with sqlite3.connect(folder / FILE) as database:
        for command in commands:
            database.execute(command)
    database.close()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cell_is_named(finished, damage, tmp_path):
    damaged(finished, tmp_path, DAMAGE[damage])
    with Store(tmp_path) as store:
        assert sorted(store.cells()) == [(s, name) for s in (0, 2) for name in SMALL.losses]
    assert len(store.damaged) == 2
    for name, sentence in zip(SMALL.losses, store.damaged, strict=True):
        assert sentence.startswith(f"seed 1, {name} in {tmp_path / FILE} is damaged: ")


def test_a_damaged_cell_is_trained_again(finished, tmp_path):
    damaged(finished, tmp_path, DAMAGE["no JSON"] + " AND candidate = 'focal'")
    said = io.StringIO()
    with PlainLines(SMALL, said) as watcher:
        results = run_study(load_digits(), SMALL, tmp_path, watcher=watcher)
    assert without_times(results) == finished[1]
    first, network, *lines = said.getvalue().splitlines()
    assert first.startswith(f"seed 1, focal in {tmp_path / FILE} is damaged: ")
    assert first.endswith("; it is trained again")
    assert network.startswith("network: standard, 2 hidden layers of 4; ")
    assert lines == [
        "resuming: 5 of 6 were finished before",
        "seed 1: 2 candidates done (6 of 6)",  # not 7
    ]


def test_rows_that_nobody_asked_for_change_nothing(finished, tmp_path):
    damaged(
        finished,
        tmp_path,
        "INSERT INTO cell VALUES ('x', 'y', 'z', 'a')",
        "INSERT INTO took (seconds) VALUES (9e999), ('x')",
    )
    results = run_study(load_digits(), SMALL, tmp_path)
    assert without_times(results) == finished[1]
    assert results["times"]["seconds"] < 1000


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE study SET value = '{'", "study.sqlite is damaged: the row of table study cannot"),
        ("UPDATE study SET value = '[]'", "study.sqlite is damaged: the row of table study cannot"),
        ("UPDATE study SET value = '{\"a\": 1}'", "study.sqlite is damaged: the row of table"),
        (
            "UPDATE study SET value = replace(value, '\"group\": 2', '\"group\": 0')",
            "study.sqlite is damaged: the row of table study cannot be read",
        ),
        ("DROP TABLE cell; CREATE TABLE cell (a)", "study.sqlite is damaged, or no study of this"),
    ],
)
def test_a_damaged_study_is_refused_in_words(finished, damage, said, tmp_path):
    damaged(finished, tmp_path, *damage.split("; "))
    with pytest.raises(StudyError, match=said) as caught:
        run_study(load_digits(), SMALL, tmp_path)
    assert "safe" not in str(caught.value)


def test_bytes_anywhere_in_the_database_never_end_in_a_traceback(finished, tmp_path):
    whole = (finished[0] / FILE).read_bytes()
    dice = random.Random(0)
    for _ in range(6):
        broken = bytearray(whole)
        for _ in range(20):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        (tmp_path / FILE).write_bytes(broken)
        with suppress(StudyError):
            run_study(load_digits(), SMALL, tmp_path)
