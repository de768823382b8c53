"""The guide: what is read off the tables is true, every solver has a row, deviations are real, links lead somewhere."""

from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("myst_parser")

import guide
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace

from fewstep import analysis, grids
from fewstep.errors import UserError
from fewstep.plan import difference
from fewstep.schedules import EDM, VE, BrownianVE, ContinuousVP, linear_vp
from fewstep.solvers import SOLVERS
from fewstep.solvers.coefficients import TABLEAUX
from fewstep.solvers.ddim import ddim
from fewstep.solvers.deis import rho_ab, rho_rk
from fewstep.solvers.gradient_estimation import ge
from fewstep.solvers.pndm import ipndm

ROOT = Path(__file__).resolve().parents[1]

VP = ContinuousVP()


def middle(process, n):
    """From ρ = 10 to ρ = 0.1: where a start of low order shows."""
    return grids.quadratic(process, n, t_start=process.t_of_rho(10.0), t_end=process.t_of_rho(0.1))


# --- what a table tells -----


def test_which_samplers_coincide():
    """The table of equalities: on every grid, on equal steps in ρ or in λ, and where the clock is ρ or its square."""
    always = [{"ddim", "ei-eps", "ipndm-1", "deis-tab0", "deis-rhoab0"}, {"edm-heun", "deis-rhork-heun"}]
    always += [{"dpm-solver-2", "dpm2"}]
    for process in (linear_vp(), VP, VE(), BrownianVE(), EDM()):
        for spacing in (grids.uniform, grids.rho7, analysis.uniform_rho):
            found = [set(group) for group in analysis.classes(analysis.on_grid(process, 24, spacing))]
            for group in always:
                assert any(group <= other for other in found), (process, spacing, group)
            for k in (2, 3, 4) if spacing is analysis.uniform_rho else ():
                assert any({f"ipndm-{k}", f"deis-rhoab{k - 1}"} <= other for other in found), (process, k)
            if isinstance(process, EDM):
                for group in ({"ddim", "euler"}, {"rk4", "pndm-prk", "deis-rhork-rk4"}, {"fon", "pndm-f"}):
                    assert any(group <= other for other in found), (spacing, group)
            if isinstance(process, VE):
                assert any({"deis-tab3", "deis-lambdaab3"} <= other for other in found), spacing
            if isinstance(process, BrownianVE):
                assert any({"euler", "ei-score"} <= other for other in found), spacing
    found = [set(group) for group in analysis.classes(analysis.on_grid(VP, 24, grids.uniform_lambda))]
    assert any({"ipndm-2", "dpm-solver-2m"} <= group for group in found)


def test_equal_tables_are_far_from_unequal_ones():
    """No two solvers are nearly equal: rounding ends four decades below the tolerance, differences begin four above."""
    for process in (linear_vp(), VP, EDM()):
        for spacing in (grids.uniform, grids.quadratic):
            for distance in analysis.distances(analysis.on_grid(process, 24, spacing)).values():
                assert not 1e-4 * analysis.ROUNDING < distance < 1e3 * analysis.ROUNDING


def test_distances_are_relative_differences():
    times = grids.rho7(VP, 8)
    plans = {"a": ddim(VP, times), "b": rho_ab(VP, times, 1), "c": ddim(VP, grids.uniform(VP, 8))}
    found = analysis.distances(plans)
    largest = max(np.abs(plans[k].canonical().C).max() for k in "ab")
    assert list(found) == [("a", "b")]
    assert found["a", "b"] == pytest.approx(difference(plans["a"], plans["b"]) / largest)
    assert analysis.classes(plans) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("method", TABLEAUX)
def test_the_tableau_of_one_step_is_its_own(method):
    """One ρRK step is the Runge–Kutta method whose tableau it was given, on any process."""
    tableau = TABLEAUX[method]
    times = VP.t_of_rho(np.array([2.0, 0.5]))
    u, A, b, a = analysis.tableau(rho_rk(VP, times, method))
    np.testing.assert_allclose(u, tableau.c, atol=1e-12)
    np.testing.assert_allclose(b, tableau.b, atol=1e-12)
    for row, want in zip(A[1:], tableau.a, strict=True):
        np.testing.assert_allclose(row[: len(want)], want, atol=1e-12)
    np.testing.assert_allclose(a, 1.0, rtol=1e-12)


