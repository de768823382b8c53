"""A resolved page as a Jupyter notebook: its cells without outputs, and its text as plain Markdown.

The text is written from Sphinx's document tree, in which references, citations and measured numbers are resolved, and
not from the page's source, whose directives Jupyter does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from archive import FOLDER, NAME
from docutils import nodes

INSTALL = """\
# Installs the package: from the clone or unpacked archive that this notebook lies in, or from the archive beside it.
import importlib.util
import shutil
import sys
{more}from pathlib import Path

found = importlib.util.find_spec("fewstep")
if not (found and Path(found.origin or "").match("src/fewstep/__init__.py")):  # a copy elsewhere has no data
    here = Path.cwd()
    book = next((p for p in (here, *here.parents) if (p / "src" / "fewstep").is_dir()), here / "{folder}")
    if not (book / "src").exists():
        if Path("{archive}").exists():
            shutil.unpack_archive("{archive}")
        else:
            {otherwise}
    %pip install --quiet --editable "{{book}}"
    sys.path.insert(0, str(book / "src"))  # pip's own entry is read when Python starts"""

REFUSE = """\
raise FileNotFoundError("download {archive} from the book's page *Take it away* and put it beside this notebook")"""
FETCH = """\
shutil.unpack_archive(urllib.request.urlretrieve("{site}/_static/{archive}")[0], format="zip")"""
CLONE = """\
!git clone --quiet --depth 1 {address} "{{book}}\""""

NOTE = """\
*This is the page "{title}" as a notebook. {where}*"""


def install(address: str = "", site: str = "") -> str:
    """The first cell of a notebook: installs the package.

    Args:
        address: of the public repository; empty where there is none yet.
        site: the address of the published book; its archive goes before the repository, as it is of the page's state.
    """
    otherwise = (FETCH if site else CLONE if address else REFUSE).format(archive=NAME, site=site, address=address)
    more = "import urllib.request\n" if site else ""
    return INSTALL.format(archive=NAME, folder=FOLDER, otherwise=otherwise, more=more)


def note(title: str, address: str = "", site: str = "") -> str:
    """What stands above the first cell."""
    if site or address:
        where = f"It runs anywhere: where the book is not at hand, its first cell fetches it from <{site or address}>."
    else:
        where = f"It runs in a clone of the book; elsewhere the book's archive, {NAME}, must lie beside it."
    return NOTE.format(title=title, where=where)


def has_code(doctree: nodes.document) -> bool:
    """Whether a page has code cells."""
    return any(is_cell(node) for node in doctree.findall(nodes.container))


def is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Element) and node.get("nb_element") == "cell_code"


def notebook(doctree: nodes.document, docname: str, env: Any, address: str = "", site: str = "") -> str:
    """The page as the text of an ``.ipynb`` file; the addresses are those of :func:`install`."""
    writer = _Writer(docname, env)
    writer.block(doctree)
    writer.end_cell()
    title = env.titles[docname].astext()
    first = [_cell("markdown", note(title, address, site), {}), _cell("code", install(address, site), {})]
    cells = [*first, *writer.cells]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _cell(kind: str, source: str, metadata: dict[str, Any]) -> dict[str, Any]:
    more: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": metadata, "source": source.splitlines(keepends=True), **more}


