"""The experiments' notebooks: stripped of outputs, parametrised, and complete."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fewstep import exact, noise, plan, results, run, schedules, solvers
from fewstep.provenance import ROOT

NOTEBOOKS = sorted((ROOT / "book" / "experiments").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped_and_parametrised(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert [cell["metadata"].get("tags") for cell in code].count(["parameters"]) == 1


def test_every_notebook_is_run_by_a_profile():
    planned = {name for experiments in results.planned().values() for name in experiments}
    assert {path.stem for path in NOTEBOOKS} <= planned


def test_every_solver_is_measured_or_is_one_that_is():
    measured = {name for cell in results.cells("digits", "frechet") for name in cell.parameters["solvers"]}
    same = {
        "ancestral": "ddpm",
        "ei-eps": "ddim",
        "deis-tab0": "ddim",
        "deis-rhoab0": "ddim",
        "ipndm-1": "ddim",
        "edm-heun": "deis-rhork-heun",
    }
    analytic = {"analytic-ddpm", "analytic-ddim"}  # by the experiment analytic_variance, which estimates their variance
    assert measured | set(same) | analytic == set(solvers.SOLVERS)
    law = schedules.linear_vp()
    for name, twin in same.items():
        a, b = (solvers.build(s, law, 11, solvers.get(twin).default_grid) for s in (name, twin))
        # The weights of a VP process reach 1/α(T) ≈ 157; 1e-11 leaves room for their rounding.
        assert plan.difference(a, b) < 1e-11


def test_solution_reaches_the_clean_end_of_a_finite_data_set():
    law = schedules.linear_vp()
    points = 2.0 * noise.normal(3, 0, range(6), (3,), torch.float64)
    problem = exact.IdealDenoiser(points, law)
    start = noise.normal(1, 0, range(5), (3,), torch.float64)
    end = exact.solution(problem, start, law.t_max, law.t_end)
    nearest, distance = exact.projection(points, end)
    assert distance.max() < 1e-9
    # Many steps of DDIM, which shares no code with the reference, end on the same points.
    found = run.sample(solvers.build("ddim", law, 400), problem, start, dtype=torch.float64)
    assert torch.allclose(exact.projection(points, found)[0], nearest)


def test_error_falls_with_the_order_of_the_method():
    law = schedules.ContinuousVP()
    problem = exact.example(law)
    start = noise.normal(1, 0, range(8), (4,), torch.float64)
    errors = [exact.error(solvers.build("pndm-s", law, n, "quadratic"), problem, start) for n in (161, 321)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)
