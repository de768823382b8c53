"""What the page “Add your own” defines passes the tests of what the package has, and gets its rows in a clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_solvers import ALL, DISCRETE, VP, slope, some_grids

from fewstep import data, grids, results, schedules, solvers
from fewstep.exact import GaussianMixture
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.solvers.deis import lambda_ab, rho_ab

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "add_your_own.md").read_text("utf-8")
CELLS = [
    re.sub(r"\A(?:---\n(?s:.*?)\n---\n|(?::[^\n]*\n)+)", "", cell)
    for cell in re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
]
FILE = next(cell for cell in CELLS if cell.startswith("%%writefile")).partition("\n")[2]


def definition(name: str) -> str:
    """The source of a function that a cell of the page defines."""
    cell = next(cell for cell in CELLS if f"def {name}(" in cell)
    return re.search(rf"^def {name}\(.*?(?=^\S)", cell + "#", re.MULTILINE | re.DOTALL)[0]


def entry() -> str:
    """The entry of the registry, as Python."""
    return re.search(r"solvers\.Solver\(.*?^\)", "\n".join(CELLS), re.MULTILINE | re.DOTALL)[0]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The three in their registries, as on the page."""
    (tmp_path / "kappa.py").write_text(FILE, "utf-8")
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(tmp_path)])
    made = {"np": np, "torch": torch, "solvers": solvers, "Dataset": data.Dataset}
    exec(definition("arc") + definition("bars"), made)
    monkeypatch.setitem(solvers.SOLVERS, "kappa-ab", eval(entry(), made))
    monkeypatch.setitem(grids.GRIDS, "arc", made["arc"])
    monkeypatch.setitem(data.DATASETS, "bars", made["bars"])
    yield made
    sys.modules.pop("fewstep.solvers.kappa", None)


def test_each_takes_under_thirty_lines():
    for source in (FILE, definition("arc"), definition("bars")):
        assert 3 < len(source.splitlines()) < 30


# --- the solver: as in tests/test_solvers.py -----


def test_the_solver_has_the_order_that_it_says(own):
    solver = solvers.get("kappa-ab")
    found = slope(lambda n: solver.load()(VP, grids.quadratic(VP, n)))
    assert solver.order - 0.25 < found < solver.order + 0.5


@pytest.mark.parametrize("process", ALL.values(), ids=ALL)
def test_the_solver_integrates_a_constant_exactly(own, process):
    for nfe in (2, 13, 31):
        plan = solvers.build("kappa-ab", process, nfe, "uniform")
        form, rho = plan.canonical(), process.rho(plan.times[[0, -1]])
        np.testing.assert_allclose(form.a[-1], plan.alpha[-1] / plan.alpha[0], rtol=1e-11)
        np.testing.assert_allclose(form.C[-1].sum(), plan.alpha[-1] * (rho[1] - rho[0]), rtol=1e-11)


def test_the_solver_reaches_one_data_point(own):
    for process in (DISCRETE, VP):
        point = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
        plan = solvers.build("kappa-ab", process, 13)
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        alpha, sigma = plan.alpha[[0, -1]], plan.sigma[[0, -1]]
        z = (x - alpha[0] * point) / sigma[0]
        result = sample(plan, GaussianMixture(point, 0.0, process), x, dtype=torch.float64)
        torch.testing.assert_close(result, alpha[1] * point + sigma[1] * z, rtol=1e-9, atol=1e-9)


def test_the_solver_lies_between_rho_ab_and_lambda_ab(own):
    """p = 1 is ρAB1 to rounding; the distance to λAB1 is O(1/p), where ρ stays positive."""
    kappa = solvers.get("kappa-ab").load()
    for process in ALL.values():
        for times in some_grids(process):
            one = rho_ab(process, times, 1)
            assert difference(kappa(process, times, 1.0), one) < 1e-11 * max(1, np.abs(one.canonical().C).max())
    times = grids.quadratic(VP, 20)
    near, nearer = (difference(kappa(VP, times, power), lambda_ab(VP, times, 1)) for power in (1e3, 1e4))
    assert 9 < near / nearer < 11


def test_the_registry_counts_its_calls(own):
    for process in (DISCRETE, VP):
        for nfe in (1, 2, 17):
            assert solvers.build("kappa-ab", process, nfe).nfe == nfe