class _Writer:
    """Walks a document tree; ``cells`` is what it has written, ``parts`` the Markdown of the cell that is open."""

    def __init__(self, docname: str, env: Any) -> None:
        self.docname, self.env = docname, env
        self.cells: list[dict[str, Any]] = []
        self.parts: list[str] = []
        self.level = 0

    def end_cell(self) -> None:
        if self.parts:
            self.cells.append(_cell("markdown", "\n\n".join(self.parts), {}))
            self.parts = []

    def number(self, kind: str, node: nodes.Element) -> str:
        """The number of a figure, table, equation or theorem: ``3.2``; empty if it has none."""
        numbers = self.env.toc_fignumbers.get(self.docname, {}).get(kind, {})
        return next((".".join(map(str, numbers[name])) for name in node["ids"] if name in numbers), "")

    # --- blocks ----------------------------------------------------------------------------------------------------

    def block(self, node: nodes.Node) -> None:
        """Write what is a paragraph or more."""
        if not isinstance(node, nodes.Element) or isinstance(node, nodes.Invisible):
            return
        if is_cell(node):
            self.code_cell(node)
            return
        kinds: dict[type, Callable[[Any], None]] = {
            nodes.section: self.section,
            nodes.paragraph: lambda n: self.write(self.inline(n)),
            nodes.math_block: self.equation,
            nodes.literal_block: lambda n: self.write(f"```{n.get('language', '')}\n{n.astext()}\n```"),
            nodes.bullet_list: self.list,
            nodes.enumerated_list: self.list,
            nodes.table: self.table,
            nodes.figure: self.figure,
            nodes.image: self.image,
            nodes.raw: lambda n: None,
            nodes.comment: lambda n: None,
        }
        for kind, write in kinds.items():
            if isinstance(node, kind):
                write(node)
                return
        if "realtype" in node:
            self.theorem(node)
        elif isinstance(node, nodes.title | nodes.rubric | nodes.term):
            self.write(f"**{self.inline(node)}**")
        elif isinstance(node, nodes.TextElement):
            self.write(self.inline(node))
        else:
            for child in node.children:
                self.block(child)

    def write(self, text: str) -> None:
        if text.strip():
            self.parts.append(text.strip("\n"))

    def section(self, node: nodes.section) -> None:
        numbered = isinstance(node.parent, nodes.document | nodes.section)
        self.level += numbered
        for child in node.children:
            if isinstance(child, nodes.title):
                self.end_cell()
                self.write(f"{'#' * self.level} {self.inline(child)}")
            else:
                self.block(child)
        self.level -= numbered

    def equation(self, node: nodes.math_block) -> None:
        number = self.number("displaymath", node)
        text = node.astext().strip()
        if re.match(r"\\begin\{(align|equation|gather|multline)\*?\}", text) is None:
            tag = rf" \tag{{{number}}}" if number else ""
            text = f"$$\n{text}{tag}\n$$"
        self.write(text)

    def list(self, node: nodes.Element) -> None:
        items = []
        for place, item in enumerate(node.children, start=1):
            mark = f"{place}. " if isinstance(node, nodes.enumerated_list) else "- "
            items.append(mark + self.inside(item).replace("\n", "\n" + " " * len(mark)))
        self.write("\n".join(items))

    def inside(self, node: nodes.Element) -> str:
        """The blocks in a node as one text."""
        before, self.parts = self.parts, []
        for child in node.children:
            self.block(child)
        text, self.parts = "\n\n".join(self.parts), before
        return text

    def table(self, node: nodes.table) -> None:
        title = next(iter(node.findall(nodes.title)), None)
        number = self.number("table", node)
        if title is not None:
            self.write(f"{f'**Table {number}.** ' if number else ''}{self.inline(title)}")
        lines = []
        for row in node.findall(nodes.row):
            entries = [self.inside(entry).replace("\n", " ").replace("|", "\\|") for entry in row.children]
            lines.append(f"| {' | '.join(entries)} |")
            if len(lines) == 1:
                lines.append("|" + "---|" * len(entries))
        self.write("\n".join(lines))

    def image(self, node: nodes.image) -> None:
        if "only-dark" not in node["classes"]:  # the same picture once more
            self.write(f"*[Picture: {node.get('alt', '')}]*")

    def figure(self, node: nodes.figure) -> None:
        number = self.number("figure", node)
        text = [self.inline(part) for part in node.findall(nodes.caption)]
        self.write(f"{f'**Figure {number}.** ' if number else ''}{' '.join(text)}")

    def theorem(self, node: nodes.Element) -> None:
        """A theorem, definition, … with its number and title."""
        head = f"{node['realtype'].title()} {self.number(node.get('countertype', ''), node)}".strip()
        title = next((self.inline(child) for child in node.children if isinstance(child, nodes.title)), "")
        self.write(f"**{head}** {title.strip() if re.search(r'[A-Za-z]', title) else ''}")
        for child in node.children:
            if not isinstance(child, nodes.title):
                self.block(child)

    def code_cell(self, node: nodes.Element) -> None:
        self.end_cell()
        # A hidden source lies in a node of its own (myst_nb's HideCodeCellNode).
        parts = [part for part in node.findall(nodes.container) if part.get("nb_element") == "cell_code_source"]
        source = "\n".join(block.astext() for part in parts for block in part.findall(nodes.literal_block))
        tags = node.get("cell_metadata", {}).get("tags", [])
        metadata: dict[str, Any] = {"tags": tags} if tags else {}
        if "hide-input" in tags:
            metadata["jupyter"] = {"source_hidden": True}
        self.cells.append(_cell("code", source, metadata))
        for figure in node.findall(nodes.figure):
            self.figure(figure)

    # --- text ------------------------------------------------------------------------------------------------------

    def inline(self, node: nodes.Node) -> str:
        """A node as Markdown within a line; line breaks of the source stay."""
        if isinstance(node, nodes.Text):
            return node.astext()
        if not isinstance(node, nodes.Element) or isinstance(node, nodes.Invisible | nodes.raw):
            return ""
        if isinstance(node, nodes.math):
            return f"${node.astext()}$"
        if isinstance(node, nodes.literal):
            return f"`{node.astext()}`"
        if isinstance(node, nodes.image):
            return str(node.get("alt", ""))
        text = "".join(self.inline(child) for child in node.children)
        if isinstance(node, nodes.reference) and "://" in (where := node.get("refuri", "")):
            return f"[{text}]({where})"
        if isinstance(node, nodes.emphasis | nodes.title_reference):
            return f"*{text}*"
        return f"**{text}**" if isinstance(node, nodes.strong) else text
