"""That the visits to pages see what they look for: a page with everything wrong, and one with nothing."""

from __future__ import annotations

import servers
from hosting import Files
from playwright.sync_api import Browser
from visits import visit

WRONG = r"""<!doctype html><html lang="en"><title>wrong</title><main>
<h1>All wrong</h1>
<script src="https://example.org/x.js"></script><script>undefined_function()</script>
<p>\(x^2\) and <span class="math">\(y\)</span> and <mjx-merror>z</mjx-merror></p>
<img src="missing.png" alt="nothing"><button></button>
<p style="color: #aaa; background: #fff">Faint.</p>
<div style="width: 600px">wide</div>
<pre style="width: 80px; overflow-x: scroll; white-space: pre">a line that must be scrolled to be read</pre>
</main></html>"""
RIGHT = '<!doctype html><html lang="en"><title>right</title><main><h1>Fine</h1><p>All is well.</p></main></html>'


def test_a_visit_finds_what_is_wrong(browser: Browser, tmp_path):
    (tmp_path / "wrong.html").write_text(WRONG)
    with servers.serving(Files, site=str(tmp_path)) as server:
        found = visit(browser, f"{server.url}/", "wrong.html")
        assert {"https://example.org/x.js", f"{server.url}/missing.png"} <= set(found.failed)
    assert any("undefined_function" in complaint for complaint in found.complaints)
    assert found.unset == [r"\(y\)"] and found.wrong == ["z"] and len(found.raw) == 2
    assert len(found.images) == 1 and not found.wider[1280] and found.wider[390]
    rules = {theme: {line.split(":")[0] for line in lines} for theme, lines in found.violations.items()}
    assert {"button-name", "color-contrast"} <= rules["light"] and rules["dark"] == {"color-contrast"}
    assert rules["narrow"] == {"scrollable-region-focusable"}


def test_a_visit_finds_nothing_wrong_with_a_good_page(browser: Browser, tmp_path):
    (tmp_path / "right.html").write_text(RIGHT)
    (tmp_path / "favicon.ico").write_bytes(b"")
    with servers.serving(Files, site=str(tmp_path)) as server:
        found = visit(browser, f"{server.url}/", "right.html")
    assert not (found.failed or found.complaints or found.unset or found.wrong or found.raw or found.images)
    assert not any(found.wider.values()) and not any(found.violations.values())
    assert 0 < found.size < 2000
