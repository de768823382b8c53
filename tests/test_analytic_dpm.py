"""Analytic-DPM's variance and FastDPM's grids: what they are optimal for, and what they coincide with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewstep import grids
from fewstep.errors import UserError
from fewstep.plan import difference
from fewstep.schedules import EDM, VE, ContinuousVP, SubVP, linear_vp
from fewstep.solvers.analytic_dpm import analytic_dpm, pixel_std
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm_beta_tilde

VP, DISCRETE = ContinuousVP(), linear_vp()


def result_variance(plan, process, std):
    """Variance of the result for data N(0, std²): ε is linear in x then, so the law stays Gaussian."""
    X, E, S = plan.table()
    slope = plan.sigma / (plan.alpha**2 * std**2 + plan.sigma**2)
    states = [np.eye(1, 1 + plan.draws)[0]]  # weights of the start state and of the noises
    for m in range(len(X)):
        eps = [slope[k] * states[plan.inputs[k]] for k in range(plan.nfe) if plan.inputs[k] <= m]
        state = sum(w * s for w, s in zip(X[m], states, strict=False)) + sum(
            w * e for w, e in zip(E[m], eps, strict=False)
        )
        state[1:] += S[m]
        states.append(state)
    start = plan.alpha[0] ** 2 * std**2 + plan.sigma[0] ** 2
    return states[-1][0] ** 2 * start + (states[-1][1:] ** 2).sum()


def gaussian(process, std):
    return lambda t: float(process.rho(t)) ** 2 / (std**2 + float(process.rho(t)) ** 2)


@pytest.mark.parametrize("process", [VP, SubVP(), VE(), EDM(), DISCRETE], ids=["vp", "sub-vp", "ve", "edm", "discrete"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_gaussian_data_come_out_exactly_however_few_the_steps(process, n, eta):
    std = 0.5
    end = float(process.t_of_rho(0.02))
    times = grids.power_rho(process, n, t_end=end)
    expected = process.alpha(end) ** 2 * std**2 + process.sigma(end) ** 2
    plan = analytic_dpm(process, times, gaussian(process, std), eta)
    np.testing.assert_allclose(result_variance(plan, process, std), expected, rtol=1e-9)
    # The naive variances lose what x̂₀ does not know.
    assert result_variance(ddim(process, times, eta), process, std) < 0.99 * expected


def test_the_default_is_standard_normal_data():
    times = grids.uniform(VP, 6)
    assert difference(analytic_dpm(VP, times), analytic_dpm(VP, times, gaussian(VP, 1.0))) < 1e-12
    np.testing.assert_allclose(result_variance(analytic_dpm(VP, times), VP, 1.0), 1.0, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_without_uncertainty_it_is_ddim(eta):
    """E‖ε‖² = d says that ε is known; above that, which no exact network can reach, the bound holds."""
    times = grids.uniform(DISCRETE, 12)
    size = float(np.abs(ddim(DISCRETE, times, eta).canonical().C).max())
    for value in (1.0, 1.3):
        one, other = (
            analytic_dpm(DISCRETE, times, np.full(12, value), eta).canonical(),
            ddim(DISCRETE, times, eta).canonical(),
        )
        np.testing.assert_allclose(one.C, other.C, atol=1e-12 * size)
        if eta > 0:
            draws = other.S.shape[1]  # DDIM draws one more: at the clean end, with weight 0
            np.testing.assert_allclose(one.S, other.S[:, : one.S.shape[1]], atol=1e-12 * size)
            assert draws - one.S.shape[1] == 1 and not other.S[:, -1].any()
    plain = ddpm_beta_tilde(DISCRETE, times).canonical()
    np.testing.assert_allclose(plain.C, analytic_dpm(DISCRETE, times, np.ones(12)).canonical().C, atol=1e-12 * size)


def test_the_clipped_term_is_the_variance_of_the_data_given_the_state():
    """E Var(x₀ | x_t) = ρ²(1 − E ε²), by quadrature over the states of two points of unequal weight."""
    points, weights = np.array([-1.0, 0.4]), np.array([0.3, 0.7])
    t = 0.35
    alpha, sigma, rho = (float(f(t)) for f in (VP.alpha, VP.sigma, VP.rho))
    x = np.linspace(-12, 12, 20001)
    each = weights * np.exp(-((x[:, None] - alpha * points) ** 2) / (2 * sigma**2)) / math.sqrt(2 * math.pi) / sigma
    density = each.sum(1)
    mean = (each @ points) / density
    variance = np.trapezoid((each @ points**2) - density * mean**2, x)
    mean_square = np.trapezoid(density * ((x - alpha * mean) / sigma) ** 2, x)
    np.testing.assert_allclose(rho**2 * (1 - mean_square), variance, rtol=1e-10)
    # One step of Analytic-DDIM then has the true variance of x̄_u given x̄_t on average.
    plan = analytic_dpm(VP, np.array([t, 0.1]), [mean_square], eta=0.0)
    kept = float(VP.rho(0.1)) / rho
    std = plan.canonical().S[-1, 0] / float(VP.alpha(0.1))
    np.testing.assert_allclose(std**2, (1 - kept) ** 2 * variance, rtol=1e-10)


def test_bounds():
    times = grids.uniform(DISCRETE, 5)
    rho = DISCRETE.rho(times)
    for half_range in (1.0, 0.5, math.inf):
        step = analytic_dpm(DISCRETE, times, np.zeros(5), eta=0.0, half_range=half_range).table()[2]
        most = np.minimum(rho[:-2], half_range) * (1 - rho[1:-1] / rho[:-2]) * DISCRETE.alpha(times[1:-1])
        np.testing.assert_allclose(np.diag(step[:4]), most, rtol=1e-12)
    free, bound = (analytic_dpm(DISCRETE, times, last_std=last).table()[2] for last in (math.inf, 1e-3))
    np.testing.assert_allclose(bound[3, 3], 1e-3, rtol=1e-12)
    bound[3, 3] = free[3, 3]
    np.testing.assert_array_equal(free, bound)
    assert not free[4].any()


def test_last_std_bounds_the_last_step_of_a_grid_that_ends_noisy():
    table = analytic_dpm(VP, grids.uniform(VP, 5), last_std=1e-4).table()[2]
    np.testing.assert_allclose(table[4, 4], 1e-4, rtol=1e-12)


def test_pixel_std_is_a_mean_size_of_so_many_levels():
    z = np.linspace(-12, 12, 400001)
    mean_size = np.trapezoid(np.abs(z) * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), z)
    np.testing.assert_allclose(pixel_std(2) * mean_size, 2 * 2 / 255, rtol=1e-6)
    np.testing.assert_allclose(pixel_std(1, half_range=0.5), pixel_std(1) / 2, rtol=1e-15)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"eta": 1.1}, "eta"),
        ({"half_range": 0.0}, "positive"),
        ({"last_std": -1.0}, "positive"),
        ({"mean_square": np.ones(4)}, "each of the 5 calls"),
        ({"mean_square": -np.ones(5)}, "not negative"),
        ({"mean_square": lambda t: math.nan}, "finite"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(UserError, match=says):
        analytic_dpm(VP, grids.uniform(VP, 5), **options)


def variances(process, times):
    """The forward variances η of the chain whose levels are a grid's, smallest level first."""
    bar = 1 / (1 + process.rho(times)[::-1] ** 2)
    return 1 - bar / np.append(1.0, bar[:-1])


@pytest.mark.parametrize("process", [VP, SubVP(), DISCRETE], ids=["vp", "sub-vp", "discrete"])
@pytest.mark.parametrize("n", [3, 10, 40])
def test_variance_grids_are_arithmetic_in_the_variance_or_its_root(process, n):
    for grid, root in ((grids.variance_linear, 1.0), (grids.variance_quadratic, 0.5)):
        times = grid(process, n)
        assert times[0] == process.t_max and times[-1] == process.t_end
        eta = variances(process, times[:-1] if process is DISCRETE else times)
        steps = np.diff(eta**root)
        assert steps[0] > 0
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_variance_grid_of_all_steps_is_the_chain_itself():
    np.testing.assert_allclose(grids.variance_linear(DISCRETE, 1000), np.arange(999.0, -2.0, -1.0), atol=1e-9)


def test_variance_grid_refuses_levels_that_cannot_grow():
    with pytest.raises(UserError, match="fewer than 11 levels"):
        grids.variance_linear(VP, 10, t_start=0.5, t_end=0.4)
