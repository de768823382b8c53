"""What a reader does: go on, search, copy, sort, switch to dark."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect
from visits import settle

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
    expect(page).to_have_url(lambda url: url.endswith(CHAPTER))
    expect(page.locator(".bd-sidebar-primary li.current.active > a")).to_have_count(1)


def test_side_bar_on_a_phone(page: Page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("index.html")
    link = page.get_by_role("link", name="PNDM").first
    expect(link).not_to_be_in_viewport()
    page.locator("button.primary-toggle").first.click()
    page.locator("dialog, .bd-sidebar-primary").get_by_role("link", name="PNDM").locator("visible=true").first.click()
    expect(page).to_have_url(lambda url: url.endswith(CHAPTER))


def test_search_finds_pndm(page: Page):
    page.goto("search.html?q=PNDM")
    expect(page.locator("#search-results li a", has_text="PNDM").first).to_be_visible()
    page.locator("#search-results li a[href*='chapters/pndm']").first.click()
    expect(page.locator("h1")).to_contain_text("PNDM")


def test_search_field(page: Page):
    page.goto("index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("PNDM")
    page.keyboard.press("Enter")
    expect(page.locator("#search-results li a").first).to_be_visible()


def test_copy_buttons_copy(page: Page):
    page.goto(CHAPTER)
    block = page.locator("div.highlight:has(button.copybtn)").first
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
