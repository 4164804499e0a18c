"""Do large tables lose anything by fewer epochs? 1,500 steps of a training against more of them.

    python -m benchmarks.large_tables [FILES]

Plain cross-entropy with its default draw, on tables of 60,000 rows: two are made here, of a known
structure, and Shuttle is read from FILES as `benchmarks.tables` does. Printed are scores and the
largest memory of the process so far.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification

from benchmarks.tables import read
from steelyard.compare.tables.data import Data, from_any
from steelyard.compare.tables.runner import run_study
from steelyard.compare.tables.study import Study

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


def clusters(rows: int) -> Data:
    """Five classes of four clusters each in twenty dimensions; one label in fifty is wrong."""
    x, y = make_classification(
        rows,
        20,
        n_informative=8,
        n_classes=5,
        n_clusters_per_class=4,
        weights=[0.7, 0.2, 0.07, 0.02, 0.01],
        flip_y=0.02,
        class_sep=1.5,
        random_state=0,
    )
    return from_any(x, y, "clusters")


def steps(rows: int) -> Data:
    """Four classes by thresholds and a wave of ten numbers, as trees like them, and noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 10))
    value = (x[:, 0] > 0.3) + (x[:, 1] * x[:, 2] > 0.5) + np.sin(3 * x[:, 3]) + 0.5 * (x[:, 4] > 1)
    y = np.searchsorted(
        np.quantile(value, [0.75, 0.95, 0.99]), value + 0.05 * rng.normal(size=rows)
    )
    return from_any(x, y, "steps")


def line(name: str, data: Data, epochs: int | None, seeds: int) -> str:
    study = Study(losses=("cross-entropy",), seeds=seeds, draws=1, epochs=epochs)
    started = time.process_time()
    results = run_study(data, study)
    seconds = (time.process_time() - started) / seeds
    scores = results["candidates"][0]["scores"]
    cells = [f"{scores[s]['mean']:.4f} ±{scores[s]['std'] or 0:.4f}" for s in SHOWN]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    used = results["study"]["epochs"]
    return f"| {name} | {used} | {' | '.join(cells)} | {seconds:.0f} | {memory:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_tables", description=__doc__)
    parser.add_argument("files", type=Path, nargs="?", metavar="FILES")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--times", type=float, default=2.5, help="as many epochs, beside the rule's"
    )
    options = parser.parse_args()
    tables = {"clusters": clusters(options.rows), "steps": steps(options.rows)}
    if options.files is not None:
        tables["shuttle"] = read("shuttle", options.files)
    print(f"| table | epochs | {' | '.join(SHOWN)} | s a training | MB |")
    print("|---" * (len(SHOWN) + 4) + "|")
    for name, data in tables.items():
        rule = Study(losses=("cross-entropy",)).budget(round(0.6 * data.rows)).epochs
        for epochs in (None, round(options.times * rule)):
            print(line(name, data, epochs, options.seeds), flush=True)


if __name__ == "__main__":
    main()
