"""The examples as notebooks: `python examples/notebooks/make.py` runs them and writes them here.

A script becomes cells where its parts end: its docstring a text, each function a cell, and
`main()` the last one, with what it printed below.
"""

import ast
import sys
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
NAMES = ("cat_and_dog", "digits_focal", "segmentation", "segmentation_dice", "multilabel")


def cells_of(script: str) -> list[nbformat.NotebookNode]:
    """One text cell, then code: what stands between functions together, each function alone."""
    module = ast.parse(script)
    title, *text = ast.get_docstring(module).splitlines()
    cells = [new_markdown_cell("\n".join([f"# {title}", *text]), id="about")]
    lines = script.splitlines()
    parts: list[list[str]] = [[]]
    for node in module.body[1:-1]:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while lines[start - 1].startswith("#"):  # a comment belongs to what follows it
            start -= 1
        alone = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if alone or not parts[-1]:
            parts.append([])
        parts[-1] += ["\n".join(lines[start : node.end_lineno])]
        if alone:
            parts.append([])
    parts.append(["main()"])
    for part in filter(None, parts):
        cells.append(new_code_cell("\n".join(part), id=f"cell-{len(cells)}"))
    return cells


def notebook(name: str) -> nbformat.NotebookNode:
    """The notebook of an example, not yet run."""
    script = (HERE.parent / f"{name}.py").read_text(encoding="utf-8")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells_of(script), metadata={"kernelspec": kernel})


def run(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run it from top to bottom; an error in a cell is an error here."""
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")  # files, not ports
    return NotebookClient(book, km=kernel, timeout=300, record_timing=False).execute()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name in NAMES:
        book = run(notebook(name))
        book.metadata.pop("language_info", None)
        nbformat.write(book, folder / f"{name}.ipynb")
        print(f"{folder / name}.ipynb: {len(book.cells)} cells")
