"""Solvers: which of them are the same, what they integrate exactly, and how fast they converge."""

from __future__ import annotations

import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from fewstep import grids
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, reference
from fewstep.plan import Tape, difference
from fewstep.run import sample
from fewstep.schedules import EDM, PROCESSES, VE, ContinuousVP, SubVP, linear_vp
from fewstep.solvers import SOLVERS, build
from fewstep.solvers.coefficients import ADAMS_BASHFORTH, TABLEAUX, adams_bashforth, integrate_d_rho, lagrange
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm_beta_tilde
from fewstep.solvers.deis import rho_ab, rho_rk, t_ab
from fewstep.solvers.edm import edm_heun
from fewstep.solvers.gradient_estimation import ge
from fewstep.solvers.pndm import f_pndm, ipndm, s_pndm

DISCRETE, VP = linear_vp(), ContinuousVP()
ALL = {name: make() for name, make in PROCESSES.items()}
LINEAR_PART = ("euler", "rk4", "fon", "ei-score", "reverse-diffusion-ode", "quasi-taylor")
STOCHASTIC = [n for n in SOLVERS if build(n, VP, 20).stochastic]
DETERMINISTIC = [n for n in SOLVERS if n not in STOCHASTIC]
EXPONENTIAL = [n for n in DETERMINISTIC if n not in LINEAR_PART]
"""Deterministic solvers of dx̄/dρ = ε: they solve the linear part exactly."""


def some_grids(process):
    for n in (4, 7, 20):
        yield grids.uniform(process, n)
        yield grids.quadratic(process, n)
        yield grids.rho7(process, n)


# --- equalities -----


@pytest.mark.parametrize("process", ALL.values(), ids=ALL)
def test_ddim_is_what_many_methods_become(process):
    """DDIM = tAB0 = ρAB0 = ρRK-Euler = EI in ε form = iPNDM-1 = gradient estimation with γ = 1."""
    for times in some_grids(process):
        one = ddim(process, times)
        for other in (
            t_ab(process, times, 0),
            rho_ab(process, times, 0),
            rho_rk(process, times, "euler"),
            SOLVERS["ei-eps"].load()(process, times),
            ipndm(process, times, 1),
            ge(process, times, gamma=1.0),
        ):
            # The difference is rounding, relative to weights as large as 1/α(T).
            assert difference(one, other) < 1e-12 * max(1, np.abs(one.canonical().C).max())


def test_ddim_is_the_simplest_pseudo_numerical_method():
    """Pseudo-Euler: the transfer φ of PNDM, Eq. 11, in x itself, with the network's own output as the gradient."""
    for process in (DISCRETE, VP):
        for times in some_grids(process):
            tape = Tape(process, times[0])
            x, alpha = tape.x, process.alpha(times)
            bar = alpha**2
            state = alpha[0] * x
            for i in range(len(times) - 1):
                scaled = state / alpha[i]
                e = tape.eval(scaled, times[i])
                state = alpha[i] * scaled
                factor = (bar[i + 1] - bar[i]) / (
                    alpha[i] * (np.sqrt((1 - bar[i + 1]) * bar[i]) + np.sqrt((1 - bar[i]) * bar[i + 1]))
                )
                state = (alpha[i + 1] / alpha[i]) * state - factor * e
            pseudo_euler = tape.plan(state / alpha[-1], times[-1])
            assert difference(pseudo_euler, ddim(process, times)) < 1e-12 * np.abs(pseudo_euler.canonical().C).max()


@pytest.mark.parametrize("process", ALL.values(), ids=ALL)
def test_edm_heun_is_rho_rk_heun(process):
    for times in some_grids(process):
        one = edm_heun(process, times)
        assert difference(one, rho_rk(process, times, "heun")) < 1e-12 * max(1, np.abs(one.canonical().C).max())


@pytest.mark.parametrize("process", ALL.values(), ids=ALL)
def test_stochastic_ddim_and_gradient_estimation_are_ddpm(process):
    for times in some_grids(process):
        one = ddpm_beta_tilde(process, times)
        scale = 1e-12 * max(1, np.abs(one.canonical().C).max())
        assert difference(one, ddim(process, times, eta=1.0)) < scale
        assert difference(one, ge(process, times, gamma=1.0, mu=0.5)) < scale


