"""What the interactive figures draw from: plans that a few lines can run, and the records' numbers."""

from __future__ import annotations

import html.parser
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep import exact, explore, figures, results, run
from fewstep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def shipped():
    """The data as a browser reads them, at one budget."""
    return json.loads(json.dumps(explore.tables([13])))


def eps(problem, x, level):
    """ε* of the shipped mixture at one point, from its definition as −σ ∇ log p."""
    _, alpha, sigma = level
    v = alpha**2 * problem["std"] ** 2 + sigma**2
    offset = x - alpha * np.array(problem["means"])
    p = np.array(problem["weights"]) * np.exp(-((offset**2).sum(1) - (offset**2).sum(1).min()) / (2 * v))
    return sigma * (p / p.sum()) @ offset / v


def execute(plan, shipped, sample):
    """All states of a sample: what the page's script does."""
    noises = [np.array(draw[sample]) for draw in shipped["noises"]]
    states, outputs = [np.array(shipped["starts"][sample])], []
    for row in [*plan["rows"], None]:
        while len(outputs) < len(plan["inputs"]) and plan["inputs"][len(outputs)] == len(states) - 1:
            level = shipped["levels"][plan["levels"][len(outputs)]]
            outputs.append(eps(shipped["problem"], states[-1], level))
        if row is not None:
            terms = zip(row[::3], row[1::3], row[2::3], strict=True)
            states.append(sum(c * (states, outputs, noises)[kind][index] for kind, index, c in terms))
    return states


@pytest.mark.parametrize("choice", explore.CHOICES, ids=lambda choice: choice.solver)
def test_shipped_plans_lead_where_the_package_leads(shipped, choice):
    keys = [key for key in shipped["plans"] if key.split("|")[0] == choice.solver]
    assert len(keys) == len(choice.values or (None,)) * len(explore.GRIDS)
    made = dict(explore.plans([13]))
    for key in keys:
        if key.split("|")[2] not in ("quadratic", "uniform-lambda"):
            continue
        expected = run.sample(made[key], explore.problem(), explore.starts(), seed=explore.SEED, dtype=torch.float64)
        for sample in (0, 5, 11):
            found = execute(shipped["plans"][key], shipped, sample)[-1]
            np.testing.assert_allclose(found, expected[sample], rtol=1e-9, atol=1e-9, err_msg=key)


def test_every_plan_starts_and_ends_where_the_exact_paths_do(shipped):
    problem = explore.problem()
    process = problem.process
    for plan in shipped["plans"].values():
        first, last = (shipped["levels"][plan["levels"][i]][0] for i in (0, -1))
        assert (first, last) == pytest.approx((process.t_max, process.t_end), rel=1e-9)
    ends = np.array(shipped["exact"])[:, -1]
    np.testing.assert_allclose(ends, exact.solution(problem, explore.starts(), process.t_max, process.t_end), atol=1e-9)


def test_contours_are_lines_of_equal_density(shipped):
    problem = explore.problem()
    for lines in shipped["problem"]["contours"]:
        points = torch.tensor([c for flat in lines for c in flat]).view(-1, 2).double()
        density = problem.log_density(points, torch.tensor(-1.0))
        # Linear interpolation in squares of side h = 0.04 misses by about h²/8 of the second derivative, 1/s² = 25.
        assert density.exp().std() < 0.02 * density.exp().max() + 0.01


def test_choices_that_are_the_same_sampler_have_the_same_shipped_states(shipped):
    def ends(key):
        return np.array([execute(shipped["plans"][key], shipped, sample)[-1] for sample in range(3)])

    for a, b in (("ddim|0", "deis-tab0|"), ("ddim|1", "ddpm-beta-tilde|"), ("ge|1.5", "ipndm-2|")):
        for grid in explore.GRIDS:
            np.testing.assert_allclose(ends(f"{a}|{grid}|13"), ends(f"{b}|{grid}|13"), atol=1e-10)
    assert not np.allclose(ends("ddim|0|quadratic|13"), ends("deis-tab1||quadratic|13"), atol=1e-3)


def test_a_budget_that_is_too_small_ships_no_plan():
    assert not [key for key, _ in explore.plans([4]) if key.startswith("pndm-f")]


