"""One visit to a page: opened once, looked at wide and narrow, light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

WIDTHS = (1280, 390)

FORMULAS = """() => ({
    unset: [...document.querySelectorAll('.math')]
        .filter(e => !e.querySelector('mjx-container'))
        .map(e => e.textContent),
    wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.textContent),
})"""

RAW = r"""() => {
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const {parentElement: parent, data: text} = walker.currentNode;
        if (parent.closest('pre, code, script, style, mjx-container')) continue;
        if (/\\[(\[]|\$\$|\\begin\{/.test(text)) found.push(text);
    }
    return found;
}"""
"""Text that should have become a formula."""

BROKEN_IMAGES = """async () => {
    const images = [...document.images].filter(image => getComputedStyle(image).display !== 'none');
    images.forEach(image => image.loading = 'eager');
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    return images.filter(image => !image.naturalWidth).map(image => image.src);
}"""
"""Of the pictures that a theme shows."""

WIDER = """() => {
    const {clientWidth: width, scrollWidth} = document.documentElement;
    const over = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 1);
    const html = over.slice(0, 5).map(e => e.outerHTML.slice(0, 120));
    return scrollWidth <= width ? [] : [`${scrollWidth} > ${width}`, ...html];
}"""
"""Whether the document is wider than the window, and the first elements that reach beyond it."""

THIN = """() => {
    [...document.querySelectorAll('.highlight')].slice(40).forEach(block => block.remove());
    const seen = new Set(), repeated = [];
    for (const token of document.querySelectorAll('.highlight pre span[class]')) {
        const kind = `${token.className} in ${token.closest('.highlight').parentElement.className}`;
        if (seen.has(kind) || !token.checkVisibility()) repeated.push(token);
        else seen.add(kind);
    }
    repeated.forEach(token => token.replaceWith(...token.childNodes));
    document.querySelectorAll('.highlight pre').forEach(block => block.normalize());
    for (const body of document.querySelectorAll('tbody')) [...body.rows].slice(40).forEach(row => row.remove());
}"""
"""One token of each kind, forty blocks of code, forty rows of a table: axe-core looks long at each element."""

BYTES = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .reduce((sum, entry) => sum + entry.transferSize, 0)"""


@dataclass
class Visit:
    """What a browser found on a page.

    Attributes:
        name: the page's path in the site.
        failed: addresses that were not answered, or belong to another host.
        complaints: errors and warnings in the console.
        unset, wrong, raw: formulas that were not set, that hold an error, that stand as source.
        images: pictures that do not show, light or dark.
        wider: for each width of the window what makes the document scroll sideways.
        violations: for each theme, and on a narrow page, what axe-core counts as serious or critical.
        size: bytes transferred for the light page.
    """

    name: str
    failed: list[str]
    complaints: list[str]
    unset: list[str]
    wrong: list[str]
    raw: list[str]
    images: list[str]
    wider: dict[int, list[str]]
    violations: dict[str, list[str]]
    size: int


def settle(page: Page) -> None:
    """Wait until all formulas are set."""
    page.evaluate("() => window.MathJax?.startup?.promise")


def use_theme(page: Page, theme: str) -> None:
    """Show a page in a theme."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)


def without_transitions(page: Page) -> None:
    """From now on a new width or theme is there at once; until then a layout may be seen halfway to the next."""
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; animation: none !important; }")


def violations(page: Page, only: list[str] | None = None) -> list[str]:
    """What axe-core calls serious or critical (by all its rules, or by some), a line for each element."""
    # axe would fetch style sheets anew, one at a wrong address.
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if only:
        options["runOnly"] = only
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} {'; '.join(check['message'] for check in node['any'])}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def visit(browser: Browser, base: str, name: str) -> Visit:
    """Open a page and look at it."""
    failed, complaints = [], []
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
    own = (base, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else failed.append(request.url))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("response", lambda response: response.status >= 400 and failed.append(response.url))
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(base + name, wait_until="load")
    settle(page)
    images = page.evaluate(BROKEN_IMAGES)
    formulas = page.evaluate(FORMULAS)
    raw = page.evaluate(RAW)
    size = page.evaluate(BYTES)
    without_transitions(page)
    wider = {}
    for width in reversed(WIDTHS):
        page.set_viewport_size({"width": width, "height": 900})
        wider[width] = page.evaluate(WIDER)
    page.evaluate(THIN)
    found = {}
    for theme, rules in (("light", None), ("dark", ["color-contrast", "link-in-text-block"])):
        use_theme(page, theme)
        images += page.evaluate(BROKEN_IMAGES) if theme == "dark" else []
        found[theme] = violations(page, rules)
    page.set_viewport_size({"width": min(WIDTHS), "height": 900})
    page.wait_for_timeout(500)  # the theme waits until a window has its size, then marks what scrolls
    found["narrow"] = violations(page, ["scrollable-region-focusable"])
    page.close()
    return Visit(
        name,
        sorted(set(failed)),
        complaints,
        formulas["unset"],
        formulas["wrong"],
        raw,
        sorted(set(images)),
        wider,
        found,
        size,
    )