def test_equal_steps_in_rho_make_adams_bashforth_of_all_of_them():
    process = EDM()
    times = np.linspace(80, 0, 21)
    assert difference(ge(process, times, gamma=1.5), ipndm(process, times, 2)) < 1e-11
    for k in (1, 2, 3, 4):
        assert difference(rho_ab(process, times, k - 1), ipndm(process, times, k)) < 1e-11
        assert difference(t_ab(process, times, k - 1), ipndm(process, times, k)) < 1e-11


def test_samplers_do_not_know_the_schedule():
    """At the same noise levels ρ, the table in x̄ is that of EDM, whatever the process (ρ-based solvers)."""
    rho = np.geomspace(40, 0.05, 12)
    for name in ("ddim", "deis-rhoab3", "deis-rhork-heun", "ipndm-4", "pndm-s", "ge", "edm-heun"):
        form = build(name, EDM(), 99, rho).canonical()
        for process in (VP, SubVP(), DISCRETE, VE(0.01, 50)):
            plan = build(name, process, 99, process.t_of_rho(rho))
            mine = plan.canonical()
            a0, a1 = plan.alpha[0], plan.alpha[-1]
            np.testing.assert_allclose(mine.a[-1] * a0 / a1, form.a[-1], rtol=1e-9)
            np.testing.assert_allclose(mine.C[-1] / a1, form.C[-1], rtol=1e-7, atol=1e-9)


# --- what is integrated exactly -----


@pytest.mark.parametrize("name", EXPONENTIAL)
@pytest.mark.parametrize("process", ALL.values(), ids=ALL)
def test_a_constant_eps_is_integrated_exactly(name, process):
    """Consistency: a = α_K/α_0 and Σ_j C_j = α_K (ρ_K − ρ_0)."""
    for nfe in (13, 14, 31):
        plan = build(name, process, nfe, "uniform")
        form = plan.canonical()
        rho = process.rho(plan.times[[0, -1]])
        np.testing.assert_allclose(form.a[-1], plan.alpha[-1] / plan.alpha[0], rtol=1e-11)
        np.testing.assert_allclose(form.C[-1].sum(), plan.alpha[-1] * (rho[1] - rho[0]), rtol=1e-11)


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_one_data_point_is_reached_in_any_number_of_steps(name):
    """PNDM, Property 3.1: with the ε of one data point every transfer stays on the line from noise to data."""
    for process in (DISCRETE, VP, VE(), SubVP()):
        point = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
        model = GaussianMixture(point, 0.0, process)
        plan = build(name, process, 13, "uniform")
        x = process.prior_std * torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        alpha, sigma = plan.alpha[[0, -1]], plan.sigma[[0, -1]]
        z = (x - alpha[0] * point) / sigma[0]
        result = sample(plan, model, x, dtype=torch.float64)
        torch.testing.assert_close(result, alpha[1] * point + sigma[1] * z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [VP, DISCRETE, SubVP(), VE()], ids=["vp", "discrete", "sub-vp", "ve"])
def test_polynomials_in_t_and_in_rho(process):
    """tAB-r integrates ε = t^r dρ exactly once its history is full, ρAB-r integrates ρ^r."""
    times = grids.uniform(process, 9)
    for order in (0, 1, 2, 3):
        for solver, f in ((t_ab, lambda t: t), (rho_ab, process.rho)):
            form = solver(process, times, order).canonical()
            values = f(times[:-1]) ** order
            # Increments of x̄ between steps, from the full canonical table.
            alpha = process.alpha(times)
            bar = np.vstack([np.zeros(9), form.C / alpha[1:, None]])
            steps = np.diff(bar, axis=0) @ values
            for i in range(order, 9):
                exact = integrate_d_rho(process, lambda t, f=f, order=order: f(t) ** order, times[i], times[i + 1])
                assert abs(steps[i] - exact) < 1e-10 * max(1.0, np.abs(values).max() * process.rho(times[0]))


def test_quadrature_agrees_with_an_adaptive_one():

    for process, t, u in ((VP, 1.0, 1e-3), (VP, 0.3, 0.29), (VP, 0.1, 0.0), (SubVP(), 1.0, 1e-3)):
        nodes = np.array([1.0, 0.7, 0.4])
        mine = integrate_d_rho(process, lambda s: lagrange(nodes, s), t, u)  # noqa: B023
        for j in range(3):
            f = lambda rho, j=j: lagrange(nodes, process.t_of_rho(np.array([rho])))[j, 0]  # noqa: B023, E731
            edges = np.append(np.geomspace(process.rho(t), max(process.rho(u), 1e-4), 30), process.rho(u))
            theirs = sum(quad(f, a, b, epsabs=0, epsrel=1e-13)[0] for a, b in pairwise(edges))
            assert abs(mine[j] - theirs) < 1e-12 * process.rho(t)


