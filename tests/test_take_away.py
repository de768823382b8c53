"""What readers take along: the citation file, the notebooks of the pages, the PDF."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import archive  # noqa: E402
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
        name = page.relative_to(BOOK)
        copy, shown = site / "_sources" / name, site / name.with_suffix(".html")  # a copy has its original's date
        if shown.exists() and shown.stat().st_mtime > renderer and copy.read_text("utf-8") == page.read_text("utf-8"):
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


# --- the first cell -----


RUN = {"capture_output": True, "text": True, "check": False}
NO_PACKAGE = "import importlib.util as u; u.find_spec = lambda name: None\n"


def first_cell(*addresses):
    """The first cell as a program; of what only a notebook knows, the command is printed."""
    return re.sub(r"^( *)[%!](.*)$", r"\1print(f'\2')", as_markdown.install(*addresses), flags=re.MULTILINE)


def test_in_a_clone_the_first_cell_installs_that():
    for folder in (ROOT, ROOT / "book" / "chapters"):
        done = subprocess.run([sys.executable, "-c", NO_PACKAGE + first_cell()], cwd=folder, **RUN)
        assert done.stdout.splitlines() == [f'pip install --quiet --editable "{ROOT}"'], done.stderr


@pytest.mark.parametrize("addresses", [(), (ADDRESS,), (ADDRESS, "https://no-such-host.invalid")])
def test_the_first_cell_unpacks_the_archive_beside_it(addresses, tmp_path):
    """Into the notebook's folder, once, and without a network; in the unpacked archive there is nothing to unpack."""
    command = [sys.executable, "-c", NO_PACKAGE + first_cell(*addresses)]
    book = tmp_path / "fewstep-book"
    (tmp_path / archive.NAME).write_bytes(archive.pack(archive.sources()))
    wanted = f'pip install --quiet --editable "{book}"\n'
    assert subprocess.run(command, cwd=tmp_path, **RUN).stdout == wanted
    assert (book / "src/fewstep/run.py").is_file() and (book / "data/checkpoints/digits-unet.safetensors").is_file()
    (tmp_path / archive.NAME).unlink()
    for folder in (tmp_path, book, book / "src" / "fewstep"):
        assert subprocess.run(command, cwd=folder, **RUN).stdout == wanted


def test_the_first_cell_unpacks_where_a_folder_was_made_for_the_archive(tmp_path):
    """Some systems unpack an archive into a folder of its name."""
    (tmp_path / archive.FOLDER / archive.FOLDER).mkdir(parents=True)
    (tmp_path / archive.NAME).write_bytes(archive.pack(archive.sources()))
    done = subprocess.run([sys.executable, "-c", NO_PACKAGE + first_cell()], cwd=tmp_path, **RUN)
    assert done.returncode == 0 and (tmp_path / archive.FOLDER / "src").is_dir(), done.stderr


def test_the_first_cell_fetches_the_archive_from_the_site(tmp_path):
    """Nothing but the unpacked folder is left beside the notebook."""
    static, here = tmp_path / "site" / "_static", tmp_path / "here"
    static.mkdir(parents=True)
    here.mkdir()
    (static / archive.NAME).write_bytes(archive.pack(archive.sources()))
    script = NO_PACKAGE + first_cell(ADDRESS, static.parent.as_uri())
    done = subprocess.run([sys.executable, "-c", script], cwd=here, **RUN)
    assert done.stdout == f'pip install --quiet --editable "{here / archive.FOLDER}"\n', done.stderr
    assert [path.name for path in here.iterdir()] == [archive.FOLDER]


def test_the_first_cell_fetches_a_clone_where_there_is_an_address_only(tmp_path):
    done = subprocess.run([sys.executable, "-c", NO_PACKAGE + first_cell(ADDRESS)], cwd=tmp_path, **RUN)
    clone = tmp_path / "fewstep-book"
    assert done.stdout.splitlines() == [
        f'git clone --quiet --depth 1 {ADDRESS} "{clone}"',
        f'pip install --quiet --editable "{clone}"',
    ]


def test_the_first_cell_says_what_is_needed(tmp_path):
    """Where there is no package, nothing to install it from, and no address: one line that says what would be right."""
    done = subprocess.run([sys.executable, "-c", NO_PACKAGE + first_cell()], cwd=tmp_path, **RUN)
    wanted = "download fewstep-book.zip from the book's page *Take it away* and put it beside this notebook"
    assert done.stderr.splitlines()[-1] == f"FileNotFoundError: {wanted}" and not list(tmp_path.iterdir())


