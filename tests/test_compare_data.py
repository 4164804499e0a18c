"""Tables and arrays in: what is read, what is refused, and what is said."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from table_cases import mixed_table

from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import from_any, load
from steelyard.compare.tables.prepare import prepare
from steelyard.compare.tables.splits import split_rows


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
