"""What a reader takes along: every executable page as a notebook, the book on one page for printing, how to cite.

- A page with code cells gets ``_sources/<page>.ipynb``, which the theme's download button offers. It is written from
  the resolved page (:mod:`as_markdown`), so numbers, references and citations read there as they do here; its first
  cell installs the package.
- ``_static/fewstep-book.zip`` (:mod:`archive`) has these notebooks and what they need where there is no clone. The role
  ``{archive}`` links to it and says its size. Where ``baseurl`` in ``_config.yml`` names the published site, the first
  cell fetches the archive from there.
- Where ``repository_url`` names the public repository, that cell fetches a clone if there is nothing else to install
  from, such a page offers Binder and Colab, and the citation has the address.
- ``{cite-this}`` shows BibTeX of the book, made from ``CITATION.cff``; ``{cite-papers} key, key`` that of papers, from
  the bibliography's file.
- The builder ``singlehtml``, from which ``make pdf`` prints (``book/pdf.py``), draws every node as ``html`` does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import archive
import as_markdown
import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from fewstep.files import write_atomically

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


def notebook_of(app: Sphinx, docname: str) -> Path:
    """Where the notebook of a page is, if it has one: beside its source."""
    return Path(app.outdir) / "_sources" / f"{docname}.ipynb"


def write_notebook(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The notebook of an executable page."""
    if app.builder.name != "html":
        return
    path = notebook_of(app, docname)
    if not as_markdown.has_code(doctree):
        path.unlink(missing_ok=True)  # the page may have had code before
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    site = app.config.html_baseurl.rstrip("/")
    path.write_text(as_markdown.notebook(doctree, docname, app.env, address(app.config), site), "utf-8")


def offer_notebook(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Tell the theme's download button that the page has a notebook."""
    if notebook_of(app, pagename).exists():
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


class ArchiveLink(nodes.TextElement):
    """The place of a link to the archive."""


class ArchiveRole(SphinxRole):
    """A link to the archive, and how large that is."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.metadata[self.env.docname]["links-archive"] = True
        return [ArchiveLink(self.text, self.text)], []


def rewrite_links(app: Sphinx, env: Any) -> list[str]:
    """The pages that say the archive's size, which any change of the package or the data may change."""
    return [docname for docname, said in env.metadata.items() if "links-archive" in said]


def link_archive(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """A link on the site only: what is printed has no archive beside it.

    The size is that without the notebooks, which are still being written.
    """
    for place in list(doctree.findall(ArchiveLink)):
        link: nodes.Node = nodes.literal(text=place.astext())
        if app.builder.name == "html":
            path = f"{'../' * docname.count('/')}_static/{archive.NAME}"
            link = nodes.reference("", "", link, refuri=path, internal=True)
        size = len(archive.pack(archive.sources())) / 1e6
        place.replace_self([link, nodes.Text(f" (about {size:.0f} MB)")])


def write_archive(app: Sphinx, error: Exception | None) -> None:
    """The archive, with all notebooks; a file with the same content is left as it is."""
    if error or app.builder.name != "html":
        return
    notebooks = {f"notebooks/{docname}.ipynb": notebook_of(app, docname) for docname in app.env.found_docs}
    files = archive.sources() | {name: path for name, path in notebooks.items() if path.exists()}
    content, path = archive.pack(files), Path(app.outdir) / "_static" / archive.NAME
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, lambda temporary: temporary.write_bytes(content))


def draw_as_html(app: Sphinx) -> None:
    """Sphinx asks the nodes' own visitors of a builder only if any extension gave some; one did for ``singlehtml``."""
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("cite-this", CiteThis)
    app.add_directive("cite-papers", CitePapers)
    app.add_role("archive", ArchiveRole())
    app.connect("builder-inited", draw_as_html)
    app.connect("env-updated", rewrite_links)
    app.connect("doctree-resolved", link_archive)
    app.connect("doctree-resolved", write_notebook, priority=900)
    app.connect("html-page-context", offer_notebook, priority=400)
    app.connect("html-page-context", offer_launchers, priority=502)  # the theme makes its list of buttons at 501
    app.connect("build-finished", write_archive)
    app.add_config_value("takeaway_site_branch", "gh-pages", "html", [str])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
