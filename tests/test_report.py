"""The page without a browser: what it says, what it survives, what it cannot be made to do."""

import json
import re
from html.parser import HTMLParser

import pytest
from studies import HOSTILE, study

from steelyard.report import numbers, render, write
from steelyard.report.style import DARK, PAPER

CASES = {
    "five classes": study(),
    "two classes": study(classes=2),
    "a hundred classes": study(classes=100),
    "one seed": study(seeds=1),
    "one draw": study(draws=1),
    "all failed": study(fail=("cross-entropy", "post-hoc", "focal", "class-balanced")),
    "no baseline": study(fail=("cross-entropy", "post-hoc")),
    "failed draws": study(failed_draws=[("focal", 0, 1), ("focal", 3, 2)]),
}


class Reader(HTMLParser):
    """What a browser would make of the page: tags, words, tables, and what is kept for scripts."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.words, self.scripts, self.tables, self.selected = "", [], {}, {}
        self.caption, self.row = None, []
        self.feed(page)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "script":
            self.scripts.append("")
        if tag == "caption":
            self.caption = ""
        if tag == "tr":
            self.row = []
            self.tables.setdefault(self.caption, []).append(self.row)
        if tag in ("td", "th"):
            self.row.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.words += data
            if "caption" in self.open:
                self.caption += data
            elif self.open[-1:] and {"td", "th"} & set(self.open):
                self.row[-1] += data

    def table(self, beginning):
        [rows] = [rows for caption, rows in self.tables.items() if caption.startswith(beginning)]
        return [[" ".join(cell.split()) for cell in row] for row in rows]

    @property
    def pictures(self):
        return json.loads(self.scripts[0])["pictures"]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    results = CASES[request.param]
    page = render(results)
    return results, page, Reader(page)


def test_every_study_makes_a_well_formed_page(case):
    results, _, reader = case
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    words = reader.words
    for sentence in results["verdict"]["sentences"]:
        assert sentence in words or sentence.startswith("Use ")
    for entry in results["candidates"]:
        assert entry["title"] in words
    for words_of_a_program in ("None", "nan", "Undefined", "{{", "{%"):
        assert words_of_a_program not in words
    for tag, attributes in reader.tags:
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "rowgroup")
        if tag == "section":
            assert attributes["aria-labelledby"] in reader.ids


def test_nothing_is_loaded_from_elsewhere(case):
    _, page, reader = case
    assert page.count("plotly.js v") == 1
    for tag, attributes in reader.tags:
        assert tag not in ("img", "iframe", "object", "embed")
        assert "src" not in attributes
        if tag != "a":
            assert attributes.get("href", "data:,") == "data:,"
    policy = next(a["content"] for t, a in reader.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 2


def test_pictures_are_finite_and_speak(case):
    results, _, reader = case
    finished = [e["name"] for e in results["candidates"] if e["recall"]]
    for part in ("recall", "curves", "calibration", "mistakes", "tuning"):
        assert set(reader.pictures[part]) == set(finished)
    for choices in reader.pictures.values():
        for picture in (p for some in choices.values() for p in some):
            assert len(picture["label"]) > 10
            assert picture["figure"]["data"]


def test_the_page_is_the_same_every_time():
    assert render(study()) == render(study())


def test_verdict_comes_first_and_says_which_loss():
    reader = Reader(render(study()))
    order = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert order[:2] == ["verdict", "scores"]
    assert "Use class-balanced" in reader.words
    assert 'sy.Loss(name="class-balanced")' in reader.words


@pytest.mark.parametrize(
    ("name", "headline"),
    [("one seed", "No verdict yet"), ("all failed", "Nothing finished")],
)
def test_no_verdict_is_not_dressed_up(name, headline):
    reader = Reader(render(CASES[name]))
    assert headline in reader.words
    assert not any("class" in a and a["class"] == "recommended" for _, a in reader.tags)


def test_score_table_holds_means_and_intervals():
    results = study()
    head, *rows = Reader(render(results)).table("Mean over seeds")
    assert head[:4] == ["Candidate", "Balanced accuracy %", "Against cross-entropy", "Macro F1 %"]
    by_title = {row[0].removesuffix(" recommended"): row for row in rows}
    for entry in results["candidates"]:
        numbers_ = entry["scores"]["balanced_accuracy"]
        cell = by_title[entry["title"]][1]
        assert cell.startswith(f"{100 * numbers_['mean']:.1f}")
        assert f"{100 * numbers_['low']:.1f}–" in cell
        assert by_title[entry["title"]][4] == "–"  # nobody had few-shot classes
    means = [float(row[1].split()[0].split("(")[0][:4]) for row in rows]
    assert means == sorted(means, reverse=True)


def test_recall_table_begins_with_the_rarest_class():
    results = study(classes=100)
    _, *rows = Reader(render(results)).table("Recall in percent")
    assert [row[0] for row in rows] == [f"class {c}" for c in reversed(range(100))]
    assert rows[0][1] == str(results["data"]["train_counts"][-1])


def test_recall_picture_holds_the_means_by_falling_frequency():
    results = study(names=["a", "b", "c", "d", "e"])
    data = results["data"]
    data["train_counts"] = [5, 80, 300, 0, 80]
    pictures = Reader(render(results)).pictures["recall"]
    bars, baseline, chosen = pictures["focal"][0]["figure"]["data"]
    order = [2, 1, 4, 0, 3]
    assert pictures["focal"][0]["figure"]["layout"]["xaxis"]["ticktext"] == list("cbead")
    assert bars["y"] == [300, 80, 80, 5, None]
    entries = {entry["title"]: entry for entry in results["candidates"]}
    for trace, title in ((baseline, "Cross-entropy"), (chosen, "Focal")):
        means = [entries[title]["recall"][c]["mean"] for c in order]
        assert trace["name"] == title
        assert trace["y"] == pytest.approx(means, rel=1e-4)
        tops = [y + up for y, up in zip(trace["y"], trace["error_y"]["array"], strict=True)]
        highs = [min(1.0, entries[title]["recall"][c]["high"]) for c in order]
        assert tops == pytest.approx(highs, abs=1e-4)


def test_confusion_picture_sums_the_seeds_and_shares_the_rows():
    results = study(classes=3, seeds=2)
    for cell, matrix in zip(
        results["candidates"][2]["seeds"],
        ([[8, 2, 0], [1, 3, 0], [0, 0, 0]], [[6, 4, 0], [2, 2, 0], [0, 0, 0]]),
        strict=True,
    ):
        cell["confusion"] = matrix
    heat = Reader(render(results)).pictures["mistakes"]["focal"][0]["figure"]["data"][0]
    assert heat["z"] == [[0.7, 0.3, 0.0], [0.375, 0.625, 0.0], [None, None, None]]
    assert heat["text"][0] == ["70", "30", ""]


def test_reliability_weighs_the_seeds_by_their_rows():
    results = study(seeds=2)
    for cell, (count, accuracy) in zip(
        results["candidates"][0]["seeds"], ((30, 0.9), (10, 0.5)), strict=True
    ):
        cell["reliability"] = {
            "count": [0, count],
            "confidence": [None, 0.8],
            "accuracy": [None, accuracy],
        }
    figure = Reader(render(results)).pictures["calibration"]["cross-entropy"][0]["figure"]
    assert figure["data"][0]["x"] == [0.8]
    assert figure["data"][0]["y"] == [0.8]  # (30·0.9 + 10·0.5) / 40


def test_forest_holds_differences_in_points_by_judgement():
    results = study()
    traces = Reader(render(results)).pictures["forest"]["balanced_accuracy"][0]["figure"]["data"]
    rows = results["comparisons"]["balanced_accuracy"]
    by_judgement = {trace["name"]: trace for trace in traces}
    assert len(by_judgement["one seed"]["x"]) == 5 * len(rows)
    better = [100 * r["difference"]["mean"] for r in rows if r["judgement"] == "better"]
    assert better
    assert by_judgement["better"]["x"] == pytest.approx(sorted(better), rel=1e-4)


def test_failures_and_their_reasons_are_listed():
    reader = Reader(render(CASES["failed draws"]))
    rows = reader.table("2 in all")
    reason = "the training diverged: its loss is not finite"
    assert rows[1:] == [["Focal", "0", "1", reason], ["Focal", "3", "2", reason]]
    rows = Reader(render(CASES["no baseline"])).table("40 in all")
    assert rows[1] == ["Cross-entropy", "0", "all", "the training of every draw diverged"]
    assert "No trial failed." in Reader(render(study())).words


def test_set_up_names_hash_and_versions():
    words = Reader(render(study())).words
    for text in ("0123456789abcdef" * 4, "2.13.0", "12,345", "automatic", "Trained in 3 min"):
        assert text in words


def test_hostile_names_stay_text():
    results = study(names=[HOSTILE, "</script><script>1", "{{ 7*7 }}", "\u202ereversed", "é\n日本"])
    results["data"] |= {"target": HOSTILE, "name": HOSTILE, "notes": [HOSTILE]}
    for entry in results["candidates"]:
        entry["title"] += HOSTILE
        for cell in entry["seeds"]:
            for trial in cell["trials"]:
                trial["options"][HOSTILE] = 0.5
    results["verdict"]["sentences"] = [HOSTILE]
    reader = Reader(render(results))
    assert sum(tag == "script" for tag, _ in reader.tags) == 3  # payload, plotly, our own
    assert not any(tag == "img" for tag, _ in reader.tags)
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert HOSTILE in reader.words
    assert "49" not in reader.table("Recall in percent")[3][0]
    shown = json.dumps([p[0]["figure"] for p in reader.pictures["recall"].values()])
    assert "<script" not in shown
    assert "&lt;script" in shown


def test_caution_where_intervals_clear_zero_but_the_verdict_is_cross_entropy():
    results = study()
    for row in results["comparisons"]["balanced_accuracy"]:
        row["judgement"] = "no detectable difference"
        row["difference"] = {"mean": 0.05, "std": 0.02, "low": 0.01, "high": 0.09}
    results["verdict"]["recommended"] = "cross-entropy"
    assert "Not settled: intervals of 3 of 3 candidates" in render(results)
    assert "Not settled" not in Reader(render(study())).words


def test_more_classes_than_a_matrix_can_show_still_have_their_mistakes():
    reader = Reader(render(study(classes=160, seeds=1)))
    assert reader.pictures["mistakes"] == {}
    assert len(reader.table("Largest shares of a true class")) == 11


@pytest.mark.parametrize(
    ("results", "text"),
    [
        ({"schema": 2}, "the results have schema 2, and this Steelyard reads schema 1; show them"),
        ({}, "these are not the results of a study: they name no schema"),
        ([], "these are not the results of a study: they name no schema"),
    ],
)
def test_other_results_are_refused(results, text, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("older")
    with pytest.raises(ValueError, match=re.escape(text)):
        write(results, page)
    assert page.read_text() == "older"


def test_write_replaces_in_one_step_and_leaves_nothing_behind(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("older")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(study(), page)
    assert page.read_text() == "older"
    assert list(tmp_path.iterdir()) == [page]
    write(study(), page)
    assert page.read_text(encoding="utf-8") == render(study())
    assert list(tmp_path.iterdir()) == [page]


def test_a_real_study_can_be_shown():
    from sklearn.datasets import load_wine

    from steelyard import compare

    study_ = compare.run(
        *load_wine(return_X_y=True), losses=["ldam-drw"], seeds=1, draws=1, epochs=1
    )
    results = json.loads(json.dumps(study_.results, allow_nan=False))
    reader = Reader(render(results))
    for entry in results["candidates"]:
        assert f"Trials of {entry['title']}" in reader.words
    assert set(reader.pictures["recall"]) == set(results["study"]["losses"])


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (numbers.percent(None), "–"),
        (numbers.percent(0.8849), "88.5"),
        (numbers.percent(-0.0149, sign=True), "−1.5"),
        (numbers.percent(-0.0001), "0.0"),
        (numbers.score("log_loss", 0.12345), "0.123"),
        (numbers.score("log_loss", None), "–"),
        (numbers.interval("recall", {"low": -0.2, "high": 1.3}), "0.0–100.0"),
        (numbers.interval("recall", {"low": None, "high": None}), ""),
        (numbers.interval("mean_cost", {"low": 0.4875, "high": 0.4875}), ""),
        (numbers.p_value(0.0), "< 0.001"),
        (numbers.p_value(0.0441), "0.044"),
        (numbers.option(0.9999), "0.9999"),
        (numbers.option(1e-4), "0.0001"),
        (numbers.option(-1.5), "−1.5"),
        (numbers.option(["a", 2]), "a, 2"),
        (numbers.option(True), "True"),
        (numbers.whole(58000), "58,000"),
        (numbers.duration(12.3), "12 s"),
        (numbers.duration(7500), "2 h 5 min"),
    ],
)
def test_numbers_read_well(shown, text):
    assert shown == text


def _luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(a, b):
    bright, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", ["INK", "MUTED", "LEAD", "WORSE", "OTHER"])
def test_colours_stand_out_in_both_schemes(name):
    from steelyard.report import style

    color = getattr(style, name)
    least = 4.5 if name in ("INK", "MUTED") else 3.0  # WCAG 2.2: text, graphical objects
    assert _contrast(color, PAPER) >= least
    assert _contrast(DARK[color], DARK[PAPER]) >= least
