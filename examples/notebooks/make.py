"""The examples as notebooks: `python examples/notebooks/make.py` runs them and writes them here.

A script becomes cells where its parts end: its docstring a text, each function a cell, and
`main()` the last one, with what it printed below. What a script imports from another example
stands in its notebook, which so runs alone.
"""

import ast
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent.resolve()
EXAMPLES = HERE.parent
STUDIES = ("images", "masks", "own_loop", "tokens")
NAMES = ("cat_and_dog", "digits_focal", "segmentation", "segmentation_dice", "multilabel", *STUDIES)


def names_of(node: ast.stmt) -> set[str]:
    """What a statement gives a name to."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {target.id for target in node.targets} if isinstance(node, ast.Assign) else set()


def needed(body: list[ast.stmt], names: set[str]) -> list[ast.stmt]:
    """The imports, and what gives these names and whatever they are made of."""
    kept = [node for node in body if names_of(node) & names]
    used = {one.id for node in kept for one in ast.walk(node) if isinstance(one, ast.Name)}
    if not used <= names:
        return needed(body, names | used)
    return [node for node in body if node in kept or isinstance(node, ast.Import | ast.ImportFrom)]


def parts_of(script: str, names: set[str] | None = None) -> list[str]:
    """The code of each cell: what stands between functions together, each function alone."""
    lines = script.splitlines()
    body = ast.parse(script).body[1:-1]  # without the docstring and the call of main()
    parts: list[str] = []
    together: list[str] = []
    for node in body if names is None else needed(body, names):
        if isinstance(node, ast.ImportFrom) and (EXAMPLES / f"{node.module}.py").exists():
            neighbour = (EXAMPLES / f"{node.module}.py").read_text(encoding="utf-8")
            parts += parts_of(neighbour, {alias.name for alias in node.names})
            continue
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while lines[start - 1].startswith("#"):  # a comment belongs to what follows it
            start -= 1
        text = "\n".join(lines[start : node.end_lineno])
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            parts += ["\n".join(together), text]
            together = []
        else:
            together.append(text)
    return list(filter(None, [*parts, "\n".join(together)]))


def cells_of(script: str) -> list[nbformat.NotebookNode]:
    """One text cell, then the code, then the call of `main()`."""
    title, *text = ast.get_docstring(ast.parse(script)).splitlines()
    about = new_markdown_cell("\n".join([f"# {title}", *text]), id="about")
    codes = enumerate([*parts_of(script), "main()"], start=1)
    return [about, *(new_code_cell(code, id=f"cell-{k}") for k, code in codes)]


def notebook(name: str) -> nbformat.NotebookNode:
    """The notebook of an example, not yet run."""
    script = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells_of(script), metadata={"kernelspec": kernel})


def run(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run it from top to bottom; an error in a cell is an error here."""
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")  # files, not ports
    with tempfile.TemporaryDirectory() as folder, chdir(folder):  # a study keeps its results there
        NotebookClient(book, km=kernel, timeout=300, record_timing=False).execute(cleanup_kc=True)
    for cell in book.cells[1:]:  # progress and its seconds are not what was found
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return book


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE
    for name in NAMES:
        book = run(notebook(name))
        book.metadata.pop("language_info", None)
        nbformat.write(book, folder / f"{name}.ipynb")
        print(f"{folder / name}.ipynb: {len(book.cells)} cells")
