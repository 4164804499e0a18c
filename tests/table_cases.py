"""A table with columns of every kind."""

import datetime as dt

import numpy as np
import polars as pl


def mixed_table(n=400):
    rng = np.random.default_rng(0)
    labels = np.array(["a"] * (n - 62) + ["b"] * 50 + ["c"] * 10 + ["d"] * 2)
    return pl.DataFrame(
        {
            "number": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
            "colour": [None if rng.random() < 0.1 else c for c in rng.choice(["red", "blue"], n)],
            "text": [f"item {i} of {c}" for i, c in enumerate(labels)],
            "day": [dt.date(2020, 1, 1) + dt.timedelta(days=int(i)) for i in range(n)],
            "flag": rng.random(n) < 0.5,
            "constant": [1] * n,
            "nothing": [None] * n,
            "y": labels,
        }
    )
