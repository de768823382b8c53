"""Numbers in the book: each comes from a record, a missing one fails the build, a stale one shows."""

from __future__ import annotations

import html as entities
import io
import json
import os
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

pytest.importorskip("myst_parser")

import record_pages
import record_tables as tables
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace

from fewstep import results
from fewstep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

CONF = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_parser", "records"]
records_root = {root!r}
numfig = True
html_theme = "basic"
"""

PLAN = """
digits:
  toy:
    cells: {ddim: {solver: ddim}, rk4: {solver: rk4}, deis-tab1: {solver: deis-tab1}}
  unmeasured: {cells: {one: {}}}
cifar10: {}
card:
  samples: {gpu: true, cells: {grids: {}}}
"""


@pytest.fixture
def clone(tmp_path):
    """A clone in small with three records of one experiment."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("book/experiments", "workflow", "data/reported"):
        (tmp_path / folder).mkdir(parents=True)
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": "x = 1"}]
    (tmp_path / "book/experiments/toy.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    (tmp_path / "workflow/experiments.yml").write_text(PLAN)
    make_record(tmp_path, "ddim", {10: 12.345, 5: 31.0})
    make_record(tmp_path, "rk4", {8: 55.5}, budget={8: 10})
    make_record(tmp_path, "deis-tab1", {5: 20.0, 10: 6.0}, half=0.25)
    (tmp_path / "book/index.md").write_text("# Page\n\nText.\n")
    (tmp_path / "book/other.md").write_text("---\norphan: true\n---\n# Other\n\nText.\n")
    (tmp_path / "book/conf.py").write_text(CONF.format(extensions=str(ROOT / "book/_ext"), root=str(tmp_path)))
    return tmp_path


def make_record(root, solver, values, half=None, budget=None, metric="frechet_distance"):
    measurements = [
        results.Measurement(
            metric=metric,
            value=value,
            low=None if half is None else value - half,
            high=None if half is None else value + half,
            solver=solver,
            grid="uniform",
            nfe=nfe,
            samples=1000,
            seeds=[0, 1, 2],
            settings={"budget": (budget or {}).get(nfe, nfe)},
        )
        for nfe, value in values.items()
    ]
    where = results.Provenance(
        profile="digits",
        experiment="toy",
        cell=solver,
        parameters={"solver": solver},
        key=results.cell_key("toy", {"solver": solver}, root),
        weights={"digits-unet": "0123456789abcdef"},
        feature_net="digits-features",
        device="a processor, 1 thread (cpu)",
        python="3.11.0",
        packages={},
        revision="89abcdef01234567",
        dirty=True,
        started="2026-01-02T03:04:05+00:00",
        wall_s=1.0,
    )
    results.write(results.Record(provenance=where, measurements=measurements), root / "data/results")


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def build(root, page=None, warnings_are_errors=True):
    """Builds the book of a toy clone; gives the page as HTML, what was printed and the pages that were read."""
    if page is not None:
        (root / "book/index.md").write_text(f"# Page\n\n{page}\n")
    out, status, warning = root / "_build", io.StringIO(), io.StringIO()
    source = str(root / "book")
    read = []
    folders = (str(out), str(out / ".doctrees"))
    with docutils_namespace():
        app = Sphinx(
            source, source, *folders, "html", status=status, warning=warning, warningiserror=warnings_are_errors
        )
        app.connect("source-read", lambda app, docname, content: read.append(docname))
        app.build()
    assert not warning.getvalue(), warning.getvalue()
    return (out / "index.html").read_text("utf-8"), status.getvalue(), read


def plain(text):
    """Text with its entities read and its quotes straight."""
    return re.sub("[‘’]", "'", entities.unescape(text))


def table_text(html, kind="results"):
    """The cells of the page's tables, row by row."""
    rows = []
    for table in re.findall(rf'<table class="[^"]*{kind}[^"]*".*?</table>', html, re.S):
        for row in re.findall(r"<tr.*?</tr>", table, re.S):
            cells = re.findall(r"<t[hd].*?</t[hd]>", row, re.S)
            rows.append([re.sub(r"<[^>]*>", "", cell).strip() for cell in cells])
    return rows


# --- numbers as text


@pytest.mark.parametrize(
    ("value", "half", "digits", "text"),
    [
        (12.345, None, 3, "12.3"),
        (12.345, 0.56, 3, "12.3 ± 0.6"),
        (12.345, 0.0012, 3, "12.3 ± 0.001"),
        (1234.5, 3.2, 3, "1234 ± 3"),
        (-0.5, None, 2, "−0.50"),
        (0.0, None, 3, "0.00"),
        (1.234e-10, None, 3, "1.23×10⁻¹⁰"),
        (2e-8, 0.0143, 2, "0.000 ± 0.014"),
        (0.0, 0.04, 2, "0.000 ± 0.040"),
        (9.996e-4, None, 3, "0.00100"),
        (1.234e-10, 2e-12, 3, "(1.23 ± 0.02)×10⁻¹⁰"),
        (3e7, None, 2, "3.0×10⁷"),
    ],
)
def test_numbers_are_rounded_to_digits_and_intervals_to_the_same_place(value, half, digits, text):
    assert tables.number(value, half, digits) == text


def test_a_filter_splits_at_commas_outside_quotes():
    assert tables.parse_filter('a=1|2, "model=deep, VP", c = x') == {"a": ["1", "2"], "model": ["deep, VP"], "c": ["x"]}
    assert tables.parse_filter("") == {}
    found = record_pages.address('digits/toy/cell a=1  b=x\n "model=deep VP"')
    assert found == ("digits", "toy", {"cell": ["cell"], "a": ["1"], "b": ["x"], "model": ["deep VP"]})
    with pytest.raises(UserError, match="name=value is needed"):
        tables.parse_filter("a")


# --- the role


def test_a_number_in_the_text_is_the_records(clone):
    html, _, _ = build(clone, "It is {result}`digits/toy/deis-tab1 nfe=10 metric=frechet_distance`, not more.")
    assert re.search(r'It is <span class="result">6\.00 ± 0\.25</span>, not more', html)
    html, _, _ = build(clone, "{result}`digits/toy solver=ddim nfe=10 digits=2`")
    assert ">12</span>" in html


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{result}`digits/toy/ddim nfe=11`", "nothing with nfe=11; there is 10, 5"),
        ("{result}`digits/toy/ddim nfee=10`", "no column 'nfee'"),
        ("{result}`digits/toy/ddim`", "2 numbers; they differ in nfe"),
        ("{result}`digits/toy/ddpm nfe=10`", "nothing with cell=ddpm"),
        ("{result}`digits/tooy/ddim nfe=10`", "unknown experiment 'tooy'; did you mean toy"),
        ("{result}`digit/toy/ddim nfe=10`", "unknown profile 'digit'; did you mean digits"),
        ("{result}`digits/unmeasured/one nfe=10`", "no record; make experiments PROFILE=digits"),
        ("```{results} digits/toy\n:filter: nfe=11\n```", "nothing with nfe=11"),
        ("```{results} digits/toy\n:metric: error\n```", "nothing with metric=error"),
        ("```{results} digits/toy\n:columns: solvr\n```", "no column 'solvr'"),
        ("```{results} digits/toy\n:rows: grid\n:columns: budget\n```", "several numbers at grid=uniform, budget=5"),
        ("```{results} digits/tooy\n```", "unknown experiment 'tooy'"),
        ("```{reported} nobody\n```", "unknown file of data/reported 'nobody'"),
    ],
)
def test_what_is_not_there_fails_the_build_and_names_the_page(clone, text, complaint):
    with pytest.raises(ExtensionError, match=r"index.md:\d") as caught:
        build(clone, text, warnings_are_errors=False)
    assert complaint in str(caught.value)