def test_quadrature_on_labels():
    """Between labels log ᾱ is linear: the panels must meet there. Compared with 4,000 nodes per panel."""
    for t, u in ((999.0, 899.0), (50.0, -1.0), (3.5, 1.25), (0.0, -1.0), (0.5, 0.25)):
        mine = integrate_d_rho(DISCRETE, lambda s: np.stack([s**0, s, s**2]), t, u)
        edges = np.concatenate([[t], np.arange(np.ceil(t) - 1, u, -1), [u]])
        fine = np.zeros(3)
        for a, b in pairwise(edges):
            r = np.linspace(DISCRETE.rho(a), DISCRETE.rho(b), 4001)
            middle = DISCRETE.t_of_rho(0.5 * (r[1:] + r[:-1]))
            fine += np.stack([middle**0, middle, middle**2]) @ np.diff(r)
        np.testing.assert_allclose(mine, fine, rtol=1e-6)


@pytest.mark.parametrize("name", TABLEAUX)
def test_tableaux_satisfy_the_order_conditions(name):
    """Hairer, Nørsett & Wanner, §II.2, up to order 4; and the next order fails."""
    tableau = TABLEAUX[name]
    s = len(tableau.b)
    A, b, c = np.zeros((s, s)), np.array(tableau.b), np.array(tableau.c)
    for i, row in enumerate(tableau.a, start=1):
        A[i, : len(row)] = row
    np.testing.assert_allclose(A.sum(1), c, atol=1e-15)
    conditions = [
        [b.sum() - 1],
        [b @ c - 1 / 2],
        [b @ c**2 - 1 / 3, b @ A @ c - 1 / 6],
        [b @ c**3 - 1 / 4, (b * c) @ A @ c - 1 / 8, b @ A @ c**2 - 1 / 12, b @ A @ A @ c - 1 / 24],
    ]
    for order, residuals in enumerate(conditions, start=1):
        if order <= tableau.order:
            np.testing.assert_allclose(residuals, 0, atol=1e-15)
        elif order == tableau.order + 1:
            assert np.abs(residuals).max() > 1e-3


def test_adams_weights_come_from_the_interpolating_polynomial():
    for k in (1, 2, 3, 4):
        np.testing.assert_allclose(adams_bashforth(-np.arange(k) * 1.0, 0.0, 1.0), ADAMS_BASHFORTH[k - 1], rtol=1e-13)


# --- orders of convergence -----

MEANS = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MIXTURE = GaussianMixture(MEANS, 0.3, VP)
TRUTH = reference(MIXTURE, VP, START, 1.0, 1e-3)


def slope(make, steps=(320, 640, 1280)):
    """The slope of log error against log steps over the last doubling."""
    errors = [float((sample(make(n), MIXTURE, START, dtype=torch.float64) - TRUTH).pow(2).mean().sqrt()) for n in steps]
    return float(np.log2(errors[-2] / errors[-1]))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence(name):
    """On the quadratic grid. Equal-step weights, and a start or an end of lower order, cap the multistep methods at 2.

    What is measured may exceed the order where the steps that cap it cross times at which ε hardly changes.
    """
    solver = SOLVERS[name]
    found = slope(lambda n: solver.load()(VP, grids.quadratic(VP, n), **solver.options))
    assert found > solver.order - 0.25, found


@pytest.mark.parametrize(("name", "most"), [("unipc-3", 2.5), ("ipndm-3", 2.5), ("deis-tab3", 2.5), ("dpmpp-3m", 2.5)])
def test_what_caps_the_order_shows(name, most):
    solver = SOLVERS[name]
    assert slope(lambda n: solver.load()(VP, grids.quadratic(VP, n), **solver.options)) < most


def test_equal_steps_give_the_classical_methods_their_order():
    """FON's weights are made for equal steps in t, F-PNDM's for equal steps in ρ, with stages half-way in ρ."""
    assert slope(lambda n: SOLVERS["fon"].load()(VP, grids.uniform(VP, n))) > 3.75
    process = EDM()
    model = GaussianMixture(MEANS, 1.0, process)
    start = 10.0 * START
    truth = reference(model, process, start, 10.0, 0.1)
    errors = [
        float(
            (sample(f_pndm(process, np.linspace(10, 0.1, n + 1)), model, start, dtype=torch.float64) - truth)
            .abs()
            .max()
        )
        for n in (160, 320)
    ]
    assert np.log2(errors[0] / errors[1]) > 3.7


