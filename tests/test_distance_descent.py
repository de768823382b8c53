"""The smoothed-distance view: its gradient is σ ε*, and descending it is DDIM; and the authors' schedules."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from replay.gradient_estimation import labels

from fewstep import grids
from fewstep.errors import UserError
from fewstep.exact import IdealDenoiser, projection, smoothed_distance
from fewstep.noise import normal
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.schedules import EDM, VE, ContinuousVP, SubVP, linear_vp
from fewstep.solvers.ddim import ddim
from fewstep.solvers.gradient_estimation import distance_descent, ge

POINTS = 2 * normal(0, 0, range(12), (5,), torch.float64)
START = normal(0, 1, range(7), (5,), torch.float64)


def gradient(x, sigma):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(smoothed_distance(POINTS, x, sigma).sum(), x)[0]


@pytest.mark.parametrize("process", [EDM(), VE(), ContinuousVP(), SubVP(), linear_vp()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0, 30.0])
def test_gradient_is_sigma_times_the_ideal_noise(process, sigma):
    """In every process: the distance is one of x̄ and σ = ρ alone."""
    t = float(process.t_of_rho(sigma))
    rho, alpha = float(process.rho(t)), float(process.alpha(t))
    bar = (1 + sigma) * START
    ideal = IdealDenoiser(POINTS, process)(alpha * bar, torch.full((len(bar),), t, dtype=torch.float64))
    expected = gradient(bar, rho)
    assert (rho * ideal - expected).abs().max() < 1e-10 * expected.abs().max()


def test_gradient_is_the_offset_from_the_projection_as_sigma_vanishes():
    bar = POINTS[:7] + 0.1 * START
    nearest, distance = projection(POINTS, bar)
    assert (gradient(bar, 0.05) - (bar - nearest)).abs().max() < 1e-10
    np.testing.assert_allclose(2 * (smoothed_distance(POINTS, bar, 0.01) - 1e-4 * np.log(12)), distance**2, rtol=1e-10)


@pytest.mark.parametrize("process", [EDM(), VE(), ContinuousVP(), linear_vp()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("n", [1, 4, 30])
def test_descent_is_ddim(process, n):
    times = grids.quadratic(process, n)
    one = ddim(process, times)
    size = float(np.abs(one.canonical().C).max())
    assert difference(distance_descent(process, times), one) < 1e-13 * max(size, 1.0)
    assert difference(distance_descent(process, times), ge(process, times, gamma=1.0)) < 1e-13 * max(size, 1.0)


def test_descent_by_the_gradient_itself():
    """No network and no plan: steps of 1 − σ'/σ down the gradient of the smoothed distance end where DDIM ends."""
    process = EDM(sigma_max=20.0)
    times = grids.log_linear(process, 15, rho_start=20.0, rho_last=0.1)
    bar = 20.0 * START
    for sigma, after in pairwise(times):
        bar = bar - (1 - after / sigma) * gradient(bar, sigma)
    found = sample(ddim(process, times), IdealDenoiser(POINTS, process), 20.0 * START, dtype=torch.float64)
    assert (found - bar).abs().max() < 1e-10
    assert projection(POINTS, bar)[1].max() < 1e-3


def test_one_full_step_is_the_denoiser():
    process = EDM()
    plan = distance_descent(process, np.array([3.0, 1.0]), steps=[1.0])
    ideal = IdealDenoiser(POINTS, process)
    found = sample(plan, ideal, START, dtype=torch.float64)
    assert torch.allclose(found, ideal.x0(START, torch.full((7,), 3.0)), rtol=1e-12, atol=1e-12)


def test_the_step_is_exact_for_one_point():
    """With one point the distance falls exactly as σ does, whatever the step."""
    process = EDM()
    times = np.array([9.0, 4.0, 0.5])
    found = sample(distance_descent(process, times), IdealDenoiser(POINTS[:1], process), START, dtype=torch.float64)
    ratio = (found - POINTS[0]).norm(dim=1) / (START - POINTS[0]).norm(dim=1)
    np.testing.assert_allclose(ratio, 0.5 / 9.0, rtol=1e-12)


# --- how fast the noise level may fall -----


def admissible(levels, eta: float, nu: float) -> bool:
    """Permenter & Yuan's condition on a schedule, with b = σ_k/σ_{k+1} − 1."""
    b = levels[:-1] / levels[1:] - 1
    return bool(np.all(np.cumprod(1 + eta * b) <= nu) and np.all(np.cumprod(1 - eta * b) >= 1 / nu))