def test_a_record_that_does_not_fit_fails_the_build(clone):
    (clone / "data/results/digits/toy/ddim.json").write_text("{}")
    with pytest.raises(ExtensionError, match=r"ddim.json: provenance: Field required"):
        build(clone, "```{results} digits/toy\n```")


# --- the tables


def test_a_table_shows_every_number_at_its_place(clone):
    options = ":rows: solver\n:columns: budget\n:caption: Distances\n:name: t"
    html, _, _ = build(clone, f"```{{results}} digits/toy\n{options}\n```\n\nSee {{numref}}`t`.")
    assert table_text(html) == [
        ["sampler", "NFE 5", "NFE 10"],
        ["DDIM", "31.0", "12.3"],
        ["RK4", "–", "55.5 at 8"],
        ["tAB1-DEIS", "20.0 ± 0.2", "6.00 ± 0.25"],
    ]
    assert html.count('<th scope="col"') == 3 and html.count('<th scope="row"') == 3
    assert re.search(r"<caption>.*Distances", html) and "Table 1" in html
    line = re.search(r'<p class="provenance">(.*?)</p>', html, re.S)[1]
    for part in ("a processor, 1 thread", "89abcdef+", "digits-unet 01234567", "digits-features", "1000", "0, 1, 2"):
        assert part in line
    assert "2026-01-02" in line and "make experiments PROFILE=digits" in re.sub("<[^>]*>", "", line)


