"""What a study says of itself: few test rows, what the decision finds, and what judged."""

import json
import re

import numpy as np
import pytest
import studies
import torch
from network_cases import SPACE, blobs, sgd
from network_cases import study as networks_study
from torch.utils.data import TensorDataset

from steelyard import compare
from steelyard.compare import evidence, results
from steelyard.compare.training.results import _detectable
from steelyard.report import numbers, opening, render, tables
from steelyard.report.reading import Reading

COSTS = {"honest": {"fraud": 5}, "fraud": {"honest": 100}}


def payments(rows=400, frauds=20):
    rng = np.random.default_rng(0)
    labels = np.array(["honest"] * (rows - frauds) + ["fraud"] * frauds)
    return rng.normal(size=(rows, 3)) + 2.5 * (labels == "fraud")[:, None], labels


@pytest.fixture(scope="module")
def study():
    quick = {"seeds": 5, "draws": 1, "epochs": 30, "network": "small", "references": []}
    return compare.run(*payments(), losses=[], costs=COSTS, **quick)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([20, 300, 26], None),
        ([400, 19, 30], "The test rows hold 19 of class b: its recall moves in steps of 5 points."),
        ([400, 4, 30], "The test rows hold 4 of class b: its recall moves in steps of 25 points."),
        ([400, 8, 30], "The test rows hold 8 of class b: its recall moves in steps of 13 points."),
        ([400, 0, 30], "The test rows hold none of class b: it has no recall."),
        (
            [6, 4, 30],
            "2 classes have fewer than 20 test rows; class b has 4: its recall moves in steps of "
            "25 points.",
        ),
    ],
)
def test_few_test_rows_are_said_and_enough_are_not(counts, said):
    assert results.few_test_rows(counts, "abc") == [said] * (said is not None)


def test_a_table_says_how_coarse_the_recall_is(study):
    note = "The test rows hold 4 of class fraud: its recall moves in steps of 25 points."
    assert study.results["data"]["notes"] == [note]
    assert note in str(study).splitlines()
    assert note in render(study.results)


def test_the_line_above_the_table_says_what_its_numbers_are(study):
    text = " ".join(str(study).split())
    assert "choose among 1 draw per loss, 80 test; 5 seeds; mean ± standard deviation" in text
    assert "over seeds, costs per row and all else in percent." in text


def test_costs_that_do_not_judge_are_said_to(study):
    said = (
        "Judged by balanced accuracy, not by the costs: --select mean_cost (in Python "
        "select='mean_cost') judges by them."
    )
    assert said in study.results["verdict"]["sentences"]
    assert said.replace("'", "&#39;") in render(study.results)


def test_a_verdict_on_two_classes_has_recall_and_precision_of_the_rarer(study):
    found = study.results
    recommended = found["verdict"]["recommended"]
    means = {}
    for entry in found["candidates"]:
        matrices = np.array([cell["confusion"] for cell in entry["seeds"]])  # fraud before honest
        right = matrices[:, 0, 0]
        with np.errstate(invalid="ignore"):
            shares = right / matrices[:, 0].sum(1), right / matrices[:, :, 0].sum(1)
        means[entry["name"]] = [100 * np.nanmean(share) for share in shares]
    (recall, precision), plain = means[recommended], means["cross-entropy"]
    assert recommended != "cross-entropy"
    assert (
        f"Recall and precision of 'fraud' on the test rows: {recall:.1f} % and {precision:.1f} % "
        f"(cross-entropy: {plain[0]:.1f} % and {plain[1]:.1f} %)."
    ) in found["verdict"]["sentences"]


