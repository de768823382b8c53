"""The rendered site, if there is one: it needs no other host, and says nothing of the machine that made it."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import pytest

from fewstep.provenance import ROOT

SITES = [path for path in (ROOT / "_build/strict/_build/html", ROOT / "_build/html") if (path / "index.html").exists()]
TEXT = {".html", ".js", ".css", ".json", ".txt", ".md", ".ipynb", ".svg"}
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc\s*=\s*["']?\s*((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel\s*=\s*["']?(?:stylesheet|icon|preload|preconnect|dns-prefetch|modulepreload|shortcut))"""
    r"""[^>]*\bhref\s*=\s*["']?\s*((?:https?:)?//[^"'\s>]+)""",
    re.IGNORECASE,
)
"""What a browser fetches by itself when it opens a page."""

pytestmark = pytest.mark.skipif(not SITES, reason="no site is rendered; `make book` renders one")


def files(*suffixes: str) -> list[Path]:
    return [path for site in SITES for path in site.rglob("*") if path.suffix in suffixes and path.is_file()]


def test_pages_load_nothing_from_other_hosts():
    pages = files(".html")
    assert pages
    found = {match.group(0) for page in pages for match in LOADED.finditer(page.read_text("utf-8"))}
    assert not found


def test_styles_load_nothing_from_other_hosts():
    outside = re.compile(r"""(?:@import\s+["']|url\(\s*["']?)\s*((?:https?:)?//[^"')\s]+)""")
    found = {match.group(1) for style in files(".css") for match in outside.finditer(style.read_text("utf-8"))}
    assert not found


def test_nothing_is_said_of_the_machine():
    """No path of this machine, no user's name or home."""
    home, user = Path.home(), getpass.getuser()
    secrets = {f"{ROOT}/", f"'{ROOT}'", f"{home}/", f"/home/{user}/", f"/Users/{user}/"}
    found = []
    for path in files(*TEXT):
        text = path.read_text("utf-8", errors="replace")
        found += [(str(path.name), secret) for secret in secrets if secret in text]
    assert not found


def test_the_patterns_find_what_they_are_for():
    for bad in (
        '<script defer src="https://cdn.example.org/x.js"></script>',
        "<img alt=x src='//example.org/x.png'>",
        '<link href="https://fonts.example.org/css" rel="stylesheet">',
    ):
        assert LOADED.search(bad)
    for good in (
        '<a href="https://arxiv.org/abs/1">',
        '<script src="_static/x.js">',
        '<link rel="next" href="x.html">',
    ):
        assert not LOADED.search(good)
