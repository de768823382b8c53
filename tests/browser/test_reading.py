"""What a reader does: go on, search, copy, switch to dark, sort a table."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Locator, Page, expect

CHAPTER = "chapters/pndm.html"


def test_next_and_previous(page: Page):
    page.goto("index.html")
    first = page.title()
    page.locator("a.right-next").click()
    expect(page).not_to_have_title(first)
    page.locator("a.left-prev").click()
    expect(page).to_have_title(first)


def test_side_bar(page: Page):
    page.goto("index.html")
    page.locator(".bd-sidebar-primary").get_by_role("link", name="PNDM").click()
    expect(page).to_have_url(re.compile(f"{CHAPTER}$"))
    expect(page.locator(".bd-sidebar-primary li.current.active > a")).to_have_count(1)


def test_side_bar_on_a_phone(page: Page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("index.html")
    link = page.get_by_role("link", name="PNDM").first
    expect(link).not_to_be_in_viewport()
    page.locator("button.primary-toggle").first.click()
    page.locator("dialog, .bd-sidebar-primary").get_by_role("link", name="PNDM").locator("visible=true").first.click()
    expect(page).to_have_url(re.compile(f"{CHAPTER}$"))


def test_search_finds_pndm(page: Page):
    page.goto("search.html?q=PNDM")
    expect(page.locator("#search-results li a", has_text="PNDM").first).to_be_visible()
    page.locator("#search-results li a[href*='chapters/pndm']").first.click()
    expect(page).to_have_url(re.compile(CHAPTER))
    expect(page.get_by_role("heading", level=1)).to_contain_text("PNDM")


def test_search_field(page: Page):
    page.goto("index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("PNDM")
    page.keyboard.press("Enter")
    expect(page.locator("#search-results li a").first).to_be_visible()


def test_copy_buttons_copy(page: Page):
    page.goto(CHAPTER)
    block = page.locator("div.highlight:has(button.copybtn)").locator("visible=true").first
    block.scroll_into_view_if_needed()
    block.hover()
    block.locator("button.copybtn").click()
    wanted = block.locator("pre").inner_text().strip()
    assert wanted
    page.wait_for_function("navigator.clipboard.readText().then(text => text.length > 0)")
    assert page.evaluate("navigator.clipboard.readText()").strip() == wanted


def test_theme_switches(page: Page):
    page.emulate_media(color_scheme="light")
    page.goto(CHAPTER)
    html = page.locator("html")
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    for _ in range(3):  # light, dark, as the system has it
        page.locator("button.theme-switch-button").locator("visible=true").first.click()
        if html.get_attribute("data-theme") == "dark":
            break
    expect(html).to_have_attribute("data-theme", "dark")
    assert page.evaluate(background) != before
    page.reload()
    expect(html).to_have_attribute("data-theme", "dark")


def column(table: Locator, index: int) -> list[str]:
    return table.evaluate("(t, i) => [...t.tBodies[0].rows].map(row => row.cells[i].textContent.trim())", index)


def value(text: str) -> float:
    """A number as the tables write it: ``1.2 ± 0.1``, ``(1.2 ± 0.1)×10⁻⁵``, ``−3``."""
    found = re.match(r"\(?(−?[\d.]+)[^×]*(?:×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", text)
    assert found, text
    power = (found[2] or "⁰").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(f"{found[1].replace('−', '-')}e{power}")


def test_tables_sort(page: Page):
    """Every column of the field guide's errors, by mouse: up, down, and back to the book's order."""
    page.goto("field_guide.html")
    table = page.locator("table.results", has_text="best grid at 10").first
    heads = table.locator("thead th")
    for index in range(heads.count()):
        head, before = heads.nth(index), column(table, index)
        for way in ("ascending", "descending"):
            head.get_by_role("button").click()
            expect(head).to_have_attribute("aria-sort", way)
            expect(table.locator("[aria-sort]")).to_have_count(1)
            now = column(table, index)
            assert sorted(now) == sorted(before)
            shown = [text for text in now if text != "–"]
            assert now[len(shown) :] == ["–"] * (len(now) - len(shown))  # what was not measured comes last
            if "error" in head.inner_text():
                assert len(shown) > 20
                values = [value(text) for text in shown]
                assert values == sorted(values, reverse=way == "descending")
        head.get_by_role("button").click()
        expect(table.locator("[aria-sort]")).to_have_count(0)
        assert column(table, index) == before


def test_tables_sort_by_keyboard(page: Page):
    page.goto("field_guide.html")
    table = page.locator("table.results").first
    button = table.get_by_role("button").first
    button.focus()
    page.keyboard.press("Enter")
    expect(table.locator("thead th").first).to_have_attribute("aria-sort", "ascending")
    page.keyboard.press("Tab")
    expect(table.get_by_role("button").nth(1)).to_be_focused()


BORDER = """image => {
    const {naturalWidth: width, naturalHeight: height} = image;
    const canvas = Object.assign(document.createElement("canvas"), {width, height});
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const strips = [[0, 0, width, 1], [0, height - 1, width, 1], [0, 0, 1, height], [width - 1, 0, 1, height]];
    const bytes = strips.flatMap(strip => [...context.getImageData(...strip).data]).filter((_, i) => i % 4 < 3);
    return bytes.reduce((sum, byte) => sum + byte, 0) / bytes.length;
}"""
"""The mean of a picture's border, 0 to 255."""