def test_rows_columns_and_caption_follow_from_what_varies(clone):
    html, _, _ = build(clone, "```{results} digits/toy\n```")
    assert table_text(html)[0] == ["sampler", "NFE 5", "NFE 10"]
    assert "Fréchet distance (digits/toy)" in html
    assert "make experiments PROFILE=digits CELL=toy FORCE=1" in re.sub(r"<[^>]*>", "", html)  # three records
    html, _, _ = build(
        clone, "```{results} digits/toy\n:filter: nfe=5|10, solver=ddim\n:columns: solver\n:rows: nfe\n```"
    )
    assert table_text(html) == [["NFE", "DDIM"], ["5", "31.0"], ["10", "12.3"]]


def test_records_that_differ_in_their_cell_only_are_told_apart_by_it(clone):
    again = clone / "data/results/digits/toy/again.json"
    shutil.copy(again.with_name("ddim.json"), again)
    edit(again, '"cell": "ddim"', '"cell": "again"')
    html, _, _ = build(clone, "```{results} digits/toy\n:filter: solver=ddim\n```")
    assert [line[:2] for line in table_text(html)[1:]] == [["again", "DDIM"], ["ddim", "DDIM"]]


def test_numbers_of_one_budget_are_told_apart_by_their_nfe(clone):
    make_record(clone, "rk4", {8: 5.0, 9: 6.0}, budget={8: 10, 9: 10})
    html, _, _ = build(clone, "```{results} digits/toy\n:filter: solver=rk4\n```")
    assert table_text(html) == [["sampler", "NFE 8", "NFE 9"], ["RK4", "5.00", "6.00"]]


def test_what_was_not_run_says_so(clone):
    for place in ("cifar10/toy", "digits/unmeasured"):
        html, _, _ = build(clone, f"```{{results}} {place}\n```")
        text = re.sub("<[^>]*>", "", html)
        profile, experiment = place.split("/")
        assert f"Experiment {experiment} of profile {profile} was not run: make experiments PROFILE={profile}" in text


def test_all_results_has_a_section_for_each_profile_and_experiment(clone):
    make_record(clone, "rk4", {8: 0.5}, metric="precision")
    html, _, _ = build(clone, "```{all-results}\n```\n\n## After\n\nText.")
    text = re.sub("<[^>]*>", "", html)
    positions = [
        text.index(part) for part in ("Profile digits", "Fréchet distance (digits/toy)", "Precision (digits/toy)")
    ]
    assert positions == sorted(positions)
    assert "Profile cifar10 was not run" in text
    assert '<section id="results-digits-toy"' in html and '<section id="after"' in html


def test_a_long_table_is_folded_away(clone):
    make_record(clone, "rk4", {nfe: nfe / 7 for nfe in range(8, 50)})
    page = "```{all-results}\n```"
    html, _, _ = build(clone, page)
    assert "<details" not in html
    (clone / "data/results/digits/toy/rk4.json").unlink()
    seeds = [results.Measurement(metric="distance", value=t, settings={"t": t}) for t in range(25)]
    (made,) = [r for r in results.load("digits", "toy", clone / "data/results") if r.provenance.cell == "ddim"]
    results.write(made.model_copy(update={"measurements": seeds}), clone / "data/results")
    html, _, _ = build(clone, page)
    assert "<summary>Distance to the data (digits/toy): 25 rows</summary>" in html
    assert html.count("<details") == html.count("</details>") == 1


