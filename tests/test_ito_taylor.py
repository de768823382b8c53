"""Taylor and Itô–Taylor schemes with ideal derivatives: the series, their limits, and the orders these allow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewstep import grids
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, error, example
from fewstep.noise import normal
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.schedules import EDM, VE, ContinuousVP, DiscreteVP, SubVP, cosine_vp, linear_vp
from fewstep.solvers.classical import euler
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm_beta_tilde
from fewstep.solvers.ito_taylor import ito_taylor, quasi_taylor

VP, DISCRETE = ContinuousVP(), linear_vp()
PROCESSES = [VP, SubVP(), VE(), EDM()]
NAMES = ["vp", "sub-vp", "ve", "edm"]
POINT = torch.tensor([[1.5, -0.7, 0.2, 2.0]], dtype=torch.float64)
START = normal(1, 0, range(6), (4,), torch.float64)


def end(process):
    """A noisy end, so that every step is a step of the series."""
    return max(process.t_end, float(process.t_of_rho(0.02)))


def slope(errors):
    """Observed order where each error belongs to twice the steps of the one before."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))[-1]


def result(plan, model, scale):
    """The result without its noise, which is the mean where ε is linear in x."""
    return sample(plan, model, scale * START, dtype=torch.float64, noise=lambda draw: torch.zeros_like(START))


def result_variance(plan, std_of_start, eps_per_x):
    """Variance of the result where ε = (x − mean) · eps_per_x(call)."""
    X, E, S = plan.table()
    states = [np.eye(1, 1 + plan.draws)[0]]
    for m in range(len(X)):
        state = sum((X[m, j] + E[m, j] * eps_per_x[j]) * states[j] for j in range(m + 1))
        state[1:] += S[m]
        states.append(state)
    return (states[-1][0] * std_of_start) ** 2 + (states[-1][1:] ** 2).sum()


def beta(t):
    return VP.beta_min + t * (VP.beta_max - VP.beta_min)


@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 1.0])
def test_closed_forms_of_the_variance_preserving_case(t):
    h, b, db, sigma = 0.01, beta(t), VP.beta_max - VP.beta_min, float(VP.sigma(t))
    a = 1 + h / 2 * b + h**2 / 4 * (b**2 / 2 - db)
    X, E, _ = quasi_taylor(VP, np.array([t, t - h])).table()
    np.testing.assert_allclose(X, a, rtol=1e-11)
    np.testing.assert_allclose(E, (-h / 2 * b + h**2 / 4 * (db - b**2 / (2 * sigma**2))) / sigma, rtol=1e-11)
    # The reverse SDE has twice the ε, and its ideal ε is not constant.
    X, E, S = ito_taylor(VP, np.array([t, t - h])).table()
    np.testing.assert_allclose(X, a, rtol=1e-11)
    np.testing.assert_allclose(E, (-h * b + h**2 / 2 * db) / sigma, rtol=1e-11)
    g, dg = math.sqrt(b), db / (2 * math.sqrt(b))
    kernel = g - g * (-b / 2 + b / sigma**2) * (h - (s := np.linspace(0, h, 3))) - dg * s
    simpson = h / 6 * (kernel[0] ** 2 + 4 * kernel[1] ** 2 + kernel[2] ** 2)
    np.testing.assert_allclose(S**2, simpson, rtol=1e-11)


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_first_order_is_euler(process):
    times = grids.quadratic(process, 30, t_end=end(process))
    size = float(np.abs(euler(process, times).canonical().C).max())
    assert difference(quasi_taylor(process, times, 1), euler(process, times)) < 1e-12 * max(size, 1.0)


@pytest.mark.parametrize("n", [5, 10])
def test_where_sigma_is_time_the_series_ends(n):
    """EDM: α = 1 and ρ = t, so DDIM's step is linear in h and every order is DDIM."""
    times = grids.rho7(EDM(), n)
    for order in (1, 2, 3):
        assert difference(quasi_taylor(EDM(), times, order), ddim(EDM(), times)) < 1e-9


@pytest.mark.parametrize("process", [VP, SubVP(), EDM(), DISCRETE], ids=["vp", "sub-vp", "edm", "discrete"])
def test_a_step_to_the_clean_end_is_that_of_the_limit(process):
    times = np.array([float(process.t_of_rho(0.05)), process.t_min])
    for scheme in (quasi_taylor, ito_taylor):
        plan = scheme(process, times)
        assert difference(plan, ddim(process, times)) < 1e-14 and not plan.stochastic


