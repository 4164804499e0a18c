"""`steelyard compare` and `report` as a user meets them: what is printed, written, refused."""

import errno
import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import imbalanced_table, run

from steelyard.compare.tables.command import default_folder

QUICK = ["--seeds", "1", "--draws", "1", "--epochs", "1", "--hidden", "4", "--no-references"]


@pytest.fixture
def table(tmp_path):
    return imbalanced_table(tmp_path)


def test_compare_prints_a_table_and_writes_results(table, tmp_path, capsys):
    out = tmp_path / "out"
    code, printed, said = run(capsys, "compare", table, "--target", "y", "--out", out, *QUICK)
    assert code == 0
    assert printed.startswith("table.csv: 200 rows, 2 columns, 2 classes; training rows per class")
    for title in ("Cross-entropy", "Post-hoc logit adjustment", "LDAM, deferred weights"):
        assert title in printed
    assert "No verdict: 1 seed, and it takes 5 to tell a difference from luck." in printed.replace(
        "\n", " "
    )
    assert said == (
        "network: standard, 2 hidden layers of 4, 1 number embedded; a training takes 4 steps of "
        "32 rows\nseed 0: 10 candidates done (10 of 10)\n"
    )
    assert (
        "Network: standard, 2 hidden layers of 4, 1 number embedded; 1 epoch, 32"
        in printed.replace("\n", " ")
    )
    *lines, files = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert files == f"Written: {out / 'results.json'} and report.html"
    assert (out / "report.html").stat().st_size > 10_000
    results = json.loads((out / "results.json").read_text())
    assert results["data"]["classes"] == ["common", "rare"]
    assert results["data"]["train_counts"] == [108, 12]


def test_compare_prints_json_alone(table, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("compare", table, "--target", "y", "--out", out, *QUICK, "--json")
    code, printed, _ = run(capsys, *arguments)
    assert code == 0
    assert json.loads(printed) == json.loads((out / "results.json").read_text())


def test_compare_adds_the_baselines(table, tmp_path, capsys):
    arguments = ("compare", table, "--target", "y", "--loss", "poly", "--out", tmp_path / "out")
    _, printed, _ = run(capsys, *arguments, *QUICK, "--json")
    names = [entry["name"] for entry in json.loads(printed)["candidates"]]
    assert names == ["cross-entropy", "post-hoc", "weighted-cross-entropy", "poly"]


def test_a_finished_study_is_read_not_trained_again(table, tmp_path, capsys, monkeypatch):
    arguments = ("compare", table, "--target", "y", "--out", tmp_path / "out", *QUICK)
    _, first, _ = run(capsys, *arguments)
    monkeypatch.setattr("steelyard.compare.tables.runner.timed_group", None)
    code, second, said = run(capsys, *arguments)
    assert (code, second, said) == (0, first, "")


def test_other_options_in_the_same_folder_are_refused(table, tmp_path, capsys):
    arguments = ("compare", table, "--target", "y", "--out", tmp_path / "out", *QUICK)
    run(capsys, *arguments)
    code, printed, said = run(capsys, *arguments, "--epochs", "2")
    assert (code, printed) == (2, "")
    assert (
        "holds another study (epochs was 1, now 2); choose another folder (--out, in Python out=)"
        in said
    )
    with table.open("a") as file:
        file.write("0.5,red,rare\n")
    code, _, said = run(capsys, *arguments)
    assert code == 2
    assert "holds another study (data was table.csv (" in said
    assert "), now table.csv (" in said


def test_each_file_has_a_folder_of_its_own(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "compare", *QUICK)[0] == 0
    assert run(capsys, "compare", "table.csv", "--target", "y", *QUICK)[0] == 0
    found = sorted(path.parent.name for path in Path("steelyard-results").glob("*/results.json"))
    assert found == ["digits", "table"]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("a.csv", "a"),
        ("dir/b.c.parquet", "b.c"),
        ("...csv", "data"),
        ("x\ny.csv", r"x\ny"),
        ("\udcff.npz", r"\udcff"),
    ],
)
def test_the_default_folder_comes_from_the_name(name, folder):
    assert default_folder(Path(name)) == Path("steelyard-results", folder)
    assert default_folder(None) == Path("steelyard-results/digits")


def test_the_same_file_under_another_name_is_the_same_study(table, tmp_path, capsys, monkeypatch):
    arguments = ("--target", "y", "--out", tmp_path / "out", *QUICK, "--json")
    _, first, _ = run(capsys, "compare", table, *arguments)
    other = table.rename(tmp_path / "other.csv")
    monkeypatch.setattr("steelyard.compare.tables.runner.timed_group", None)
    code, second, said = run(capsys, "compare", other, *arguments)
    assert (code, said) == (0, "")
    assert second == first.replace("table.csv", "other.csv")


def read_only(monkeypatch):
    """As a disk that cannot be written: root may write whatever the rights say."""
    connect, open_ = sqlite3.connect, Path.open

    def read(self, mode="r", *arguments, **options):
        if set("xwa+") & set(mode):
            raise OSError(errno.EROFS, "Read-only file system")
        return open_(self, mode, *arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(f"file:{path}?mode=ro", uri=True))
    monkeypatch.setattr(Path, "open", read)


