"""Files of a study: which one is read, what is understood, and what is refused in one sentence."""

import gzip
import os
from contextlib import suppress

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from steelyard.compare.study import StudyError
from steelyard.compare.tables.data import count_column, load
from steelyard.compare.tables.files import existing

PATTERNS = ["data[1]", "x*", "q?", "{a,b}", "~", "**", "file:", "a b'\"", "y=3", "é%20"]


def rows_of(*labels):
    return pl.DataFrame({"x": np.arange(len(labels), dtype=float), "y": list(labels)})


def write(frame, path):
    """Under that name itself: polars would expand it."""
    plain = path.with_name("plain")
    if path.name.endswith(("parquet", "parq", "pq")):
        frame.write_parquet(plain)
    else:
        frame.write_csv(plain, separator="\t" if ".tsv" in path.name else ",")
    if path.name.endswith(".gz"):
        plain.write_bytes(gzip.compress(plain.read_bytes()))
    if path.name.endswith(".zst"):
        plain.write_bytes(pa.compress(plain.read_bytes(), codec="zstd", asbytes=True))
    plain.rename(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "csv.gz"])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_name_is_never_a_pattern(tmp_path, monkeypatch, name, suffix):
    monkeypatch.chdir(tmp_path)
    for other in ("data1", "xx", "qq", "a", "b"):  # what the patterns would find
        write(rows_of("other", "wrong", "other", "wrong"), tmp_path / f"{other}.{suffix}")
    path = write(rows_of("p", "q", "p", "q", "q"), tmp_path / f"{name}.{suffix}")
    for given in (path, path.name):
        data = load(given, "y")
        assert data.classes == ("p", "q")
        assert data.name == path.name
        assert count_column(given, "y") == {"p": 2, "q": 3}


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path):
    folder = tmp_path / "z=3"
    folder.mkdir()
    path = write(rows_of("p", "q", "p", "q"), folder / "a.parquet")
    assert load(path, "y").columns == 1


@pytest.mark.parametrize("column", ["*", "^.*$", "^y$", "__rows__", "rows", "label", "a.b", "\0"])
def test_a_column_is_never_a_pattern(tmp_path, column):
    frame = rows_of("p", "q", "p", "q").rename({"y": column})
    frame = frame.with_columns(y=pl.Series(["wrong"] * 4), other=pl.Series(list("abab")))
    path = write(frame, tmp_path / "a.parquet")
    assert load(path, column).classes == ("p", "q")
    assert load(path, column).columns == 3
    assert count_column(path, column) == {"p": 2, "q": 2}


@pytest.mark.parametrize(
    "name",
    [
        "A.CSV",
        "a.Tsv",
        "a.csv.gz",
        "a.tsv.gz",
        "a.csv.zst",
        "A.CSV.GZ",
        "a.parq",
        "a.pq",
        "a.PARQUET",
    ],
)
def test_what_can_be_read_is_read_whatever_it_is_called(tmp_path, name):
    path = tmp_path / name
    write(rows_of("p", "q", "p", "q"), path.with_name(name.lower())).rename(path)
    assert load(path, "y").counts().tolist() == [2, 2]
    assert count_column(path, "y") == {"p": 2, "q": 2}