def test_trees_are_butchers_conditions():
    """Each method's defects vanish up to its order and not beyond."""
    sizes = np.array([nodes for nodes, _, _ in analysis.TREES.values()])
    for method, tableau in TABLEAUX.items():
        found = analysis.defects(rho_rk(EDM(), np.array([1.0, 0.0001]), method))
        assert found[sizes <= tableau.order].max() < 1e-12
        if tableau.order < 4:
            assert found[sizes == tableau.order + 1].max() > 1e-3


@pytest.mark.parametrize(
    ("name", "rate"),
    [("ddim", 1), ("deis-rhoab1", 2), ("deis-rhoab3", 2), ("ipndm-4", 2), ("dpmpp-2m", 2), ("deis-rhork-kutta3", 3)],
)
def test_the_order_is_in_the_table(name, rate):
    """The largest defect falls at the rate of the order that the registry states, without any model being run."""
    solver = SOLVERS[name]
    assert solver.order == rate
    plans = [analysis.on_grid(VP, n, middle, [name])[name] for n in (96, 192)]
    coarse, fine = (analysis.defects(plan).max() for plan in plans)
    assert abs(np.log(coarse / fine) / np.log(plans[1].nfe / plans[0].nfe) - rate) < 0.2


def test_the_first_step_alone_decides_the_second_condition():
    """ρAB1 to ρAB3 miss ∫u by the same amount: all their later steps are exact for polynomials of degree one."""
    column = list(analysis.TREES).index("∫u")
    found = [analysis.defects(rho_ab(VP, middle(VP, 40), k))[column] for k in (1, 2, 3)]
    np.testing.assert_allclose(found, found[0], rtol=1e-9)
    assert found[0] > 1e-3


def test_shares_of_a_step():
    """ρAB's shares are Adams' on equal steps, and satisfy the conditions that its degree promises from then on."""
    times = np.linspace(9.0, 1.0, 9)
    w, theta = analysis.shares(rho_ab(EDM(), times, 2), times)
    np.testing.assert_allclose(w[4, 2:5], [5 / 12, -16 / 12, 23 / 12], rtol=1e-12)
    for power in (0, 1, 2):
        np.testing.assert_allclose((w * theta**power).sum(1)[2:], 1 / (power + 1), rtol=1e-11)
    assert abs((w * theta).sum(1)[0] - 0.5) > 0.1  # the first step is DDIM's
    heun, _ = analysis.shares(rho_rk(EDM(), times, "heun"), times)
    np.testing.assert_allclose(heun.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.sort(heun, axis=1)[:, -2:], 0.5, rtol=1e-12)


def test_shares_refuse_a_grid_that_is_not_the_plans():
    with pytest.raises(UserError, match=r"does not call the network at t = 8\.5"):
        analysis.shares(ddim(EDM(), np.array([9.0, 8.0, 1.0])), np.array([9.0, 8.5, 1.0]))


def test_amplification():
    """1 where no weight is negative; ipndm-4 on four steps by hand."""
    times = np.linspace(9.0, 1.0, 5)
    assert analysis.amplification(ddim(EDM(), times)) == pytest.approx(1.0, rel=1e-14)
    assert analysis.amplification(ge(EDM(), times[:3], gamma=4.0)) == pytest.approx((abs(1 - 3) + 4) / 2)
    b = np.array([1.0 - 1 / 2 + 5 / 12 - 9 / 24, 3 / 2 - 16 / 12 + 37 / 24, 23 / 12 - 59 / 24, 55 / 24])
    assert analysis.amplification(ipndm(EDM(), times)) == pytest.approx(np.abs(b).sum() / b.sum(), rel=1e-12)


def test_a_stochastic_plan_has_no_tableau():
    with pytest.raises(UserError, match="only a deterministic plan"):
        analysis.tableau(ddim(VP, grids.uniform(VP, 4), eta=1.0))


# --- the pages -----

CONF = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_parser", "records", "guide"]
records_root = {root!r}
html_theme = "basic"
nitpicky = True
nitpick_ignore_regex = [("py:func", ".*")]
"""


@pytest.fixture
def book(tmp_path):
    """A book in small on the project's own data; the page is written by the test."""
    (tmp_path / "book").mkdir()
    for name in ("src", "data", "tests", "workflow"):
        os.symlink(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "book" / "experiments", tmp_path / "book" / "experiments")
    (tmp_path / "book/conf.py").write_text(CONF.format(extensions=str(ROOT / "book/_ext"), root=str(tmp_path)))

    def build(page: str) -> str:
        (tmp_path / "book/index.md").write_text(page)
        warnings = io.StringIO()
        with docutils_namespace():
            app = Sphinx(
                tmp_path / "book", tmp_path / "book", tmp_path / "out", tmp_path / "trees", "html",
                status=None, warning=warnings, freshenv=True,
            )  # fmt: skip
            app.build()
        assert not warnings.getvalue(), warnings.getvalue()
        return (tmp_path / "out/index.html").read_text()

    return build


