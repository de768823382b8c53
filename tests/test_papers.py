"""Samplers of the papers' tables: what each kind is, how many calls it makes, and what its images leave behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_zoo import Exact, entry
from torch import nn

from fewstep import data, grids, images, inception, papers, results, shards
from fewstep.errors import UserError
from fewstep.models import declared, zoo
from fewstep.models.text_to_image import TextToImage
from fewstep.noise import normal
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.solvers import build, score_sde

SHAPE = (3, 8, 8)


class Counting(zoo.PaperModel):
    """A network that counts the calls for a batch."""

    calls = 0

    def forward(self, x, t, labels=None):
        self.calls += 1
        return super().forward(x, t, labels)


def exact(**given):
    """The exact ε of normal data of standard deviation 0.4 on DDPM's process."""
    own = entry(architecture="score-unet", prediction="x0", shape=list(SHAPE), **given)
    record = declared.Record.model_validate(own)

    def x0(x, t):
        alpha, sigma = (
            torch.from_numpy(f(t.flatten().numpy())).reshape(-1, 1, 1, 1) for f in (process.alpha, process.sigma)
        )
        return alpha * Exact.S**2 * x / (alpha**2 * Exact.S**2 + sigma**2)

    process = record.schedule.process()
    return Counting(Exact(x0), record)


def drawn(one, ids, seed=0):
    x = one.prior_std * normal(seed, 0, ids, SHAPE)
    return one.draw(x, ids, seed)


