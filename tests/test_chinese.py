"""The Chinese pages have the code and the numbers of the English ones; each links to its twin."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH = {page.name: page for page in (ROOT / "docs/learn").glob("*.md")}
ENGLISH["recipes.md"] = ROOT / "docs/recipes.md"
CHINESE = {page.name: page for page in (ROOT / "docs/zh").glob("*.md")}
BLOCK = re.compile(r"^```\w*\n.*?^```$|^<!---.*?^--->$", re.MULTILINE | re.DOTALL)


def code_of(text: str) -> list[str]:
    """The blocks of a page, without comments and the texts of docstrings: those are translated."""
    blocks = (re.sub(r"(?m)(^|  )# .*", "", block) for block in BLOCK.findall(text))
    return [re.sub(r'""".*?"""', '""""""', block) for block in blocks]


def numbers_of(text: str) -> set[str]:
    """The numbers of the prose; what stands in code or links is compared as code."""
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", BLOCK.sub("", text))
    return set(re.findall(r"\d+(?:[.,]\d+)*", prose))


def test_every_learning_page_has_a_twin():
    assert sorted(CHINESE) == sorted(ENGLISH)


@pytest.mark.parametrize("name", ENGLISH)
def test_code_and_numbers_are_the_same(name):
    english, chinese = (page.read_text(encoding="utf-8") for page in (ENGLISH[name], CHINESE[name]))
    assert code_of(chinese) == code_of(english)
    assert numbers_of(chinese) <= numbers_of(english)
    assert f"](../zh/{name})" in english or f"](zh/{name})" in english
    assert f"](../learn/{name})" in chinese or f"](../{name})" in chinese


def cells_of(text: str) -> list[list[tuple[set[str], ...]]]:
    """The rows of all tables; of each cell its code, its numbers and its papers."""
    rows = [
        line.replace("\\|", "").strip("| ").split("|")
        for line in BLOCK.sub("", text).splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]
    patterns = r"`[^`]+`", r"\[\D+\d{4}\w?\]"
    return [
        [(numbers_of(cell), *(set(re.findall(each, cell)) for each in patterns)) for cell in row]
        for row in rows
    ]


def test_the_readme_has_every_table_of_the_english_one():
    english, chinese = (
        cells_of((ROOT / name).read_text(encoding="utf-8"))
        for name in ("README.md", "README.zh-CN.md")
    )
    for ours, theirs in zip(chinese, english, strict=True):
        assert ours == theirs


def test_the_readme_has_code_and_calls_of_the_english_one():
    english, chinese = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
    )
    assert set(code_of(chinese)) <= set(code_of(english))
    calls = re.findall(r"`\w+\([^`]*\)`", chinese)
    assert calls
    assert [call for call in calls if call not in english] == []
    assert "(README.zh-CN.md)" in english
    assert "(README.md)" in chinese
