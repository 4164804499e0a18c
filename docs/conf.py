"""How Sphinx makes the site: `make docs` writes it to docs/_build/html."""

import importlib
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import steelyard

ROOT = Path(__file__).parent.parent

project = "Steelyard"
author = copyright = "The Steelyard developers"  # noqa: A001
version = release = steelyard.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
default_role = "literal"  # `one` backtick is code, as in Markdown
exclude_patterns = ["_build"]
smartquotes = False  # "mean" is what one types
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
maximum_signature_line_length = 60
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Reference", "notes_style")]

# Every role in a docstring has to lead somewhere. Types in signatures do not: what torch and NumPy
# document is on another host, and the site asks none.
nitpicky = True
nitpick_ignore_regex = [("py:class", r".*"), ("py:exc", r".*"), ("py:.*", r"steelyard\.ops\..*")]

# Users are given these and do not make them: how they are made is no affair of theirs.
GIVEN = {
    "steelyard.compare.Comparison",
    "steelyard.compare.Trial",
    "steelyard.metrics.Evaluation",
    "steelyard.metrics.Reliability",
    "steelyard.metrics.Scores",
}

html_theme = "furo"
html_title = f"Steelyard {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0068a3", "color-brand-content": "#0068a3"},
    "dark_css_variables": {"color-brand-primary": "#6cc0f0", "color-brand-content": "#6cc0f0"},
}


class Public(SphinxDirective):
    """``.. public:: steelyard.losses.softmax``: an entry for every name in its ``__all__``.

    A loss that is added to its module has its entry without another line. What `steelyard` itself
    exports is called by that name. ``:only: a b`` takes some names, ``:but: a b`` leaves some out,
    and ``:inherited:`` shows what a class has from its bases too.
    """

    required_arguments = 1
    option_spec = {"only": str.split, "but": str.split, "inherited": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The entries, as autodoc writes them."""
        module = importlib.import_module(self.arguments[0])
        left_out = self.options.get("but", [])
        inherited = ["   :inherited-members: Module"] if "inherited" in self.options else []
        lines = []
        for name in self.options.get("only", module.__all__):
            public = getattr(module, name)
            if name in left_out or not callable(public):
                continue
            home = "steelyard" if name in steelyard.__all__ else module.__name__
            lines += [f".. currentmodule:: {home}", ""]
            if isinstance(public, type):
                lines += [f".. autoclass:: {home}.{name}", "   :members:", *inherited, ""]
            else:
                lines += [f".. autofunction:: {home}.{name}", ""]
        node = nodes.Element()
        source = StringList(lines, f"{module.__name__}.__all__")
        self.state.nested_parse(source, self.content_offset, node)
        return node.children


def from_the_root(name: str, title: str | None) -> str:
    """A file of the root, or one of its sections, with links that lead on from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if title is not None:
        _, found, text = text.partition(f"\n## {title}\n")
        if not found:
            raise ValueError(f"{name} has no section {title!r}")
        text = text.partition("\n## ")[0]
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r"\]\((CHANGELOG|CONTRIBUTING)\.md", lambda f: f"]({f[1].lower()}.md", text)
    return text.replace("](examples)", "](examples.md)").replace("](docs)", "](index.md)")


def put_in_what_stands_in_the_root(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace ``<!-- README.md: Title -->`` by that section, so that it is written once."""
    text, count = re.subn(
        r"<!-- (\w+\.md)(?:: (.+?))? -->", lambda f: from_the_root(f[1], f[2]), source[0]
    )
    if count:
        papers = re.findall(r"^\[.+\]: https?://\S+$", from_the_root("README.md", None), re.M)
        text += "\n\n" + "\n".join(papers) + "\n"
    source[0] = show_the_examples(text)


def show_the_examples(text: str) -> str:
    """Put the files in where examples.md asks, and lead links to a file there.

    GitHub shows the file behind a link, and leaves an include empty.
    """
    names = re.findall(r"\]\(\.\./examples/(\w+)\.py\)", text)
    code = [f"## {name}\n\n```{{literalinclude}} ../examples/{name}.py\n```\n" for name in names]
    text = text.replace("<!-- examples -->", "\n".join(code))
    link = r"\]\(((?:\.\./)*?)(?:\.\./)?examples/(\w+)\.py\)"  # from the root, docs/ or below it
    return re.sub(link, r"](\1examples.md#\2)", text)


def leave_out_what_others_wrote(
    app: Sphinx, kind: str, name: str, member: object, skip: bool, options: object
) -> bool | None:
    """Leave out what another library brings: of its classes, such as skorch's, and of tuples."""
    home = getattr(member, "__module__", None) or "steelyard"
    field = (getattr(member, "__doc__", None) or "").startswith("Alias for field number")
    return None if home.startswith("steelyard") and not field else True


def show_what_users_write(
    app: Sphinx,
    kind: str,
    name: str,
    member: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """Show defaults by their names, and no arguments of a class that users do not make."""
    if name in GIVEN:
        return "", returned
    if signature is None:
        return None
    return re.sub(r"<(?:class|function) '?(?:\w+\.)*(\w+)[^>]*>", r"\1", signature), returned


def link_and_leave_bars_alone(
    app: Sphinx, kind: str, name: str, member: object, options: object, lines: list[str]
) -> None:
    """Papers and options become links; |p − t| is a size, and no substitution of Sphinx's."""
    lines[:] = [line if "``" in line else line.replace("|", r"\|") for line in lines]
    paper = r"`arXiv:\1 <https://arxiv.org/abs/\1>`__"
    lines[:] = [re.sub(r"arXiv:(\d{4}\.\d{4,5})", paper, line) for line in lines]
    every = r":ref:`the options of every \1loss <options of every \1loss>`"
    lines[:] = [re.sub(r"the options of every (\w+ )?loss\b", every, line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("public", Public)
    app.connect("source-read", put_in_what_stands_in_the_root)
    app.connect("autodoc-process-docstring", link_and_leave_bars_alone)
    app.connect("autodoc-process-signature", show_what_users_write)
    app.connect("autodoc-skip-member", leave_out_what_others_wrote)
