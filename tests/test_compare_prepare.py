"""From a table to what a network reads: no digit is lost, and nothing leaks."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
import torch
from table_cases import mixed_table

from steelyard.compare.tables.data import from_any, load
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.splits import split_rows


def planted(data, split, table):
    """The table with a feature that equals the class in the test rows, and is 0 elsewhere."""
    leak = np.zeros(data.rows)
    leak[split.test] = data.labels[split.test] + 1
    text = np.where(leak > 0, [f"class {c}" for c in data.labels], "unknown")
    return table.with_columns(leak=leak, leak_text=text)


def test_preparation_reads_the_training_rows_alone():
    table = mixed_table()
    labels = table.get_column("y")
    plain = from_any(table.drop("y"), labels)
    split = split_rows(plain, 0, 0.2, 0.2)
    leaky = from_any(planted(plain, split, table).drop("y"), labels)
    for a, b in zip(
        vars(prepare(plain, 0, 0.2, 0.2)).values(),
        vars(prepare(leaky, 0, 0.2, 0.2)).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(getattr(a, "features", a), getattr(b, "features", b))
        np.testing.assert_array_equal(getattr(a, "labels", a), getattr(b, "labels", b))


def test_changing_test_rows_does_not_change_what_training_sees():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    data = from_any(x, y)
    split = split_rows(data, 0, 0.2, 0.2)
    moved = x.copy()
    moved[split.test] *= 1000
    a, b = prepare(data, 0, 0.2, 0.2), prepare(from_any(moved, y), 0, 0.2, 0.2)
    np.testing.assert_array_equal(a.train.features, b.train.features)
    np.testing.assert_array_equal(a.validation.features, b.validation.features)
    assert not np.array_equal(a.test.features, b.test.features)


def offsets(n=200):
    """Small numbers with signal and noise, and the same numbers far from zero."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    near = np.stack([10 * labels, rng.integers(0, 50, n)], 1)
    return near, labels


@pytest.mark.parametrize("offset", [1_700_000_000, 1_700_000_000_000_000_000, -(2**62), 2**40])
def test_numbers_far_from_zero_are_read_as_those_near_zero(tmp_path, offset):
    near, labels = offsets()
    expected = prepare(from_any(near, labels), 0, 0.2, 0.2)
    far = near + offset
    frame = pl.DataFrame({"a": far[:, 0], "b": far[:, 1]})
    frame.with_columns(y=labels).write_csv(tmp_path / "a.csv")
    frame.with_columns(y=labels).write_parquet(tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", X=far, y=labels)
    tables = [
        from_any(far, labels),
        from_any(torch.tensor(far), labels),
        from_any(frame.to_pandas(), labels),
        from_any(frame.cast(pl.String), labels),
        load(tmp_path / "a.csv", "y"),
        load(tmp_path / "a.parquet", "y"),
        load(tmp_path / "a.npz"),
    ]
    if abs(offset) < 2**52:
        tables.append(from_any(far.astype(np.float64), labels))
    for data in tables:
        part = prepare(data, 0, 0.2, 0.2)
        for ours, plain in zip(
            (part.train, part.validation, part.test),
            (expected.train, expected.validation, expected.test),
            strict=True,
        ):
            np.testing.assert_allclose(ours.features, plain.features, rtol=0, atol=1e-6)


def test_unsigned_numbers_beyond_int64_keep_their_differences():
    near, labels = offsets()
    far = near.astype(np.uint64) + np.uint64(2**64 - 1000)
    ours, plain = (prepare(from_any(x, labels), 0, 0.2, 0.2) for x in (far, near))
    np.testing.assert_allclose(ours.train.features, plain.train.features, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e300])
def test_the_unit_of_a_column_changes_nothing(factor):
    near, labels = offsets()
    near = near + 0.5
    ours, plain = (prepare(from_any(x, labels), 0, 0.2, 0.2) for x in (near * factor, near))
    np.testing.assert_allclose(ours.train.features, plain.train.features, rtol=0, atol=1e-6)


