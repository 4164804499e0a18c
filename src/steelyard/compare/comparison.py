"""What a study found: in a notebook, and in a file."""

from __future__ import annotations

import html
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard._files import write_atomically
from steelyard._results import Results, Tried, chosen_trial
from steelyard.compare.study import StudyError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """What a study found.

    `str()` is the table and the verdict as the command prints them; a notebook shows them as
    HTML.

    Attributes:
        results (dict): everything, as `results.json` has it; the module `steelyard.compare.results`
            documents it.
    """

    results: Results = field(repr=False)

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return " ".join(self.results["verdict"]["sentences"])

    @property
    def code(self) -> str | None:
        """Lines of Python that use the recommended loss; None where there is no verdict."""
        return self.results["verdict"]["code"]

    @property
    def _entries(self) -> list[Tried]:
        beside = self.results["references"]["entries"] if "references" in self.results else []
        return [*self.results["candidates"], *beside]

    def to_pandas(self) -> pd.DataFrame:
        """One row per candidate or reference and seed: the chosen draw's options, every score."""
        import pandas as pd

        rows = []
        for entry in self._entries:
            for cell in entry["seeds"]:
                row = {"candidate": entry["name"], "seed": cell["seed"], "status": cell["status"]}
                if cell["status"] == "done":
                    row |= chosen_trial(cell)["options"]
                    row |= cell["scores"]
                rows.append(row)
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        from steelyard.compare.console import plain_console, print_results

        text = io.StringIO()
        print_results(self.results, plain_console(file=text, width=100, color_system=None))
        return text.getvalue()

    def _repr_html_(self) -> str:
        select = self.results["study"]["select"]
        frame = self.to_pandas()
        scores = [score["name"] for score in self.results["scores"]]
        order = [entry["name"] for entry in self._entries]
        means = frame.groupby("candidate")[scores].mean().reindex(order)
        table = means.sort_values(select, ascending=False).to_html(float_format="{:.3f}".format)
        code = f"<pre>{html.escape(self.code)}</pre>" if self.code else ""
        return f"<p>{html.escape(self.verdict)}</p>{table}{code}"


def write_results(results: Results, folder: Path) -> Path:
    """Write `results.json` in one step, and return its path.

    Raises:
        StudyError: the folder cannot be written or the disk is full; an older file is untouched.
    """
    path = folder / "results.json"
    text = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False)
    try:
        write_atomically(path, text + "\n")
    except OSError as error:
        raise StudyError(f"{path} could not be written: {error.strerror}") from error
    return path
