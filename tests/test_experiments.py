"""The experiments' notebooks: stripped of outputs, parametrised, and complete."""

from __future__ import annotations

import itertools
import json
import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import exact, models, noise, plan, results, run, schedules, shards, solvers
from fewstep.models import checkpoints
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


# --- notebooks at toy size, on networks that were not trained ------------------------------------------------------

# Two groups: of a group of a single channel, the norm would take away what time and label add to it.
TINY = {"channels": (8, 8), "attention_head_dim": 0, "norm_num_groups": 2}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Runs a notebook's cells with some parameters on tiny networks: the names that it leaves, and its record."""
    folder = tmp_path / "checkpoints"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "digits-unet": ("unet", models.UNet((1, 8, 8), **TINY)),
            "digits-classes": ("unet", models.UNet((1, 8, 8), **TINY, classes=10)),
            "digits-ve": ("unet", models.UNet((1, 8, 8), **TINY, time_scale=999.0)),
            "digits-noisy-classifier": ("noisy-classifier", models.NoisyClassifier((1, 8, 8), 10, width=8)),
            "digits-features": ("features", models.load("digits-features")),
        }
    for name, (kind, network) in networks.items():
        models.save(name, network, kind, "toy", folder)
    monkeypatch.setattr(checkpoints, "FOLDER", folder)

    def execute(experiment, **parameters):
        cells = json.loads((ROOT / "book/experiments" / f"{experiment}.ipynb").read_text("utf-8"))["cells"]
        where = {"profile": "toy", "experiment": experiment, "cell": "toy", "parameters": {}, "out": str(tmp_path)}
        names = {}
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                assert set(parameters) <= set(names)
                names |= {**parameters, "record_as": where}
        plt.close("all")
        (record,) = results.load("toy", experiment, tmp_path)
        return names, record

    return execute


@pytest.mark.parametrize(("model", "guide"), [("digits-classes", None), ("digits-unet", "digits-noisy-classifier")])
def test_guidance_at_weight_zero_is_the_unconditional_sampler(toy, model, guide):
    weights, samples = [0.0, 1.0, 5.0], 30
    solver, where = {"ddim": ["quadratic"]}, {"budgets": [3], "samples": samples}
    names, record = toy("guidance", solvers=solver, weights=weights, model=model, guide=guide, **where)
    law = schedules.linear_vp()
    plain = run.generate(solvers.build("ddim", law, 3), models.load(model), (1, 8, 8), range(samples))
    beyond = (plain.abs() - 1).clamp(min=0).square().mean((1, 2, 3)).sqrt().mean().item()
    (excess,) = results.table([record], metric="excess", weight=0.0)
    assert excess["value"] == pytest.approx(beyond, rel=1e-5)
    assert excess["guidance"] == ("classifier" if guide else "classifier-free")
    # As many samples of each class, so a mean over classes is one over samples.
    right = (models.load("digits-features")(plain.clamp(-1, 1)).argmax(1) == torch.arange(samples) % 10).double()
    (accuracy,) = results.table([record], metric="accuracy", weight=0.0)
    assert accuracy["value"] == pytest.approx(right.mean().item())
    for weight in weights:
        rows = results.table([record], metric="frechet_distance", weight=weight)
        classes = [row["value"] for row in rows if "class" in row]
        assert len(classes) == 10 and [row["value"] for row in rows if "class" not in row] == [
            pytest.approx(np.mean(classes))
        ]
    drawn = names["shown"]["ddim, 3 calls"]
    assert min((a - b).abs().max() for a, b in itertools.combinations(drawn, 2)) > 1e-3


