"""What the theme leaves out for readers with a screen reader or a keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bs4 import BeautifulSoup
from sphinx.application import Sphinx


def name_toggles(toctree: BeautifulSoup) -> None:
    """Name the buttons that unfold a part of the side bar: the theme gives them an arrow and no word."""
    for summary in toctree.select("li > a.reference + details > summary"):
        link = summary.parent.find_previous_sibling("a")
        summary["aria-label"] = f"Pages of {link.get_text().strip()}"


def name_toggles_of(generate: Callable[..., Any]) -> Callable[..., Any]:
    def generate_named(kind: str, **options: Any) -> Any:
        toctree = generate(kind, **options)
        if kind == "sidebar" and toctree:
            name_toggles(toctree)
        return toctree

    return generate_named


def wrap_toctree(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    if "generate_toctree_html" in context:
        context["generate_toctree_html"] = name_toggles_of(context["generate_toctree_html"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", wrap_toctree, priority=600)  # after the theme, which sets it
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
