"""The ledger of claims: every check exists, every outcome on the page follows from the records."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("myst_parser")

import claims
import guide
from ledger import ByTest, Checker, Falling, Least, Less, Order, Verdict, Within, combine, ends, less, read, within
from scipy import stats
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace
from test_records_ext import make_record

from fewstep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

LEDGER = read(ROOT / "data" / "claims.yml")
CHECKS = [(claim.id, check) for claim in LEDGER.claims for check in claim.checks]

# --- the ledger of the project -----


def test_the_papers_are_there_with_their_claims():
    counts = Counter(claim.paper for claim in LEDGER.claims)
    assert counts.total() >= 40 and min(counts[paper] for paper in LEDGER.papers) >= 6
    entries = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text("utf-8"), re.MULTILINE)
    assert set(LEDGER.papers) <= set(entries)
    page = (ROOT / "book/claims.md").read_text("utf-8")
    assert re.findall(r"^:paper: (.*)$", page, re.MULTILINE) == list(LEDGER.papers)


def test_every_test_that_is_named_is_run_by_make_test():
    """Collected with the options of the project, which leave slow tests out."""
    named = {check.test for _, check in CHECKS if isinstance(check, ByTest)}
    files = sorted({test.partition("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *files]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    collected = set(done.stdout.splitlines())
    known = collected | {test.partition("[")[0] for test in collected}
    assert len(named) > 40 and named <= known, named - known


def test_every_link_to_a_test_has_its_place_in_the_book():
    page = (ROOT / "book/api/tests.md").read_text("utf-8")
    shown = {f"tests/{path.name}" for path in guide.mathematics(ROOT)}
    shown |= set(re.findall(r"^```\{tests\} (tests/test_\w+\.py)$", page, re.MULTILINE))
    assert {check.test.partition("::")[0] for _, check in CHECKS if isinstance(check, ByTest)} <= shown


def test_every_number_has_its_problem():
    checker = Checker(ROOT)
    problems = set()
    for claim in LEDGER.claims:
        for finding in checker.findings(claim):
            if finding.rows:
                problems.add(claims.problem(finding.rows[0]))
    assert problems <= {"Gaussian mixture", "ideal denoiser", "network"} and len(problems) == 3


@functools.cache
def measurements(place: str) -> list[dict]:
    """The measurements of an experiment straight from its files."""
    found = []
    for path in sorted((ROOT / "data" / "results" / place).glob("*.json")):
        for one in json.loads(path.read_text("utf-8"))["measurements"]:
            found.append({"cell": path.stem, **one, **one["settings"]})
    return found


def plain(text):
    """The measurements at an address, without the book's own reader."""
    name, *words = text.split(" ")
    profile, experiment, *cell = name.split("/")
    wanted = [word.split("=") for word in words] + [["cell", one] for one in cell]

    def same(found, text):
        return math.isclose(found, float(text), rel_tol=1e-6) if isinstance(found, int | float) else found == text

    rows = measurements(f"{profile}/{experiment}")
    found = [row for row in rows if all(row.get(name) is not None and same(row[name], value) for name, value in wanted)]
    return over_seeds(found)