def test_predictor_corrector_makes_the_calls_that_it_states(toy, monkeypatch):
    names, record = toy("predictor_corrector", predictors=["ancestral"], budgets=[6], samples=70, seeds=[0, 1])
    rows = {(row["scheme"], row["steps"]): row for row in results.table([record])}
    assert {at: row["nfe"] for at, row in rows.items()} == {("P", 3): 3, ("P", 6): 6, ("PC", 3): 5, ("C", 6): 6}
    calls, network = [], names["network"]
    names["network"] = lambda x, t: calls.append(len(x)) or network(x, t)
    for row in rows.values():
        if row["scheme"] == "P":
            draw, _ = names["predicted"](row["predictor"], row["steps"])
        else:
            draw, _ = names["corrected"](row.get("predictor"), row["steps"], row["snr"])
        calls.clear()
        draw(0)
        assert calls == [70] * row["nfe"], row["scheme"]
    # On DDPM's labels and with a clean end the ancestral predictor is DDPM.
    plan = solvers.build("ddpm", names["law"], 6, "uniform")
    drawn = [shards.draw(plan, network, names["extract"], range(70), seed=seed).moments for seed in (0, 1)]
    again = np.mean([shards.frechet_distance(one, names["known"]) for one in drawn])
    assert rows["P", 6]["value"] == pytest.approx(again, rel=0.01)


def test_other_processes_sees_states_of_unit_variance(toy):
    seen = []
    names, record = toy("other_processes", solvers={"ddim": ["rho7"]}, budgets=[4], samples=70, seeds=[0, 1])
    (row,) = results.table([record])
    assert row["process"] == "ve" and row["nfe"] == 4
    net, law = models.load("digits-ve"), schedules.VE()

    def by_hand(x, t):
        seen.append(x.std().item())
        return net(x / math.sqrt(1 + float(law.sigma(t[0].double())) ** 2), t)

    plan = solvers.build("ddim", law, 4, "rho7")
    drawn = [shards.draw(plan, by_hand, names["extract"], range(70), seed=seed).moments for seed in (0, 1)]
    again = np.mean([shards.frechet_distance(one, names["known"]) for one in drawn])
    assert row["value"] == pytest.approx(again, rel=0.01)
    assert seen[0] == pytest.approx(50, rel=0.05)


def test_the_ideal_denoisers_error_is_that_of_the_exact_problem(toy, tmp_path, monkeypatch):
    # Few images that are near to each other: of twenty starts some end on another one.
    for number, name in enumerate("abcdefghij"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for shade in range(3):
            grey = Image.new("RGB", (32, 32), (128 + number, 128 + 4 * shade, 128))
            grey.save(folder / f"{shade}.png")
    monkeypatch.setenv("FEWSTEP_DATA", str(tmp_path / "images"))
    asked = {"ddim": ["quadratic"], "ge": ["log-linear"], "fon": ["uniform"]}  # FON needs 13 calls
    names, record = toy("ideal_error", solvers=asked, samples=20, budgets=[6, 12], reference_calls=400)
    law, images = names["law"], names["images"].double()
    assert images.shape == (30, 3, 32, 32)
    problem = exact.IdealDenoiser(images, law)
    rows = [row for row in results.table([record]) if row.get("of") is None]
    assert {(row["solver"], row["budget"]) for row in rows} == {("ddim", 6), ("ddim", 12), ("ge", 6), ("ge", 12)}
    for solver, grid, budget in (("ddim", "quadratic", 6), ("ge", "log-linear", 12)):
        found = {row["metric"]: row for row in rows if (row["solver"], row["budget"]) == (solver, budget)}
        sampler = solvers.build(solver, law, budget, grid)
        start = sampler.prior_std * names["start"]
        assert found["ideal_error"]["value"] == pytest.approx(exact.error(sampler, problem, start), rel=1e-3)
        end = run.sample(sampler, problem, start, dtype=torch.float64)
        true = exact.solution(problem, start, float(sampler.times[0]), law.t_end)
        same = exact.projection(images, end)[0] == exact.projection(images, true)[0]
        assert 0 < found["same_image"]["value"] == same.flatten(1).all(1).double().mean().item() < 1
        each = (end - true).flatten(1).square().mean(1).sqrt()
        assert found["median_error"]["value"] == pytest.approx(each.median().item(), rel=1e-3, abs=1e-6)
        for metric in ("ideal_error", "same_image"):
            assert found[metric]["low"] <= found[metric]["value"] <= found[metric]["high"]
    for row in results.table([record], of="the reference", metric="ideal_error"):
        assert row["value"] < 1e-4
