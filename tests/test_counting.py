"""count_classes: every source gives what a loop over its labels gives."""

import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from steelyard.classes import ClassCounts, count_classes

C = 5
VOID = 255


def naive(samples, num_classes=C, ignore_index=None):
    """The definition, by loops: samples are lists of class indices."""
    counts, support = [0] * num_classes, [0] * num_classes
    for sample in samples:
        kept = [label for label in sample if label != ignore_index]
        for label, occurrences in Counter(kept).items():
            counts[label] += occurrences
            support[label] += len(kept)
    return ClassCounts(counts, support)


@pytest.fixture(scope="module")
def labels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, C - 1, (500,), generator=generator)


@pytest.fixture(scope="module")
def masks():
    """(N, H, W) with void pixels; class 3 in few masks, class 4 in none, one mask all void."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (17, 6, 4), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = VOID
    masks[::5, 0, 0] = 3
    masks[2] = VOID
    return masks


class MapStyle(Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        return tuple(column[i] for column in self.columns)


class Keyed(MapStyle):
    def __init__(self, key, column):
        super().__init__(column)
        self.key = key

    def __getitem__(self, i):
        return {"x": 0.5, self.key: self.columns[0][i]}


class Streamed(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[i] for i in range(len(self.dataset)))


LABEL_SOURCES = {
    "tensor": lambda y: y,
    "uint8": lambda y: y.to(torch.uint8),
    "uint16": lambda y: y.to(torch.uint16),
    "int16 strided": lambda y: y.to(torch.int16).repeat_interleave(2)[::2],
    "numpy": lambda y: y.numpy(),
    "numpy read-only, big-endian, reversed": lambda y: np.flip(y.numpy().astype(">i4")),
    "numpy objects": lambda y: y.numpy().astype(object),
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
    "list of NumPy integers": lambda y: list(y.numpy()),
    "list of 0-d tensors": list,
    "pandas": lambda y: pd.Series(y.numpy()).sample(frac=1, random_state=0),
    "pandas nullable": lambda y: pd.Series(y.numpy(), dtype="Int8"),
    "polars": lambda y: pl.Series(y.numpy()),
    "TensorDataset": lambda y: TensorDataset(torch.zeros(len(y), 2), y),
    "Subset": lambda y: Subset(TensorDataset(torch.zeros(len(y), 2), y), range(len(y))),
    "Dataset of integers": lambda y: MapStyle(torch.zeros(len(y), 2), y.tolist()),
    "Dataset of tensors": lambda y: MapStyle(torch.zeros(len(y), 2), y),
    "Dataset with 'labels'": lambda y: Keyed("labels", y),
    "Dataset with 'label'": lambda y: Keyed("label", y.tolist()),
    "Dataset with 'target'": lambda y: Keyed("target", y),
    "IterableDataset": lambda y: Streamed(MapStyle(y, y)),
    "list of samples": lambda y: [(0.5, label) for label in y.tolist()],
    "list of mappings": lambda y: [{"label": label} for label in y.tolist()],
    "list of batches": lambda y: [(None, batch) for batch in y.split(37)],
    "DataLoader": lambda y: DataLoader(TensorDataset(torch.zeros(len(y), 2), y), 37),
    "DataLoader, list of them": lambda y: list(DataLoader(TensorDataset(y, y), 37)),
    "DataLoader of mappings": lambda y: DataLoader(Keyed("labels", y), 37),
    "DataLoader over a stream": lambda y: DataLoader(Streamed(MapStyle(y, y)), 37),
    "DataLoader without batches": lambda y: DataLoader(MapStyle(y, y), batch_size=None),
    "generator of batches": lambda y: ((None, batch) for batch in y.split(37)),
    "generator of mappings": lambda y: ({"target": batch} for batch in y.split(37)),
    "generator of label tensors": lambda y: iter(y.split(37)),
    "generator of label arrays": lambda y: (batch.numpy() for batch in y.split(37)),
    "generator of label lists": lambda y: (batch.tolist() for batch in y.split(37)),
    "generator of pandas columns": lambda y: (pd.Series(batch.numpy()) for batch in y.split(37)),
    "generator of labels": lambda y: (label for label in y.tolist()),
}

MASK_SOURCES = {
    "tensor": lambda m: m,
    "uint8": lambda m: m.to(torch.uint8),
    "strided": lambda m: m.permute(0, 2, 1),
    "numpy": lambda m: m.numpy(),
    "numpy, Fortran order": lambda m: np.asfortranarray(m.numpy()),
    "nested list": lambda m: m.tolist(),
    "list of tensors": list,
    "list of arrays": lambda m: list(m.numpy()),
    "TensorDataset": lambda m: TensorDataset(m.float(), m),
    "Dataset": lambda m: MapStyle(m.float(), m),
    "Dataset of arrays": lambda m: MapStyle(m.float(), m.numpy()),
    "list of samples": lambda m: [(None, mask) for mask in m],
    "DataLoader": lambda m: DataLoader(TensorDataset(m.float(), m), 3),
    "generator of batches": lambda m: ((None, batch) for batch in m.split(3)),
    "generator of lists of masks": lambda m: ((None, list(batch)) for batch in m.split(3)),
    "one row a mask": lambda m: m.flatten(1),
}


class TestSources:
    @pytest.mark.parametrize("source", LABEL_SOURCES)
    def test_labels(self, labels, source):
        expected = naive([label] for label in labels.tolist())
        counts = count_classes(LABEL_SOURCES[source](labels), num_classes=C)
        assert list(counts) == list(expected)
        if source != "list of batches" and source != "DataLoader, list of them":
            assert counts == expected  # the items of a list are samples: its batches are too

    @pytest.mark.parametrize("source", MASK_SOURCES)
    def test_masks(self, masks, source):
        expected = naive(masks.flatten(1).tolist(), ignore_index=VOID)
        counts = count_classes(MASK_SOURCES[source](masks), num_classes=C, ignore_index=VOID)
        assert counts == expected

    def test_ignored_labels(self, labels):
        marked = labels.clone()
        marked[::3] = -100
        expected = naive([[n] for n in marked.tolist()], ignore_index=-100)
        assert count_classes(marked, num_classes=C, ignore_index=-100) == expected
        assert count_classes(marked.tolist(), num_classes=C, ignore_index=-100) == expected
        valid_class = naive([[n] for n in labels.tolist()], ignore_index=2)
        assert count_classes(labels, num_classes=C, ignore_index=2) == valid_class

    def test_sequences_of_different_lengths(self):
        sentences = [[0, 1, 1], [2], [], [1, 0]]
        expected = naive(sentences, num_classes=3)
        assert count_classes(sentences, 3) == expected
        assert count_classes([torch.tensor(s) for s in sentences], 3) == expected
        assert count_classes(((None, s) for s in [sentences[:2], sentences[2:]]), 3) == expected
        assert count_classes([(None, s) for s in sentences], 3) == expected

    def test_boolean_labels(self):
        for labels in (
            [True, False, True],
            [np.bool_(True), np.bool_(False), np.bool_(True)],
            torch.tensor([True, False, True]),
            np.array([True, False, True]),
            pl.Series([True, False, True]),
        ):
            assert list(count_classes(labels)) == [1, 2]

    def test_no_labels(self):
        for empty in ([], torch.zeros(0, dtype=torch.long), torch.zeros(0, 4, 4), iter([])):
            assert count_classes(empty, num_classes=2) == ClassCounts([0, 0], [0, 0])
            with pytest.raises(ValueError, match=r"no labels to count; .*num_classes="):
                count_classes(empty)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_labels_on_a_gpu(self, labels, masks):
        assert count_classes(labels.cuda()) == count_classes(labels)
        on_gpu = count_classes(masks.cuda(), C, ignore_index=VOID)
        assert on_gpu == count_classes(masks, C, ignore_index=VOID)
        assert on_gpu.counts.device.type == "cpu"

    def test_everything_ignored(self):
        assert count_classes([-100, -100], 2, ignore_index=-100) == ClassCounts([0, 0], [0, 0])
        with pytest.raises(ValueError, match="no labels to count"):
            count_classes([-100, -100], ignore_index=-100)

    def test_the_number_of_classes_is_found(self):
        assert list(count_classes([0, 3])) == [1, 0, 0, 1]
        assert list(count_classes(iter([torch.tensor([0]), torch.tensor([2]), [1]]))) == [1, 1, 1]
        assert list(count_classes([0, 255], ignore_index=255)) == [1]

    def test_a_stream_is_read_once_and_lazily(self):
        alive = []

        def batches():
            for i in range(50):
                assert len(alive) == i  # the one before was counted before this one is made
                alive.append(i)
                yield torch.tensor([i % 3])

        assert list(count_classes(batches())) == [17, 17, 16]


class TestNames:
    @pytest.mark.parametrize(
        "container",
        [
            list,
            tuple,
            iter,
            np.array,
            lambda names: np.array(names, dtype=object),
            lambda names: np.array(names, dtype=np.dtypes.StringDType()),
            pd.Series,
            lambda names: pd.Series(names, dtype="category"),
            lambda names: pd.Series(names, dtype=object, index=range(9, 9 - len(names), -1)),
            pl.Series,
            lambda names: pl.Series(names, dtype=pl.Categorical),
            lambda names: DataLoader(MapStyle(torch.zeros(len(names)), names), 2),
            lambda names: DataLoader(MapStyle(names, names), 2),
        ],
    )
    def test_names_are_sorted(self, container):
        names = ["dog", "cat", "emu", "cat", "dog", "dog"]
        counts = count_classes(container(names))
        assert counts == ClassCounts([2, 3, 1], [2, 3, 1], names=["cat", "dog", "emu"])
        assert {type(name) for name in counts.names} == {str}

    def test_tags_of_sentences(self):
        expected = ClassCounts([1, 3], support=[3, 4], names=["B-PER", "O"])
        assert count_classes([["O", "B-PER", "O"], ["O"]]) == expected
        # two samples of two: an array of names keeps its samples apart
        grid = np.array([["O", "O"], ["O", "B-PER"]])
        assert count_classes(grid) == ClassCounts([1, 3], support=[2, 4], names=["B-PER", "O"])

    def test_shards_that_see_the_same_names_merge(self):
        parts = [count_classes(part) for part in (["b", "a"], ["a", "a", "b"])]
        assert sum(parts) == count_classes(["a", "a", "a", "b", "b"])

    @pytest.mark.parametrize(
        ("source", "options", "error", "text"),
        [
            (["a", None], {}, ValueError, "label at position 1 is missing .None.: drop such rows"),
            (["a", float("nan")], {}, ValueError, "label at position 1 is missing .nan."),
            (pd.Series(["a", None]), {}, ValueError, "label at position 1 is missing"),
            (pl.Series(["a", "b", None]), {}, ValueError, "label at position 2 is missing"),
            (["a", 1], {}, TypeError, "label 1 at position 1 is of type int, among class names"),
            ([1, "a"], {}, TypeError, "label 'a' at position 1 is of type str, among class indice"),
            (
                iter([["a"], [1]]),
                {},
                TypeError,
                "labels at batch 1, position 0 are class indices",
            ),
            (["a", "b", "c"], {"num_classes": 2}, ValueError, "'c' at position 2 is one name too "),
            (["a", "b"], {"num_classes": 3}, ValueError, "num_classes=3, but only 2 names occur"),
            (
                ["a"],
                {"num_classes": "3"},
                TypeError,
                "num_classes is '3'; expected a whole number, h",
            ),
            (["a"], {"num_classes": ["a"]}, TypeError, r"num_classes is \['a'\]; expected a whole"),
            (
                ["a"],
                {"num_classes": torch.ones(2)},
                TypeError,
                r"is tensor\(\[1., 1.\]\); expected a",
            ),
            (
                ["a"],
                {"num_classes": 2.0},
                TypeError,
                "num_classes is 2.0; expected a whole number, ",
            ),
            (
                [0],
                {"ignore_index": [255]},
                TypeError,
                r"ignore_index is \[255\]; expected a whole number, the one label that is not coun",
            ),
            (
                [0],
                {"ignore_index": 255.0},
                TypeError,
                "ignore_index is 255.0; expected a whole num",
            ),
            (
                [[0]],
                {"ignore_index": "a", "multi_label": True},
                TypeError,
                "ignore_index is 'a'; ex",
            ),
            (
                ClassCounts([3, 1]),
                {},
                TypeError,
                "and this is a ClassCounts; .* take counts as they",
            ),
            (["a"], {"ignore_index": 0}, ValueError, "ignore_index=0 is a class index, but the la"),
        ],
    )
    def test_bad_names(self, source, options, error, text):
        with pytest.raises(error, match=text):
            count_classes(source, **options)


class TestErrors:
    @pytest.mark.parametrize(
        ("source", "options", "text"),
        [
            (
                [0, 7],
                {"num_classes": 3},
                r"label 7 at position 1 is outside 0\.\.2 \(num_classes=3, ignore_index=None\); "
                r"if it marks what is not to count, pass ignore_index=7",
            ),
            ([0, -1], {}, r"label -1 at position 1 is negative \(ignore_index=None\)"),
            (torch.tensor([[0, -1]]), {}, r"rows of several labels .* want multi_label=True; if"),
            ([0, -1], {"ignore_index": -100}, r"-1 at position 1 .*\(ignore_index=-100\)"),
            (torch.tensor([[0, 1], [9, 0]]), {"num_classes": 2}, r"9 at position \(1, 0\)"),
            ([(0.5, 1), (0.5, 9)], {"num_classes": 2}, "9 at sample 1 is"),
            ([(0.5, torch.tensor([[1, 9]]))], {"num_classes": 2}, r"sample 0, position \(0, 1\)"),
            ([torch.zeros(2).long(), (0, 1), (0, 9), [0]], {"num_classes": 2}, "9 at sample 2"),
            (
                DataLoader(TensorDataset(torch.arange(7)), 3),
                {"num_classes": 5},
                "5 at batch 1, position 2 is",
            ),
            (iter([[[0, 1], [9]]]), {"num_classes": 5}, "9 at batch 0, sample 1, position 0"),
            (
                ((None, [[0, 1], [9]]) for _ in range(1)),
                {"num_classes": 5},
                "9 at batch 0, sample 1, position 0 is",
            ),
            (MapStyle([0, 1, 2]), {"num_classes": 2}, "2 at sample 2 is"),
            ([10**12], {}, "1000000000000 at position 0 is too large.*give num_classes if"),
        ],
    )
    def test_labels_out_of_range(self, source, options, text):
        with pytest.raises(IndexError, match=text):
            count_classes(source, **options)

    def test_positions_hold_beyond_the_first_slice(self):
        many = [0] * 300_000
        many[290_123] = 3
        for source in (many, np.array(many), torch.tensor(many), iter(many), [(n,) for n in many]):
            with pytest.raises(IndexError, match=r"label 3 at [a-z]+ 290123 is outside"):
                count_classes(source, num_classes=2)

    @pytest.mark.parametrize(
        ("source", "error", "text"),
        [
            ([0, 1.5], TypeError, r"label 1\.5 at position 1 is a floating-point number; .*long"),
            ([np.float32(1)], TypeError, r"label 1\.0 at position 0 is a floating-point"),
            (torch.tensor([1.0, 2.0]), TypeError, r"label 1\.0 at position 0 .*target\.long\(\)"),
            (torch.tensor([[1.0, 2.5]]), TypeError, r"label 2\.5 at position \(0, 1\)"),
            ([[1, 2], [3, 2.5]], TypeError, r"label 2\.5 at sample 1, position 1"),
            (np.array([1.0, np.nan]), ValueError, r"label at position 1 is missing \(nan\)"),
            (torch.tensor([0.5, float("nan")]), ValueError, "label at position 1 is missing"),
            ([0, float("nan")], ValueError, "label at position 1 is missing"),
            ([0, None], ValueError, r"label at position 1 is missing \(None\)"),
            ([(0, None)], ValueError, r"label at sample 0 is missing \(None\)"),
            (pd.Series([1, None]), ValueError, "label at position 1 is missing"),
            (pd.Series([1, None], dtype="Int64"), ValueError, "label at position 1 is missing"),
            (pd.Series([True, None], dtype="boolean"), ValueError, "at position 1 is missing"),
            (pl.Series([1, None]), ValueError, "label at position 1 is missing"),
            ([object], TypeError, "label <class 'object'> at position 0 is of type type; expected"),
            ([0, torch.tensor([1, 2])], TypeError, "at position 1 is of type Tensor; expected an"),
            ([2**70], ValueError, f"label {2**70} at position 0 does not fit 64 bits"),
            (np.array(["2020"], dtype="M8[Y]"), TypeError, r"of dtype datetime64\[Y\]; expected"),
            (torch.tensor([1j]), TypeError, "of dtype torch.complex64; expected integers"),
            ([[["a"]]], ValueError, "nested list in sample 0 is no mask of class indices"),
            ([()], ValueError, r"sample 0 is empty; expected \(…, target\)"),
            (
                [{"x": 1, "y": 2}],
                ValueError,
                "sample 0 is a mapping with the keys 'x', 'y'; the labels are looked for under "
                "'labels', 'label', 'target'. Give the labels themselves instead",
            ),
            ({0: 5}, TypeError, "counts labels, and this is a dict; class_weights and every class"),
            (pd.DataFrame({"y": [1]}), TypeError, "one column of labels, not a whole DataFrame"),
            (pl.DataFrame({"y": [1]}), TypeError, "one column of labels, not a whole DataFrame"),
            ("cat", TypeError, "cannot read a str; expected labels as a tensor, array, list"),
            ({"a", "b"}, TypeError, "cannot read a set; expected labels"),
            (3, TypeError, "cannot read an int; expected labels"),
            (torch.tensor(3), TypeError, "a single 0-d label; expected labels of at least one"),
        ],
    )
    def test_what_is_no_label(self, source, error, text):
        with pytest.raises(error, match=text):
            count_classes(source)

    def test_no_classes(self):
        with pytest.raises(ValueError, match="num_classes=0; expected at least 1"):
            count_classes([0], num_classes=0)


class TestShards:
    @given(
        st.lists(st.lists(st.integers(-1, 6), min_size=3, max_size=3), min_size=1, max_size=30),
        st.integers(1, 7),
    )
    def test_counting_in_shards_is_counting_the_whole(self, samples, size):
        options = {"num_classes": 7, "ignore_index": -1}
        whole = count_classes(torch.tensor(samples), **options)
        shards = [samples[i : i + size] for i in range(0, len(samples), size)]
        assert sum(count_classes(torch.tensor(shard), **options) for shard in shards) == whole
        assert count_classes(((None, torch.tensor(s)) for s in shards), **options) == whole
        assert whole == naive(samples, num_classes=7, ignore_index=-1)


class Unbounded:
    """Two hundred million labels that are never all there, as a memory map of a large mask."""

    dtype = np.dtype("uint8")

    def __init__(self, *shape):
        self.shape = shape
        self.largest = 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        assert rows.step is None
        part = np.zeros((min(rows.stop, len(self)) - rows.start, *self.shape[1:]), np.uint8)
        self.largest = max(self.largest, part.size)
        part[..., 0] = 1
        return part


class TestMemory:
    @pytest.mark.parametrize("shape", [(3_000_000, 2), (30, 400, 500)])
    def test_an_array_is_read_in_small_slices(self, shape):
        array = Unbounded(*shape)
        ones = array.shape[0] * (1 if len(shape) == 2 else shape[1])
        counts = count_classes(array, num_classes=2)
        assert list(counts) == [int(np.prod(shape)) - ones, ones]
        assert counts.support.tolist() == [int(np.prod(shape))] * 2
        assert array.largest <= 2**18

    def test_many_classes_and_many_short_samples(self):
        """Samples × classes must not be laid out at once: 50,000 × 50,000 would be 20 GB."""
        labels = torch.stack([torch.arange(50_000), torch.zeros(50_000, dtype=torch.long)], 1)
        counts = count_classes(labels)
        assert counts.counts[:3].tolist() == [50_001, 1, 1]
        assert counts.support[:3].tolist() == [100_000, 2, 2]


class TestProgress:
    def test_a_bar_on_stderr(self, capsys):
        counts = count_classes(DataLoader(TensorDataset(torch.arange(4)), 2), progress=True)
        assert counts == count_classes([0, 1, 2, 3])
        out, err = capsys.readouterr()
        assert out == ""
        assert "Counting classes" in err
        assert "100%" in err

    def test_without_rich(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "rich.progress", None)
        with pytest.raises(ModuleNotFoundError, match=r"rich: pip install 'steelyard\[compare\]'"):
            count_classes([0, 1], progress=True)
        assert list(count_classes([0, 1])) == [1, 1]

    def test_nothing_heavy_is_imported(self):
        code = (
            "import sys; from steelyard.classes import count_classes, class_weights;"
            "class_weights(count_classes(['a', 'b']));"
            "assert not {'pandas', 'polars', 'rich', 'sklearn'} & set(sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_a_void_label_that_is_counted_is_named():
    void = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)
    with pytest.warns(UserWarning, match="occurs nowhere: if 255 marks pixels .* ignore_index=255"):
        assert len(count_classes(void)) == 256
    with pytest.warns(UserWarning, match=re.escape("by (mask > 0)")):
        count_classes(torch.tensor([[[0, 255], [0, 0]]]))


ONE_HOT = torch.eye(3, dtype=torch.long)[torch.tensor([0, 2, 1, 0])]


@pytest.mark.parametrize(
    "source",
    [
        ONE_HOT,
        ONE_HOT.bool().numpy(),
        ONE_HOT.tolist(),
        DataLoader(TensorDataset(ONE_HOT, ONE_HOT), 3),
        MapStyle(ONE_HOT, ONE_HOT),
    ],
)
def test_one_hot_labels_are_named(source):
    text = (
        "each row of the labels has a single 1 among zeros, and 0 and 1 are counted as the classes:"
        " if that is one-hot, count the class indices, labels.argmax(1); if 0 and 1 are the "
        "classes, num_classes=2 says so"
    )
    for options in ({}, {"num_classes": 3}):
        with pytest.warns(UserWarning, match=re.escape(text)):
            assert list(count_classes(source, **options))[:2] == [8, 4]
    assert list(count_classes(source, num_classes=2)) == [8, 4]


def test_what_is_not_one_hot_is_counted_without_a_word():
    for labels in (
        ONE_HOT[:3],  # not more rows than columns
        torch.cat([ONE_HOT, ONE_HOT[:1] * 0]),
        torch.cat([ONE_HOT, ONE_HOT[:1] + ONE_HOT[1:2]]),
        torch.cat([ONE_HOT, torch.tensor([[0, 2, 0]])]),
        ONE_HOT[:, :, None].expand(4, 3, 1).contiguous(),  # masks
        torch.ones(4, 1, dtype=torch.long),
    ):
        count_classes(labels)  # warnings are errors


@pytest.mark.parametrize("labels", [[0, 1, 255], [*range(127), 255], [1, 3, 255], [0, 255, 255]])
def test_a_void_label_of_flattened_masks_is_named(labels):
    text = "if 255 marks what is not to count, pass ignore_index=255; if it is a class, num_classes"
    with pytest.warns(UserWarning, match=re.escape(text)) as told:
        assert len(count_classes(torch.tensor(labels))) == 256
    assert told[0].filename == __file__
    assert ("by (mask > 0)" in str(told[0].message)) == (1 not in labels)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([[[0, 255]]], {"num_classes": 256}),
        ([[[0, 255]]], {"ignore_index": 255}),
        ([[[0, 254, 255]]], {}),
        ([[[0, 100]]], {}),
        ([0, 1, 255], {"num_classes": 256}),
        # Some labels of 256 classes: a gap that is not so wide, or one among many.
        ([*range(128), 255], {}),
        ([0, 4, 255], {}),
        ([255], {}),
        ([0, 1, 254, 255], {}),
    ],
)
def test_what_may_be_a_class_is_counted_without_a_word(labels, options):
    count_classes(torch.tensor(labels), **options)  # warnings are errors
