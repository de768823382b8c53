"""A figure with a dark version is two pictures on the page, each in a file of its own; any other is one."""

from __future__ import annotations

import base64
import io
import re
import struct
from pathlib import Path

import pytest

pytest.importorskip("myst_nb")

import as_markdown
import dark_figures
import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

EXTENSIONS = Path(__file__).resolve().parents[1] / "book" / "_ext"

HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 700, 300)
LIGHT, DARK, ALONE = (HEAD + name for name in (b"light", b"dark", b"alone"))
CONF = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "dark_figures"]
source_suffix = {{".ipynb": "myst-nb"}}  # Sphinx would change its default, for other tests too
nb_execution_mode = "off"
html_theme = "basic"
"""


def cell(png, metadata, caption):
    data = {"image/png": base64.b64encode(png).decode()}
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    options = {"figure": {"caption": caption}, "image": {"alt": f"Alt of {caption}"}}
    return nbformat.v4.new_code_cell("draw()", outputs=[output], metadata={"mystnb": options})


@pytest.fixture
def site(tmp_path):
    """A page with a figure in two versions and one in one."""
    dark = {"image/png": {"dark": base64.b64encode(DARK).decode()}}
    title = nbformat.v4.new_markdown_cell("# Page")
    book = nbformat.v4.new_notebook(cells=[title, cell(LIGHT, dark, "both"), cell(ALONE, {}, "single")])
    book.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    nbformat.write(book, tmp_path / "index.ipynb")
    (tmp_path / "conf.py").write_text(CONF)
    out, warning = tmp_path / "_build", io.StringIO()
    with docutils_namespace():
        app = Sphinx(
            str(tmp_path), str(tmp_path), str(out), str(out / "d"), "html", status=None, warning=warning,
            warningiserror=True,
        )  # fmt: skip
        app.build()
    assert not warning.getvalue()
    return out


def images(figure):
    return [dict(re.findall(r'(\w+)="([^"]*)"', image)) for image in re.findall("<img [^>]*>", figure)]


def test_a_figure_in_two_versions_is_two_pictures_with_one_caption(site):
    figures = re.findall(r"<figure.*?</figure>", (site / "index.html").read_text("utf-8"), re.S)
    both, (alone,) = map(images, figures)
    assert [image["class"] for image in both] == ["only-light", "only-dark"]
    assert all(image["alt"] == "Alt of both" and image["loading"] == "lazy" for image in both)
    assert [(site / image["src"]).read_bytes() for image in both] == [LIGHT, DARK]
    assert all((image["width"], image["height"]) == ("700", "300") for image in both)
    assert figures[0].count("<figcaption") == 1
    assert "class" not in alone and (site / alone["src"]).read_bytes() == ALONE


def test_a_notebook_of_the_page_names_the_picture_once():
    pair = dark_figures.pair(nodes.image(uri="a.png", alt="A curve"), nodes.image(uri="b.png", alt="A curve"))
    writer = as_markdown._Writer("page", None)
    for node in pair:
        writer.block(node)
    assert writer.parts == ["*[Picture: A curve]*"]