def test_the_first_cell_does_nothing_where_the_package_has_the_book_with_it(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", first_cell()], cwd=tmp_path, env=environment, **RUN)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("name", ["fewstep/__init__.py", "fewstep.py", "fewstep/README.md"])
def test_a_package_without_the_book_does_not_count(name, tmp_path):
    """An installed copy has no weights and records; a module or a folder may have the package's name by chance."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("", "utf-8")
    done = subprocess.run([sys.executable, "-S", "-c", first_cell()], cwd=tmp_path, env={}, **RUN)
    assert "download fewstep-book.zip" in done.stderr


def test_the_text_above_the_first_cell_has_the_address_if_there_is_one():
    assert ADDRESS in as_markdown.note("Title", ADDRESS)
    assert "<https://book.example.org>" in as_markdown.note("Title", ADDRESS, "https://book.example.org")
    text = as_markdown.note("Title")
    assert archive.NAME in text and "://" not in text


# --- the archive -----


@pytest.fixture
def tree_of_files(tmp_path):
    """A clone with files that belong into the archive, and with others; a clone of another project around it."""
    root = tmp_path / "outer" / "clone"
    for name in (*WANTED, *LEFT_OUT):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, "utf-8")
    (root.parent / ".gitignore").write_text("*\n", "utf-8")
    subprocess.run(["git", "init", "--quiet", str(root.parent)], check=True)
    return root


WANTED = ["LICENSE", "data/cost/a.yml", "data/results/mine/a/b.json", "pyproject.toml", "src/fewstep/a.py"]
LEFT_OUT = [
    "book/index.md",
    "data/.DS_Store",
    "data/cache/a.bin",
    "data/checkpoints/cifar10-unet.safetensors",
    "src/fewstep.egg-info/PKG-INFO",
    "src/fewstep/__pycache__/a.pyc",
    "tests/test_a.py",
]


def test_the_archive_has_no_caches_with_git_or_without(tree_of_files):
    assert list(archive.sources(tree_of_files)) == WANTED


def test_nothing_that_git_ignores_is_in_the_archive(tree_of_files):
    """Untracked files are: records of a reader's own experiments. What was deleted is not."""
    (tree_of_files / ".gitignore").write_text("*.scratch\n", "utf-8")
    subprocess.run(["git", "init", "--quiet", str(tree_of_files)], check=True)
    (tree_of_files / "data" / "a.scratch").write_text("", "utf-8")
    subprocess.run(["git", "-C", str(tree_of_files), "add", "src", "LICENSE"], check=True)
    assert list(archive.sources(tree_of_files)) == WANTED
    (tree_of_files / "LICENSE").unlink()
    assert list(archive.sources(tree_of_files)) == WANTED[1:]


def test_the_archive_is_the_same_for_the_same_contents(tree_of_files):
    before = archive.pack(archive.sources(tree_of_files))
    os.utime(tree_of_files / "LICENSE", (0, 0))
    (tree_of_files / "LICENSE").chmod(0o600)
    assert archive.pack(dict(reversed(archive.sources(tree_of_files).items()))) == before
    (tree_of_files / "LICENSE").write_text("another", "utf-8")
    assert archive.pack(archive.sources(tree_of_files)) != before


def test_the_archive_is_small():
    assert len(archive.pack(archive.sources())) < 15e6


def test_the_site_offers_the_archive_of_what_it_shows():
    """What the book's page says of its size is right, and every notebook is in it."""
    site = site_of(BOOK / "take_away.md")
    for page in PAGES:
        assert site_of(page) == site
    packed = site / "_static" / archive.NAME
    size = re.search(rf"{archive.NAME}.*?\(about (\d+) MB\)", (site / "take_away.html").read_text("utf-8"), re.DOTALL)
    assert size and abs(int(size[1]) - packed.stat().st_size / 1e6) < 1
    with zipfile.ZipFile(packed) as content:
        for page in PAGES:
            name = page.relative_to(BOOK).with_suffix(".ipynb").as_posix()
            assert content.read(f"{archive.FOLDER}/notebooks/{name}") == notebook_of(page).read_bytes()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A reader's folder, with the archive only, and the Python of an environment that has all packages but this one.

    The other packages are links to those that run the tests. Pip uses them for building too, which needs no network.
    """
    top = tmp_path_factory.mktemp("reader")
    folder, python = top / "my book", top / "venv" / "bin" / "python"
    folder.mkdir()
    (folder / archive.NAME).write_bytes(archive.pack(archive.sources()))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(top / "venv")], check=True)
    packages = top / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "fewstep" not in path.name:
            (packages / path.name).symlink_to(path)
    (own,) = (top / "venv" / "lib").glob("python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n", "utf-8")
    subprocess.run([str(python), "-m", "ipykernel", "install", "--sys-prefix"], check=True, capture_output=True)
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # pip takes 0 as "no isolation"
    for name in ("PYTHONPATH", "FEWSTEP_ROOT", "VIRTUAL_ENV"):
        environment.pop(name, None)
    return folder, str(python), environment


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_notebook_beside_the_archive_runs(page, reader):
    """From top to bottom, in a fresh kernel outside of any clone. The first that runs installs the package."""
    folder, python, environment = reader
    notebook = folder / f"{page.stem}.ipynb"
    notebook.write_bytes(notebook_of(page).read_bytes())
    command = [python, "-m", "papermill", "--no-progress-bar", "--cwd", str(folder), str(notebook), str(notebook)]
    done = subprocess.run(command, cwd=folder, env=environment, **RUN)
    assert done.returncode == 0, done.stderr
    made = json.loads(notebook.read_text("utf-8"))["cells"]
    assert any("image/png" in output.get("data", {}) for cell in made for output in cell.get("outputs", []))
    where = subprocess.run([python, "-c", "import fewstep; print(fewstep.__file__)"], env=environment, **RUN).stdout
    assert where == f"{folder / archive.FOLDER / 'src' / 'fewstep' / '__init__.py'}\n"


# --- where a page can be run -----


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


HEAD = "---\nkernelspec: {name: python3, display_name: Python 3}\nfile_format: mystnb\n---\n"


@pytest.fixture
def small_book(tmp_path):
    """A book of two pages, one with code, and what builds it with the book's theme, without a warning."""

    def build(url=""):
        conf = f"""
import sys
sys.path.insert(0, {str(BOOK / "_ext")!r})
extensions = ["myst_nb", "sphinx_book_theme", "takeaway"]
html_theme = "sphinx_book_theme"
html_theme_options = {options(url).html_theme_options!r}
nb_execution_mode = "off"
suppress_warnings = ["myst-nb.lexer"]  # known from the kernel only
"""
        (source / "conf.py").write_text(conf, "utf-8")
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(source), str(tmp_path / "site")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return tmp_path / "site"

    source = tmp_path / "book"
    (source / "chapters").mkdir(parents=True)
    text = "# Book\n\n{archive}`all`\n\n```{toctree}\nchapters/one\n```\n\n```{cite-this}\n```\n"
    (source / "index.md").write_text(text, "utf-8")
    (source / "chapters/one.md").write_text(f"{HEAD}\n# One\n\n```{{code-cell}} ipython3\n1 + 1\n```\n", "utf-8")
    return source, build


@pytest.mark.parametrize("url", ["", ADDRESS])
def test_a_built_page_has_the_buttons_and_what_they_point_to(url, small_book):
    """What Binder and Colab open is there."""
    source, build = small_book
    site = build(url)
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


def test_the_archive_is_written_anew_when_its_contents_change(small_book):
    source, build = small_book
    site, page = build(), source / "chapters" / "one.md"
    packed = site / "_static" / archive.NAME
    assert f'href="_static/{archive.NAME}"' in (site / "index.html").read_text("utf-8")
    before, written = packed.read_bytes(), packed.stat().st_mtime_ns
    index = (site / "index.html").read_text("utf-8")
    (site / "index.html").write_text(re.sub(r"about \d+ MB", "about 99 MB", index), "utf-8")  # as of other data
    build()
    assert packed.stat().st_mtime_ns == written and "about 99 MB" not in (site / "index.html").read_text("utf-8")
    page.write_text(page.read_text("utf-8").replace("1 + 1", "2 + 2"), "utf-8")
    build()
    assert packed.read_bytes() != before
    page.write_text(f"{HEAD}\n# One\n\nNo code.\n", "utf-8")
    build()
    with zipfile.ZipFile(packed) as content:
        assert set(content.namelist()) == {f"{archive.FOLDER}/{name}" for name in archive.sources()}


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