def test_calibration_of_two_classes_is_that_of_the_positive_one_and_has_its_scale(study):
    found = study.results
    entry = next(e for e in found["candidates"] if e["name"] == found["verdict"]["recommended"])
    means = []
    for repair in ("", "_corrected", "_tempered"):
        values = entry["scores"][f"positive_calibration_error{repair}"]["values"]
        means.append(None if None in values else f"{100 * np.mean(values):.1f} %")
    names = ("as trained", "with the loss's shift undone", "with a temperature")
    said = [f"{mean} {name}" for mean, name in zip(means, names, strict=True) if mean]
    assert (
        f"Calibration error of its probability of 'fraud': {', '.join(said)}; a probability of 0 "
        "for every row would have 5.0 %."  # 4 of 80
    ) in found["verdict"]["sentences"]
    for cell in entry["seeds"]:
        bins = {k: np.array(v, dtype=float) for k, v in cell["positive_reliability"].items()}
        assert bins["count"].sum() == 80
        kept = bins["count"] > 0
        distance = np.abs(bins["confidence"] - bins["accuracy"])[kept]
        assert np.average(distance, weights=bins["count"][kept]) == pytest.approx(
            cell["scores"]["positive_calibration_error"]
        )


def test_the_page_draws_the_positive_class_where_that_was_kept(study):
    found = json.loads(json.dumps(study.results))
    name = found["verdict"]["recommended"]

    def drawn():
        page = render(found)
        pictures = json.loads(re.search(r'id="payload">(.*?)</script>', page)[1])["pictures"]
        return page, pictures["calibration"][name][0]

    page, picture = drawn()
    assert picture["label"].startswith("Share of the positive class by its probability")
    assert "in bins of as many rows, by their probability of fraud." in page
    trace = picture["figure"]["data"][-1]
    cells = [
        cell["positive_reliability"]
        for entry in found["candidates"]
        if entry["name"] == name
        for cell in entry["seeds"]
    ]
    last = [(cell["count"][-1], cell["accuracy"][-1]) for cell in cells]
    shares, counts = [n * share for n, share in last], [n for n, _ in last]
    assert trace["y"][-1] == pytest.approx(sum(shares) / sum(counts), rel=1e-4)
    for entry in found["candidates"]:  # as results were before
        for cell in entry["seeds"]:
            del cell["positive_reliability"]
    page, picture = drawn()
    assert picture["label"].startswith("Reliability: accuracy by confidence")
    assert "in bins of confidence." in page


def test_precision_where_the_class_is_never_called():
    silent = {"status": "done", "recall": [1.0, 0.0], "precision": [0.9, None]}
    cells = [silent, {"status": "failed"}]
    entries = [{"name": "cross-entropy", "seeds": cells}]
    assert results._found("cross-entropy", entries, ("honest", "fraud"), 1) == [
        "Recall and precision of 'fraud' on the test rows: 0.0 % and no precision, for no row is "
        "called 'fraud'."
    ]
    once = {"status": "done", "recall": [1.0, 0.5], "precision": [0.9, 0.25]}
    entries.append({"name": "post-hoc", "seeds": [silent, once]})
    assert results._found("post-hoc", entries, ("honest", "fraud"), 1) == [
        "Recall and precision of 'fraud' on the test rows: 25.0 % and 25.0 % (cross-entropy: 0.0 % "
        "and no precision, for no row is called 'fraud')."
    ]
    assert results._found(None, entries, ("honest", "fraud"), 1) == []
    assert results._found("post-hoc", entries, "abc", None) == []


def test_the_page_has_precision_and_recall_of_each_class(study):
    page = render(json.loads(json.dumps(study.results)))
    table = page[page.index("Precision and recall of each class") :].split("</table>")[0]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table, re.DOTALL)
    assert [name for name, _ in rows] == ["fraud", "honest"]
    by_name = {entry["name"]: entry for entry in study.results["candidates"]}
    shown = re.findall(r"<td>(.*?)</td>", rows[0][1])
    expected = []
    for name in ("cross-entropy", study.results["verdict"]["recommended"]):
        for share in ("precision", "recall"):
            known = [c[share][0] for c in by_name[name]["seeds"] if c[share][0] is not None]
            expected.append(f"{100 * np.mean(known):.1f}")
    assert shown == [*map(str, (12,)), *expected]