def test_quotes_in_a_header_are_read_as_they_were_meant(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('"two\nlines","a;b;c","he said ""y"""\n1,2,p\n3,4,q\n5,6,p\n7,8,q\n')
    with pytest.raises(StudyError) as refused:
        load(path, "z")
    assert str(refused.value) == (
        "there is no column 'z' (columns: two\nlines, a;b;c, he said \"y\")"
    )
    assert load(path, 'he said "y"').classes == ("p", "q")
    assert count_column(path, 'he said "y"') == {"p": 2, "q": 2}


def test_blank_lines_before_the_header_are_passed_over(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\n\n"x""",y\n1,p\n2,q\n3,p\n4,q\n')
    with pytest.raises(StudyError, match=r"\(columns: x\", y\)"):
        load(path, "z")


@pytest.mark.parametrize("read", [load, count_column])
def test_a_doubled_column_is_refused(tmp_path, read):
    path = tmp_path / "a.csv"
    path.write_text("x,y,x,x\n1,p,2,3\n2,q,3,4\n")
    with pytest.raises(StudyError, match=r"'a\.csv' has 3 columns called 'x'; rename all but one"):
        read(path, "y")


def test_columns_without_a_name_are_called_by_their_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,,y,\n1,2,p,\n2,3,q,\n3,4,p,\n4,5,q,\n")
    with pytest.raises(StudyError, match=r"\(columns: x, column 2, y, column 4\)"):
        load(path, "z")
    assert load(path, "y").columns == 3


def damaged(path):
    np.savez(path, X=np.random.default_rng(0).normal(size=(30, 2)), y=[0, 1, 0] * 10)
    return bytearray(path.read_bytes())


def truncated(path):
    path.write_bytes(damaged(path)[:200])


def bad_checksum(path):
    content = damaged(path)
    content[200] ^= 255
    path.write_bytes(content)


def renamed_array(path):
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)


def renamed_text(path):
    path.write_text("x,y\n1,2\n")


def huge_shape(path):
    np.savez(path, X=np.zeros((4, 1)), y=np.zeros(4))
    content = path.read_bytes().replace(b"(4,)", b"(9999999999999,)")
    path.write_bytes(content)


@pytest.mark.parametrize("read", [load, count_column])
@pytest.mark.parametrize("make", [truncated, bad_checksum, renamed_array, renamed_text, huge_shape])
def test_a_damaged_npz_is_one_sentence(tmp_path, make, read):
    path = tmp_path / "a.npz"
    make(path)
    if read is count_column and make is bad_checksum:
        assert read(path, None) == {"0": 20, "1": 10}  # y itself is whole
        return
    with pytest.raises(StudyError, match=r"^'a\.npz' (could not be read: |is a single array; )"):
        read(path, None)


@pytest.mark.parametrize("read", [load, count_column])
def test_every_flipped_byte_of_an_npz_is_read_or_refused(tmp_path, read):
    path = tmp_path / "a.npz"
    content = damaged(path)
    for place in np.random.default_rng(0).integers(len(content), size=200):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        with suppress(StudyError):
            read(path, None)


LABELS = {
    "0-d": (np.array(1), r"y has shape \(\)"),
    "two columns": (np.zeros((6, 2)), r"y has shape \(6, 2\)"),
    "1e300": (np.array([0, 1e300] * 3), r"'y' holds numbers such as 1e\+300, not classes; cut"),
    "infinite": (np.array([0, np.inf] * 3), r"'y' holds numbers such as inf, not classes"),
    "above 2**53": (np.array([0, 2.0**53 + 2] * 3), r"'y' holds numbers such as 9\.007"),
    "complex": (np.array([0, 1j] * 3), r"'y' holds complex128 values, not classes"),
    "records": (np.zeros(6, dtype=[("a", int)]), r"'y' holds \[\('a', '<i8'\)\] values, not"),
    "bytes": (np.array([b"a", b"\xff"] * 3), r"'y' holds Binary values that are no text"),
}


@pytest.mark.parametrize("read", [load, count_column])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_none_are_one_sentence(tmp_path, kind, read):
    labels, message = LABELS[kind]
    path = tmp_path / "a.npz"
    np.savez(path, X=np.zeros((6, 2)), y=labels)
    with pytest.raises(StudyError, match=message):
        read(path, None)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([[0], [1]] * 3), ("0", "1")),
        (np.array([b"a", b"b"] * 3), ("a", "b")),
        (np.array(["2020", "2021"] * 3, dtype="M8[Y]"), ("2020", "2021")),
        (np.array([2**63, 2**64 - 1] * 3, dtype=np.uint64), (str(2**63), str(2**64 - 1))),
        (np.array([0.0, 1.0] * 3, dtype=np.longdouble), ("0", "1")),
        (np.array([True, False] * 3), ("false", "true")),
    ],
)
def test_labels_of_many_kinds_are_understood(tmp_path, labels, classes):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.arange(12.0).reshape(6, 2), y=labels)
    assert load(path).classes == classes
    assert count_column(path, None) == dict.fromkeys(classes, 3)


@pytest.mark.parametrize("read", [load, count_column])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [2]], "'y' holds lists or records, not classes"),
        ([{"a": 1}, {"a": 2}], "'y' holds lists or records, not classes"),
        ([b"a", b"\xff"], "'y' holds Binary values that are no text, not classes"),
    ],
)
def test_a_parquet_target_of_lists_is_one_sentence(tmp_path, values, message, read):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"x": range(6), "y": values * 3}).write_parquet(path)
    with pytest.raises(StudyError, match=message):
        read(path, "y")


def test_features_of_no_dimension_are_one_sentence(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.float64(3), y=np.float64(1))
    with pytest.raises(StudyError, match=r"X has shape \(\) and y has shape \(\); expected one"):
        load(path)


def test_counting_needs_no_features(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, kind=[0, 1, 1])
    assert count_column(path, "kind") == {"0": 1, "1": 2}


def test_paths_that_name_no_file_are_one_sentence(tmp_path):
    with pytest.raises(StudyError, match=r"^'a{60}…a{60}' cannot be read: File name too long$"):
        existing("a" * 5000)
    for path in ("a\0b.csv", tmp_path / "a.csv" / "b.csv", "none.csv"):
        with pytest.raises(StudyError, match=r"^there is no file"):
            existing(path)
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(StudyError, match="is no file but a pipe or a device"):
        existing(tmp_path / "a.csv")
    os.symlink("loop.csv", tmp_path / "loop.csv")
    with pytest.raises(StudyError, match="cannot be read: Too many levels of symbolic links"):
        existing(tmp_path / "loop.csv")


@pytest.mark.parametrize("read", [load, count_column])
@pytest.mark.parametrize(
    "content",
    [
        "x,größe\n1,p\n2,q\n".encode("latin-1"),
        "x,y\n1,p\n2,q\n".encode("utf-16"),
        b"PK\x03\x04\x14\x00\x06\x00\x08\x00",
        b"x\0z,y\n1,p\n2,q\n",
    ],
)
def test_what_is_not_utf8_is_said(tmp_path, content, read):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"^'a\.csv' is not UTF-8 text; save it as UTF-8$"):
        read(path, "y")