def over_seeds(rows):
    """Rows of one seed each, where all else is the same, as one with its interval."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        apart = ("cell", "value", "low", "high", "seeds")
        groups.setdefault(json.dumps({k: v for k, v in row.items() if k not in apart}, sort_keys=True), []).append(row)
    found = []
    for same in groups.values():
        values = [row["value"] for row in same]
        if len(same) == 1 or any(row["low"] is not None for row in same):
            found += same
            continue
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        mean = sum(values) / len(values)
        found.append({**same[0], "value": mean, "low": mean - half, "high": mean + half})
    return found


def below(left, right):
    """1 if the left interval lies below the right one, −1 if above, 0 if they overlap."""
    a, b = ([one["value"] if one["low"] is None else one[end] for end in ("low", "high")] for one in (left, right))
    return 1 if a[1] < b[0] else -1 if a[0] > b[1] else 0


def outcome(check) -> set[int]:
    """1, 0 and −1 as in :func:`below`, of each comparison of a check; none where a number is missing."""
    if isinstance(check, ByTest):
        return {1}
    if isinstance(check, Order):
        return {1 if row["value"] >= check.at_least - 0.25 else -1 for row in plain(check.of)}
    if isinstance(check, Falling):
        rows = sorted(plain(check.of), key=lambda row: row[check.over])
        return {below(after, before) for before, after in pairwise(rows)}
    if isinstance(check, Least):
        name, value = check.at.split("=")
        rows = plain(check.of)
        (at,) = [row for row in rows if row[name] == float(value)] or [None]
        return {min(below(at, row) for row in rows if row is not at)} if at else set()
    left = plain(check.left)
    right = plain(check.right) if isinstance(check.right, str) else [{"value": check.right, "low": None, "high": None}]
    if not left or not right:
        return set()
    assert len(left) == len(right) == 1
    if isinstance(check, Less):
        return {below(left[0], right[0])}
    (low, high), (least, most) = ((one["low"] or one["value"], one["high"] or one["value"]) for one in left + right)
    if least > 0 and low > 0 and max(high / least, most / low) <= check.ratio:
        return {1}
    return {-1 if max(low / most, least / high) > check.ratio else 0}


def words(found: set[int]) -> str:
    if not found:
        return "not run"
    if found == {1}:
        return "holds"
    if found == {0}:
        return "undecided"
    return "holds in part" if 1 in found else "does not hold here"


def test_the_page_says_what_the_records_say(book):
    page = "".join(f"```{{claims}}\n:paper: {paper}\n```\n\n" for paper in LEDGER.papers)
    html = book(ROOT, "# Claims\n\n```{claims}\n```\n\n" + page)
    rows = dict(re.findall(r'id="claim-([\w-]+)"(.*?)</tr>', html, re.DOTALL))
    assert list(rows) == [claim.id for claim in LEDGER.claims]
    totals: Counter[str] = Counter()
    for claim in LEDGER.claims:
        expected = words(set().union(*map(outcome, claim.checks)))
        found = re.search(r'class="verdict [\w-]+">([^<]*)<', rows[claim.id])
        assert found is not None and found[1] == expected, claim.id
        totals[expected] += 1
    last = re.findall(r"<tr.*?</tr>", html[: html.index("claim-")], re.DOTALL)
    total = next(row for row in last if "<p>all</p>" in row)
    assert [int(n) for n in re.findall(r"<p>(\d+)</p>", total)] == [
        len(LEDGER.claims),
        *(totals[str(verdict)] for verdict in Verdict),
    ]


# --- the rules -----


def row(value, half=None):
    return {
        "value": value,
        "low": None if half is None else value - half,
        "high": None if half is None else value + half,
    }


def test_intervals_that_overlap_decide_nothing():
    assert less(row(1.0, 0.4), row(2.0, 0.4)) == Verdict.HOLDS
    assert less(row(1.0, 0.6), row(2.0, 0.6)) == less(row(1.0), row(1.0)) == Verdict.OPEN
    assert less(row(2.0, 0.4), row(1.0)) == Verdict.FAILS
    assert within(row(1.0), row(1.4), 1.5) == within(row(1.4), row(1.0), 1.5) == Verdict.HOLDS
    assert within(row(1.0, 0.2), row(1.4, 0.2), 1.5) == Verdict.OPEN
    assert within(row(1.0, 0.1), row(2.0, 0.1), 1.5) == Verdict.FAILS
    assert within(row(0.1, 0.2), row(0.1, 0.2), 100.0) == Verdict.OPEN  # either may be zero


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ("", "NOT_RUN"),
        ("NOT_RUN NOT_RUN", "NOT_RUN"),
        ("HOLDS NOT_RUN", "HOLDS"),
        ("HOLDS OPEN", "PART"),
        ("HOLDS FAILS", "PART"),
        ("PART FAILS", "PART"),
        ("OPEN OPEN", "OPEN"),
        ("OPEN FAILS", "FAILS"),
        ("FAILS NOT_RUN", "FAILS"),
    ],
)
def test_checks_together(verdicts, together):
    assert combine(Verdict[name] for name in verdicts.split()) == Verdict[together]


# --- a ledger in small -----

PLAN = "digits:\n  toy: {cells: {ddim: {solver: ddim}, rk4: {solver: rk4}}}\n  later: {cells: {one: {}}}\n"
HEAD = "papers: {a: Paper A}\nclaims:\n- {id: one, paper: a, where: §1, claim: 'It is $x$.', checks: ["
CONF = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_parser", "sphinx.ext.mathjax", "claims"]
records_root = {root!r}
html_theme = "basic"
suppress_warnings = ["ref.ref"]
"""