@pytest.mark.parametrize("process", [VP, VE()], ids=["vp", "ve"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_limit_is_ddim_whatever_the_data(process, order):
    """The difference to DDIM on the same grid falls with the order of the series, on a mixture too."""
    gaps = []
    for n in (160, 320):
        times = grids.quadratic(process, n, t_end=end(process))
        one, other = (p for p in (quasi_taylor(process, times, order), ddim(process, times)))
        model, scale = example(process), process.prior_std
        gaps.append(float((result(one, model, scale) - result(other, model, scale)).norm()))
    assert slope(gaps) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("process", [VP, VE()], ids=["vp", "ve"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_where_the_ideal_derivative_is_exact_and_where_it_is_not(process, order):
    """Order p for data at one point; order 1 for a Gaussian, where ε is not constant along the solution."""
    point, errors, others = GaussianMixture(POINT, 0.0, process), [], []
    start = process.prior_std * START
    for n in (160, 320):
        times = grids.quadratic(process, n, t_end=end(process))
        x = result(quasi_taylor(process, times, order), point, process.prior_std)
        # From the start on the line through the point, x̄ moves by Δρ ε with the same ε.
        a, s = process.alpha(times[[0, -1]]), process.sigma(times[[0, -1]])
        truth = a[1] * POINT + (s[1] / s[0]) * (start - a[0] * POINT)
        errors.append(float((x - truth).norm()))
        others.append(error(quasi_taylor(process, times, order), GaussianMixture(POINT, 0.5, process), start))
    assert slope(errors) == pytest.approx(order, abs=0.3)
    assert slope(others) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("process", [VP, VE()], ids=["vp", "ve"])
@pytest.mark.parametrize("order", [1, 2])
def test_weak_order_of_the_stochastic_scheme(process, order):
    """For data at one point the law is normal; its mean and variance converge with order p, the mean at least.

    DDPM with the posterior variance, the limit, has the true law at once.
    """
    point = GaussianMixture(POINT, 0.0, process)
    variances, means = [], []
    for n in (160, 320):
        times = grids.quadratic(process, n, t_end=end(process))
        plan, limit = ito_taylor(process, times, order), ddpm_beta_tilde(process, times)
        sigma = process.sigma(times)
        variances.append(abs(result_variance(plan, sigma[0], 1 / sigma) / sigma[-1] ** 2 - 1))
        np.testing.assert_allclose(result_variance(limit, sigma[0], 1 / sigma), sigma[-1] ** 2, rtol=1e-11)
        gap = result(plan, point, process.prior_std) - result(limit, point, process.prior_std)
        means.append(float(gap.norm()))
    assert slope(variances) == pytest.approx(order, abs=0.25)
    assert slope(means) > order - 0.3


def test_stochastic_scheme_of_order_one_is_euler_maruyama():
    times = grids.uniform(VP, 20)
    X, E, S = ito_taylor(VP, times, 1).table()
    b, h, t = beta(times[:-1]), -np.diff(times), times[:-1]
    np.testing.assert_allclose(np.diag(X), 1 + h * b / 2, rtol=1e-11)
    np.testing.assert_allclose(np.diag(E), -h * b / VP.sigma(t), rtol=1e-11)
    np.testing.assert_allclose(np.diag(S), np.sqrt(b * h), rtol=1e-11)


def test_labels_give_the_series_of_the_schedule_they_sample():
    """DDPM's labels are a continuous VP process in t = (label + 1)/1000, up to the size of one label's step."""
    labels = grids.trailing(DISCRETE, 100)[:-1]
    one = quasi_taylor(DISCRETE, labels).table()
    other = quasi_taylor(VP, (labels + 1) / 1000).table()
    for a, b in zip(one[:2], other[:2], strict=True):
        np.testing.assert_allclose(np.diag(a)[:-1], np.diag(b)[:-1], rtol=0.02)
    # On labels too the limit is DDIM: with steps of one label the third power of h is left out.
    times = np.arange(999.0, 10.0, -1.0)
    x, y = (result(p, example(DISCRETE), 1.0) for p in (quasi_taylor(DISCRETE, times), ddim(DISCRETE, times)))
    assert 0 < float((x - y).abs().max()) < 1e-4


@pytest.mark.parametrize("scheme", [quasi_taylor, ito_taylor])
def test_refusals(scheme):
    with pytest.raises(UserError, match="orders 1"):
        scheme(VP, grids.uniform(VP, 5), 4)


@pytest.mark.parametrize("order", [1, 2])
def test_a_schedule_that_is_steep_at_its_last_labels(order):
    """The cosine's ρ² grows a thousandfold over its last label; the series must still have the right signs there."""
    process = cosine_vp()
    for spacing in (grids.uniform, grids.rho7):
        for steps in (1, 3, 5, 9, 21, 50):
            assert np.isfinite(ito_taylor(process, spacing(process, steps), order).canonical().S).all()
    times = grids.uniform(process, 1000)
    limit = np.abs(ddim(process, times).canonical().C).max()
    assert np.abs(quasi_taylor(process, times, order).canonical().C).max() < 2.0 * limit


@pytest.mark.parametrize("scheme", [ito_taylor, quasi_taylor])
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_chains_of_few_labels(scheme, labels):
    """Of equal β, log α is linear: a chain with fewer labels than the series has terms is the start of a longer one."""
    times = np.arange(labels - 1.0, -1.5, -1.0)
    short, long = (scheme(DiscreteVP(np.full(n, 0.3)), times) for n in (labels, 40))
    assert difference(short, long) < 1e-10