def test_an_outlier_as_large_as_numbers_go_changes_no_other_row():
    near, labels = offsets()
    data = from_any(near, labels)
    test_row = split_rows(data, 0, 0.2, 0.2).test[0]
    wild = near.astype(np.float64)
    wild[test_row, 1] = -1.7e308
    ours, plain = (prepare(d, 0, 0.2, 0.2) for d in (from_any(wild, labels), data))
    np.testing.assert_array_equal(ours.train.features, plain.train.features)
    np.testing.assert_array_equal(ours.test.features[1:], plain.test.features[1:])
    assert ours.test.features[0].tolist() == pytest.approx([plain.test.features[0, 0], -3])


def test_seconds_of_a_date_are_seen():
    _, labels = offsets()
    start = dt.datetime(2024, 1, 1, 12)
    moments = [start + dt.timedelta(seconds=10 * int(c)) for c in labels]
    for column in (moments, [f"{m:%m/%d/%Y %H:%M:%S}" for m in moments]):
        part = prepare(from_any(pl.DataFrame({"when": column}), labels), 0, 0.2, 0.2)
        for c in range(3):
            assert len(np.unique(part.train.features[part.train.labels == c], axis=0)) == 1
        assert len(np.unique(part.train.features, axis=0)) == 3


def test_numbers_keep_no_more_digits_than_they_have():
    labels = [0, 1] * 5
    for kind in (np.float32, np.int16, np.uint8, bool, np.float16):
        assert from_any(np.eye(10).astype(kind), labels).numbers.dtype == np.float32
    for kind in (np.float64, np.int32, np.int64):
        assert from_any(np.eye(10).astype(kind), labels).numbers.dtype == np.float64


def test_a_column_that_is_empty_takes_nothing_away(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=40), [0, 1] * 20
    plain = prepare(from_any(pl.DataFrame({"x": x}), labels), 0, 0.2, 0.2)
    for empty in (pl.Series([None] * 40), pl.Series([None] * 40, dtype=pl.String)):
        part = prepare(from_any(pl.DataFrame({"x": x, "e": empty}), labels), 0, 0.2, 0.2)
        np.testing.assert_array_equal(part.train.features, plain.train.features)
        np.testing.assert_array_equal(part.test.features, plain.test.features)


def test_columns_of_two_values_come_after_the_numbers():
    rng = np.random.default_rng(0)
    flags, numbers = rng.random((200, 2)) < 0.5, rng.normal(size=(200, 2))
    numbers[::9, 1] = np.nan  # a flag tells where it is missing
    x = np.column_stack([flags[:, 0], numbers[:, 0], flags[:, 1], numbers[:, 1]])
    part = prepare(from_any(x, np.arange(200) % 2), 0, 0.2, 0.2)
    values = [len(set(column)) for column in part.train.features.T]
    assert part.numeric == 2
    assert min(values[:2]) > 10
    assert values[2:] == [2, 2, 2]
    assert part.test.features[:, 2:].shape == (40, 3)


def test_the_components_of_a_text_are_no_numbers_to_embed():
    """Thirty of them would otherwise be more than embeddings are for, and switch them off."""
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in range(200)]
    numbers = rng.normal(size=(200, 3))
    numbers[::9, 1] = np.nan
    table = pl.DataFrame(
        {
            "constant": np.ones(200),
            "said": [" ".join(rng.choice(words, 5)) for _ in range(200)],
            **{f"n{k}": column for k, column in enumerate(numbers.T)},
            "flag": rng.random(200) < 0.5,
        }
    )
    part = prepare(from_any(table, np.arange(200) % 2), 0, 0.2, 0.2)
    assert part.numeric == 3
    assert part.width == 3 + 1 + 1 + 30  # a flag, and one that tells where a number is missing
    values = [len(set(column)) for column in part.train.features.T]
    assert sorted(values)[:2] == [2, 2]
    assert min(values[:3]) > 90