@pytest.fixture
def toy(tmp_path):
    """A clone in small with two records."""
    root = tmp_path / "clone"
    for folder in ("book/experiments", "workflow", "data/reported"):
        (root / folder).mkdir(parents=True)
    for name in ("src", "tests"):
        (root / name).symlink_to(ROOT / name)
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": "x = 1"}]
    (root / "book/experiments/toy.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    (root / "workflow/experiments.yml").write_text(PLAN)
    (root / "data/reported/paper.csv").write_text("sampler,model,nfe,dataset,metric,value,std\nDDIM,,10,set,FID,4.5,\n")
    make_record(root, "ddim", {5: 20.0, 10: 12.0, 20: 11.9}, half=0.5)
    make_record(root, "rk4", {5: 30.0, 10: 6.0}, half=1.0)
    return root


def ledger(root, checks, more="]}"):
    (root / "data/claims.yml").write_text(HEAD + checks + more + "\n")
    return root


@pytest.fixture
def book(tmp_path):
    def build(root, page: str) -> str:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / "conf.py").write_text(CONF.format(extensions=str(ROOT / "book/_ext"), root=str(root)))
        (source / "index.md").write_text(page)
        warnings = io.StringIO()
        with docutils_namespace():
            out, trees = tmp_path / "out", tmp_path / "trees"
            app = Sphinx(source, source, out, trees, "html", status=None, warning=warnings, freshenv=True)
            app.build()
        assert not warnings.getvalue(), warnings.getvalue()
        return (out / "index.html").read_text("utf-8")

    return build


def at(solver, nfe, more=""):
    return f"digits/toy solver={solver} nfe={nfe}{more}"


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (Less(kind="less", left=at("ddim", 5), right=at("rk4", 5)), "HOLDS"),
        (Less(kind="less", left=at("ddim", 10), right=at("rk4", 10)), "FAILS"),
        (Less(kind="less", left=at("rk4", 10), right=7.5), "HOLDS"),
        (Less(kind="less", left=at("rk4", 10), right=6.5), "OPEN"),
        (Less(kind="less", left="digits/later nfe=5", right=at("rk4", 10)), "NOT_RUN"),
        (Within(kind="within", left=at("ddim", 10), right=at("ddim", 20), ratio=1.2), "HOLDS"),
        (Falling(kind="falling", of="digits/toy/rk4", over="nfe"), "HOLDS"),
        (Falling(kind="falling", of="digits/toy/ddim", over="nfe"), "PART"),
        (Least(kind="least", of="digits/toy nfe=5", at="solver=ddim"), "HOLDS"),
        (Least(kind="least", of="digits/toy/ddim", at="nfe=20"), "OPEN"),
        (Least(kind="least", of="digits/toy/ddim", at="nfe=5"), "FAILS"),
    ],
)
def test_a_check_is_what_the_records_say(toy, check, verdict):
    assert Checker(toy).find(check).verdict == Verdict[verdict]


