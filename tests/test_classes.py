"""ClassCounts and class_weights, against exact arithmetic, scikit-learn and the papers."""

import copy
import pickle
import re
from collections import Counter
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import DataLoader

import steelyard as sy
from steelyard.classes import ClassCounts, as_class_counts, class_weights

# CIFAR-10-LT at ratio 100: n_c = int(5000·100^(−c/9))
LONG_TAILED = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
SCHEMES = ["balanced", "inverse", "sqrt", "power", "effective", "median", "enet"]


def extra(scheme):
    return {"power": 0.25} if scheme == "power" else {}


class TestClassCounts:
    @pytest.mark.parametrize(
        "given",
        [
            [3, 0, 7],
            (3.0, 0.0, 7.0),
            torch.tensor([3, 0, 7], dtype=torch.uint8),
            torch.tensor([3.0, 0.0, 7.0], dtype=torch.float16, requires_grad=True),
            np.array([3, 0, 7], dtype=np.uint64),
            np.array([7, 0, 3])[::-1],
            pd.Series([3, 0, 7]),
            pl.Series([3, 0, 7]),
            (n for n in (3, 0, 7)),
        ],
        ids=lambda given: type(given).__name__,
    )
    def test_any_container_becomes_int64(self, given):
        counts = ClassCounts(given)
        assert counts.counts.dtype == torch.int64
        assert list(counts) == [3, 0, 7]
        assert not counts.counts.requires_grad

    @pytest.mark.parametrize(
        "given",
        [
            [Decimal(3), Decimal("0.0"), Fraction(7)],
            [np.int8(3), np.float32(0), np.longdouble(7)],
            [torch.tensor(3), torch.tensor([0.0]), 7],
            np.array([3, 0, 7.0], dtype=object),
            np.array([3, 0, 7], dtype=np.longdouble),
            torch.tensor([3, 0, 7]).to_sparse(),
            pd.array([3, 0, 7], dtype="Int64"),
            {"a": 3, "b": 0, "c": 7}.values(),
        ],
        ids=lambda given: type(given).__name__,
    )
    def test_whole_numbers_of_any_type_are_read(self, given):
        assert list(ClassCounts(given)) == [3, 0, 7]

    def test_large_counts_stay_exact(self):
        large = 2**62 - 1
        assert list(ClassCounts([large, 1]) + ClassCounts([large, 0])) == [2 * large, 1]
        most = ClassCounts([2**63 - 1, 2**63 - 1])  # a sum beyond 64 bits
        assert most.counts.tolist() == [2**63 - 1] * 2
        assert most.prior().tolist() == [0.5, 0.5]
        assert class_weights(most).tolist() == [1, 1]
        assert repr(most).startswith("ClassCounts: 2 classes, 18,446,744,073,709,551,614 counted")
        with pytest.raises(ValueError, match="class 0 has 18446744073709551614, more than 64 bit"):
            most + most

    def test_floats_beyond_float32_stay_exact(self):
        assert list(ClassCounts([float(2**24 + 1), 2.0])) == [2**24 + 1, 2]

    def test_nothing_can_be_changed(self):
        source = torch.tensor([3, 7])
        counts = ClassCounts(source, support=source)
        source += 1
        counts.counts.zero_()
        counts.support.zero_()
        assert list(counts) == [3, 7]
        assert counts.support.tolist() == [3, 7]
        with pytest.raises(AttributeError, match="immutable: 'names' cannot be set"):
            counts.names = ("a", "b")
        with pytest.raises(AttributeError, match="immutable: '_counts' cannot be deleted"):
            del counts._counts

    def test_prior_and_imbalance_ratio(self):
        counts = ClassCounts([9, 0, 1])
        assert counts.prior().dtype == torch.float64
        assert counts.prior().tolist() == [0.9, 0.0, 0.1]
        assert counts.imbalance_ratio == 9.0

    def test_empty_counts_have_neither(self):
        counts = ClassCounts([0, 0])
        with pytest.raises(ValueError, match=r"all 2 class counts are zero; prior\(\) needs"):
            counts.prior()
        with pytest.raises(ValueError, match="imbalance_ratio needs a class that occurs"):
            _ = counts.imbalance_ratio

    def test_groups_at_their_bounds(self):
        groups = ClassCounts([101, 100, 20, 19, 0]).groups()
        assert groups == ((0,), (1, 2), (3, 4))
        assert groups.many == (0,)
        assert groups.medium == (1, 2)
        assert groups.few == (3, 4)
        assert ClassCounts([5, 4]).groups(many=4, few=5) == ((0,), (), (1,))
        with pytest.raises(ValueError, match=r"groups\(many=4, few=6\).*at most many \+ 1"):
            ClassCounts([5]).groups(many=4, few=6)

    def test_equality_hash_pickle_copy(self):
        counts = ClassCounts([1, 2], support=[3, 4], names=["a", "b"])
        twins = [pickle.loads(pickle.dumps(counts)), copy.deepcopy(counts), copy.copy(counts)]
        for twin in twins:
            assert twin == counts
            assert hash(twin) == hash(counts)
            assert twin.support.tolist() == [3, 4]
            assert twin.names == ("a", "b")
        others = [[1, 2], ClassCounts([1, 2]), ClassCounts([1, 2], [3, 4])]
        others += [ClassCounts([1, 3], [3, 4], ["a", "b"]), ClassCounts([1, 2], [3, 4], ["a", "c"])]
        assert all(counts != other for other in others)

    def test_merging(self):
        a = ClassCounts([1, 2], support=[5, 5], names=["x", "y"])
        b = ClassCounts([10, 20], support=[70, 70])
        assert a + b == ClassCounts([11, 22], support=[75, 75], names=["x", "y"])
        assert b + a == a + b
        assert sum([a, b, b]) == ClassCounts([21, 42], support=[145, 145], names=["x", "y"])
        assert (a + ClassCounts([1, 1])).support is None

    def test_what_does_not_merge(self):
        two = ClassCounts([1, 2], names=["cat", "dog"])
        with pytest.raises(ValueError, match="counts of 2 and of 3 classes; give count_classes"):
            two + ClassCounts([1, 2, 3])
        with pytest.raises(ValueError, match="class 1 is 'dog' in one and 'emu' in the other"):
            two + ClassCounts([1, 2], names=["cat", "emu"])
        with pytest.raises(TypeError):
            two + 2
        with pytest.raises(TypeError):
            1 + two

    @given(st.lists(st.tuples(*[st.integers(0, 2**40)] * 3), min_size=3, max_size=3))
    def test_merging_is_associative_and_commutative(self, rows):
        a, b, c = (ClassCounts(row, support=[2 * n for n in row]) for row in rows)
        assert (a + b) + c == a + (b + c)
        assert a + b == b + a
        assert list(a + b + c) == [sum(column) for column in zip(*rows, strict=True)]

    @pytest.mark.parametrize(
        ("counts", "error", "text"),
        [
            ([1, -2], ValueError, "counts: class 1 has -2; expected whole numbers ≥ 0"),
            ([0.9, 0.1], ValueError, "class 0 has 0.9.*how often each class occurs, not its share"),
            ([1.0, float("nan")], ValueError, "class 1 has nan"),
            ([1.0, float("inf")], ValueError, "class 1 has inf"),
            ([], ValueError, r"counts has shape \(0,\); expected one number per class"),
            (torch.ones(2, 3), ValueError, r"counts has shape \(2, 3\)"),
            (torch.tensor(3), ValueError, r"counts has shape \(\)"),
            ("12", TypeError, "counts is a str; expected a tensor, array or list"),
            ({0: 1}, TypeError, "counts is a dict"),
            (3, TypeError, "counts is an int"),
            (["a"], TypeError, "counts: class 0 has 'a', a str; expected one whole number per cl"),
            ([True, False], TypeError, "counts: class 0 has True, a bool; expected one whole"),
            (torch.tensor([True]), TypeError, "counts is torch.bool; expected whole numbers"),
            (np.array([True]), TypeError, "counts: class 0 has True, a bool"),
            ([1, None], TypeError, "counts: class 1 has None, a NoneType"),
            (pd.Series([1, None], dtype="Int64"), TypeError, "counts: class 1 has <NA>"),
            (pl.Series([1, None]), TypeError, "counts: class 1 has None"),
            ([1j, 2], ValueError, "counts: class 0 has 1j; expected whole numbers"),
            ([[1, 2]], TypeError, r"counts: class 0 has \[1, 2\], a list"),
            ({1, 2}, TypeError, "counts is a set; expected a tensor, array or list"),
            (np.array(3), ValueError, r"counts has shape \(\)"),
            (pd.DataFrame({"n": [1, 2]}), ValueError, r"counts has shape \(2, 1\)"),
            (torch.ones(2, device="meta"), TypeError, "counts is a tensor whose numbers cannot be"),
            ([1, 2, 1e19], ValueError, r"counts: class 2 has 1e\+19, more than 64 bits hold \(92"),
            ([1, 2**63], ValueError, "counts: class 1 has 9223372036854775808, more than 64 bits"),
            ([10**400, 1], ValueError, "counts: class 0 has 10000.*, more than 64 bits hold"),
            (np.array([2**63], np.uint64), ValueError, "class 0 has 9223372036854775808, more"),
            (torch.tensor([2**63], dtype=torch.uint64), ValueError, "class 0 has 9223372036854775"),
            (torch.tensor([1.0, 1e30]), ValueError, r"class 1 has 1\.0.*e\+30, more than 64 bits"),
        ],
    )
    def test_bad_counts(self, counts, error, text):
        with pytest.raises(error, match=text):
            ClassCounts(counts)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"names": ["a"]}, ValueError, "1 names for 2 classes"),
            ({"names": ["a", "a"]}, ValueError, "'a' names two classes"),
            ({"names": "ab"}, TypeError, "names is the string 'ab'"),
            (
                {"names": {"b": 1, "a": 0}},
                TypeError,
                "names is a dict; expected one name per class, in the order of the class indices: "
                r"of {name: index} that is sorted\(names, key=names\.get\)",
            ),
            ({"names": ["a", 1]}, TypeError, "names has an int in it"),
            ({"support": [5]}, ValueError, "support has 1 entries for 2 classes"),
            ({"support": [5, 1]}, ValueError, "support: class 1 has 1, fewer than its 2 own"),
            ({"support": [5, -1]}, ValueError, "support: class 1 has -1"),
        ],
    )
    def test_bad_options(self, options, error, text):
        with pytest.raises(error, match=text):
            ClassCounts([1, 2], **options)

    def test_repr_is_a_table(self):
        assert repr(ClassCounts([1000, 100], names=["cat", "dog"])) == (
            "ClassCounts: 2 classes, 1,100 counted, imbalance ratio 10\n"
            "  class  count   share\n"
            "  0 cat  1,000  90.91%\n"
            "  1 dog    100   9.09%"
        )
        assert repr(ClassCounts([0])) == (
            "ClassCounts: 1 class, 0 counted\n  class  count  share\n  0          0  0.00%"
        )

    def test_repr_of_a_thousand_classes_fits_a_screen(self):
        lines = repr(ClassCounts(range(1000))).splitlines()
        assert len(lines) == 23
        assert max(map(len, lines)) < 80
        assert lines[12] == "  … 980 classes not shown, counts from 10 to 989"
        assert lines[-1].split() == ["999", "999", "0.20%"]

    @pytest.mark.parametrize("name", ["a\nb", "", " a", "\x1b[2J", "\ud800", "a\u202eb"])
    def test_a_hostile_name_stays_in_its_line(self, name):
        counts = ClassCounts([1, 2], names=[name, "b"])
        assert repr(counts).splitlines()[2].split("  ")[1].strip() == f"0 {name!r}"
        assert counts.names == (name, "b")


