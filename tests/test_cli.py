"""The command as a user meets it: what it prints, what it refuses, and how it ends."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import steelyard as sy
from steelyard.cli import losses_by_name, main
from steelyard.compare.tables.command import default_folder

QUICK = ["--seeds", "1", "--draws", "1", "--epochs", "1", "--hidden", "4", "--no-references"]


def run(capsys, *arguments):
    """Exit code, what was printed, and what was said on the side."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.array(["common"] * 180 + ["rare"] * 20)
    frame = pl.DataFrame(
        {"x": rng.normal(size=200), "colour": rng.choice(["red", "blue"], 200), "y": labels}
    )
    path = tmp_path / "table.csv"
    frame.write_csv(path)
    return path


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
    assert "holds another study (epochs was 1, now 2); choose another --out" in said
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
        (["--epochs", "0"], "epochs is 0; it must be at least 1"),
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
        (["--backend", "dask"], "a dask backend needs its scheduler: --address"),
        (["--backend", "grid"], "backend is 'grid'; choose from: local, dask, ray"),
        (["--address", "tcp://x:1"], "--address belongs to a cluster; add --backend dask"),
        (["--network", "huge"], "network is 'huge'; choose from: small, standard, large"),
        (["--workers", "0"], "workers is 0; it must be at least 1"),
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


def test_weights_prints_every_scheme_and_the_line_to_paste(table, capsys):
    code, printed, _ = run(capsys, "weights", table, "--target", "y")
    assert code == 0
    assert printed.startswith("table.csv: 200 rows, 2 classes, the largest 9 times the smallest.")
    scope = {"sy": sy}
    exec(printed.splitlines()[-1].strip(), scope)
    expected = sy.class_weights([180, 20], "balanced")
    torch.testing.assert_close(scope["loss"].weight.float(), expected, rtol=1e-5, atol=0)


def test_weights_as_json_agree_with_the_library(table, capsys):
    _, printed, _ = run(capsys, "weights", table, "--target", "y", "--json")
    found = json.loads(printed)
    assert found["classes"] == ["common", "rare"]
    assert found["counts"] == [180, 20]
    for scheme in ("balanced", "inverse", "sqrt", "effective", "enet"):
        assert found[scheme] == sy.class_weights([180, 20], scheme, dtype=torch.float64).tolist()


def test_weights_reads_a_parquet_file_as_a_stream(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.choice([3, 1, 2], 50_000, p=[0.9, 0.09, 0.01])
    path = tmp_path / "large.parquet"
    pl.DataFrame({"x": rng.normal(size=50_000), "y": labels}).write_parquet(path)
    monkeypatch.setattr(pl, "read_parquet", None)  # the whole file is never read
    _, printed, _ = run(capsys, "weights", path, "--target", "y", "--json")
    assert json.loads(printed)["counts"] == np.bincount(labels)[1:].tolist()


def test_weights_of_many_classes_are_lines_and_not_a_page(tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text("y\n" + "".join(f"{i}\n" for i in range(100_000)))
    code, printed, _ = run(capsys, "weights", path, "--target", "y")
    assert code == 0
    assert len(printed.splitlines()) < 60
    assert len(printed) < 5_000
    assert "… and 99960 more classes; --json has them all." in printed
    scope = {"sy": sy, "train_labels": torch.tensor([0] * 180 + [1] * 20)}
    exec("\n".join(line.strip() for line in printed.splitlines()[-3:]), scope)
    torch.testing.assert_close(scope["loss"].weight, sy.class_weights([180, 20], "balanced"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n1,x\n", "'y' holds only the class 'x'; a comparison needs two classes or more"),
        ("a,y\n1,x\n2,\n3,\n", "2 labels are missing in 'y'; drop those rows or fill them in"),
        ("a,y\n1,0.5\n2,1\n", "'y' holds numbers such as 0.5, not classes"),
    ],
)
def test_weights_refuses_in_one_sentence(tmp_path, capsys, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    code, _, said = run(capsys, "weights", path, "--target", "y")
    assert code == 2
    assert said.startswith(f"steelyard: {message}")


THREE = "[[.9, .1], [.8, .2], [.7, .3]]"


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], "0.640535"),
        (["--ignore-index", "1"], "0.442058"),
        (["--weight", "1,2"], "0.739773"),
        (["--weight", "[2, 1]"], "0.561144"),
        (["--weight", "1,2", "--loss", "focal", "--gamma", "0"], "0.739773"),
    ],
)
def test_explain_prints_the_worked_values(capsys, arguments, value):
    code, printed, _ = run(capsys, "explain", "--logits", THREE, "--target", "[0,1,0]", *arguments)
    assert code == 0
    assert printed.rstrip().endswith(f"= {value}")


