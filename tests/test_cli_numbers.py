"""`steelyard weights` and `steelyard explain`: what they print, and what they refuse."""

import json
from inspect import signature

import numpy as np
import polars as pl
import pytest
import torch
from commands import imbalanced_table, run

import steelyard as sy
from steelyard.cli.explain import losses_by_name


@pytest.fixture
def table(tmp_path):
    return imbalanced_table(tmp_path)


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
    assert names["bce-with-logits"] is sy.BCEWithLogitsLoss
    assert names["dice-ce"] is sy.DiceCELoss
    public = {getattr(sy, name) for name in sy.losses.__all__ if name.endswith("Loss")}
    bases = {sy.SoftmaxLoss, sy.SigmoidLoss, sy.RegionLoss, sy.CompoundLoss}
    assert set(names.values()) == public - bases


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
        ([*ROW, "--loss", "ldam", "--class-counts", f"{10**400},1"], "class_counts: class 0 has"),
        ([*ROW, "--ignore-index", str(10**20)], f"ignore_index={10**20} does not fit 64 bits"),
    ],
)  # fmt: skip
def test_explain_survives_what_no_tensor_holds(capsys, arguments, message):
    code, printed, said = run(capsys, "explain", *arguments)
    assert (code, printed) == (2, "")
    assert said.startswith(f"steelyard: {message}")
    assert said.count("\n") == 1
    assert len(said) < 300


SEVERAL = ["--logits", "[[2, -1], [0.5, 1]]", "--target", "[[1, 0], [0, -1]]"]
IMAGES = ["--logits", "[[[2, 0, 0], [0, 2, 0]]]", "--target", "[[0, 1, 1]]"]


@pytest.mark.parametrize(
    ("arguments", "loss"),
    [
        ([*SEVERAL, "--loss", "bce-with-logits", "--pos-weight", "2,3"],
         sy.BCEWithLogitsLoss(pos_weight=[2.0, 3.0])),
        ([*SEVERAL, "--loss", "sigmoid-focal", "--mean-over", "positive"],
         sy.SigmoidFocalLoss(mean_over="positive")),
        ([*SEVERAL, "--loss", "sigmoid-logit-adjusted", "--class-counts", "3,1", "--total", "9"],
         sy.SigmoidLogitAdjustedLoss(class_counts=[3, 1], total=9)),
        ([*SEVERAL, "--loss", "dice", "--activation", "sigmoid", "--ignore-index", "-1"],
         sy.DiceLoss(activation="sigmoid", ignore_index=-1)),
        ([*IMAGES, "--loss", "dice", "--squared", "--absent", "count", "--smooth", "1"],
         sy.DiceLoss(squared=True, absent="count", smooth=1.0)),
        ([*IMAGES, "--loss", "generalized-dice", "--weighting", "simple"],
         sy.GeneralizedDiceLoss(weighting="simple")),
        ([*IMAGES, "--loss", "dice-ce", "--dice", "0.5", "--weight", "1,2", "--per", "batch"],
         sy.DiceCELoss(dice=0.5, weight=[1.0, 2.0], per="batch")),
    ],
)  # fmt: skip
def test_explain_takes_losses_of_several_labels_and_of_regions(capsys, arguments, loss):
    logits, target = (torch.tensor(json.loads(arguments[i])) for i in (1, 3))
    code, printed, said = run(capsys, "explain", *arguments, "--json")
    assert code == 0, said
    expected = float(loss(logits.float(), target))
    assert json.loads(printed)["result"] == pytest.approx(expected, rel=1e-5)


def test_explain_says_what_another_loss_would_take(capsys):
    _, _, said = run(capsys, "explain", *SEVERAL, "--loss", "focal")
    assert said.startswith("steelyard: target has shape (2, 2)")
    _, _, said = run(capsys, "explain", *ROW, "--loss", "bce-with-logits")
    assert said.startswith("steelyard: target has shape (1,)")
    _, _, said = run(capsys, "explain", *ROW, "--per", "batch")
    assert said.startswith("steelyard: CrossEntropyLoss() has no keyword 'per'")


def test_every_number_that_a_loss_takes_is_an_option_of_explain(capsys):
    for name, kind in losses_by_name().items():
        counts = ["--class-counts", "9,1"] if "class_counts" in str(signature(kind)) else []
        counts += ["--total", "20"] if "total" in signature(kind).parameters else []
        for keyword in signature(kind).parameters.values():
            if isinstance(keyword.default, float):
                option = f"--{keyword.name.replace('_', '-')}"
                row = SEVERAL if issubclass(kind, sy.SigmoidLoss) else ROW
                arguments = [*row, "--loss", name, *counts, option, keyword.default]
                assert run(capsys, "explain", *arguments)[0] == 0, (name, option)