class TestAsClassCounts:
    def test_a_dict_of_indices_leaves_missing_classes_at_zero(self):
        assert list(as_class_counts({0: 3, np.int64(2): 5})) == [3, 0, 5]
        assert list(as_class_counts({1: 3}, num_classes=4)) == [0, 3, 0, 0]
        assert list(as_class_counts({False: 3, True: 5})) == [3, 5]

    def test_a_dict_of_names_takes_their_sorted_order(self):
        counts = as_class_counts({"cat": 1000, "dog": 100})
        assert counts == ClassCounts([1000, 100], names=["cat", "dog"])
        # the order in which labels were met says nothing of their indices
        assert as_class_counts(Counter(["dog", "cat"])).names == ("cat", "dog")

    @pytest.mark.parametrize(
        "read",
        [
            as_class_counts,
            class_weights,
            lambda counts: sy.LogitAdjustedLoss(class_counts=counts),
            lambda counts: sy.adjust_logits(torch.zeros(1, 3), counts),
        ],
    )
    def test_a_dict_of_names_in_another_order_warns_at_the_users_line(self, read):
        text = (
            "class_counts is a dict of names, and names take their class indices in sorted order: "
            "class 1 is 'cat', not 'dog'. If your labels are numbered so, sort the dict: "
            "dict(sorted(counts.items())); if they are in the order of the dict, give "
            "ClassCounts(counts.values(), names=list(counts))"
        )
        given = {"ant": 10, "dog": 100, "cat": 1000}
        with pytest.warns(UserWarning, match=re.escape(text)) as told:
            read(given)
        assert told[0].filename == __file__
        assert len(told) == 1
        in_order = ClassCounts(given.values(), names=list(given))
        for mended in (dict(sorted(given.items())), in_order):
            read(mended)
        assert (in_order.names, list(in_order)) == (("ant", "dog", "cat"), [10, 100, 1000])

    def test_value_counts_of_pandas_are_read_by_their_index(self):
        # ordered by frequency: read as an array, class 2 would take class 0's count
        by_index = pd.Series([2, 2, 2, 0, 1, 1]).value_counts()
        assert list(as_class_counts(by_index)) == [1, 2, 3]
        by_name = pd.Series(["b", "b", "a"]).value_counts()
        assert as_class_counts(by_name) == ClassCounts([1, 2], names=["a", "b"])

    def test_class_counts_pass_through(self):
        counts = ClassCounts([1, 2])
        assert as_class_counts(counts) is counts

    @pytest.mark.parametrize(
        ("given", "error", "text"),
        [
            ([0, 0, 0], ValueError, "all 3 counts are zero; at least one class must occur"),
            ({}, ValueError, "empty dict"),
            ({-1: 3}, ValueError, "the key -1 is negative; class indices start at 0"),
            ({0.5: 3}, TypeError, "the key 0.5 is of type float; keys are all class indices"),
            ({0: 1, "a": 2}, TypeError, "the key 'a' is of type str"),
            ({"a": -1}, ValueError, "class 0 has -1"),
            ({2**70: 3}, ValueError, "the key 1180591620717411303424 is too large to be"),
            ({2**24: 3}, ValueError, "the key 16777216 is too large"),
            ({0: 1, torch.tensor(0): 2}, ValueError, "has two counts for the class 0; add them up"),
            (
                DataLoader(torch.tensor([0, 1, 1])),
                TypeError,
                "class_counts is a DataLoader, which holds labels: count_classes counts them",
            ),
            (pd.DataFrame({"n": [1, 2]}), ValueError, r"class_counts has shape \(2, 1\)"),
            (pd.Series([1, 2], ["a", "a"]), ValueError, "has two counts for the class 'a'"),
            (pd.Series([1, 2], [1, 1]), ValueError, "has two counts for the class 1"),
        ],
    )
    def test_bad_input(self, given, error, text):
        with pytest.raises(error, match=text):
            as_class_counts(given)

    def test_wrong_number_of_classes(self):
        with pytest.raises(ValueError, match="class_counts has 2 classes, expected 3: one count"):
            as_class_counts([1, 2], num_classes=3)