def test_explain_passes_every_option_on(capsys):
    arguments = ["--logits", THREE, "--target", "[0,1,0]", "--loss", "vs", "--gamma", "0.2"]
    arguments += ["--tau", "1.5", "--class-counts", "90,10", "--label-smoothing", "0.1"]
    arguments += ["--reduction", "sum", "--sample-weight", "[1, 2, 0.5]", "--json"]
    _, printed, _ = run(capsys, "explain", *arguments)
    loss = sy.VSLoss(
        class_counts=[90, 10], gamma=0.2, tau=1.5, label_smoothing=0.1, reduction="sum"
    )
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    expected = loss(logits, torch.tensor([0, 1, 0]), torch.tensor([1, 2, 0.5]))
    assert json.loads(printed)["result"] == pytest.approx(expected.item(), rel=1e-5)


def test_loss_names_follow_from_the_public_losses():
    names = losses_by_name()
    assert names["cross-entropy"] is sy.CrossEntropyLoss
    assert names["ldam"] is sy.LDAMLoss
    assert names["logit-adjusted"] is sy.LogitAdjustedLoss
    public = {getattr(sy, name) for name in sy.losses.__all__ if name.endswith("Loss")}
    softmax = {kind for kind in public if issubclass(kind, sy.SoftmaxLoss)}
    assert set(names.values()) == softmax - {sy.SoftmaxLoss}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--logits", "x", "--target", "[0]"], "--logits is 'x'; expected numbers as JSON"),
        (["--logits", "[[1,2]]", "--target", "[5]"], "target[0] is 5, outside [0, C)"),
        (["--logits", "[[1,2]]", "--target", "[0]", "--loss", "x"], "there is no loss 'x'"),
        (["--logits", "[[1,2]]", "--target", "[0]", "--gamma", "2"], "CrossEntropyLoss() has no"),
        (["--logits", "[[1,2]]", "--target", "[0]", "--weight", "a"], "--weight is 'a'; expected"),
        (["--logits", "[[1,2]]"], "the following arguments are required: --target"),
    ],
)
def test_explain_refuses_in_one_sentence(capsys, arguments, message):
    code, printed, said = run(capsys, "explain", *arguments)
    assert (code, printed) == (2, "")
    assert said.startswith(f"steelyard: {message}")


def test_report_needs_results(tmp_path, capsys):
    code, _, said = run(capsys, "report", tmp_path)
    assert code == 2
    assert said.startswith(f"steelyard: there is no {tmp_path / 'results.json'}; ")
    (tmp_path / "results.json").write_text("{")
    code, _, said = run(capsys, "report", tmp_path)
    assert code == 2
    assert "results.json could not be read: " in said


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


ROW = ["--logits", "[[1, 2]]", "--target", "[0]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ROW, "--engine", "triton"], "engine='triton' cannot do this: the logits are on the CPU"),
        (["--logits", f"[[{10**400}, 1]]", "--target", "[0]"], "--logits is '[[1000"),
        (["--logits", "[" * 100_000, "--target", "[0]"], "--logits is '[[[["),
        (["--logits", '{"a": 1}', "--target", "[0]"], "--logits is '{\"a\": 1}'; expected"),
        (["--logits", "[[1, 2]]", "--target", f"[{10**400}]"], "--target is '[1000"),
        ([*ROW, "--weight", f"{10**400},1"], "weight of class 0 is inf: expected finite"),
        ([*ROW, "--sample-weight", f"[{10**400}]"], "--sample-weight is '[1000"),
        ([*ROW, "--loss", "ldam", "--class-counts", f"{10**400},1"], "counts: class 0 has inf"),
        ([*ROW, "--ignore-index", str(10**20)], f"ignore_index={10**20} does not fit 64 bits"),
    ],
)  # fmt: skip
def test_explain_survives_what_no_tensor_holds(capsys, arguments, message):
    code, printed, said = run(capsys, "explain", *arguments)
    assert (code, printed) == (2, "")
    assert said.startswith(f"steelyard: {message}")
    assert said.count("\n") == 1
    assert len(said) < 300


def test_every_number_that_a_loss_takes_is_an_option_of_explain(capsys):
    for name, kind in losses_by_name().items():
        counts = ["--class-counts", "9,1"] if "class_counts" in str(signature(kind)) else []
        for keyword in signature(kind).parameters.values():
            if isinstance(keyword.default, float):
                option = f"--{keyword.name.replace('_', '-')}"
                arguments = [*ROW, "--loss", name, *counts, option, keyword.default]
                assert run(capsys, "explain", *arguments)[0] == 0, (name, option)


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

    monkeypatch.setattr("steelyard.cli._weights", fail)
    code, _, found = run(capsys, "weights", "x.csv")
    assert code == 2
    assert found.startswith(f"steelyard: {said}")
    assert found.count("\n") == 1


def test_a_missing_module_of_our_own_is_a_defect_and_looks_like_one(monkeypatch):
    def fail(_):
        raise ModuleNotFoundError("No module named 'steelyard.lost'", name="steelyard.lost")

    monkeypatch.setattr("steelyard.cli._weights", fail)
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
