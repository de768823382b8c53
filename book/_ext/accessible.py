"""What the theme and other extensions leave out for readers with a screen reader or a keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.application import Sphinx


def name_toggles(toctree: Any) -> None:
    """Name the buttons that unfold a part of the side bar: the theme gives them an arrow and no word."""
    for summary in toctree.select("li > a.reference + details > summary"):
        link = summary.find_previous("a", class_="reference")
        if link:
            summary["aria-label"] = f"Pages of {link.get_text().strip()}"


def nest_lists(body: str) -> str:
    """Put lists that stand directly in a list, as on the index of modules, into the item before them."""
    soup = BeautifulSoup(body, "html.parser")
    for inner in soup.select("ul > ul"):
        before = inner.find_previous_sibling("li")
        if before:
            before.append(inner)
        else:
            inner.unwrap()
    return str(soup)


def name_toggles_of(generate: Callable[..., Any]) -> Callable[..., Any]:
    def generate_named(kind: str, **options: Any) -> Any:
        toctree = generate(kind, **options)
        if kind == "sidebar" and toctree:
            name_toggles(toctree)
        return toctree

    return generate_named


def mend_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    if "generate_toctree_html" in context:
        context["generate_toctree_html"] = name_toggles_of(context["generate_toctree_html"])
    if pagename == "_modules/index":
        context["body"] = nest_lists(context["body"])
    if "body" in context:  # sphinx-exercise puts this space into the link, which underlines it
        context["body"] = re.sub(r"(Solution to)(<a [^>]*>) ", r"\1 \2", context["body"])
    if 'role="doc-biblioentry"' in context.get("body", ""):  # not a role of what a list may hold, since ARIA 1.2
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


SHARED_IDS = {"proof", "proof-content", "exercise-content", "solution-content"}
"""What sphinx-proof and sphinx-exercise give to every proof and every body alike; an id is for one element."""


def drop_shared_ids(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in doctree.findall(nodes.Element):
        if SHARED_IDS.intersection(node.get("ids", [])):
            node["ids"] = [name for name in node["ids"] if name not in SHARED_IDS]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", drop_shared_ids)
    app.connect("html-page-context", mend_page, priority=600)  # after the theme, which sets it
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