KINDS = {
    "a plan": {"budget": 7, "solver": "deis-tab3", "grid": "quadratic"},
    "S + 9 calls": {"budget": 14, "solver": "pndm-f", "grid": "leading"},
    "a predictor": {"budget": 8, "predictor": "ancestral"},
    "predictor and corrector": {"budget": 8, "predictor": "reverse-diffusion", "snr": 0.16},
    "a corrector": {"budget": 8, "snr": 0.16},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_is_spent(kind):
    model = exact()
    one = papers.sampler(model, **KINDS[kind])
    found = drawn(one, torch.arange(2))
    assert one.nfe == model.calls == KINDS[kind]["budget"]
    assert found.shape == (2, *SHAPE) and torch.isfinite(found).all()


@pytest.mark.parametrize("cell", results.cells("paper", "fid"), ids=lambda cell: cell.name)
def test_every_cell_names_a_sampler_that_makes_the_calls_of_its_rows(cell):
    """On the process of the cell's own network, at every budget; repeated labels are called once."""
    record = declared.records()[cell.parameters["network"]]
    model = zoo.PaperModel(nn.Identity(), record)
    if "weight" in cell.parameters:
        model.__class__ = TextToImage  # without its parts, which a plan does not ask for
    names = ("solver", "grid", "grid_options", "options", "predictor", "snr", "tolerance", "clip")
    given = {name: cell.parameters[name] for name in names if name in cell.parameters}
    for budget in cell.parameters.get("budgets", [0]):
        one = papers.sampler(model, budget, captions=["a cat"] if "weight" in cell.parameters else (), **given)
        repeated = given.get("grid") == "ddim-quadratic" and budget > 29
        assert one.nfe is None if "tolerance" in given else one.nfe == budget or (repeated and one.nfe < budget)


def test_a_solver_is_its_plan_and_a_predictor_is_score_sdes():
    model, ids = exact(), torch.arange(3)
    plan = build("ddim", model.process, 10, "leading", eta=0.5)
    x = normal(4, 0, ids, SHAPE)
    one = papers.sampler(model, 10, solver="ddim", grid="leading", options={"eta": 0.5})
    assert torch.equal(drawn(one, ids, 4), sample(plan, model, x, seed=4, ids=ids))
    chain = score_sde.predict(model.process, grids.build("uniform", model.process, 10), "ancestral")
    assert difference(chain, build("ddpm", model.process, 10, "uniform")) < 1e-12
    assert torch.equal(
        drawn(papers.sampler(model, 10, predictor="ancestral"), ids), sample(chain, model, x=drawn_start(ids))
    )


def drawn_start(ids):
    return normal(0, 0, ids, SHAPE)


@pytest.mark.parametrize("budget", [10, 50, 100])
def test_ddims_quadratic_labels_are_called_once(budget):
    """A step of DDIM between equal labels has no weight for ε or noise, so it can be left out."""
    model = exact()
    labels = grids.ddim_quadratic(model.process, budget)
    calls = len(np.unique(labels)) - 1
    one = papers.sampler(model, budget, solver="ddim", grid="ddim-quadratic", options={"eta": 1.0})
    assert one.nfe == calls and (calls < budget) == (budget > 29)
    assert torch.isfinite(drawn(one, torch.arange(1))).all() and model.calls == calls


@pytest.mark.parametrize(("schedule", "end"), [("linear", 0.0), ("vp", 1e-3)])
def test_rk45_solves_the_ode(schedule, end):
    r"""On normal data of standard deviation s the ODE is linear: x̄ keeps its ratio to :math:`\sqrt{s^2+\rho^2}`.

    The last call is Tweedie's formula, a factor :math:`s^2/(s^2+\rho^2)`. Network times are float32, to 1e-7.
    """
    model, ids = exact(schedule={"name": schedule}), torch.arange(2)
    one = papers.sampler(model, tolerance=1e-7, grid_options={"t_end": end})
    assert one.nfe is None
    start, s = drawn_start(ids), Exact.S
    alpha, sigma = (float(f(model.process.t_max)) for f in (model.process.alpha, model.process.sigma))
    rho = float(model.process.rho(end))
    expected = s * start / (alpha**2 * s**2 + sigma**2) ** 0.5 * s / (s**2 + rho**2) ** 0.5
    torch.testing.assert_close(drawn(one, ids), expected, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_denoised_value():
    """The last step of DDIM ends on the denoised value itself."""
    given = {"budget": 50, "solver": "ddim", "grid": "leading"}
    wide, clipped = (
        drawn(papers.sampler(exact(), **given, clip=clip), torch.arange(40)).abs().max() for clip in (False, True)
    )
    assert wide > 1 >= clipped


@pytest.mark.parametrize(
    "given", [{}, {"solver": "ddim", "tolerance": 1e-3}, {"predictor": "ancestral", "solver": "ddim"}], ids=str
)
def test_a_sampler_is_one_of_three_kinds(given):
    with pytest.raises(UserError, match="a sampler is one of: a solver; a predictor, an snr or both; a tolerance"):
        papers.sampler(exact(), 10, **given)


def test_the_mean_square_of_epsilon():
    r"""On normal data :math:`E\varepsilon^2 = \sigma^2/(\alpha^2s^2+\sigma^2)`, within 4 standard errors."""
    model = exact()
    known = Exact.S * normal(9, 0, range(400), SHAPE)
    times = np.array([900.0, 300.0, 20.0])
    found = papers.mean_square(model, known, times, batch=150)
    alpha, sigma = model.process.alpha(times), model.process.sigma(times)
    expected = sigma**2 / (alpha**2 * Exact.S**2 + sigma**2)
    np.testing.assert_allclose(found, expected, rtol=4 * (2 / known.numel()) ** 0.5)


class Pixels(nn.Module):
    sha256 = "0" * 64

    def forward(self, found):
        return found[:, 0, 0].double()


@pytest.mark.parametrize("kind", ["a plan", "predictor and corrector"])
def test_shards_of_any_size_have_the_same_moments(kind):
    model = exact()
    one = papers.sampler(model, **KINDS[kind])
    whole = papers.draw(one, SHAPE, Pixels(), range(7), seed=2, batch=7)
    parts = [papers.draw(one, SHAPE, Pixels(), numbers, seed=2, batch=2) for numbers in (range(3, 7), range(3))]
    merged = shards.merge(parts)
    pixels = data.to_uint8(drawn(one, torch.arange(7), 2))[:, 0, 0].double().numpy()
    for shard in (whole, merged):
        found = papers.statistics(shard)
        assert found.n == 7
        np.testing.assert_allclose(found.mu, pixels.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.sigma, np.cov(pixels, rowvar=False), rtol=1e-9, atol=1e-9)


def test_published_statistics_come_first(tmp_path, monkeypatch):
    monkeypatch.setenv(images.VARIABLE, str(tmp_path))
    how = declared.records()["ddim-celeba64"].preprocessing
    with pytest.raises(UserError, match="is no folder with images"):
        papers.reference(how, Pixels())
    mu, sigma = np.zeros(inception.FEATURES), np.eye(inception.FEATURES)
    np.savez(tmp_path / "img_align_celeba.npz", mu=mu, sigma=sigma)
    assert papers.reference(how, Pixels()).n is None
