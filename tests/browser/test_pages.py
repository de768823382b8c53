"""Every page of the site, as a reader without a network finds it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from playwright.sync_api import Browser
from visits import Visit

MEGABYTE = 1_000_000


def test_nothing_fails(seen: Visit):
    assert not seen.failed
    assert not seen.complaints


def test_formulas_are_set(seen: Visit):
    assert not seen.unset
    assert not seen.wrong
    assert not seen.raw


def test_pictures_show(seen: Visit):
    assert not seen.images


def test_no_sideways_scrolling(seen: Visit):
    assert not any(seen.wider.values()), seen.wider


def test_accessible_in_light_and_dark(seen: Visit):
    assert not any(seen.violations.values()), "\n".join(
        f"{theme}: {line}" for theme, lines in seen.violations.items() for line in lines
    )


def test_weight(seen: Visit):
    assert seen.size < (1.5 if seen.name == "index.html" else 5) * MEGABYTE


def test_first_page_shows_within_a_second(browser: Browser, base: str):
    """The best of three: other work on the machine only adds."""

    def first_paint() -> float:
        context = browser.new_context(base_url=base)  # with an empty cache
        page = context.new_page()
        page.goto("index.html")
        paint = page.evaluate("""() => new Promise(done => new PerformanceObserver(list => {
            const found = list.getEntriesByName("first-contentful-paint");
            if (found.length) done(found[0].startTime);
        }).observe({type: "paint", buffered: true}))""")
        context.close()
        return paint

    assert min(first_paint() for _ in range(3)) < 1000


class Links(HTMLParser):
    """The anchors of a page and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: list[str] = []
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("id"):
            self.anchors.append(found["id"])
        if tag == "a" and found.get("name"):
            self.anchors.append(found["name"])
        if tag == "a" and found.get("href"):
            self.targets.add(found["href"])


def test_internal_links_lead_somewhere(site: Path):
    pages = {path.relative_to(site).as_posix(): Links(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert pages
    dead = []
    for name, page in pages.items():
        for target in sorted(page.targets):
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            path, anchor = urldefrag(urljoin(f"/{name}", target))
            path = unquote(urlsplit(path).path).lstrip("/")
            path += "index.html" if not path or path.endswith("/") else ""
            there = pages.get(path)
            found = there is not None or (site / path).is_file()
            if not found or (anchor and there is not None and unquote(anchor) not in there.anchors):
                dead.append(f"{name}: {target}")
    assert not dead


def test_ids_are_unique(site: Path):
    twice = {}
    for path in site.rglob("*.html"):
        anchors = Links(path.read_text("utf-8")).anchors
        if again := sorted({anchor for anchor in anchors if anchors.count(anchor) > 1}):
            twice[path.name] = again
    assert not twice
