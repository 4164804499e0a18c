"""Tables and arrays in, splits out: what is refused, what is said, and that nothing leaks."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import from_any, from_arrays, load, load_digits
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.splits import Split, split_rows


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


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_mixed_table_is_read_and_prepared(tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    table = mixed_table()
    if suffix == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    data = load(path, "y")
    assert data.classes == ("a", "b", "c", "d")
    assert data.counts().tolist() == [338, 50, 10, 2]
    part = prepare(data, 0, 0.2, 0.2)
    for split in (part.train, part.validation, part.test):
        assert split.features.dtype == np.float32
        assert np.isfinite(split.features).all()
        assert np.abs(split.features).max() <= 3
    assert (part.train.features.std(0) > 0).all()  # constant columns are gone


def test_what_a_column_cannot_say_or_gives_away_is_noted(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{k},7,,{k % 3},{'7' if k % 2 else ''},{'ab'[k > 6]}" for k in range(3, 13)]
    path.write_text("id,one,none,a,gaps,y\n" + "\n".join(rows) + "\n")
    assert load(path, "y").notes == (
        "Columns of one value or none tell nothing: one, none.",
        "The column 'id' counts the rows. If they lie in an order of the classes, it gives the "
        "class away: take it out.",
    )
    frame = pl.DataFrame({"id": [1, 2, 4, 5, 6, 7], "back": range(6, 0, -1)})
    assert from_any(frame, ["a", "b"] * 3).notes == ()
    many = pl.DataFrame({f"c{k}": [0] * 6 for k in range(9)} | {"a": [0, 2, 1, 4, 3, 5]})
    (note,) = from_any(many, ["a", "b"] * 3).notes
    assert note == "Columns of one value or none tell nothing: c0, c1, c2, c3, c4 and 4 more."


def test_decimal_commas_are_numbers_where_semicolons_separate(tmp_path):
    path = tmp_path / "t.csv"
    rows = ['"größe";geld;liste;y', "1,5;1.234,5;1,5,7;a", "-2;-0,25;2;b", ";12;3;a", "3e-2;7;4;b"]
    path.write_text("\n".join([*rows[:1], *rows[1:] * 2]) + "\n", encoding="utf-8")
    data = load(path, "y")
    expected = [[1.5, 1234.5], [-2, -0.25], [np.nan, 12], [0.03, 7]] * 2
    assert data.numbers.tolist() == pytest.approx(np.array(expected), nan_ok=True)
    assert data.rest.columns == ["2"]  # 1,5,7 is no number
    path.write_text('a,y\n"1,5",a\n"2,5",b\n"1,5",a\n"2,5",b\n')
    assert load(path, "y").numbers.shape == (4, 0)


def test_semicolons_are_recognised(tmp_path):
    path = tmp_path / "european.csv"
    path.write_text("a;y\n" + "".join(f"{i};{i % 2}\n" for i in range(10)))
    assert load(path, "y").columns == 1


def test_forty_classes_and_one_of_two_rows():
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 39, 800), [39, 39]])
    data = from_any(rng.normal(size=(802, 3)), labels)
    assert "Class 39 with two rows: one trains, one tests, none is left to choose by." in data.notes
    split = split_rows(data, 0, 0.2, 0.2)
    assert np.bincount(data.labels[split.train], minlength=40)[39] == 1
    assert np.bincount(data.labels[split.test], minlength=40)[39] == 1
    assert not (data.labels[split.validation] == 39).any()


@pytest.mark.parametrize("n", range(2, 12))
def test_every_class_is_trained_and_tested_whatever_its_rows(n):
    labels = np.array([0] * 30 + [1] * n)
    data = from_arrays(np.arange(30.0 + n)[:, None], labels, name="x", target="y")
    split = split_rows(data, 1, 0.2, 0.2)
    train, test = ((data.labels[rows] == 1).sum() for rows in (split.train, split.test))
    assert train >= 1
    assert test >= 1
    everything = np.sort(np.concatenate([split.train, split.validation, split.test]))
    assert everything.tolist() == list(range(30 + n))


def test_shares_are_those_asked_for():
    data = from_arrays(np.zeros((1000, 1)), np.repeat([0, 1], [900, 100]), name="x", target="y")
    split = split_rows(data, 0, 0.2, 0.3)
    assert [len(rows) for rows in (split.train, split.validation, split.test)] == [500, 200, 300]
    assert (data.labels[split.test] == 1).sum() == 30


def test_digits_are_long_tailed_in_training_and_balanced_elsewhere():
    data = load_digits()
    part = prepare(data, 0, 0.2, 0.2)
    assert part.counts.tolist() == [int(122 * 50 ** (-c / 9)) for c in range(10)]
    for split in (part.validation, part.test):
        assert np.bincount(split.labels).tolist() == [26] * 10


def test_seeds_split_differently_and_repeat():
    data = load_digits()
    a, b, again = (split_rows(data, seed, 0.2, 0.2) for seed in (0, 1, 0))
    assert a.train.tolist() == again.train.tolist()
    assert a.train.tolist() != b.train.tolist()


def test_what_notebooks_hold_is_the_same_data():
    table = mixed_table()
    frames = [
        from_any(table.drop("y"), table["y"]),
        from_any(table.drop("y").to_pandas(), table["y"].to_pandas()),
        from_any(table.drop("y"), table["y"].to_list()),
    ]
    for data in frames:
        assert data.labels.tolist() == frames[0].labels.tolist()
        assert data.columns == frames[0].columns
    x, y = np.random.default_rng(0).normal(size=(20, 2)), [0, 1] * 10
    for features in (x, torch.tensor(x), x.tolist(), pd.DataFrame(x)):
        np.testing.assert_allclose(from_any(features, y).numbers, x, rtol=1e-6)


@pytest.mark.parametrize("kind", ["category", "string", "bool", "int8"])
def test_labels_of_any_kind(kind):
    values = pd.Series([0, 1] * 5).astype(kind)
    data = from_any(pd.DataFrame({"a": range(10)}), values.rename("y"))
    assert len(data.classes) == 2
    assert data.labels.tolist() == [0, 1] * 5


def test_whole_numbers_written_as_floats_are_classes():
    data = from_any(np.zeros((4, 1)), np.array([1.0, 2.0, 1.0, 2.0]))
    assert data.classes == ("1", "2")


def test_infinite_values_are_taken_as_missing_and_said():
    x = np.ones((10, 2))
    x[:, 0] = range(10)
    x[3, 1] = np.inf
    data = from_any(x, [0, 1] * 5)
    assert data.notes == ("1 infinite values were taken as missing.",)
    assert np.isnan(data.numbers[3, 1])


def test_columns_of_lists_are_left_out_and_said():
    table = pl.DataFrame({"a": range(0, 12, 2), "bag": [[1], [2]] * 3})
    data = from_any(table, [0, 1] * 3)
    assert data.columns == 1
    assert data.notes == ("Columns that hold lists, bytes or objects were left out: bag.",)


REFUSED_TABLES = {
    "one class": ("a,y\n1,x\n2,x\n", r"'y' holds only the class 'x'; a comparison needs two"),
    "one row": ("a,y\n1,x\n2,x\n3,z\n", r"class 'z' has one row in 'y'; a class needs two rows"),
    "rows": ("a,y\n1,x\n2,x\n3,z\n4,w\n", r"2 classes \('w', 'z'\) have one row each in 'y'"),
    "floats": ("a,y\n1,0.5\n2,1.5\n", r"'y' holds numbers such as 0\.5, not classes; cut them"),
    "missing": ("a,y\n1,x\n2,\n3,z\n", r"1 label is missing in 'y', the first in row 2; drop"),
    "empty": ("", r"'table\.csv' is empty"),
    "header": ("a,y\n", r"'table\.csv' has column names but no rows"),
    "alone": ("y\n0\n1\n0\n1\n", r"table\.csv has no column to learn 'y' from"),
    "typo": ("a,Y\n1,x\n", r"there is no column 'y' \(columns: a, Y\)"),
    "ragged": ("a,y\n1,2\n1,2,3\n", r"'table\.csv' could not be read: "),
}


@pytest.mark.parametrize("case", REFUSED_TABLES)
def test_what_is_no_classification_problem_is_refused(tmp_path, case):
    text, message = REFUSED_TABLES[case]
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(StudyError, match=message):
        load(path, "y")


def test_constant_columns_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b,y\n" + "".join(f"1,x,{i % 2}\n" for i in range(20)))
    with pytest.raises(StudyError, match="every feature is constant or empty in the training"):
        prepare(load(path, "y"), 0, 0.2, 0.2)


def test_files_that_are_not_tables_are_refused(tmp_path):
    def refused(name, message, content=b"xxxxxxxxxxxx"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(StudyError, match=message):
            load(path, "y")

    refused("a.xlsx", r"'a\.xlsx' is of no known kind; name a \.csv, \.tsv, \.parquet or \.npz")
    refused("a.parquet", r"'a\.parquet' could not be read: ")
    refused("a.npz", r"'a\.npz' could not be read: ")
    with pytest.raises(StudyError, match="there is no file"):
        load(tmp_path / "none.csv", "y")
    with pytest.raises(StudyError, match="is a folder; name a"):
        load(tmp_path, "y")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StudyError, match=r"say which column .* --target COLUMN \(one of: a, b\)"):
        load(tmp_path / "b.csv")


def test_arrays_are_read_and_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.zeros((4, 2, 3)), y=[0, 1, 0, 1])
    assert load(path).numbers.shape == (4, 6)
    np.savez(path, X=np.zeros((4, 2)))
    with pytest.raises(StudyError, match=r"'a\.npz' holds X; expected X and y"):
        load(path)
    with pytest.raises(StudyError, match=r"X has shape \(3, 2\) and y has shape \(4,\)"):
        from_any(np.zeros((3, 2)), [0, 1, 0, 1])
    with pytest.raises(StudyError, match="X has 3 rows and y has 4"):
        from_any(pl.DataFrame({"a": [1, 2, 3]}), [0, 1, 0, 1])
    with pytest.raises(StudyError, match="expected numbers"):
        from_any(np.array([["a"], ["b"]]), [0, 1])


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


@pytest.mark.parametrize("validation", [0.01, 0.2, 0.45, 0.59])
@pytest.mark.parametrize("test", [0.01, 0.2, 0.4, 0.9])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_splits_are_disjoint_and_sensible_whatever_the_shares(n, test, validation):
    labels = np.array([0] * 30 + [1] * n)
    data = from_arrays(np.arange(30.0 + n)[:, None], labels, name="x", target="y")
    split = split_rows(data, 0, validation, test)
    everything = np.concatenate([split.train, split.validation, split.test])
    assert sorted(everything) == list(range(30 + n))
    rare = [int((labels[rows] == 1).sum()) for rows in (split.train, split.validation, split.test)]
    assert rare[0] >= 1
    assert rare[2] >= 1
    assert rare[1] >= (n > 2)
    if n < 4:
        assert rare == [1, n - 2, 1]


def test_a_row_in_two_splits_is_never_passed_over():
    rows = [np.array([0, 1]), np.array([2]), np.array([3])]
    for place in range(3):
        broken = list(rows)
        broken[place] = np.append(broken[place], rows[place - 1][0])
        with pytest.raises(AssertionError, match="a row is in two splits"):
            Split(*broken)


def test_two_rows_of_every_class_leave_none_to_choose_by():
    data = from_any(np.arange(6.0)[:, None], [0, 1, 2] * 2)
    with pytest.raises(StudyError, match="no class has a third row: one trains, one tests"):
        prepare(data, 0, 0.2, 0.2)


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