def test_reported_numbers_stand_with_their_source(clone):
    (clone / "data/reported/p.csv").write_text(
        "paper,table,dataset,resolution,model,sampler,order,time_grid,t_end,nfe,metric,value,std,confidence,source,note\n"
        'P,1,A,32,m,DDIM,,,,10,FID,13.36,,seed,"Q, Table 1",\n'
        "P,1,A,32,m,DDIM,,,,10,FID,13.40,.02,verified,R,\n"
        "P,1,A,32,m,DDIM,,,,100,FID,4.10,,seed,R,\n"
        "P,1,B,32,m,DDIM,,,,10,FID,9.99,,seed,R,\n"
    )
    html, _, _ = build(clone, "```{reported} p\n:filter: dataset=A\n```")
    assert table_text(html, "reported") == [
        ["sampler", "NFE 10", "NFE 100", "source"],
        ["DDIM", "13.36", "–", "Q, Table 1"],
        ["DDIM", "13.40 ± 0.02", "4.10", "R"],
    ]
    with pytest.raises(
        ExtensionError, match="several numbers at sampler=DDIM, source=R, nfe=10; they differ in dataset"
    ):
        build(clone, "```{reported} p\n```")


# --- what changes


def test_a_stale_number_is_marked_and_its_page_written_anew(clone):
    page = "{result}`digits/toy/deis-tab1 nfe=5`\n\n```{results} digits/toy\n```"
    html, _, read = build(clone, page)
    assert "index" in read and "stale" not in html
    assert build(clone)[2] == []

    with (clone / "src/fewstep/solvers/deis.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    html, status, read = build(clone)
    assert read == ["index"]
    assert '<span class="result stale">20.0 ± 0.2</span><span class="stale-note"> (stale: its notebook, code' in html
    assert ["tAB1-DEIS", "20.0 ± 0.2†", "6.00 ± 0.25†"] in table_text(html) and ["DDIM", "31.0", "12.3"] in table_text(
        html
    )
    assert "† stale: its notebook, code or weights have changed since; to be measured again" in html
    assert "stale on page index: digits/toy" in status


def test_an_edited_or_new_record_writes_its_pages_anew(clone):
    build(clone, "```{results} digits/toy\n```")
    make_record(clone, "ddim", {5: 30.0, 10: 12.345})
    html, _, read = build(clone)
    assert read == ["index"] and ["DDIM", "30.0", "12.3"] in table_text(html)
    os.remove(clone / "data/results/digits/toy/rk4.json")
    html, _, read = build(clone)
    assert read == ["index"] and len(table_text(html)) == 3


# --- pictures


def test_pictures_stand_in_a_line_for_each_sampler_with_words_for_them(clone):
    from PIL import Image

    folder = clone / "book/_static/digits"
    folder.mkdir(parents=True)
    for name in ("ddim-uniform-5", "ddim-uniform-10", "rk4-uniform-10"):
        Image.new("L", (8, 8)).save(folder / f"{name}.png")
    html, _, _ = build(clone, "```{pictures} digits/toy\n:filter: solver=ddim|rk4\n:caption: Digits\n```")
    head, ddim, rk4 = table_text(html)
    assert head[2:] == ["5 calls", "10 calls"] and ddim[0] == "DDIM" and rk4[2] == "–"
    assert 'alt="1000 samples drawn by DDIM in 10 calls on the grid uniform"' in html
    assert re.findall(r'src="(_images/[^"]+)"', html) == [
        f"_images/{name}.png" for name in ("ddim-uniform-5", "ddim-uniform-10", "rk4-uniform-10")
    ]
    (folder / "rk4-uniform-10.png").unlink()
    with pytest.raises(ExtensionError, match=r"rk4-uniform-10\.png is missing although its record is there"):
        build(clone, "```{pictures} digits/toy\n:filter: solver=rk4\n```")


def test_what_was_not_run_names_the_command(clone):
    html, _, _ = build(clone, "```{pictures} card/samples\n```\n\n```{results} digits/unmeasured\n```")
    text = re.sub("<[^>]*>", "", html)
    assert "Experiment samples of profile card was not run: make gpu\n" in text
    assert "make experiments PROFILE=digits" in text


def test_numbers_that_differ_in_their_seeds_only_are_one():
    def row(value, *seeds, **more):
        return {
            "cell": f"c{seeds}",
            "metric": "fd",
            "value": value,
            "low": None,
            "high": None,
            "seeds": [*seeds],
            **more,
        }

    other = {"solver": "ddim", "stale": None}
    rows = [row(1.0, 0, **other), row(2.0, 1, **other), row(3.0, 2, **{**other, "stale": "old"})]
    (one,) = tables.pool(rows)
    assert one["value"] == 2.0 and one["seeds"] == [0, 1, 2] and one["stale"] == "old"
    assert one["high"] - 2 == 2 - one["low"] == pytest.approx(4.3026528 / 3**0.5)  # Student's t, 2 degrees of freedom
    for apart in (
        [row(1.0, 0, **other), row(2.0, 0, **other)],
        [row(1.0, **other), row(2.0, **other)],
        [row(1.0, 0, **other), row(2.0, 1, **{**other, "solver": "rk4"})],
        [row(1.0, 0, **other), {**row(2.0, 1, **other), "low": 1.0, "high": 3.0}],
    ):
        assert tables.pool(apart) == apart


DRAWN = """```{drawn} digits/toy
:function: quality_against_nfe
:arguments: metric=frechet_distance, solvers=ddim|rk4
:caption: Drawn, with $x^2$
:alt: curves
:name: fig-toy
```

{numref}`fig-toy`
"""


def test_a_figure_is_drawn_from_the_records(clone):
    page, *_ = build(clone, DRAWN)
    text = re.sub(r"<[^>]*>", "", page)
    assert page.count('alt="curves"') == 2 and "Fig. 1" in text and "make experiments PROFILE=digits" in text
    # The line tells of the two records in the figure, not of the third.
    assert "make experiments PROFILE=digits CELL='toy/ddim toy/rk4' FORCE=1" in plain(text)
    shown = re.findall(r'class="only-(light|dark)"[^>]* src="([^"]*)"', page)
    assert [theme for theme, _ in shown] == ["light", "dark"]
    pictures = [clone / "_build" / path for _, path in shown]
    assert [plt.imread(path)[..., :3].mean() > 0.5 for path in pictures] == [True, False]
    before = [picture.read_bytes() for picture in pictures]
    make_record(clone, "rk4", {8: 5.5}, budget={8: 10})
    *_, read = build(clone)
    assert "index" in read and all(p.read_bytes() != was for p, was in zip(pictures, before, strict=True))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quality_against_nfe", "qualty_against_nfe", "did you mean quality_against_nfe"),
        ("metric=frechet_distance", "metrik=x", "figures.quality_against_nfe: .*metrik"),
        ("metric=frechet_distance", "metric=kid", "no record measures metric=kid"),
        (":alt: curves\n", "", ":alt: is needed"),
    ],
)
def test_a_figure_that_cannot_be_drawn(clone, old, new, message):
    with pytest.raises(ExtensionError, match=message):
        build(clone, DRAWN.replace(old, new))


