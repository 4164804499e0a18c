"""The command `steelyard`, called as a user calls it, and a table for it."""

import numpy as np
import polars as pl

from steelyard.cli import main


def run(capsys, *arguments):
    """Exit code, what was printed, and what was said on the side."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def imbalanced_table(tmp_path):
    """180 rows of 'common' and 20 of 'rare' in table.csv."""
    rng = np.random.default_rng(0)
    labels = np.array(["common"] * 180 + ["rare"] * 20)
    frame = pl.DataFrame(
        {"x": rng.normal(size=200), "colour": rng.choice(["red", "blue"], 200), "y": labels}
    )
    path = tmp_path / "table.csv"
    frame.write_csv(path)
    return path