# --- the grid and the data set -----


@pytest.mark.parametrize("process", ALL.values(), ids=ALL)
def test_the_grid_takes_equal_steps_of_the_arc(own, process):
    for n in (1, 2, 10, 100):
        times = grids.build("arc", process, n)
        assert len(times) == n + 1 and times[0] == process.t_max and times[-1] == process.t_end
        steps = np.diff(np.arctan(process.rho(times)))
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-6)
    half = grids.build("arc", schedules.ContinuousVP(), 4, t_start=0.5)
    assert half[0] == 0.5


def test_the_data_set_is_what_it_says(own):
    images, labels = data.load("bars")
    assert images.shape == (336, 1, 8, 8) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.min() == -1 and images.max() == 1 and len(images.flatten(1).unique(dim=0)) == 336
    assert labels.bincount().tolist() == [168, 168]
    flat = {0: 2, 1: 3}  # an upright bar is constant along its columns, a lying one along its rows
    for image, label in zip(images, labels.tolist(), strict=True):
        assert (image.std(flat[label] - 1) == 0).all() and not (image.std(2 - label) == 0).all()


# --- in a clone -----


@pytest.mark.slow
def test_in_a_clone_they_get_their_rows(tmp_path):
    """The page's lines at the places that it names, then the workflow: the cells run, and nothing else is stale."""
    clone = tmp_path / "clone"
    for name in ("src", "workflow", "data/results", "data/checkpoints", "book/experiments"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "src/fewstep/solvers/kappa.py").write_text(FILE, "utf-8")

    def edit(path: str, old: str, new: str) -> None:
        text = (clone / path).read_text("utf-8")
        assert text.count(old) == 1, (path, old)
        (clone / path).write_text(text.replace(old, new), "utf-8")

    def fewstep(*arguments: str) -> str:
        environment = {**os.environ, "FEWSTEP_ROOT": str(clone), "PYTHONPATH": str(clone / "src")}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    stale = "from fewstep import results; print([f'{c.experiment}/{c.name}' for c in results.stale_cells('digits')])"
    before = fewstep("-c", stale)
    line = f"    rows.append({entry().replace('solvers.', '')})\n"
    edit("src/fewstep/solvers/__init__.py", "    return {row.name: row for row in rows}\n",
         line + "    return {row.name: row for row in rows}\n")  # fmt: skip
    assert fewstep("-c", stale) == before
    assert "kappa-ab" in fewstep("-m", "fewstep", "list", "solvers")

    edit("src/fewstep/grids.py", "GRIDS: dict", definition("arc") + "\n\nGRIDS: dict")
    edit("src/fewstep/data.py", "DATASETS: dict", definition("bars") + "\n\nDATASETS: dict")
    for path, line in (("grids", 'GRIDS["arc"] = arc'), ("data", 'DATASETS["bars"] = bars')):
        assert line in PAGE
        with (clone / f"src/fewstep/{path}.py").open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    edit("workflow/schema.py", "IMAGES = {", "IMAGES = {" + re.search(r'`("bars": \(336, 64\))`', PAGE)[1] + ", ")
    added = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])["digits"]
    plan = yaml.safe_load((clone / "workflow/experiments.yml").read_text("utf-8"))
    for experiment, found in added.items():
        plan["digits"][experiment]["cells"] |= found["cells"]
    plan["digits"]["frechet"]["parameters"] |= {"budgets": [5], "samples": 50}
    (clone / "workflow/experiments.yml").write_text(yaml.safe_dump(plan), "utf-8")
    for experiment, cell in (("frechet", "kappa"), ("baseline", "bars")):
        log = f"_build/{cell}.ipynb"
        fewstep("workflow/run_cell.py", "digits", experiment, cell, "--log", log, "--out", "data/results")
    rows = results.table(results.load("digits", "frechet", clone / "data/results"), metric="frechet_distance")
    own = {(row["solver"], row["grid"]) for row in rows if row["cell"] == "kappa"}
    assert own == {("kappa-ab", "quadratic"), ("kappa-ab", "arc")} and len(rows) > 2
    assert any(
        row["cell"] == "bars" for row in results.table(results.load("digits", "baseline", clone / "data/results"))
    )
