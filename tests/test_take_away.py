"""What readers take along: the citation file, the notebooks of the pages, the PDF."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import as_markdown  # noqa: E402
import takeaway  # noqa: E402
from docutils import nodes  # noqa: E402

BOOK = ROOT / "book"
ADDRESS = "https://github.com/someone/book"
SITES = [ROOT / "_build/strict/_build/html", ROOT / "_build/html"]
PAGES = [path for path in sorted(BOOK.rglob("*.md")) if "```{code-cell}" in path.read_text("utf-8")]


def site_of(page: Path) -> Path:
    """A rendered site that shows the page as it is now; a site may be older than the book or what renders it."""
    renderer = max(path.stat().st_mtime for path in (BOOK / "_ext").glob("*.py"))
    for site in SITES:
        copy = site / "_sources" / page.relative_to(BOOK)
        if copy.exists() and copy.stat().st_mtime > renderer and copy.read_text("utf-8") == page.read_text("utf-8"):
            return site
    pytest.skip("no site shows the page as it is now; `make book` renders one")


def notebook_of(page: Path) -> Path:
    return site_of(page) / "_sources" / page.relative_to(BOOK).with_suffix(".ipynb")


# --- the citation file -----


def test_the_citation_file_says_what_the_package_says():
    """The fields that CFF 1.2.0 requires, and those that the package states as well."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert cff["cff-version"] == "1.2.0" and cff["message"] and cff["title"]
    assert cff["authors"] and all(author["name"] for author in cff["authors"])
    assert cff["type"] in ("software", "dataset")
    assert (cff["version"], cff["license"]) == (package["version"], package["license"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(cff["date-released"]))
    allowed = "cff-version message title type abstract authors version date-released license keywords"
    assert set(cff) <= set(allowed.split())


def test_binder_installs_what_is_locked():
    script = (ROOT / ".binder" / "postBuild").read_text("utf-8")
    assert "--require-hashes -r requirements.lock" in script and os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    wanted = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text("utf-8"))["dependencies"]
    assert wanted[0] in yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]


# --- from a document tree to a notebook -----


def tree(*children):
    section = nodes.section("", nodes.title(text="Title"), *children)
    document = nodes.document(None, None)
    document += section
    return document


def cells(document, numbers=None):
    env = SimpleNamespace(toc_fignumbers={"page": numbers or {}}, titles={"page": nodes.title(text="Title")})
    made = nbformat.reads(as_markdown.notebook(document, "page", env), as_version=4)
    nbformat.validate(made)
    return made.cells[2:]


def test_text_and_mathematics_become_markdown():
    text = nodes.paragraph()
    text += [nodes.Text("of "), nodes.math(text=r"\rho"), nodes.Text(" "), nodes.emphasis(text="and"), nodes.Text(" ")]
    text += [nodes.reference("", "there", refuri="https://example.org"), nodes.reference("", " (1.2)", refid="eq")]
    equation = nodes.math_block("", "x = 1", ids=["equation-a"])
    inner = nodes.math_block("", r"\begin{aligned}y\end{aligned}")
    whole = nodes.math_block("", r"\begin{align*}y\end{align*}")
    found = cells(tree(text, equation, inner, whole), {"displaymath": {"equation-a": (3, 4)}})[0].source
    assert r"of $\rho$ *and* [there](https://example.org) (1.2)" in found
    assert "$$\nx = 1 \\tag{3.4}\n$$" in found and "$$\n\\begin{aligned}" in found and "\n\\begin{align*}" in found
    assert found.startswith("# Title\n") and "$$\n\\begin{align*}" not in found


def test_lists_and_tables_become_markdown():
    inner = nodes.bullet_list("", nodes.list_item("", nodes.paragraph(text="b")))
    outer = nodes.bullet_list("", nodes.list_item("", nodes.paragraph(text="a"), inner))
    entries = [nodes.row("", *(nodes.entry("", nodes.paragraph(text=t)) for t in line)) for line in ("pq", "r|")]
    group = nodes.tgroup("", nodes.thead("", entries[0]), nodes.tbody("", entries[1]))
    table = nodes.table("", nodes.title(text="What"), group, ids=["t"])
    found = cells(tree(outer, table), {"table": {"t": (2,)}})[0].source
    assert "- a\n  \n  - b" in found
    assert "**Table 2.** What\n\n| p | q |\n|---|---|\n| r | \\| |" in found


