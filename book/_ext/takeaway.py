"""What a reader takes along: every executable page as a notebook, the book on one page for printing, how to cite.

- A page with code cells gets ``_sources/<page>.ipynb``, which the theme's download button offers. It is written from
  the resolved page (:mod:`as_markdown`), so numbers, references and citations read there as they do here; its first
  cell installs the package.
- Where ``repository_url`` in ``_config.yml`` names the public repository, that cell fetches a clone if it lies in none,
  such a page offers Binder and Colab, and the citation has the address.
- ``{cite-this}`` shows BibTeX of the book, made from ``CITATION.cff``; ``{cite-papers} key, key`` that of papers, from
  the bibliography's file.
- The builder ``singlehtml``, from which ``make pdf`` prints (``book/pdf.py``), draws every node as ``html`` does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import as_markdown
import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]

BINDER = "https://mybinder.org/v2"
COLAB = "https://colab.research.google.com/github"


def address(config: Any) -> str:
    """The public repository's, or nothing."""
    return str(config.html_theme_options.get("repository_url") or "").rstrip("/").removesuffix(".git")


class CiteThis(SphinxDirective):
    """BibTeX of this book, from ``CITATION.cff``."""

    def run(self) -> list[nodes.Node]:
        path = ROOT / "CITATION.cff"
        self.env.note_dependency(str(path))
        cff = yaml.safe_load(path.read_text("utf-8"))
        fields = {
            "author": " and ".join(f"{{{author['name']}}}" for author in cff["authors"]),
            "title": cff["title"],
            "year": str(cff["date-released"])[:4],
            "version": cff["version"],
        }
        if url := address(self.config):
            fields["url"] = url
        lines = [f"  {name:7} = {{{value}}}," for name, value in fields.items()]
        return [bibtex("\n".join(["@software{fewstep,", *lines, "}"]))]


class CitePapers(SphinxDirective):
    """BibTeX of papers, as it stands in ``references.bib``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "references.bib"
        self.env.note_dependency(str(path))
        entries = {
            re.split(r"[{,]", entry)[1]: entry for entry in re.split(r"\n(?=@)", path.read_text("utf-8").strip())
        }
        keys = [key.strip() for key in self.arguments[0].split(",")]
        for key in keys:
            if key not in entries:
                raise ExtensionError(f"{self.env.docname}: references.bib has no {key!r}")
        return [bibtex(entries[key].strip()) for key in keys]


def bibtex(text: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language="bibtex")


def write_notebook(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The notebook of an executable page beside its source."""
    if app.builder.name != "html" or not as_markdown.has_code(doctree):
        return
    path = Path(app.outdir) / "_sources" / f"{docname}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown.notebook(doctree, docname, app.env, address(app.config)), "utf-8")


def offer_notebook(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Tell the theme's download button that the page has a notebook."""
    if (Path(app.outdir) / "_sources" / f"{pagename}.ipynb").exists():
        context["ipynb_source"] = f"{pagename}.ipynb"


def launchers(pagename: str, source: str, config: Any) -> dict[str, str]:
    """Where a page can be run: the names of services, and the page's addresses there.

    The theme's own buttons are not used: they send Colab to the page's source, which is no notebook, and write another
    notebook over ours. Colab takes ours from the branch that the rendered site is published on.
    """
    url, options = address(config), config.html_theme_options
    if not url:
        return {}
    branch, path = options.get("repository_branch") or "main", options.get("path_to_docs") or "book"
    host, owner, name = url.rsplit("/", 2)
    on_github = host == "https://github.com"
    repository = f"gh/{owner}/{name}" if on_github else f"git/{quote(url, safe='')}"
    found = {"Binder": f"{BINDER}/{repository}/{quote(branch, safe='')}?urlpath=lab/tree/{path}/{source}"}
    if on_github:
        found["Colab"] = f"{COLAB}/{owner}/{name}/blob/{config.takeaway_site_branch}/_sources/{pagename}.ipynb"
    return found


def offer_launchers(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """A button with a list of them, beside the theme's."""
    if "ipynb_source" not in context:
        return
    source = Path(app.env.doc2path(pagename)).relative_to(app.srcdir).as_posix()
    found = launchers(pagename, source, app.config)
    buttons = [
        {"type": "link", "text": name, "tooltip": f"Run on {name}", "icon": "fas fa-play", "url": url}
        for name, url in found.items()
    ]
    if buttons:
        group = {"type": "group", "tooltip": "Run this page", "icon": "fas fa-rocket", "label": "launch-buttons"}
        context["header_buttons"].append({**group, "buttons": buttons})


def draw_as_html(app: Sphinx) -> None:
    """Sphinx asks the nodes' own visitors of a builder only if any extension gave some; one did for ``singlehtml``."""
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("cite-this", CiteThis)
    app.add_directive("cite-papers", CitePapers)
    app.connect("builder-inited", draw_as_html)
    app.connect("doctree-resolved", write_notebook, priority=900)
    app.connect("html-page-context", offer_notebook, priority=400)
    app.connect("html-page-context", offer_launchers, priority=502)  # the theme makes its list of buttons at 501
    app.add_config_value("takeaway_site_branch", "gh-pages", "html", [str])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
