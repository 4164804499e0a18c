"""The page in a headless Chromium: drawn, quiet, offline, dark, narrow, and without scripts.

Opening a page costs seconds, most of them plotly's: tests that can share a page do.
"""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from studies import HOSTILE, study

from steelyard.report import write

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium to test the page in it"
)
QUIET = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
QUIET += " --disable-sync --no-first-run"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PARTS = ("recall", "forest", "curves", "calibration", "mistakes", "tuning")
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 28, 33)"}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def visit(browser, tmp_path_factory):
    """Opens a study's page; what the page complains of or asks for is kept in `complaints`."""
    folder = tmp_path_factory.mktemp("report")
    pages = []

    def opened(results, viewport=DESKTOP, scheme="light", scripts=True):
        path = folder / f"{len(pages)}.html"
        write(results, path)
        page = browser.new_page(viewport=viewport, color_scheme=scheme, java_script_enabled=scripts)
        pages.append(page)
        page.complaints = []
        page.on("console", lambda said: page.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda asked: page.complaints.append(f"asked for {asked.url[:200]}"))
        page.goto(path.as_uri())
        assert page.complaints == [f"asked for {path.as_uri()}"]
        page.complaints.clear()
        if scripts:
            page.wait_for_selector(f"html[data-drawn={scheme}]", timeout=60_000)
        return page

    yield opened
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def usual(visit):
    return visit(study())


def check_pictures(page, name, scheme):
    """Every part is drawn, in the colours of the scheme, and the page is quiet and fits."""
    marks = ".points path, .point path, .js-line, .errorbar path, .heatmaplayer image"
    for part in PARTS:
        pictures = page.locator(f"#drawing-{part} .main-svg:first-child")
        assert pictures.locator(marks).count() > 0, part
        assert pictures.first.bounding_box()["width"] > 200, part
        paper = pictures.first.evaluate("node => getComputedStyle(node).backgroundColor")
        assert paper == PAPER[scheme], part
    spill = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert spill <= 0, "the page itself must not scroll sideways"
    assert page.complaints == []
    if folder := os.environ.get("STEELYARD_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        width = page.viewport_size["width"]
        page.screenshot(path=Path(folder) / f"{name}-{scheme}-{width}.png", full_page=True)


def legend(page, part):
    return page.locator(f"#drawing-{part} .legend").text_content()


def test_pictures_are_drawn_and_follow_the_systems_colours_and_the_window(usual):
    width = """([which, least, most]) => {
        const { width } = document.querySelector(which).getBoundingClientRect();
        return least < width && width <= most;
    }"""
    check_pictures(usual, "usual", "light")
    usual.set_viewport_size(PHONE)
    usual.wait_for_function(width, arg=["#drawing-recall .main-svg", 200, 390])
    check_pictures(usual, "usual", "light")
    usual.emulate_media(color_scheme="dark")
    usual.wait_for_selector("html[data-drawn=dark]")
    check_pictures(usual, "usual", "dark")
    usual.set_viewport_size(DESKTOP)
    usual.wait_for_function(width, arg=["#drawing-forest .main-svg", 800, 1280])
    check_pictures(usual, "usual", "dark")


def test_a_candidate_is_chosen_by_keyboard_and_every_picture_follows(usual):
    assert "Class-balanced" in legend(usual, "recall")
    usual.locator("select[data-part=recall]").focus()
    usual.keyboard.type("Focal")
    usual.keyboard.press("Enter")
    for part in ("recall", "calibration"):
        usual.wait_for_function(
            "part => document.querySelector(part)?.textContent.includes('Focal')",
            arg=f"#drawing-{part} .legend",
        )
    assert usual.locator("select[data-part=mistakes]").input_value() == "focal"
    label = usual.locator("#drawing-mistakes [role=img]").get_attribute("aria-label")
    assert label.startswith("Confusion matrix of Focal")
    assert usual.locator("select[data-part=forest]").input_value() == "balanced_accuracy"
    assert usual.complaints == []


def test_lines_of_python_can_be_copied(usual):
    usual.context.grant_permissions(["clipboard-read", "clipboard-write"])
    usual.get_by_role("button", name="Copy").click()
    usual.get_by_role("button", name="Copied").wait_for()
    copied = usual.evaluate("navigator.clipboard.readText()")
    assert copied == usual.locator("#verdict-code").inner_text()


def test_each_of_a_hundred_classes_has_its_name_and_points(visit):
    page = visit(study(classes=100), PHONE, "dark")
    check_pictures(page, "hundred", "dark")
    picture = page.locator("#drawing-recall")
    assert picture.locator(".scatterlayer .point").count() == 200  # cross-entropy and the lead
    names = picture.locator(".xtick text")
    assert names.count() == 100
    sides = "nodes => nodes.map(n => n.getBoundingClientRect()).map(b => [b.left, b.right])"
    boxes = sorted(names.evaluate_all(sides))
    overlap = [right - left for (_, right), (left, _) in itertools.pairwise(boxes)]
    assert max(overlap) < 3, "names stand side by side"


def test_two_classes_and_one_seed_are_drawn(visit):
    check_pictures(visit(study(classes=2, seeds=1, draws=1)), "one", "light")


def test_all_failed_is_said_and_nothing_breaks(visit):
    page = visit(study(fail=("cross-entropy", "post-hoc", "focal", "class-balanced")))
    assert page.get_by_role("heading", name="Nothing finished").is_visible()
    assert page.locator(".main-svg").count() == 0
    assert page.get_by_text("There is nothing to draw").count() == len(PARTS)
    assert page.complaints == []


def test_hostile_names_run_nothing(visit):
    results = study(names=[f"{HOSTILE} {c}" for c in range(5)])
    results["data"] |= {"target": HOSTILE, "name": HOSTILE}
    for entry in results["candidates"]:
        entry["title"] += HOSTILE
    page = visit(results)
    page.locator("select[data-part=recall]").select_option(index=1)
    page.locator("#drawing-recall .scatterlayer .point").first.hover(force=True)
    page.locator("#drawing-recall .hovertext").first.wait_for()
    assert "<script>" in page.locator("#drawing-recall .hovertext").first.text_content()
    assert "<script>" in legend(page, "recall")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.complaints == []
    # And if a name did become markup, the page's policy would still refuse to run it.
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.hacked") is None
    assert "Content Security Policy" in page.complaints[0]


def test_tables_are_readable_without_javascript(visit):
    page = visit(study(), scripts=False)
    assert page.locator("noscript p").is_visible()
    assert page.locator("td", has_text="better").first.is_visible()
    for summary in page.locator("main > section > details > summary").all():
        summary.click()
    for caption in ("Recall in percent", "Points above or below", "Every candidate had"):
        assert page.locator("caption", has_text=caption).first.is_visible()
    assert page.locator("select").first.is_disabled()