def test_dark_mode_switches_figures(browser: Browser, base: str):
    """Each figure is a picture drawn for the theme, of the same size; a first visit fetches no other."""
    sizes = {}
    for theme, other, paper in (("light", "dark", 255), ("dark", "light", 18)):
        page = browser.new_page(base_url=base, viewport={"width": 1280, "height": 900}, color_scheme=theme)
        fetched: list[str] = []
        page.on("request", lambda request, to=fetched: to.append(request.url))
        page.goto(CHAPTER)
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        figures = page.locator(".cell_output figure").all()
        assert len(figures) > 5
        for figure in figures:
            shown, hidden = figure.locator(f"img.only-{theme}"), figure.locator(f"img.only-{other}")
            figure.scroll_into_view_if_needed()
            shown.evaluate("image => image.decode()")
            expect(shown).to_be_visible()
            expect(hidden).to_be_hidden()
            expect(figure.locator("figcaption")).to_be_visible()
            assert abs(shown.evaluate(BORDER) - paper) < 12
            addresses = [image.evaluate("image => image.src") for image in (shown, hidden)]
            assert [address in fetched for address in addresses] == [True, False]
            sizes.setdefault(theme, []).append(shown.evaluate("image => [image.offsetWidth, image.offsetHeight]"))
        page.close()
    assert sizes["light"] == sizes["dark"] and min(map(min, sizes["light"])) > 50


CUT = """async () => {
    await MathJax.startup.promise;
    await new Promise(done => setTimeout(done, 500));  // until every formula has been fitted
    const right = element => element.getBoundingClientRect().right;
    return [...document.querySelectorAll(".bd-article p span.math")].filter(box =>
        right(box.querySelector("mjx-math")) > right(box.closest("p")) + 1 && getComputedStyle(box).overflowX !== "auto"
    ).map(box => box.textContent);
}"""


def test_formulas_on_a_phone(page: Page):
    """No formula is cut off: side by side they stand below each other, in a line they break, are smaller, or scroll."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("chapters/ddpm.html")
    assert page.evaluate(CUT) == []
    expect(page.locator("#equation-eq-ddpm-alpha mjx-mtr")).to_have_count(4)


def test_a_picture_without_a_dark_version_lies_on_a_light_card(page: Page):
    page.emulate_media(color_scheme="dark")
    page.goto(CHAPTER)
    figure = page.locator(".cell_output figure").first
    figure.evaluate("f => { f.querySelectorAll('img').forEach(image => image.classList.remove('only-dark')) }")
    style = figure.locator("img:not(.only-light)").evaluate("e => getComputedStyle(e).backgroundColor")
    assert style == "rgb(255, 255, 255)"
