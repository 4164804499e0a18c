"""From the results of a study to one HTML page.

The page opens offline in any browser: styles, pictures and plotly.js are inside it. It is made
from the results alone, so that an old `results.json` can be shown again without training
anything. Needs ``pip install 'steelyard[compare]'``.
"""

from steelyard.report.page import render, write

__all__ = ["render", "write"]
