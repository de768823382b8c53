"""The whole book as one PDF: what ``make pdf`` calls after Sphinx has put the book on one page.

    python book/pdf.py PAGE.html OUT.pdf

Chromium prints the page, with a title page in front, page numbers and an outline. No network is used. Exit code 2: a
mistake in the request.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names under which Chromium and Chrome are installed."""

FOOTER = (
    "<div style='font: 8px sans-serif; width: 100%; text-align: center; color: #555'>"
    "<span class='pageNumber'></span></div>"
)
READY = """async () => {
    document.querySelectorAll('details').forEach(part => { part.open = true });
    document.querySelectorAll('img').forEach(image => { image.loading = 'eager' });
    await window.MathJax?.startup?.promise;
    await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
    await document.fonts.ready;
}"""

ARRANGE = """title => {
    document.querySelector('#jb-print-docs-body').insertAdjacentHTML('beforebegin', title);
    document.querySelectorAll("span[id^='document-'] + section").forEach(part => part.classList.add('chapter'));
    document.querySelectorAll(['2', '3', '4', '5', '6'].map(n => `.chapter h${n}`)).forEach(old => {
        const heading = document.createElement(`h${old.tagName[1] - 1}`);
        heading.append(...old.childNodes);
        old.replaceWith(heading);
    });
}"""
"""Puts the title page first and makes the chapters' headings the highest: on one page they are below the first's."""


def find_chromium() -> str | None:
    """The browser's program: the one that ``FEWSTEP_CHROMIUM`` names, or the first that is installed."""
    named = os.environ.get("FEWSTEP_CHROMIUM")
    return next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)


def browser() -> str:
    """:func:`find_chromium`; exits where there is none."""
    return find_chromium() or fail(
        "no Chromium or Chrome is installed; install one, or name its program in FEWSTEP_CHROMIUM"
    )


def fail(why: str) -> Any:
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def title_page() -> str:
    """Title, authors, version and licence, from ``CITATION.cff``."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    title, _, rest = cff["title"].partition(": ")
    authors = ", ".join(author["name"] for author in cff["authors"])
    lines = [f"<p class='of'>{rest[:1].upper()}{rest[1:]}</p>", f"<p>{authors}</p>"]
    lines.append(f"<p>Version {cff['version']}, {cff['date-released']}. {cff['license']} licence.</p>")
    return f"<section id='title-page'><p class='name'>{title}</p>{''.join(lines)}</section>"


def print_pdf(page: Path, out: Path) -> None:
    """Print a page of the one-page book."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser())
        tab = chromium.new_page(color_scheme="light", viewport={"width": 900, "height": 1200}, offline=True)
        tab.set_default_timeout(600_000)
        tab.goto(page.resolve().as_uri(), wait_until="load")
        tab.add_style_tag(path=Path(__file__).with_name("_ext") / "static" / "print.css")
        tab.evaluate(READY)
        tab.evaluate(ARRANGE, title_page())
        tab.emulate_media(media="print", color_scheme="light")
        tab.pdf(path=out, prefer_css_page_size=True, print_background=True, outline=True, tagged=True,
                display_header_footer=True, header_template="<span></span>", footer_template=FOOTER)  # fmt: skip
        chromium.close()


if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_file():
        fail(f"{' '.join(sys.argv[1:]) or 'nothing'}: a page and the name of the PDF are needed")
    print_pdf(Path(sys.argv[1]), Path(sys.argv[2]))
