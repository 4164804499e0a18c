"""`steelyard compare study.py`: the script's study, with the last word on its options."""

import json
import sys

import pytest

from steelyard.cli import main

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from steelyard import compare
from beside import width

def network():
    return nn.Linear(width, 2)

rows = TensorDataset(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)),
                     (torch.arange(60) % 3 == 0).long())
found = compare.networks(network, train=rows, test=rows, losses=["focal"], epochs=2, batch_size=16,
                         draws=2, seeds=2, progress=False{more})
print("verdict:", found.verdict)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("width = 3\n")
    monkeypatch.delitem(sys.modules, "beside", raising=False)

    def write(more="", text=SCRIPT):
        (tmp_path / "study.py").write_text(text.replace("{more}", more))
        return "study.py"

    return write


def refusal(capsys, *arguments):
    assert main(["compare", *arguments]) == 2
    return capsys.readouterr().err


def test_a_script_becomes_a_report(script, capsys, tmp_path):
    path = script(', out="kept"')
    assert main(["compare", path, "--seeds", "3", "--epochs", "1"]) == 0
    assert "Written: kept/results.json and report.html" in capsys.readouterr().out
    found = json.loads((tmp_path / "kept" / "results.json").read_text())
    assert found["study"]["seeds"] == 3
    assert found["study"]["epochs"] == 1
    assert found["study"]["draws"] == 2  # the script's, not the default of tables
    assert "images" not in (tmp_path / "kept" / "report.html").read_text()[:100]
    assert main(["report", "kept"]) == 0
    assert main(["compare", path, "--out", "other"]) == 0
    assert json.loads((tmp_path / "other" / "results.json").read_text())["study"]["seeds"] == 2
    assert sys.argv[0] != path


def test_a_study_without_a_folder_gets_one(script, tmp_path):
    assert main(["compare", script()]) == 0
    assert (tmp_path / "steelyard-results" / "study" / "report.html").exists()


def test_what_a_script_cannot_be_asked(script, capsys):
    assert "there is no file missing.py" in refusal(capsys, "missing.py")
    empty = script(text="x = 1\n")
    assert "study.py runs no study: it calls neither" in refusal(capsys, empty)
    assert "study.py is no Python script" in refusal(capsys, script(text="def\n"))
    path = script()
    for option in ("--hidden", "--group"):
        assert f"{option} belongs to tables" in refusal(capsys, path, option, "3")
    assert "--loss belongs to tables" in refusal(capsys, path, "--loss", "focal")
    assert "select is 'f1'; choose from" in refusal(capsys, path, "--select", "f1")
    twice = script(text=SCRIPT.replace("{more}", "") * 2)
    assert "two studies of this script are to be kept in" in refusal(capsys, twice)
