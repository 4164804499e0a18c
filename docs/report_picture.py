"""The look at a report in README.md: its argument is the report of docs/compare.md's study."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
SIZE = {"width": 1100, "height": 980}
QUIET = ["--no-sandbox", "--disable-gpu"]


def look(page: Path) -> Image.Image:
    """The top of a report, as a desktop shows it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        tab = browser.new_page(viewport=SIZE)
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("html[data-drawn]")
        seen = tab.screenshot()
        browser.close()
    return Image.open(io.BytesIO(seen))


if __name__ == "__main__":
    picture = look(Path(sys.argv[1])).convert("RGB").quantize(32, dither=Image.Dither.NONE)
    picture.save(HERE / "pictures" / "report.png", optimize=True)