def test_quality_shows_the_records_numbers_on_the_solvers_own_grids():
    records = results.load("digits", "frechet")
    found = explore.quality(records, 5.0)
    rows = results.table(records, metric="frechet_distance")
    assert set(found["solvers"]) == {row["solver"] for row in rows}
    assert {name for names in found["families"].values() for name in names} <= set(found["solvers"])
    for name, solver in found["solvers"].items():
        mine = {row["nfe"]: row["value"] for row in rows if (row["solver"], row["grid"]) == (name, solver["grid"])}
        assert {nfe: value for nfe, value, *_ in solver["points"]} == mine
        assert solver["color"] == figures.MARKS[name].color
        assert solver["marker"]["path"].startswith("M")
    outlines = {figures.MARKS[name].marker: solver["marker"]["path"] for name, solver in found["solvers"].items()}
    assert len(set(outlines.values())) == len(outlines)
    json.dumps(found, allow_nan=False)


def test_nothing_measured_is_said_in_one_line():
    with pytest.raises(UserError, match="no record measures a Fréchet distance"):
        explore.quality([], 5.0)


# --- the pictures that stand in for them -----------------------------------------------------------------------------


def test_paths_end_where_the_sampler_ends():
    plan = dict(explore.plans([6]))["ddim|0|quadratic|6"]
    figure = figures.paths({"DDIM": plan}, explore.problem(), explore.starts(), explore.EDGE)
    (ax,) = figure.axes
    ends = np.array([line.get_xydata()[-1] for line in ax.get_lines() if len(line.get_xydata()) == plan.nfe + 1])
    expected = run.sample(plan, explore.problem(), explore.starts(), dtype=torch.float64)
    np.testing.assert_allclose(ends, expected, atol=1e-12)


def test_difference_of_a_sampler_and_itself_is_empty_and_of_two_is_not():
    plans = dict(explore.plans([8]))
    ddim, other = plans["ddim|0|uniform|8"], plans["deis-tab1||uniform|8"]
    for second, most in ((ddim, 0.0), (other, 0.1)):
        axes = figures.canonical_difference(("a", ddim), ("b", second)).axes
        shown = [np.ma.filled(ax.images[0].get_array(), 0.0) for ax in axes]  # no weight is drawn as nothing
        np.testing.assert_allclose(shown[2], shown[0] - shown[1], atol=1e-15)
        assert abs(shown[2]).max() >= most and (most > 0 or not shown[2].any())
    with pytest.raises(UserError, match="8 and 7"):
        figures.canonical_difference(("a", ddim), ("b", plans["edm-heun||uniform|8"]))


# --- the directive ---------------------------------------------------------------------------------------------------

CONF = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_parser", "records", "interactive"]
html_theme = "basic"
from fewstep import explore
explore.tables = lambda: {{"title": "</script>", "plans": {{}}}}
"""


class Scripts(html.parser.HTMLParser):
    """The scripts of a page: addresses, and data by id."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.data, self.inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = dict(attributes).get("id") if tag == "script" else None
        self.addresses += [value for name, value in attributes if tag == "script" and name == "src"]

    def handle_data(self, data):
        if self.inside:
            self.data[self.inside] = self.data.get(self.inside, "") + data


def build(folder, page):
    (folder / "conf.py").write_text(CONF.format(extensions=str(ROOT / "book" / "_ext")))
    (folder / "index.md").write_text(page)
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", str(folder), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_data_and_scripts_are_in_the_page_and_each_script_once(tmp_path):
    figures = "".join(f"```{{interactive}} {name}\n```\n\n" for name in ("trajectories", "matrices"))
    done = build(tmp_path, f"# Page\n\n{figures}")
    assert done.returncode == 0, done.stderr
    page = Scripts((tmp_path / "out/index.html").read_text())
    assert json.loads(page.data["explore-trajectories"]) == {"title": "</script>", "plans": {}}
    scripts = [address for address in page.addresses if "explore/" in address]
    assert scripts == [f"_static/explore/{name}.js" for name in ("core", "trajectories", "matrices")]
    assert all((tmp_path / "out" / address).is_file() for address in scripts)


def test_an_unknown_figure_fails_the_build(tmp_path):
    done = build(tmp_path, "# Page\n\n```{interactive} trajectory\n```\n")
    assert done.returncode != 0
    assert "did you mean trajectories?" in done.stderr