def test_a_hidden_cell_keeps_its_source_and_its_caption():
    source = nodes.container("", nodes.container("", nodes.literal_block(text="1 + 1")), nb_element="cell_code_source")
    hidden = nodes.container("", source)
    figure = nodes.figure("", nodes.caption(text="What to see."), ids=["fig"])
    output = nodes.container("", figure, nb_element="cell_code_output")
    cell = nodes.container("", hidden, output, nb_element="cell_code", cell_metadata={"tags": ["hide-input"]})
    code, caption = cells(tree(cell), {"figure": {"fig": (1, 2)}})[1:]
    assert code.cell_type == "code" and code.source == "1 + 1" and code.metadata.jupyter.source_hidden
    assert caption.source == "**Figure 1.2.** What to see."


# --- the notebooks of the rendered site -----


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_with_code_offers_a_notebook_of_all_its_cells(page):
    site, path = site_of(page), notebook_of(page)
    made = nbformat.read(path, as_version=4)
    nbformat.validate(made)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert len(code) == 1 + page.read_text("utf-8").count("```{code-cell}")
    assert all(cell.source.strip() and not cell.outputs for cell in code)
    name = path.relative_to(site).as_posix()
    assert name in (site / page.relative_to(BOOK).with_suffix(".html")).read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_notebook_has_no_markup_that_jupyter_does_not_know(page):
    made = nbformat.read(notebook_of(page), as_version=4)
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert not re.findall(r"\{[a-z:]+\}`|^[:`]{3,}\{", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "add_your_own"])
def test_a_notebook_runs_outside_of_the_clone(name, tmp_path):
    """In a fresh kernel, where the package can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "FEWSTEP_ROOT": str(ROOT)}
    notebook = tmp_path / "page.ipynb"
    notebook.write_text(notebook_of(BOOK / f"{name}.md").read_text("utf-8"), "utf-8")
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=600", str(notebook)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(notebook.read_text("utf-8"))["cells"]
    assert any("image/png" in output.get("data", {}) for cell in made for output in cell.get("outputs", []))


def first_cell(address):
    """The first cell as a program that finds no package; what only a notebook knows is printed."""
    source = re.sub(r"^( *)[%!](.*)$", r'\1print(f"\2")', as_markdown.install(address), flags=re.MULTILINE)
    return "import importlib.util as u; u.find_spec = lambda name: None\n" + source


def test_the_first_cell_fetches_a_clone_where_there_is_none(tmp_path):
    script = first_cell(ADDRESS)
    run = {"capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, **run)
    clone = tmp_path / "fewstep-book"
    cloning, installing = done.stdout.splitlines()
    assert cloning == f"git clone --quiet --depth 1 {ADDRESS} {clone}"
    assert installing == f"pip install --quiet --editable {clone}"
    inside = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "book", **run)
    assert inside.stdout.splitlines() == [f"pip install --quiet --editable {ROOT}"]


def test_the_text_above_the_first_cell_has_the_address_if_there_is_one():
    assert ADDRESS in as_markdown.note("Title", ADDRESS)
    text = as_markdown.note("Title", "")
    assert "inside a clone" in text and "://" not in text


def options(url, **more):
    return SimpleNamespace(
        html_theme_options={"repository_url": url, "repository_branch": "main", "path_to_docs": "book", **more},
        takeaway_site_branch="gh-pages",
    )


def test_a_page_offers_binder_and_colab_where_the_repository_has_an_address():
    found = takeaway.launchers("chapters/deis", "chapters/deis.md", options(f"{ADDRESS}.git"))
    assert found == {
        "Binder": "https://mybinder.org/v2/gh/someone/book/main?urlpath=lab/tree/book/chapters/deis.md",
        "Colab": "https://colab.research.google.com/github/someone/book/blob/gh-pages/_sources/chapters/deis.ipynb",
    }
    assert takeaway.launchers("chapters/deis", "chapters/deis.md", options("")) == {}
    elsewhere = takeaway.launchers("index", "index.md", options("https://git.example.org/someone/book"))
    assert elsewhere["Binder"].startswith(
        "https://mybinder.org/v2/git/https%3A%2F%2Fgit.example.org%2Fsomeone%2Fbook/main?"
    )
    assert list(elsewhere) == ["Binder"]  # Colab knows GitHub only


@pytest.mark.parametrize("url", ["", ADDRESS])
def test_a_built_page_has_the_buttons_and_what_they_point_to(url, tmp_path):
    """A page built with the book's theme, without a warning; what Binder and Colab open is there."""
    conf = f"""
import sys
sys.path.insert(0, {str(BOOK / "_ext")!r})
extensions = ["myst_nb", "sphinx_book_theme", "takeaway"]
html_theme = "sphinx_book_theme"
html_theme_options = {options(url).html_theme_options!r}
nb_execution_mode = "off"
suppress_warnings = ["myst-nb.lexer"]  # known from the kernel only
"""
    source = tmp_path / "book"
    (source / "chapters").mkdir(parents=True)
    (source / "conf.py").write_text(conf, "utf-8")
    (source / "index.md").write_text("# Book\n\n```{toctree}\nchapters/one\n```\n\n```{cite-this}\n```\n", "utf-8")
    head = "---\nkernelspec: {name: python3, display_name: Python 3}\nfile_format: mystnb\n---\n"
    (source / "chapters/one.md").write_text(f"{head}\n# One\n\n```{{code-cell}} ipython3\n1 + 1\n```\n", "utf-8")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(source), str(site)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    page, plain = ((site / name).read_text("utf-8") for name in ("chapters/one.html", "index.html"))
    links = re.findall(r'href="(https://(?:mybinder|colab)[^"]*)"', page)
    assert not re.findall("mybinder|colab", plain) and (
        ("url" in (cite := plain[plain.index("@software") :])) == bool(url)
    )
    assert cite and "someone/book" in plain if url else "someone/book" not in plain
    first = nbformat.read(site / "_sources/chapters/one.ipynb", as_version=4).cells[1].source
    assert ("git clone --quiet" in first) == bool(url)
    if not url:
        assert not links
        return
    binder, colab = links
    assert (source.parent / binder.partition("lab/tree/")[2]).is_file()
    assert (site / colab.partition("/blob/gh-pages/")[2]).is_file()