def test_a_network_says_the_same():
    features, labels = payments(200, 30)
    data = TensorDataset(torch.tensor(features).float(), torch.tensor(labels == "fraud").long())
    study = compare.networks(
        lambda: torch.nn.Linear(3, 2),
        train=data,
        losses=[],
        classes=["honest", "fraud"],
        optimizer=sgd,
        space={item.name: item.default for item in SPACE},
        epochs=3,
        draws=1,
        seeds=5,
        progress=False,
    )
    text = " ".join(str(study).split())
    assert "The test rows hold 6 of class fraud: its recall moves in steps of 17 points." in text
    assert "Recall and precision of 'fraud' on the test rows: " in text


def test_the_positive_class_is_kept_under_its_own_name():
    """The page looks it up among the classes, whatever its case and kind were on the way in."""
    quick = {"seeds": 1, "draws": 1, "epochs": 1, "network": "small", "references": []}
    features, labels = payments(60, 10)
    named = compare.run(features, labels, losses=[], costs=COSTS, positive="HONEST", **quick)
    assert named.results["study"]["positive"] == "honest"
    assert "rows count as honest from a probability on" in render(named.results)
    numbered = (labels == "fraud").astype(int)
    by_number = compare.run(features, numbered, losses=[], positive=0, **quick)
    assert by_number.results["study"]["positive"] == "0"


def test_a_quantity_is_no_target():
    features, _ = payments(100)
    with pytest.raises(compare.StudyError) as caught:
        compare.run(features, np.arange(100))
    assert str(caught.value) == (
        "'y' holds 100 different numbers in 100 rows, and 100 of them once: a quantity, it seems, "
        "and not classes; cut it into a few classes first, or name another column"
    )


def test_an_interval_that_clears_zero_and_proves_nothing_is_said_to():
    """The number beside the verdict would contradict its words."""
    made_up = studies.study()
    [row] = [
        row
        for row in made_up["comparisons"]["balanced_accuracy"]
        if row["candidate"] == made_up["verdict"]["recommended"]
    ]
    row["judgement"] = "no detectable difference"
    row["difference"] |= {"mean": 0.2, "low": 0.1, "high": 0.3}
    difference = opening.facts(Reading(made_up))[2]
    assert difference.note == (
        "95 % interval +10.0 to +30.0; not detectable after Holm’s correction"
    )
    row["difference"]["low"] = -0.1
    assert opening.facts(Reading(made_up))[2].note == "95 % interval −10.0 to +30.0"


def test_a_log_loss_is_at_least_zero_whatever_its_interval_says():
    assert numbers.interval("log_loss", {"low": -0.2, "high": 0.3}) == "0.000–0.300"
    assert numbers.interval("mean_cost", {"low": -0.2, "high": 0.3}) == "−0.2–0.3"


def test_seeds_without_spread_would_not_have_shown_a_difference_of_nothing():
    nothing = evidence.Interval(0.0, 0.0, 0.0, 0.0)
    alike, unclear = (
        evidence.Comparison(name, 5, nothing, 1.0, 1.0, "no detectable difference", size)
        for name, size in (("a", 0.0), ("b", 0.2))
    )
    titles = {"a": "Alike", "b": "Other"}
    assert _detectable([alike], titles, 5) == []
    [said] = _detectable([alike, unclear], titles, 5)
    assert said.endswith("a difference from cross-entropy of 20.0 points (Other).")


def test_the_set_up_says_what_none_means():
    unset = dict.fromkeys(("clip", "costs", "positive", "micro_batch", "validation", "group"))
    assert tables.options(unset | {"seeds": 5}) == [
        ("clip", "none"),
        ("costs", "none"),
        ("positive", "none"),
        ("micro batch", "whole steps"),
        ("validation", "a set of its own"),
        ("group", "automatic"),
        ("seeds", "5"),
    ]


def test_the_set_up_of_a_network_says_where_rows_came_from():
    page = render(networks_study(losses=["focal"], epochs=1, draws=1, seeds=1).results)
    assert "chosen on validation rows carved from the training rows; one test set judges" in page
    assert page.count("<dt>test rows</dt>") == 1
    found = networks_study(
        losses=["focal"], epochs=1, draws=1, seeds=1, validation=blobs(40, seed=7), test=None
    )
    page = render(found.results)
    assert "chosen on a validation set of their own; test rows are carved anew for every" in page
    assert "and are read by the chosen draw alone." in page
