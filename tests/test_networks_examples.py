"""The examples with a user's own network, in small: from the script to the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_compare_cluster import free_port

from steelyard.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = ("--seeds", "1", "--draws", "1", "--epochs", "1")
KINDS = {"images": "classes", "own_loop": "classes", "masks": "masks", "tokens": "tokens"}


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    """An example's neighbours are imported anew, and forgotten."""
    for name in ("images", "segmentation"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", KINDS)
def test_an_example_becomes_a_report(name, tmp_path, capsys):
    script = str(EXAMPLES / f"{name}.py")
    assert main(["compare", script, *SMALL, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["data"]["targets"] == KINDS[name]
    assert found["data"]["test"] == "fixed"
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert "No verdict: 1 seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "shape", "ignored"), [("masks", (4, 8, 8), 255), ("tokens", (6, 9), -100)]
)
def test_the_lines_of_an_example_leave_out_what_it_ignores(name, shape, ignored, tmp_path):
    main(["compare", str(EXAMPLES / f"{name}.py"), *SMALL, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())
    labels = torch.randint(3, shape)
    labels[0] = ignored
    logits = torch.randn(labels.shape).unsqueeze(1) * torch.tensor([1.0, 0.0, -1.0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    given = {
        "train_labels": labels,
        "validation_labels": labels,
        "logits": logits,
        "validation_logits": logits,
    }
    assert len(found["candidates"]) == 5
    for entry in found["candidates"]:
        scope = dict(given)
        exec(entry["code"], scope)
        assert scope["loss"](logits, labels).isfinite()
        assert scope["temperature"] > 0


@pytest.mark.slow
def test_the_own_loop_runs_under_torchrun(tmp_path):
    script = (EXAMPLES / "own_loop.py").read_text()
    small = script.replace("epochs=30", "epochs=1").replace("seeds=5", "seeds=1")
    (tmp_path / "own_loop.py").write_text(small.replace("draws=4", "draws=1"))
    (tmp_path / "images.py").write_text((EXAMPLES / "images.py").read_text())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "--master-addr", "127.0.0.1", "--master-port", str(free_port()), "own_loop.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "own-loop-study" / "results.json").read_text())
    assert sum(map(sum, found["candidates"][0]["seeds"][0]["confusion"])) == 600