def test_a_finished_study_is_shown_from_a_disk_that_cannot_be_written(
    table, tmp_path, capsys, monkeypatch
):
    arguments = ("compare", table, "--target", "y", "--out", tmp_path / "out", *QUICK)
    _, first, _ = run(capsys, *arguments)
    with monkeypatch.context() as patched:
        read_only(patched)
        assert run(capsys, *arguments) == (0, first, "")
    with sqlite3.connect(tmp_path / "out/study.sqlite") as database:
        database.execute("DELETE FROM cell")
    database.close()
    (tmp_path / "out/results.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(
            "steelyard.compare.tables.runner.timed_group", None
        )  # nothing is trained in vain
        read_only(patched)
        code, printed, said = run(capsys, *arguments)
    assert (code, printed) == (2, "")
    assert "study.sqlite could not be written or read (attempt to write a readonly" in said


def test_the_answer_is_shown_even_where_no_file_can_be_written(
    table, tmp_path, capsys, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("steelyard.compare.comparison.write_atomically", full)
    code, printed, said = run(
        capsys, "compare", table, "--target", "y", "--out", tmp_path / "out", *QUICK
    )
    assert code == 2
    assert "Cross-entropy" in printed
    assert said.endswith("results.json could not be written: No space left on device\n")


MARKUP = ["[/dog]", "[red]", "x [/b]", ":smile:", "[link=file:///etc]", "a\nb", "\x1b[2J", "[[x]]"]


def test_names_are_never_markup(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.repeat(MARKUP, 10)
    columns = {f"n{name}": rng.normal(size=80) for name in MARKUP}
    columns |= {f"l{name}": [[1, 2]] * 80 for name in MARKUP}  # lists are left out, with a note
    target, out = "y [/b]", tmp_path / "out [i]"
    path = tmp_path / "a [red] :smile:.parquet"
    pl.DataFrame(columns | {target: labels}).write_parquet(path)
    code, printed, _ = run(capsys, "compare", path, "--target", target, "--out", out, *QUICK)
    assert code == 0
    assert printed.startswith("a [red] :smile:.parquet: 80 rows")
    assert "l[/dog], l[red], lx [/b], l:smile:" in " ".join(printed.split())
    assert "\x1b" not in printed
    assert (out / "report.html").exists()
    code, printed, _ = run(capsys, "weights", path, "--target", target)
    assert code == 0
    for name in MARKUP[:5]:
        assert f"\n{name} " in printed
    assert r"a\nb " in printed
    code, _, said = run(capsys, "compare", path, "--target", "[/z]", "--out", out)
    assert code == 2
    assert said.count("\n") == 1
    assert "there is no column '[/z]' (columns: n[/dog], n[red], nx [/b]" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "--target", "y"], "there is no file 'none.csv'"),
        (["--epochs", "0"], "epochs is 0; it must be a whole number, at least 1"),
        (["--seeds", "many"], "argument --seeds: invalid int value: 'many'"),
        (["--loss", "fokal"], "there is no loss called 'fokal'. Did you mean focal?"),
        (["--device", "abacus"], "device 'abacus' cannot be used here: "),
        (["--device", "meta"], "device 'meta' cannot be used here: "),
        (["--hidden", "100000000000"], "8 networks with 61 features and 100,000,000,000 hidden"),
        (["--hidden", "1" + "0" * 400], "hidden is above 1,000,000,000,000, which no machine"),
        (["--draws", "100000000"], "5 seeds of 100,000,000 draws are 5,000,000,000 trainings"),
        (["--seeds", "1000000000"], "1,000,000,000 seeds of 8 draws are 80,000,000,000 trainings"),
        (["--draws", "20000", "--hidden", "99999"], "20,000 networks with 61 features and 99,999"),
        (["--group", "360", "--hidden", "9999999"], "360 networks with 61 features and 9,999,999"),
        (["--backend", "dask"], "a dask backend needs its scheduler: address (--address)"),
        (["--backend", "grid"], "backend is 'grid'; choose from: local, dask, ray"),
        (["--address", "tcp://x:1"], "address (--address) belongs to a cluster; say which"),
        (["--network", "huge"], "network is 'huge'; choose from: small, standard, large"),
        (["--workers", "0"], "workers is 0; it must be a whole number, at least 1"),
    ],
)
def test_compare_refuses_in_one_sentence_and_writes_nothing(tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    code, printed, said = run(capsys, "compare", *arguments, "--out", out)
    assert (code, printed) == (2, "")
    assert said.startswith(f"steelyard: {message}")
    assert said.count("\n") == 1
    assert not out.exists()


def test_bad_data_writes_nothing(tmp_path, capsys):
    path, out = tmp_path / "table.csv", tmp_path / "out"
    path.write_text("a,b,y\n" + "".join(f"1,x,{i % 2}\n" for i in range(20)))
    code, _, said = run(capsys, "compare", path, "--target", "y", "--out", out)
    assert code == 2
    assert said == (
        "steelyard: every feature is constant or empty in the training rows: "
        "there is nothing to learn from\n"
    )
    assert not out.exists()


def test_interrupted_it_says_how_to_resume(table, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("steelyard.compare.tables.runner.timed_group", interrupt)
    out = tmp_path / "out"
    arguments = ["compare", str(table), "--target", "y", "--out", str(out), *QUICK]
    monkeypatch.setattr(sys, "argv", ["steelyard", *arguments])
    code, _, said = run(capsys, *arguments)
    assert code == 130
    assert said.endswith(
        f"Interrupted. What is finished is kept in {out}; resume with:\n"
        f"    steelyard {' '.join(arguments)}\n"
    )


def test_report_needs_results(tmp_path, capsys):
    code, _, said = run(capsys, "report", tmp_path)
    assert code == 2
    assert said.startswith(f"steelyard: there is no {tmp_path / 'results.json'}; ")
    (tmp_path / "results.json").write_text("{")
    code, _, said = run(capsys, "report", tmp_path)
    assert code == 2
    assert "results.json could not be read: " in said