def rows(html: str) -> dict[str, str]:
    """The rows of the page's tables by the text of their first cell."""
    found = {}
    for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL):
        cells = [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        found[cells[0]] = " | ".join(cells[1:])
    return found


def test_every_solver_has_a_row(book):
    page = (
        "# Guide\n\n```{field-guide} methods\n```\n\n```{tests} mathematics\n```\n\n```{tests} tests/replay/*.py\n```\n"
    )
    found = rows(book(page))
    for solver in SOLVERS.values():
        assert solver.name in found[solver.title], solver.name
    assert "| 1 | n | no | 2 |" in found["DDIM"] and "| – | n | yes |" in found["DDPM"]
    assert "replays" not in found["Euler"] and "score-sde" in found["Euler–Maruyama"]
    assert "n\u00a0+\u00a09" in found["F-PNDM"] and "replays: " in found["F-PNDM"] and "pndm" in found["F-PNDM"]


def test_errors_come_from_the_records(book):
    found = rows(book("# Guide\n\n```{field-guide} errors\n:process: vp\n:budgets: 10, 20, 7\n```\n"))
    assert set(found) >= {solver.title for solver in SOLVERS.values()}  # nothing is hidden
    assert re.match(r"\w+ \| \w+ \| \S+ \| \S+ \| –$", found["DDIM"].replace("†", "")), found["DDIM"]
    assert found["tAB0-DEIS"] == found["DDIM"].replace(" |", ", as DDIM |", 1)
    assert found["DDPM"].startswith("stochastic")


def test_reported_numbers_are_the_files(book):
    found = rows(book("# Guide\n\n```{field-guide} reported\n```\n"))
    assert set(found) >= {solver.title for solver in SOLVERS.values()}
    assert found["DDIM"].startswith("DDPM | – | 13.36 | 6.84 | 4.67 | 4.16 at 100")
    assert found["Euler"].startswith("no number at hand")


def test_a_deviation_shows_its_size(book):
    page = "# Page\n\n```{deviation} deis-table\n```\n"
    found = rows(book(page))
    assert set(found) >= {"program against paper", "paper against the exact solution"}
    with pytest.raises(ExtensionError, match="unknown deviation 'deis-tabel'; did you mean deis-table"):
        book("# Page\n\n```{deviation} deis-tabel\n```\n")


def test_every_deviation_is_one():
    """Each differs from the paper by more than rounding at some count."""
    import deviations

    for key in deviations.DEVIATIONS:
        sizes = [size for size in deviations.measured(key).difference.values() if np.isfinite(size)]
        assert sizes and 1e-9 < max(sizes) < 10, key


def test_every_deviation_has_its_section():
    import deviations

    page = (ROOT / "book/disagreements.md").read_text()
    assert re.findall(r"^\(dev-(.*)\)=$", page, re.MULTILINE) == list(deviations.DEVIATIONS)
    assert re.findall(r"^```\{deviation\} (.*)$", page, re.MULTILINE) == list(deviations.DEVIATIONS)


def test_a_link_to_a_test_that_is_not_there_fails(book):
    with pytest.raises(ExtensionError, match="unknown test 'test_ordr'"):
        book("# Page\n\n{test}`tests/test_solvers.py::test_ordr`\n")


def test_the_map_of_reported_numbers_is_of_registered_solvers():
    import yaml

    for name, choices in yaml.safe_load((ROOT / "data/reported/by_solver.yml").read_text()).items():
        assert name in SOLVERS
        assert all(set(choice) == {"network", "file", "where"} for choice in choices)


def test_what_the_registry_says_of_noise_and_storage():
    assert guide.stochastic("ddpm") and not guide.stochastic("ddim")
    assert guide.example("pndm-f").slots == 8 and guide.example("ddim").slots == 2
    assert guide.calls(SOLVERS["pndm-f"]) == "n\u00a0+\u00a09" and guide.calls(SOLVERS["edm-heun"]) == "2\u00a0n"
