"""The rendered site, served from this machine to one Chromium that finds no other host.

``FEWSTEP_SITE`` names the folder of the site (default: the one in ``_build`` that was rendered last) and
``FEWSTEP_CHROMIUM`` the browser.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from hosting import Files
from playwright.sync_api import Browser, Page, sync_playwright
from visits import Visit, visit

from fewstep.provenance import ROOT

sys.path.insert(0, str(ROOT / "book"))

import pdf

SITES = [ROOT / "_build/strict/_build/html", ROOT / "_build/html"]
LISTINGS = ["_modules/fewstep/results/recorder.html", "_modules/fewstep/solvers/pndm.html"]
"""Pages of source code, which the same template makes: a long one and a short one stand for all."""


def find_site() -> Path | None:
    sites = [Path(os.environ["FEWSTEP_SITE"])] if "FEWSTEP_SITE" in os.environ else SITES
    rendered = [site.resolve() for site in sites if (site / "index.html").exists()]
    return max(rendered, key=lambda site: (site / "index.html").stat().st_mtime, default=None)


def page_names(site: Path | None) -> list[str]:
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html")) if site else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``seen`` runs on every page, one page after the other."""
    if "seen" in metafunc.fixturenames:
        names = [name for name in page_names(find_site()) if not name.startswith(("_static/", "_modules/fewstep/"))]
        names += LISTINGS if names else []
        # One group for each page, so that several workers do not open the same one.
        pages = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]
        metafunc.parametrize("seen", pages, indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Say at once, in one line, what is missing."""
    if pdf.find_chromium() is None:
        looked_for = os.environ.get("FEWSTEP_CHROMIUM") or ", ".join(pdf.BROWSERS)
        pytest.exit(f"no browser: install Chromium, or name it in FEWSTEP_CHROMIUM (looked for {looked_for})", 2)
    if find_site() is None:
        pytest.exit("no site is rendered: `make book` renders one", 2)


@pytest.fixture(scope="session")
def site() -> Path:
    found = find_site()
    assert found
    return found


@pytest.fixture(scope="session")
def base(site: Path) -> Iterator[str]:
    """The address of the site."""
    with servers.serving(Files, site=str(site)) as server:
        yield f"{server.url}/"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # Whatever a page asks another host for fails at once, here as on a machine without a network.
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=pdf.find_chromium(), args=[offline])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, base: str) -> Iterator[Page]:
    """A fresh page of 1280 × 900 pixels, which may use the clipboard."""
    context = browser.new_context(
        base_url=base, viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest, browser: Browser, base: str) -> Visit:
    """What one page of the site looked like to the browser."""
    return visit(browser, base, request.param)
