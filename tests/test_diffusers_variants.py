"""DEIS in λ, PLMS, SDE-DPM-Solver: what they are equal to, what they integrate exactly, how fast they converge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep import grids
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, reference
from fewstep.plan import Plan, difference
from fewstep.run import sample
from fewstep.schedules import EDM, ContinuousVP, linear_vp
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm_beta_tilde
from fewstep.solvers.deis import _lambda_weights, lambda_ab
from fewstep.solvers.dpm_solver import dpm_solver_multistep
from fewstep.solvers.pndm import plms, s_pndm

DISCRETE, VP = linear_vp(), ContinuousVP()
MEANS = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MIXTURE = GaussianMixture(MEANS, 0.3, VP)


def same(one: Plan, other: Plan) -> bool:
    """Equal canonical tables, to the rounding of weights as large as 1/α(T)."""
    return difference(one, other) < 1e-11 * max(1.0, float(np.abs(one.canonical().C).max()))


# DEIS in λ


@pytest.mark.parametrize("h", [1e-4, 1e-2, 0.3, 2.0, 8.0])
@pytest.mark.parametrize("back", [[], [0.7], [0.5, 1.6], [1.0, 1.4, 3.0]])
def test_lambda_weights_are_the_integrals(h, back):
    """Against 64-point Gauss–Legendre quadrature of L_j(s) ρ e^{-s}, to 1e-12 of the largest weight.

    The logarithm of a ratio of levels is known to 1e-16, which is 1e-16/h of a step.
    """
    s = -h * np.array([0.0, *back])
    x, w = np.polynomial.legendre.leggauss(64)
    at = 0.5 * h * (1.0 + x)
    exact = []
    for j in range(len(s)):
        basis = np.prod([(at - s[k]) / (s[j] - s[k]) for k in range(len(s)) if k != j], axis=0)
        exact.append(-2.5 * np.sum(0.5 * h * w * np.exp(-at) * basis))
    weights = _lambda_weights(2.5 * np.exp(-s), 2.5 * np.exp(-h))
    np.testing.assert_allclose(weights, exact, rtol=0, atol=(1e-12 + 1e-15 / h) * np.abs(exact).max())


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_lambda_ab_integrates_polynomials_in_lambda(order):
    """The last row of the table, applied to ε = λ^k, is the integral of λ^k dρ for every k up to the degree."""
    times = grids.rho7(VP, 7)
    _, E, _ = lambda_ab(VP, times, order).table()
    start, end = VP.rho(times[-2:])
    x, w = np.polynomial.legendre.leggauss(64)
    rho = start * np.exp(0.5 * np.log(end / start) * (1.0 + x))
    drho = 0.5 * np.log(end / start) * w * rho
    row = E[-1] / VP.alpha(times[-1])
    for k in range(order + 1):
        assert row @ VP.lambda_(times[:-1]) ** k == pytest.approx((-np.log(rho)) ** k @ drho, rel=1e-11)
    k = order + 1
    assert row @ VP.lambda_(times[:-1]) ** k != pytest.approx((-np.log(rho)) ** k @ drho, rel=1e-4)


@pytest.mark.parametrize("process", [VP, DISCRETE, EDM()], ids=["vp", "discrete", "edm"])
def test_lambda_ab_of_low_degree_has_other_names(process):
    times = grids.rho7(process, 9)
    assert same(lambda_ab(process, times, 0), ddim(process, times))
    for final in (0, 2):
        one = lambda_ab(process, times, 1, final)
        assert same(one, dpm_solver_multistep(process, times, 2, data=False, taylor=True, final=final))


def slope(solver, times, counts=(50, 100)) -> float:
    """Observed order of convergence between two step counts, on grids ``times(n)`` with common ends."""
    truth = reference(MIXTURE, VP, START, *times(counts[0])[[0, -1]])
    errors = [
        float((sample(solver(VP, times(n)), MIXTURE, START, dtype=torch.float64) - truth).abs().max()) for n in counts
    ]
    return float(np.log2(errors[0] / errors[1]))


def uniform_lambda(n: int) -> np.ndarray:
    return grids.uniform_lambda(VP, n, t_start=0.7)


def uniform_rho(n: int) -> np.ndarray:
    return grids.power_rho(VP, n, power=1.0, t_start=0.4, t_end=0.2)


@pytest.mark.parametrize(("order", "least"), [(0, 0.95), (1, 1.8), (2, 2.3), (3, 2.3)])
def test_lambda_ab_converges(order, least):
    assert least < slope(lambda q, t: lambda_ab(q, t, order), uniform_lambda) < least + (0.3 if order < 2 else 2.0)


# PLMS


def test_plms_of_order_2_is_s_pndm():
    times = grids.quadratic(DISCRETE, 10)
    assert same(plms(DISCRETE, times, 2), s_pndm(DISCRETE, times))
    for order in (2, 3, 4):
        assert plms(DISCRETE, times, order).nfe == 11


@pytest.mark.parametrize(("order", "expected"), [(2, 2), (3, 3), (4, 3)])
def test_plms_on_equal_steps_of_rho_has_the_order_that_its_start_allows(order, expected):
    """The start's error, once, is of third order."""
    assert slope(lambda q, t: plms(q, t, order), uniform_rho) == pytest.approx(expected, abs=0.15)