def fastest(eta: float, nu: float, steps: int) -> float:
    """The largest admissible step size β of a log-linear schedule, σ_{k+1} = (1 − β) σ_k."""
    c = 1 - nu ** (-1 / steps)
    return c / (eta + c)


@pytest.mark.parametrize("steps", [1, 5, 40])
@pytest.mark.parametrize(("eta", "nu"), [(0.05, 1.1), (0.2, 2.0), (0.9, 2.0)])
def test_a_log_linear_schedule_is_admissible_up_to_its_largest_step(eta, nu, steps):
    for factor, expected in ((1 - 1e-9, True), (1 + 1e-9, False)):
        levels = 3.0 * (1 - factor * fastest(eta, nu, steps)) ** np.arange(steps + 1)
        assert admissible(levels, eta, nu) is expected


@pytest.mark.parametrize(("eta", "nu"), [(0.1, 1.5), (0.5, 2.0)])
def test_many_steps_let_the_noise_fall_by_nu_to_the_1_over_eta(eta, nu):
    falls = [-n * np.log1p(-fastest(eta, nu, n)) for n in (1000, 2000)]
    limit = np.log(nu) / eta
    # The logarithm converges from below with 1/n.
    assert falls[0] < falls[1] < limit
    np.testing.assert_allclose((limit - falls[0]) / (limit - falls[1]), 2.0, rtol=0.02)


def test_ddim_tracks_the_distance_on_an_admissible_schedule():
    """Data on a plane, and a denoiser whose error as a projection is η times the distance, in any direction."""
    eta, nu, n, steps = 0.3, 2.0, 8, 12
    levels = 5.0 * (1 - fastest(eta, nu, steps)) ** np.arange(steps + 1)
    offset = torch.cat([torch.zeros(10, 3, dtype=torch.float64), normal(0, 2, range(10), (5,), torch.float64)], 1)
    start = START.new_zeros(10, n) + normal(0, 3, range(10), (n,), torch.float64)
    start[:, 3:] = 0
    start = start + offset / offset.norm(dim=1, keepdim=True) * n**0.5 * levels[0]
    wrong = normal(0, 4, range(10), (n,), torch.float64)
    distances = []

    def model(x, t):
        normal_part = torch.cat([torch.zeros_like(x[:, :3]), x[:, 3:]], 1)
        size = normal_part.norm(dim=1, keepdim=True)
        error = wrong / wrong.norm(dim=1, keepdim=True) * size
        error[0], error[1] = normal_part[0], -normal_part[1]
        distances.append(size[:, 0].numpy())
        return (normal_part - eta * error) / t[:, None]

    end = sample(ddim(EDM(), levels), model, start, dtype=torch.float64)
    distances.append(end[:, 3:].norm(dim=1).numpy())
    track = np.array(distances) / (n**0.5 * levels[:, None])
    assert track.min() > 1 / nu - 1e-12 and track.max() < nu + 1e-12
    assert track[-1, 1] == pytest.approx(1 / nu, rel=1e-10)  # the worst error attains the bound
    beta = fastest(eta, nu, steps)
    ratio = track[1:] / track[:-1] * (1 - beta)
    assert np.all(ratio > 1 - beta * (1 + eta) - 1e-12) and np.all(ratio < 1 - beta * (1 - eta) + 1e-12)


@pytest.mark.parametrize("steps", [[0.5], [0.5, 0.5, 1.5], [0.0, 0.5, 0.5]])
def test_refusals(steps):
    with pytest.raises(UserError, match="3 step sizes"):
        distance_descent(EDM(), np.array([3.0, 2.0, 1.0, 0.5]), steps)


def test_the_authors_schedules_are_the_rules_that_are_stated():
    """Log-linear, DDIM, DDIM with an offset, and EDM levels: the labels recorded in the golden vectors."""
    folder, program = Path(__file__).parent / "golden", "gradient-estimation-sampler"
    data, compared = np.load(folder / f"{program}.npz"), 0
    for run, about in json.loads((folder / "settings.json").read_text())["repos"][program]["runs"].items():
        for n in about["n"]:
            recorded = data[f"{run}__nfe{n}__timesteps"]
            found = labels(run, about["settings"], int(n))[:-1]
            assert found.shape == recorded.shape
            # Single precision may round to the next label.
            assert np.abs(found - recorded).max() <= (1 if run.endswith("f32") else 0), run
            compared += 1
    assert compared >= 40
