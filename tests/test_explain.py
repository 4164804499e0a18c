"""The arithmetic of a loss value, against the naive formula and the loss itself."""

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from table import TABLE, C, Row, naive_loss
from torch import Tensor

import steelyard as sy

each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
WEIGHT = torch.tensor([0.3, 1.0, 2.0, 0.0, 5.0], dtype=torch.float64)


def case(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, class indices and probabilities for positions of this shape."""
    generator = torch.Generator().manual_seed(0)
    full = (*shape[:1], C, *shape[1:])
    logits = 2 * torch.randn(full, generator=generator, dtype=torch.float64)
    share = torch.rand(full, generator=generator, dtype=torch.float64)
    share = share / share.sum(min(1, share.ndim - 1), keepdim=True)
    return logits, torch.randint(0, C, shape, generator=generator), share


def as_floats(result: Any) -> list[float]:
    return list(result) if isinstance(result, tuple) else [result]


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"weight": WEIGHT},
    "ignore_index": {"ignore_index": 1, "weight": WEIGHT},
    "smoothing": {"label_smoothing": 0.2, "weight": WEIGHT},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none", "label_smoothing": 0.1},
    "over weight": {"mean_over": "weight", "weight": WEIGHT},
    "over count": {"mean_over": "count", "weight": WEIGHT},
}


@each_row
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", [(), (6,), (2, 2, 2)], ids=["C", "N", "N-d-d"])
def test_equals_the_formula(row: Row, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    logits, index, share = case(shape)
    samples = torch.linspace(0, 3, math.prod(shape), dtype=torch.float64).view(shape)
    for target in (index, share):
        if target is share and options.get("ignore_index", -1) >= 0:
            continue
        for sample_weight in (None, samples):
            loss = row.build(**options)
            explained = sy.explain(loss, logits, target, sample_weight=sample_weight)
            naive = naive_loss(row, logits, target, sample_weight=sample_weight, **options)
            found = torch.tensor(as_floats(explained.result), dtype=torch.float64)
            torch.testing.assert_close(found, naive.flatten(), rtol=1e-9, atol=1e-12)
            assert len(explained.positions) == math.prod(shape)
            assert explained.numerator == pytest.approx(
                sum(p.contribution for p in explained.positions)
            )


@each_row
def test_one_position_by_hand(row: Row) -> None:
    logits, _, _ = case((1,))
    explained = sy.explain(row.build(weight=WEIGHT), logits, torch.tensor([2]))
    (position,) = explained.positions
    (term,) = position.terms
    assert term.index == 2
    edited = torch.tensor(position.edited_logits, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(position.softmax).double(), edited.softmax(0))
    assert term.probability == pytest.approx(float(edited.softmax(0)[2]))
    assert term.minus_log_p == pytest.approx(-math.log(term.probability))
    one_hot = torch.eye(C, dtype=torch.float64)[2:3]
    assert term.tail == pytest.approx(float(row.losses(logits, one_hot)[0, 2]))
    own = 1.0 if row.own_weight is None else float(row.own_weight[2])
    assert term.weight == pytest.approx(2.0 * own)
    assert position.contribution == pytest.approx(term.weight * term.tail)
    assert explained.denominator == pytest.approx(term.weight)


@each_row
def test_ignored_positions_are_shown_as_ignored(row: Row) -> None:
    logits, _, _ = case((3,))
    logits[1] = float("nan")
    explained = sy.explain(row.build(ignore_index=4), logits, torch.tensor([0, 4, 1]))
    assert [p.ignored for p in explained.positions] == [False, True, False]
    ignored = explained.positions[1]
    assert ignored.terms == ()
    assert ignored.contribution == ignored.share == 0
    assert str(explained).splitlines()[3].split() == ["1", "4", "ignored", "0"]
    assert math.isfinite(as_floats(explained.result)[0])


def test_a_denominator_is_used_and_shown() -> None:
    logits, index, _ = case((3,))
    loss = sy.CrossEntropyLoss()
    for given in (12, torch.tensor(12.0)):
        explained = sy.explain(loss, logits, index, denominator=given)
        assert explained.denominator == 12
        assert explained.result == pytest.approx(explained.numerator / 12)
        assert " / 12 = " in str(explained)


@pytest.mark.parametrize("empty", ["zero", "nan"])
def test_a_mean_over_nothing(empty: Any) -> None:
    loss = sy.CrossEntropyLoss(ignore_index=1, empty=empty)
    explained = sy.explain(loss, torch.zeros(2, 3), torch.tensor([1, 1]))
    assert explained.denominator == 0
    assert str(explained.result) == ("0.0" if empty == "zero" else "nan")
    sy.explain(loss, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_text_of_an_index_target() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    loss = sy.CrossEntropyLoss([1, 2], ignore_index=-1)
    lines = str(sy.explain(loss, logits, torch.tensor([0, 1, -1]))).splitlines()
    assert lines[0] == "CrossEntropyLoss(weight=[1, 2], ignore_index=-1)"
    assert re.split(" {2,}", lines[1]) == [
        *["position", "class", "edited logits", "softmax", "-log p", "tail", "weight"],
        *["sample weight", "contribution"],
    ]
    assert lines[2].split() == [
        *["0", "0", "0.900000,", "0.100000", "0.689974,", "0.310026", "0.371101", "0.371101"],
        *["1", "1", "0.371101"],
    ]
    assert lines[3].split()[-5:] == ["1.037488", "1.037488", "2", "1", "2.074976"]
    assert lines[4].split() == ["2", "-1", "ignored", "0"]
    assert lines[-1] == ("mean = (1·0.371101 + 2·1.037488) / (1 + 2) = 2.446077 / 3 = 0.815359")


def test_text_of_soft_targets_and_dimensions() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    target = torch.tensor([[[[0.75, 0.0]], [[0.25, 1.0]]]])
    text = str(sy.explain(sy.CrossEntropyLoss(reduction="sum"), logits, target))
    assert "0, 0, 0   0.75·0, 0.25·1" in text
    assert "0, 0, 1   1·1" in text
    assert text.endswith("sum = 1·0.693147 + 1·0.693147 = 1.386294")
    none = str(sy.explain(sy.CrossEntropyLoss(reduction="none"), logits, target))
    assert none.endswith("none: one value per position")
    single = str(sy.explain(sy.CrossEntropyLoss(), torch.zeros(2), torch.tensor(1)))
    assert single.splitlines()[2].startswith("–")


def test_wide_logits_and_long_batches_are_cut() -> None:
    explained = sy.explain(
        sy.CrossEntropyLoss(label_smoothing=0.1), torch.randn(70, 1000), torch.arange(70)
    )
    lines = str(explained).splitlines()
    assert max(map(len, lines[:-1])) < 600
    assert lines[2].count("…") == 6  # target, logits, softmax, -log p, tail, weight
    assert "… and 20 more positions" in lines
    assert len(lines) < 60
    assert explained._repr_html_().count("<tr>") == 51
    assert len(explained.positions) == 70
    assert len(explained.positions[0].edited_logits) == 1000


class Cells(HTMLParser):
    """The cells of a table, row by row; a tag that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_html_is_the_same_table() -> None:
    logits, index, _ = case((3,))
    explained = sy.explain(sy.FocalLoss(ignore_index=int(index[0])), logits, index)
    assert "<code>FocalLoss(gamma=2.0" in explained._repr_html_()
    cells = Cells(explained._repr_html_())
    assert len(cells.rows) == 4
    assert cells.rows[0][:3] == ["position", "class", "edited logits"]
    assert "ignored" in cells.rows[1]
    for row, position in zip(cells.rows[1:], explained.positions, strict=True):
        if not position.ignored:
            assert row[-1] == f"{position.contribution:.6f}"


@each_row
def test_to_dict_is_plain_and_complete(row: Row) -> None:
    logits, index, share = case((2,))
    for target in (index, share):
        explained = sy.explain(row.build(label_smoothing=0.1), logits, target)
        again = json.loads(json.dumps(explained.to_dict()))
        assert set(again) == {
            *["loss", "reduction", "positions", "numerator", "denominator", "result"]
        }
        assert again["loss"] == repr(row.build(label_smoothing=0.1))
        assert again["result"] == explained.result
        first = again["positions"][0]
        products = [t["weight"] * t["target"] * t["tail"] for t in first["terms"]]
        assert sum(products) == pytest.approx(first["contribution"])
        assert sum(t["target"] for t in first["terms"]) == pytest.approx(1)


@each_row
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_and_no_gradients(row: Row, dtype: torch.dtype) -> None:
    logits, index, _ = case((4, 2))
    leaf = logits.to(dtype).requires_grad_()
    explained = sy.explain(row.build(weight=WEIGHT), leaf, index.to(torch.int16))
    naive = naive_loss(row, leaf.detach(), index, weight=WEIGHT)
    assert explained.result == pytest.approx(float(naive), rel=1e-9)
    assert leaf.grad is None


def test_masked_out_classes() -> None:
    logits = torch.tensor([[1.0, 2.0, -math.inf]])
    explained = sy.explain(sy.FocalLoss(), logits, torch.tensor([0]))
    assert explained.positions[0].softmax[2] == 0
    assert explained.result == pytest.approx(float(sy.focal_loss(logits, torch.tensor([0]))))


def test_deferred_reweighting_is_explained_as_it_stands() -> None:
    logits, index, _ = case((4,))
    loss = sy.DeferredReweighting(sy.CrossEntropyLoss(), WEIGHT, start=1)
    before = sy.explain(loss, logits, index)
    loss.set_epoch(1)
    after = sy.explain(loss, logits, index)
    assert before.result == pytest.approx(float(sy.cross_entropy_loss(logits, index)))
    assert after.result == pytest.approx(float(sy.cross_entropy_loss(logits, index, weight=WEIGHT)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_explain_engine(smoothing: float) -> None:
    logits, index, share = case((3, 2))
    for target in (index, share):
        choice = sy.explain_engine(logits, target, label_smoothing=smoothing, engine="reference")
        assert choice.engine == "reference"
        assert choice.reason
        auto = sy.explain_engine(logits, target, label_smoothing=smoothing)
        assert auto.engine != "auto"
        assert auto.reason
    assert sy.explain_engine(logits[0, :, 0], index[0, 0]).engine