# SDE-DPM-Solver


def test_data_form_of_order_1_is_ddpm():
    times = grids.rho7(VP, 10)  # no clean end: DDPM's chain draws a noise that it does not use there
    assert same(dpm_solver_multistep(VP, times, 1, eta=1.0), ddpm_beta_tilde(VP, times))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_straight_lines_in_lambda_are_integrated_exactly(order, eta):
    """The last row's weights of ε or of x̂₀ = x̄ − ρε, applied to 1 and to λ, are the integrals by quadrature.

    The row's noise has the variance of the linear SDE over the step: ∫ 2ηρ dρ, or ∫ 2η e^{−2(1+η)(h−s)} ρ² ds.
    """
    times = grids.rho7(VP, 7)
    rho, lam, alpha = VP.rho(times), VP.lambda_(times), float(VP.alpha(times[-1]))
    h = lam[-1] - lam[-2]
    x, w = np.polynomial.legendre.leggauss(64)
    at, w = lam[-2] + 0.5 * h * (1.0 + x), 0.5 * h * w
    decay = np.exp(-(1.0 + eta) * (lam[-1] - at))
    for data, density, spread in [
        (True, (1.0 + eta) * decay, 2.0 * eta * decay**2 * np.exp(-2.0 * at)),
        (False, -(1.0 + eta) * np.exp(-at), 2.0 * eta * np.exp(-2.0 * at)),
    ]:
        _, E, S = dpm_solver_multistep(VP, times, order, data, taylor=True, eta=eta).table()
        row = E[-1] / alpha / (-rho[:-1] if data else 1.0)
        for k in (0, 1):
            assert row @ lam[:-1] ** k == pytest.approx((density * at**k) @ w, rel=1e-11)
        assert (S[-1] @ S[-1]) / alpha**2 == pytest.approx(spread @ w, rel=1e-11)


def variance(plan: Plan, data_std: float) -> float:
    """Var(x̄) at the end over the true one, for data N(0, s²) and x̄ of the right variance at the start.

    ε = ρ x̄/(ρ² + s²) is linear, so that every state is a known combination of the start and the noises.
    """
    a, s = plan.alpha, plan.sigma
    start = a[0] * np.hypot(s[0] / a[0], data_std)
    states = [np.append(start, np.zeros(plan.draws))]
    eps = []
    X, E, S = plan.table()
    for k in range(plan.nfe):
        eps.append(s[k] / (s[k] ** 2 + (a[k] * data_std) ** 2) * states[k])
        new = sum(c * x for c, x in zip(X[k], states, strict=False)) + sum(
            c * e for c, e in zip(E[k], eps, strict=False)
        )
        new[1:] += S[k]
        states.append(new)
    return float(states[-1] @ states[-1]) / (s[-1] ** 2 + (a[-1] * data_std) ** 2)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_data_form_is_exact_for_a_point(order, eta):
    """Where the denoised value is constant nothing is left to expand: the variance is right after any steps."""
    for n in (3, 9):
        plan = dpm_solver_multistep(VP, grids.rho7(VP, n), order, eta=eta)
        assert variance(plan, 0.0) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize(("data", "order"), [(True, 1), (True, 2), (False, 2)])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_variance_of_gaussian_data_converges(data, order, eta):
    """Weak convergence of the second moment, at the order of the method."""
    errors = [
        abs(variance(dpm_solver_multistep(VP, uniform_lambda(n), order, data, taylor=True, eta=eta), 0.5) - 1.0)
        for n in (100, 200)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


# Mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: lambda_ab(VP, t, 4), "orders 0 to 3"),
        (lambda t: lambda_ab(VP, t, 1, -1), "final must not be negative"),
        (lambda t: plms(VP, t, 1), "orders 2 to 4"),
        (lambda t: dpm_solver_multistep(VP, t, 4, eta=1.0), "orders 1 to 3"),
        (lambda t: dpm_solver_multistep(VP, t, 2, eta=-0.1), "eta"),
        (lambda t: dpm_solver_multistep(VP, t, 2, eta=float("nan")), "eta"),
        (lambda t: dpm_solver_multistep(VP, t, 2, final=-1), "final must not be negative"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(UserError, match=message):
        call(grids.rho7(VP, 5))