def test_seeds_of_several_cells_are_one_number(toy, book):
    plan = PLAN.replace("rk4: {solver: rk4}", "rk4: {solver: rk4}, more: {solver: ddim}, last: {solver: ddim}")
    (toy / "workflow/experiments.yml").write_text(plan)
    text = (toy / "data/results/digits/toy/ddim.json").read_text()
    for seed, (cell, values) in enumerate({"ddim": (20.0, 7.0), "more": (21.0, 6.0), "last": (22.0, 5.9)}.items()):
        record = json.loads(text)
        record["provenance"]["cell"] = cell
        for one, value in zip(record["measurements"], values, strict=False):
            one |= {"value": value, "low": None, "high": None, "seeds": [seed]}
        del record["measurements"][2:]
        (toy / f"data/results/digits/toy/{cell}.json").write_text(json.dumps(record))
    checker = Checker(toy)
    (number,) = checker.number(at("ddim", 5))
    half = 4.302652730 / 3**0.5  # t of two degrees of freedom; the deviation of 20, 21, 22 is 1
    assert ends(number) == pytest.approx((21 - half, 21 + half))
    assert checker.find(Less(kind="less", left=at("ddim", 5), right=at("rk4", 5))).verdict == Verdict.HOLDS
    # 6.3 ± 1.5 against 6 ± 1.
    assert checker.find(Less(kind="less", left=at("ddim", 10), right=at("rk4", 10))).verdict == Verdict.OPEN
    (one,) = checker.number("digits/toy/ddim solver=ddim nfe=5")
    assert ends(one) == (20, 20)
    ledger(toy, f"{{kind: less, left: {at('ddim', 5)}, right: {at('rk4', 5)}}}")
    html = book(toy, "# Page\n\n```{claims}\n:paper: a\n```\n")
    assert "21.0 ± 2.5" in html.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ("{kind: less, left: digits/toy solver=ddim, right: 1.0}", "claim one: digits/toy solver=ddim: 3 numbers"),
        ("{kind: less, left: digits/toy nfe=7, right: 1.0}", "nothing with nfe=7"),
        ("{kind: less, left: digits/toi nfe=5, right: 1.0}", "unknown experiment of profile digits 'toi'"),
        ("{kind: less, left: digit/toy nfe=5, right: 1.0}", "unknown profile 'digit'"),
        ("{kind: less, left: toy, right: 1.0}", "profile/experiment or profile/experiment/cell is needed"),
        ("{kind: falling, of: digits/toy, over: nfe}", "one for each of several values of nfe"),
        ("{kind: falling, of: digits/toy, over: gamma}", "no column 'gamma'"),
        ("{kind: least, of: digits/toy/ddim, at: nfe=7}", "nothing with nfe=7"),
        ("{kind: order, of: digits/toy solver=rk4 nfe=5, at_least: 2}", "an order needs metric=order"),
        ("{test: 'tests/test_plan.py::test_nothing'}", "unknown test of tests/test_plan.py 'test_nothing'"),
        ("{test: 'tests/test_nowhere.py::test_x'}", "unknown test of tests/test_nowhere.py"),
    ],
)
def test_what_is_not_there_fails_the_build(toy, book, checks, says):
    with pytest.raises(ExtensionError) as error:
        book(ledger(toy, checks), "# Page\n\n```{claims}\n:paper: a\n```\n")
    assert says in str(error.value) and "index.md:3" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEAD + "{kind: les, left: a, right: b}]}", "claims.0.checks.0: Input tag 'les'"),
        (HEAD + "{kind: less, left: a}]}", "claims.0.checks.0.less.right: Field required"),
        (HEAD + "{test: test_x}]}", "claims.0.checks.0.test.test: String should match"),
        (HEAD + "7]}", "claims.0.checks.0: "),
        (HEAD + "], colour: red}", "claims.0.colour: Extra inputs"),
        (HEAD.replace("paper: a,", "paper: b,") + "]}", "unknown paper 'b'"),
        (HEAD + "]}\n- {id: one, paper: a, where: §2, claim: It is.}", "2 claims have the id 'one'"),
        ("papers: {a: [", "not YAML"),
        ("", "the document: "),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, content, says):
    path = tmp_path / "claims.yml"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert says in str(error.value) and str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_claim_stands_with_its_numbers_and_a_stale_one_is_struck(toy, book):
    checks = (
        f"{{kind: less, left: {at('ddim', 5)}, right: {at('rk4', 5)}}}, {{kind: less, left: digits/later, right: 2.0}}"
    )
    page = "# Page\n\n```{claims}\n:paper: a\n```\n"
    html = book(ledger(toy, checks, "], reported: ['paper nfe=10']}"), page)
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "uniform, 5 calls; Fréchet distance: 20.0 ± 0.5 (DDIM), 30.0 ± 1.0 (RK4) holds" in text
    assert "1 of 2 checks run" in text and "DDIM, 10 calls, set: FID 4.5" in text and "stale" not in html
    assert "digits, later : make experiments PROFILE=digits not run".replace(" :", ":") in text
    (toy / "workflow/experiments.yml").write_text(PLAN.replace("rk4: {solver: rk4}", "rk4: {solver: rk4, n: 1}"))
    html = book(toy, page)
    assert re.findall(r'<span class="stale">([^<]*)<', html) == ["30.0 ± 1.0"]
    assert "its parameters have changed since" in html


def test_an_unknown_paper_is_named(toy, book):
    with pytest.raises(ExtensionError, match="unknown paper 'b'"):
        book(ledger(toy, ""), "# Page\n\n```{claims}\n:paper: b\n```\n")
