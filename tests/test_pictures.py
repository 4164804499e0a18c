"""The committed pictures are those that docs/pictures.py draws."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")
DOCS = Path(__file__).parent.parent / "docs"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_is_committed_and_no_other(pictures):
    committed = {file.name for file in (DOCS / "pictures").glob("*.svg")}
    assert committed == {f"{name}.svg" for name in pictures.PICTURES}


# The boundaries are trained: other processors round them otherwise.
@pytest.mark.parametrize(
    "name", ["tails", "edits", "cells", "regions", "weights", "threshold", "speed"]
)
def test_a_picture_is_what_the_code_draws_today(pictures, name):
    (drawn,) = pictures.drawn([name]).values()
    committed = (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    assert NUMBER.split(drawn) == NUMBER.split(committed), "run `make pictures`"
    for now, before in zip(NUMBER.findall(drawn), NUMBER.findall(committed), strict=True):
        assert abs(float(now) - float(before)) < 0.3, "run `make pictures`"


PHONE = 358  # pixels that a page leaves to a picture on a screen of 390


@pytest.mark.parametrize(
    "file", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda file: file.stem
)
def test_pictures_can_be_read_on_a_phone(file):
    text = file.read_text(encoding="utf-8")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])
    sizes = [float(size) * PHONE / width for size in re.findall(r"font-size: ([\d.]+)px", text)]
    assert min(sizes) > 6.5  # an exponent
    assert sorted(sizes)[len(sizes) // 3] > 9.5  # all else
    assert set(re.findall(r"font-family: ([^;\"]*)", text)) == {"system-ui, sans-serif"}


@pytest.mark.parametrize("name", ["tails", "boundaries", "speed"])
def test_pictures_are_small_quiet_and_follow_the_dark(name):
    text = (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    assert len(text) < 150_000
    assert "prefers-color-scheme: dark" in text
    addresses = set(re.findall(r"https?://[^\s\"<]+", text))
    assert all(
        "w3.org" in url or "purl.org" in url or "creativecommons.org" in url for url in addresses
    )