def test_a_figure_of_what_was_not_run(clone):
    page, *_ = build(clone, DRAWN.replace("digits/toy", "card/samples").replace("{numref}`fig-toy`", ""))
    assert "was not run: make gpu" in re.sub(r"<[^>]*>", "", page)


def test_what_a_cell_that_was_not_run_would_have(clone):
    """Until all cells of an experiment have records, what is asked of them in vain is still to come."""
    more = "```{results} digits/toy\n:filter: gamma=2.0\n```\n"
    with pytest.raises(ExtensionError, match="no column 'gamma'"):
        build(clone, more)
    edit(clone / "workflow/experiments.yml", "rk4: {solver: rk4}", "rk4: {solver: rk4}, sweep: {gammas: [2.0]}")
    page, *_ = build(
        clone, more + DRAWN.replace("metric=frechet_distance", "metric=kid").replace("{numref}`fig-toy`", "")
    )
    text = re.sub(r"<[^>]*>", "", page)
    assert text.count("Experiment toy of profile digits was not run to its end: make experiments PROFILE=digits") == 2
    with pytest.raises(ExtensionError, match="did you mean quality_against_nfe"):
        build(clone, DRAWN.replace("quality_", "qualty_"))


def test_a_number_links_to_its_experiment_and_says_where_it_is_from(clone):
    edit(clone / "book/conf.py", "numfig = True", "numfig = True\nrecords_page = 'index'")
    number = "{result}`digits/toy solver=ddim budget=10`"
    page, *_ = build(clone, f"{number}\n\n## All\n\n```{{all-results}}\n```")
    link = re.search(
        r'<a class="result[^"]*" href="(?:index.html)?#(results-digits-toy-frechet-distance)" title="([^"]*)">', page
    )
    assert link and f'id="{link[1]}"' in page
    for part in (
        "a processor",
        "89abcdef+",
        "digits-unet 01234567",
        "samples 1000",
        "2026-01-02",
        "1 s",
        "make experiments PROFILE=digits CELL=toy/ddim FORCE=1",
    ):
        assert part in link[2]