def exact_effective(counts, beta):
    """Σ = C, in 60 digits from the exact value of the float beta."""
    with localcontext(prec=60):
        b = Decimal(beta)
        weights = [(1 - b) / (1 - b**n) for n in counts]
        return [float(w * len(counts) / sum(weights)) for w in weights]


class TestClassWeights:
    @pytest.mark.parametrize("counts", [[1000, 100], LONG_TAILED, [1, 7, 49, 3]])
    def test_balanced_is_scikit_learns_to_the_last_bit(self, counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
        assert class_weights(counts, dtype=torch.float64).tolist() == expected.tolist()

    def test_balanced_leaves_absent_classes_out_as_scikit_learn_does(self):
        labels = np.repeat([0, 2], [30, 10])
        expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels)
        weights = class_weights([30, 0, 10], dtype=torch.float64).tolist()
        assert weights == [expected[0], 0.0, expected[1]]

    def test_effective_weights_of_the_paper(self):
        weights = class_weights(LONG_TAILED, "effective")
        assert weights[0].item() == pytest.approx(0.05061, abs=5e-6)
        assert weights[-1].item() == pytest.approx(3.99272, abs=5e-6)
        assert weights.sum().item() == pytest.approx(10)

    @pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.9999, 1 - 1e-8, 1 - 1e-12, 1 - 2**-53])
    def test_effective_against_sixty_digits(self, beta):
        counts = [*LONG_TAILED, 1, 10**7]
        weights = class_weights(counts, "effective", beta=beta, dtype=torch.float64)
        assert weights.tolist() == pytest.approx(exact_effective(counts, beta), rel=1e-14)

    @pytest.mark.parametrize(("scheme", "power"), [("inverse", 1), ("power", 1), ("power", 3)])
    def test_powers_against_fractions(self, scheme, power):
        exact = [Fraction(1, n**power) for n in LONG_TAILED]
        expected = [float(w * len(exact) / sum(exact)) for w in exact]
        options = {"power": power} if scheme == "power" else {}
        weights = class_weights(LONG_TAILED, scheme, dtype=torch.float64, **options)
        assert weights.tolist() == pytest.approx(expected, rel=1e-14)

    def test_sqrt_and_power_by_hand(self):
        assert class_weights([4, 16, 0], "sqrt").tolist() == pytest.approx([4 / 3, 2 / 3, 0.0])
        half = class_weights(LONG_TAILED, "power", power=0.5)
        assert torch.equal(half, class_weights(LONG_TAILED, "sqrt"))
        assert class_weights([4, 16], "power", power=0).tolist() == [1.0, 1.0]

    def test_a_large_power_stays_finite(self):
        weights = class_weights([10**9, 10**8, 10], "power", power=100)
        assert weights.tolist() == [0.0, 0.0, 3.0]

    def test_median_frequency_by_hand(self):
        # f = 10/40, 30/100, 60/100: the median 0.3 over each
        counts = ClassCounts([10, 30, 60, 0], support=[40, 100, 100, 0])
        weights = class_weights(counts, "median", dtype=torch.float64)
        assert weights.tolist() == pytest.approx([1.2, 1.0, 0.5, 0.0], rel=1e-15)
        # an even number of classes: the mean of the middle two, as numpy
        two = class_weights(ClassCounts([10, 30], support=[40, 100]), "median", dtype=torch.float64)
        assert two.tolist() == pytest.approx([0.275 / 0.25, 0.275 / 0.3], rel=1e-15)

    def test_enet_by_hand(self):
        expected = (1 / np.log(1.02 + np.array([0.9, 0.1]))).tolist()
        assert class_weights([9, 1], "enet", dtype=torch.float64).tolist() == pytest.approx(
            expected
        )
        # c near 1 with a tiny prior: ln(c + π) by log1p
        near = class_weights([10**15, 1], "enet", c=1 + 2**-40, dtype=torch.float64)[1].item()
        x = 2**-40 + 1 / (10**15 + 1)
        assert near == pytest.approx(1 / (x - x * x / 2), rel=1e-12)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_absent_classes(self, scheme):
        without = ClassCounts([50, 7], support=[90, 30])
        counts = ClassCounts([50, 0, 7, 0], support=[90, 0, 30, 0], names=["a", "b", "c", "d"])
        present = class_weights(without, scheme, **extra(scheme))
        zero = class_weights(counts, scheme, **extra(scheme))
        assert zero[[0, 2]].tolist() == present.tolist()
        assert zero[[1, 3]].tolist() == [0.0, 0.0]
        largest = class_weights(counts, scheme, absent="max", **extra(scheme))
        assert largest[[0, 2]].tolist() == present.tolist()
        assert largest[[1, 3]].tolist() == [present.max().item()] * 2
        with pytest.raises(
            ValueError, match="2 of 4 classes do not occur: 'b', 'd'; absent='zero'"
        ):
            class_weights(counts, scheme, absent="raise", **extra(scheme))

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_equal_counts_weigh_equally(self, scheme):
        counts = ClassCounts([12] * 5, support=[20] * 5)
        weights = class_weights(counts, scheme, dtype=torch.float64, **extra(scheme))
        expected = 1 / np.log(1.02 + 0.2) if scheme == "enet" else 1.0
        assert weights.tolist() == pytest.approx([expected] * 5, rel=1e-14)

    @pytest.mark.parametrize("given", [{0: 8, 1: 2}, np.array([8, 2]), torch.tensor([8, 2])])
    def test_any_counts(self, given):
        assert class_weights(given).tolist() == [0.625, 2.5]

    def test_dtype_and_device(self):
        assert class_weights([1, 2]).dtype == torch.float32
        assert class_weights([1, 2], dtype=torch.bfloat16).dtype == torch.bfloat16
        assert class_weights(torch.tensor([1, 2])).device.type == "cpu"

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"scheme": "balance"}, ValueError, "scheme='balance'; expected one of 'balanced', 'i"),
            ({"scheme": "power"}, ValueError, "scheme='power' needs power, as in power=0.5"),
            (
                {"beta": 0.9},
                ValueError,
                "scheme='balanced' has no parameter beta: beta=0.9 belongs to scheme='effective'; "
                "the schemes are 'balanced', 'inverse', 'sqrt', 'power', 'effective', 'median'",
            ),
            ({"scheme": "effective", "c": 2}, ValueError, "'effective' has no parameter c: c=2"),
            ({"scheme": "sqrt", "power": 0.5}, ValueError, "'sqrt' has no parameter power"),
            ({"scheme": "effective", "beta": 1}, ValueError, "beta=1.0; expected 0 ≤ beta < 1"),
            ({"scheme": "effective", "beta": -0.1}, ValueError, "beta=-0.1; expected"),
            ({"scheme": "effective", "beta": float("nan")}, ValueError, "beta=nan; expected"),
            ({"scheme": "power", "power": -1}, ValueError, "power=-1.0; expected a finite number"),
            ({"scheme": "enet", "c": 0.5}, ValueError, "c=0.5; expected a finite number > 1"),
            ({"scheme": "enet", "c": 1.0}, ValueError, "c=1.0; expected a finite number > 1:"),
            ({"scheme": "enet", "c": 10**400}, TypeError, "is not a number"),
            ({"scheme": "effective", "beta": "0.9"}, TypeError, "beta='0.9' is not a number"),
            ({"scheme": "effective", "beta": False}, TypeError, "beta=False is not a number"),
            ({"scheme": ["inverse"]}, ValueError, r"scheme=\['inverse'\]; expected one of"),
            ({"scheme": "median"}, ValueError, "'median' needs the support of each class"),
            ({"absent": "one"}, ValueError, "absent='one'; expected one of 'zero', 'max', 'raise'"),
            ({"dtype": torch.int64}, TypeError, "dtype=torch.int64; weights need a floating dtype"),
            ({"dtype": np.float32}, TypeError, "float32'>; weights need a floating dtype such as"),
        ],
    )
    def test_bad_options(self, options, error, text):
        with pytest.raises(error, match=text):
            class_weights([1, 2], **options)

    def test_a_weight_beyond_the_dtype(self):
        with pytest.raises(ValueError, match=r"class 1 is 500000, too large for torch\.float16"):
            class_weights([10**6 - 1, 1], dtype=torch.float16)

    def test_more_absent_classes_than_fit_a_line(self):
        with pytest.raises(
            ValueError, match="9 of 10 classes do not occur: 1, 2, 3, 4, 5 and 4 mo"
        ):
            class_weights([1] + [0] * 9, absent="raise")
