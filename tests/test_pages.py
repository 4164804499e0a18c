"""README.md and docs/ say what the code says; that their examples run, conftest.py sees to."""

import inspect
import itertools
import re
from pathlib import Path

import pytest

import steelyard as sy
from steelyard.losses.positions import KEYWORDS

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table_after(heading: str) -> list[list[str]]:
    """The cells of each row of the first table under a heading of the README."""
    _, _, below = README.partition(f"\n{heading}\n")
    assert below, f"no heading {heading!r}"
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in table.group().splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


LOSSES = {
    name: kind
    for name in sy.losses.__all__
    if isinstance(kind := getattr(sy, name), type) and kind not in sy.losses._FAMILIES
}


def rows_of_losses() -> list[list[str]]:
    """The rows of the tables of losses."""
    headings = ("## Losses", "## Losses of several labels")
    return list(itertools.chain(*map(table_after, headings)))


def test_the_readme_lists_every_loss():
    assert sorted(row[0].strip("`") for row in rows_of_losses()) == sorted(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_the_readme_has_the_arguments_and_defaults_of_each_loss(name):
    row = next((row for row in rows_of_losses() if row[0] == f"`{name}`"), None)
    assert row is not None, f"a row for {name} in the README's table of losses"
    listed = dict(re.findall(r"`(\w+)(?:=([\w.\"-]+))?`", row[2] if len(row) > 2 else ""))
    keywords = getattr(LOSSES[name], "keywords", None)  # a sum of losses has none
    own = {
        parameter.name: "" if parameter.default is parameter.empty else _typed(parameter.default)
        for parameter in inspect.signature(LOSSES[name]).parameters.values()
        if parameter.name not in (keywords.defaults if keywords else ())
    }
    assert listed == own


def _typed(value):
    return f'"{value}"' if isinstance(value, str) else str(value)


FORMULAS, WHICH = (
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("losses.md", "which-loss.md")
)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_its_formula(name):
    assert re.search(rf"^\| `{name}` \| \S", FORMULAS, re.MULTILINE), "a row in docs/losses.md"


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_said_of_every_loss_when_to_take_it(name):
    advice = re.findall(r"^### Which one.*?(?=^##)", FORMULAS, re.MULTILINE | re.DOTALL)
    said = [line for text in (WHICH, *advice) for line in text.splitlines() if "|" not in line]
    assert re.search(rf"`(sy\.)?{name}\b", "\n".join(said)), (
        "a line in docs/which-loss.md, or under 'Which one' in docs/losses.md"
    )


def test_the_readme_has_every_option_with_its_default():
    rows = table_after("## Options of every loss")
    listed = {name.strip("`"): default.strip("`") for name, default, _ in rows}
    assert listed == {name: _typed(default) for name, default in KEYWORDS.defaults.items()}


def test_the_readme_cites_the_paper_of_each_docstring():
    links = dict(re.findall(r"^\[(.+)\]: (\S+)$", README, re.MULTILINE))
    for name, *cells in rows_of_losses():
        described = LOSSES[name.strip("`")]
        if function := re.match(r":func:`(\w+)`", described.__doc__):
            described = getattr(sy, function.group(1))
        _, _, reference = described.__doc__.partition("Reference:")
        documented = [
            f"https://arxiv.org/abs/{number}" if kind == "arXiv" else f"https://doi.org/{number}"
            for kind, number in re.findall(r"(arXiv|doi):(\d[\w./-]*[\w])", reference)
        ]
        cited = [links[key] for key in re.findall(r"\[(.+?)\]", " ".join(cells)) if key in links]
        assert cited == documented, f"{name}: the README's links beside those of its docstring"


def test_the_readme_shows_the_default_study():
    candidates = pytest.importorskip("steelyard.compare.candidates")
    references = pytest.importorskip("steelyard.compare.tables.references").REFERENCES
    _, _, output = README.partition("$ steelyard compare\n")
    output = output.partition("```")[0]
    shown = re.findall(r"^(\S.*?)  +\d+\.\d ±", output, re.MULTILINE)
    titles = [candidates.candidate(name).title for name in candidates.DEFAULT]
    assert shown == titles + [item.title for item in references]


def anchors_of(page: Path) -> set[str]:
    """The names that GitHub and the site give to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, section = target.partition("#")
        assert (page.parent / name).exists(), target
        if section:
            assert section in anchors_of(page.parent / name if name else page), target
    for key in re.findall(r"\[([A-Z][a-z]+ \d{4})\]", text):
        assert f"\n[{key}]: " in text, key


def test_every_example_is_listed_beside_its_notebook():
    text = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    for example in ROOT.glob("examples/*.py"):
        notebook = f"../examples/notebooks/{example.stem}.ipynb"
        assert f"(../examples/{example.name}), [notebook]({notebook})" in text
    assert "<!-- examples -->" in text, "the site puts their code in here"
