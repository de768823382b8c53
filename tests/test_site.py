"""The rendered site, if there is one: it needs no other host, and says nothing of the machine that made it."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
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


def test_scripts_and_pictures_load_nothing_from_other_hosts():
    """In scripts, what is fetched at once; what a link or a comment names is not."""
    outside = re.compile(
        r"""(?:\bfetch|\bimport|importScripts|\.open)\(\s*(?:["']GET["'],\s*)?["'](?:https?:)?//[^"']+"""
        r"""|\bfrom\s*["'](?:https?:)?//[^"']+|<image\b[^>]*\bhref\s*=\s*["'](?:https?:)?//[^"']+"""
    )
    assert outside.search('fetch("https://example.org/x")') and outside.search('import x from "//example.org/x.js"')
    found = {match.group(0) for path in files(".js", ".svg", ".html") for match in outside.finditer(read(path))}
    assert not found


def read(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")


SYSTEM = ("/usr", "/bin", "/sbin", "/opt", "/etc", "/lib", "/dev", "/proc")
"""Folders that every machine has."""


def secrets_of(environment: Mapping[str, str], user: str, host: str) -> set[str]:
    """What would tell a reader of the machine: its own paths, its user and name, the values of its variables.

    Of a variable's value only what cannot stand in a book by chance counts: a path that not every machine has, or a
    text of a dozen characters. An address is left out: books link to addresses.
    """
    found = {f"/home/{user}/", f"/Users/{user}/", f"{user}@{host}", "/ipykernel_", "site-packages/"}
    found |= {f"{path}/" for path in (ROOT, Path.home(), Path(sys.prefix), Path.cwd())} | {f"'{ROOT}'"}
    if re.search(r"[\d-]", host) and len(host) > 5:
        found.add(host)
    for value in environment.values():
        for part in {value, *value.split(os.pathsep)}:
            if part.startswith("/") and not part.startswith(SYSTEM) and len(part) > 4:
                found |= {f"{part.rstrip('/')}/", f"'{part}'", f'"{part}"'}
            elif len(part) >= 12 and "://" not in part and not part.startswith(("/", "xterm", "noninteractive")):
                found.add(part)
    return found


def test_nothing_is_said_of_the_machine():
    """No path of this machine, no user's name or home, no value of an environment variable."""
    secrets = secrets_of(os.environ, getpass.getuser(), socket.gethostname())
    any_of = re.compile("|".join(sorted(map(re.escape, secrets))))
    found = {(path.name, match.group(0)) for path in files(*TEXT) for match in any_of.finditer(read(path))}
    assert not found


def test_what_counts_as_said_of_the_machine():
    environment = {
        "HOME": "/home/ada",
        "PATH": "/usr/bin:/home/ada/bin",
        "TOKEN": "0123456789abcdef",
        "LANG": "C.UTF-8",
        "SERVER": "https://example.org",
        "PWD": "/data/book/",
    }
    found = secrets_of(environment, "ada", "node-17")
    assert {"/home/ada/", "/home/ada/bin/", "0123456789abcdef", "/data/book/", "'/home/ada'", "node-17"} <= found
    assert not found & {"C.UTF-8", "/usr/bin", "/usr/bin/", "https://example.org"}
    assert "vm" not in secrets_of({}, "ada", "vm")


def test_executed_notebooks_are_not_published():
    """Papermill's metadata (the folders of a run, its times) stay with the logs in _build: pages only show records.

    The notebooks that readers download are written from the pages, without outputs.
    """
    for path in files(".ipynb"):
        notebook = json.loads(read(path))
        assert set(notebook["metadata"]) == {"kernelspec"}, path.name
        assert not any(cell.get("outputs") for cell in notebook["cells"]), path.name
    metadata = re.compile(r"""["']papermill["']\s*:|["'](?:input|output)_path["']\s*:|record_as["']?\s*[:=]\s*\{""")
    assert metadata.search('"papermill": {"input_path": "x.ipynb"}')
    assert not {(path.name, match.group(0)) for path in files(*TEXT) for match in metadata.finditer(read(path))}


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