def test_the_first_cell_says_what_is_needed(tmp_path):
    """Outside of a clone, where there is no package and no address: one line that says what would be right."""
    script = first_cell("")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "`git clone` the book's repository and open this notebook in it" in done.stderr.splitlines()[-1]
    inside = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "book", capture_output=True, check=False)
    assert inside.returncode == 0


# --- the PDF -----


def test_the_pdf_needs_a_page(tmp_path):
    command = [sys.executable, str(ROOT / "book" / "pdf.py"), str(tmp_path / "none.html"), str(tmp_path / "out.pdf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.browser
def test_the_pdf_has_a_title_page_and_an_outline_of_chapters(tmp_path):
    """A page in the form of Sphinx's one-page builder: chapters are sections below the first page's, one level down."""
    page, out = tmp_path / "index.html", tmp_path / "book.pdf"
    chapters = "".join(
        f"<span id='document-{k}'></span><section><h2>Chapter {k}</h2><p>{k}</p></section>" for k in ("one", "two")
    )
    body = (
        f"<div id='jb-print-docs-body'><h1>Book</h1></div><article><section><h1>Book</h1>{chapters}</section></article>"
    )
    page.write_text(f"<!doctype html><title>Book</title><body>{body}</body>", "utf-8")
    command = [sys.executable, str(ROOT / "book" / "pdf.py"), str(page), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pdf = out.read_bytes()
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) == 4  # title, first page, two chapters
    outline = re.findall(rb"/Title\s*\(([^)]*)\)", pdf)
    assert b"Chapter one" in outline and b"Chapter two" in outline
