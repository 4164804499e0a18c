"""The site builds without a warning, has an entry for every public name, and asks no other host."""

import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import steelyard as sy
from steelyard import compare, integrations, metrics
from steelyard.compare.training.plan import Plan

pytest.importorskip("sphinx")
pytest.importorskip("furo")
inventory = pytest.importorskip("sphinx.util.inventory")

DOCS = Path(__file__).parent.parent / "docs"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
QUIET += " --disable-sync --no-first-run"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
ROOMS = [
    "steelyard",
    "steelyard.compare",
    "steelyard.metrics",
    "steelyard.report",
    *(
        f"steelyard.integrations.{room.name}"
        for room in pkgutil.iter_modules(integrations.__path__)
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning, a dead link among them, is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            *f"{sys.executable} -m sphinx --quiet --fail-on-warning --keep-going".split(),
            DOCS,
            folder,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(sy.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def entries(site: Path) -> set[str]:
    """The full names that the API reference has an entry for."""
    with (site / "objects.inv").open("rb") as file:
        found = inventory.InventoryFile.load(file, "", lambda base, path: path)
    return {name for kind, names in found.items() if kind.startswith("py:") for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_entry_in_the_reference(entries, room):
    module = importlib.import_module(room)
    missing = [
        name
        for name in module.__all__
        if callable(getattr(module, name)) and f"{room}.{name}" not in entries
    ]
    assert not missing, f"{room}: give {missing} an entry in docs/api/, by `.. public::` or by name"


# Bases and records, which nobody makes: what has their example. A loss's class names its function.
SHOWN_BY = {
    "SoftmaxLoss": sy.cross_entropy_loss,
    "SigmoidLoss": sy.bce_with_logits_loss,
    "RegionLoss": sy.dice_loss,
    "Candidate": compare.run,
    "Comparison": compare.run,
    "Study": compare.run,
    "StudyError": compare.run,
    "Evaluation": metrics.evaluate,
    "Scores": metrics.evaluate,
    "ShotGroups": metrics.evaluate,
    "Reliability": metrics.reliability_bins,
}


def example_of(text: str) -> str:
    """What stands under ``Example:``, which runs, or ``Example::``, which is shown only."""
    found = re.search(r"^Example:(:?)\n((?:\n|    .*\n?)+)", inspect.cleandoc(text), re.MULTILINE)
    if found is None:
        return ""
    if found[1]:
        compile(textwrap.dedent(found[2]), "the example", "exec")
    return found[2] if found[1] or ">>> " in found[2] else ""


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_example(room):
    module = importlib.import_module(room)
    for name in filter(lambda name: callable(getattr(module, name)), module.__all__):
        shown = SHOWN_BY.get(name, getattr(module, name))
        if function := re.match(r":func:`(\w+)` as a module", shown.__doc__):
            shown = getattr(sy, function[1])
        assert example_of(shown.__doc__), f"{room}.{name}: an Example in its docstring"


def test_the_options_of_a_study_are_documented_with_their_defaults():
    text = compare.trainings.__doc__
    for option in dataclasses.fields(Plan):
        assert f"- {option.name}" in text or f"; {option.name}" in text
        if option.default not in (None, dataclasses.MISSING):
            default = str(option.default)
            written = f'"{default}"' if isinstance(option.default, str) else default
            assert f"{option.name} ({written})" in text


@pytest.mark.slow
def test_no_sentence_of_a_docstring_became_a_list_or_a_type(site):
    for page in (site / "api").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "upperalpha" not in text, f"{page.name}: 'C. …' begins a list; write 'how many'"
        for entry in re.findall(r'<dl class="py property">.*?</dl>', text, re.DOTALL):
            assert ">Type<" not in entry, f"{page.name}: a property's summary has a colon: {entry}"


@pytest.mark.slow
def test_no_entry_shows_what_only_python_writes(site):
    for page in (site / "api").glob("*.html"):
        text = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))
        assert not re.search(r"Alias for field|&lt;(class|function|object)|partial\(", text), page
    text = (site / "api" / "compare.html").read_text(encoding="utf-8")
    assert (
        "checkpoint"
        not in re.search(r'<dt [^>]*id="steelyard.compare.Trial">.*?</dt>', text, re.S)[0]
    )


@pytest.mark.slow
def test_papers_and_options_are_links(site):
    text = (site / "api" / "softmax.html").read_text(encoding="utf-8")
    assert 'href="https://arxiv.org/abs/1708.02002"' in text
    assert 'href="#options-of-every-loss"' in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_the_window_are_quiet_and_ask_no_other_host(site, size, scheme):
    driver = pytest.importorskip("playwright.sync_api")
    width, height = SIZES[size]
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        complaints = []
        page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda asked: complaints.append(f"not there: {asked.url}"))
        page.on("request", lambda asked: complaints.append(asked.url[:200]))
        for file in sorted(site.rglob("*.html")):
            name = str(file.relative_to(site).with_suffix(""))
            page.goto(file.as_uri())
            spill = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert spill <= 0, f"{name} scrolls sideways"
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (scheme == "light"), name
            if folder := os.environ.get("STEELYARD_SCREENSHOTS"):
                shot = Path(folder) / f"site-{name.replace('/', '-')}-{size}-{scheme}.png"
                page.screenshot(path=shot)
        browser.close()
    assert [said for said in complaints if not said.startswith("file:")] == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_pictures_follow_the_switch_and_not_the_system(site):
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            page.goto((site / "learn" / "focal.html").as_uri())
            papers = []
            for theme in ("light", "dark", "auto"):
                page.evaluate(f"document.body.dataset.theme = '{theme}'")
                papers.append(page.locator("article img").first.screenshot())
            assert papers[0] != papers[1]
            assert papers[2] == papers[scheme == "dark"]
        browser.close()