def _started(process, times, order, weights):
    """An Adams–Bashforth method whose first steps are Kutta-3/RK4 steps in ρ: a start of full order."""
    rho = process.rho(times)
    tape = Tape(process, times[0])
    x, history = tape.x, []
    tableau = TABLEAUX["rk4"]
    for i in range(len(times) - 1):
        h = rho[i + 1] - rho[i]
        e = [tape.eval(x, times[i])]
        history = [e[0], *history[: order - 1]]
        if i < order - 1:
            for a, c in zip(tableau.a, tableau.c[1:], strict=True):
                stage = x + h * sum(w * k for w, k in zip(a, e, strict=True))
                e.append(tape.eval(stage, float(process.t_of_rho(rho[i] + c * h))))
            x = x + h * sum(w * k for w, k in zip(tableau.b, e, strict=True))
        else:
            nodes = times[i - order + 1 : i + 1][::-1]
            C = weights(nodes, times[i], times[i + 1])
            x = x + sum(c * k for c, k in zip(C, history, strict=True))
    return tape.plan(x, times[-1])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_better_start_gives_deis_its_full_order(order):
    t_weights = lambda nodes, t, u: integrate_d_rho(VP, lambda s: lagrange(nodes, s), t, u)  # noqa: E731
    rho_weights = lambda nodes, t, u: adams_bashforth(VP.rho(nodes), float(VP.rho(t)), float(VP.rho(u)))  # noqa: E731
    for weights in (t_weights, rho_weights):
        found = slope(lambda n, w=weights: _started(VP, grids.quadratic(VP, n), order, w))
        assert found > order - 0.3, found


# --- the registry -----


@pytest.mark.parametrize("name", SOLVERS)
def test_the_registry_counts_calls_as_the_plan_does(name):
    solver = SOLVERS[name]
    for process in (DISCRETE, VP):
        clean = float(process.rho(process.t_end)) == 0
        for steps in (solver.min_steps, solver.min_steps + 1, 17):
            plan = solver.load()(process, grids.uniform(process, steps), **solver.options)
            assert plan.nfe == solver.nfe(steps, clean)
    for nfe in range(solver.nfe(solver.min_steps, True), 60):
        plan = build(name, DISCRETE, nfe, "uniform")
        assert plan.nfe <= nfe
        steps = solver.steps(nfe, True)
        assert solver.nfe(steps + 1, True) > nfe


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_names_its_source(name):
    solver = SOLVERS[name]
    assert solver.name == name and solver.title and solver.reference
    assert inspect.getdoc(solver.load())
    assert solver.default_grid in grids.GRIDS


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: build("dimm", VP, 10), "unknown solver 'dimm'; did you mean ddim"),
        (lambda: build("rk45", VP, 10), "call fewstep.adaptive.rk45"),
        (
            lambda: rho_rk(VP, np.array([0.9, 0.5, 0.1]), "hen"),
            "unknown Runge–Kutta method 'hen'; did you mean",
        ),
        (lambda: build("pndm-f", VP, 12, "uniform"), "cannot spend 12 network calls: it needs at least 13"),
        (lambda: build("ddim", VP, 0), "needs at least 1"),
        (lambda: build("ddim", VP, 10, eta=1.5), r"eta must lie in \[0, 1\]"),
        (lambda: build("ddim", VP, 10, eta=-0.1), "eta"),
        (lambda: build("ge", VP, 10, gamma=0.0), r"gamma must lie in \(0, 4\]"),
        (lambda: build("ge", VP, 10, gamma=float("nan")), "gamma"),
        (lambda: build("ge", VP, 10, mu=1.0), "mu must lie"),
        (lambda: build("ge", VP, 10, gama=2), "did you mean gamma"),
        (lambda: build("euler", VP, 10, eta=1), "takes no option 'eta'"),
        (lambda: build("ddim", VP, 5, np.array([1.0, 0.5, 0.6])), "decrease strictly"),
        (lambda: build("deis-rhork-heun", VP, 5, grids.uniform(VP, 5)), "makes 10 network calls, more than 5"),
        (lambda: t_ab(VP, grids.uniform(VP, 5), 4), "orders 0 to 3"),
        (lambda: ipndm(VP, grids.uniform(VP, 5), 5), "orders 1 to 4"),
        (lambda: f_pndm(VP, grids.uniform(VP, 3)), "at least 4 steps"),
        (lambda: s_pndm(VP, grids.uniform(VP, 1)), "at least 2 steps"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(UserError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
