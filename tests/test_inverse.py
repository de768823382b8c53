"""Inverse problems where the answer is known: Gaussian data, linear subspaces, boxes and finite sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewstep import grids
from fewstep.errors import UserError
from fewstep.exact import IdealDenoiser
from fewstep.models import clipped
from fewstep.noise import normal
from fewstep.run import sample
from fewstep.schedules import EDM, VE, ContinuousVP, linear_vp
from fewstep.solvers import SOLVERS, build
from fewstep.solvers.ddim import ddim
from fewstep.solvers.gradient_estimation import distance_descent
from fewstep.tasks.inverse import denoise, denoised, gradient_step, onto_measurements, posterior, projected, recover

PROCESSES = [linear_vp(), ContinuousVP(), VE(), EDM(20.0)]


def gaussian(process, covariance, mean=None):
    """ε of N(m, C): σ (α²C + σ²I)⁻¹ (x − αm). C may be singular."""
    mean = torch.zeros(len(covariance), dtype=torch.float64) if mean is None else mean

    def eps(x, t):
        alpha, sigma = float(process.alpha(float(t[0]))), float(process.sigma(float(t[0])))
        matrix = alpha**2 * covariance + sigma**2 * torch.eye(len(covariance), dtype=torch.float64)
        return sigma * torch.linalg.solve(matrix, (x - alpha * mean).T).T

    return eps


def subspace(basis, process):
    """ε of the projection onto the span of the orthonormal columns: the limit of wide Gaussian data in it."""

    def eps(x, t):
        return (x - x @ basis @ basis.T) / float(process.sigma(float(t[0])))

    return eps


def middle(process, n):
    return torch.full((n,), process.t_min + 0.4 * (process.t_max - process.t_min), dtype=torch.float64)


# --- projection onto measurements -----------------------------------------------------------------------------------


def test_the_projection_is_the_nearest_point_with_the_measurements():
    A = normal(0, 0, range(3), (7,), torch.float64)
    A = torch.cat([A, A[:1] + A[1:2]])  # a measurement that follows from others
    y = normal(0, 1, range(5), (7,), torch.float64) @ A.T
    x = normal(0, 2, range(5), (7,), torch.float64)
    project = onto_measurements(A, y)
    found = project(x)
    assert (found @ A.T - y).abs().max() < 1e-13
    assert (project(found) - found).abs().max() < 1e-13
    # What was added is orthogonal to the null space of A: no other point of the set is nearer.
    null = torch.linalg.svd(A).Vh[3:]
    assert ((found - x) @ null.T).abs().max() < 1e-13


def ends_denoised(name):
    """Whether the result of a solver's plan is the denoised value of the last call, (x − σε)/α at ρ = 0."""
    plan = build(name, linear_vp(), 14, "uniform" if name == "ge" else None)
    wanted = [(("x", plan.inputs[-1]), 1 / plan.alpha[-2]), (("e", plan.nfe - 1), -plan.sigma[-2] / plan.alpha[-2])]
    found = sorted(plan.states[-1].items(), reverse=True)
    return [key for key, _ in found] == [key for key, _ in wanted] and np.allclose(
        [value for _, value in found], [value for _, value in wanted], rtol=1e-9
    )


DENOISED = [name for name in SOLVERS if ends_denoised(name)]


@pytest.mark.parametrize("name", DENOISED)
def test_a_plan_that_ends_with_a_ddim_step_ends_on_the_constraint(name):
    process = linear_vp()
    A, truth = normal(0, 0, range(4), (9,), torch.float64), normal(0, 1, range(3), (9,), torch.float64)
    plan = build(name, process, 14, "uniform" if name == "ge" else None)
    model = gaussian(process, torch.eye(9, dtype=torch.float64) + 0.5)
    found = recover(plan, model, process, onto_measurements(A, truth @ A.T), (9,), range(3, 6), dtype=torch.float64)
    assert (found @ A.T - truth @ A.T).abs().max() < 1e-9
    assert (found - truth).norm(dim=1).min() > 0.1  # four measurements of nine elements say little


def test_ddim_and_the_single_step_methods_end_with_a_ddim_step():
    assert {"ddim", "ddpm", "edm-heun", "deis-rhork-kutta3", "dpm-solver-3", "dpmpp-2m", "dpmpp-sde"} <= set(DENOISED)


def test_onto_a_box_it_is_clipping():
    process = linear_vp()
    model = gaussian(process, 2 * torch.eye(4, dtype=torch.float64))
    x, t = 2 * normal(0, 0, range(6), (4,), torch.float64), middle(process, 6)
    box = projected(model, process, lambda x0: x0.clamp(-0.5, 0.5))
    torch.testing.assert_close(box(x, t), clipped(model, process, 0.5)(x, t), rtol=1e-13, atol=1e-13)


def test_without_a_constraint_nothing_changes():
    process = ContinuousVP()
    model = gaussian(process, 2 * torch.eye(4, dtype=torch.float64))
    x, t = normal(0, 0, range(6), (4,), torch.float64), middle(process, 6)
    torch.testing.assert_close(projected(model, process, lambda x0: x0)(x, t), model(x, t), rtol=1e-12, atol=1e-12)


# --- convergence at known rates -------------------------------------------------------------------------------------


def two_subspaces():
    """K, a plane through 0 in 5 dimensions, and C = {Ax = y}, which meet in one point; and A, y, that point."""
    basis = torch.linalg.qr(normal(0, 0, range(5), (2,), torch.float64)).Q
    A = normal(0, 1, range(3), (5,), torch.float64)
    truth = basis @ torch.tensor([0.7, -1.2], dtype=torch.float64)
    return basis, A, A @ truth, truth


def projections(basis, A):
    """Of the directions: onto K, and onto those of C."""
    null = torch.linalg.svd(A).Vh[len(A) :].T
    return basis @ basis.T, null @ null.T


START = normal(4, 3, range(4), (5,), torch.float64)
LEVELS = EDM(10.0)


@pytest.mark.parametrize("step", [1.0, 0.5, 0.25])
def test_projected_gradient_on_a_subspace_converges_at_its_rate(step):
    """With the exact projection the iteration is that of projections in turn, relaxed by η.

    Its error is multiplied by (1 − η) I + η P_C P_K, whose spectral radius is 1 − η + η cos²θ with θ the Friedrichs
    angle (von Neumann's rate).
    """
    basis, A, y, truth = two_subspaces()
    model = projected(subspace(basis, LEVELS), LEVELS, onto_measurements(A, y))
    times = grids.check(LEVELS, 10.0 * 0.9 ** np.arange(41))
    found = sample(distance_descent(LEVELS, times, [step] * 40), model, START, dtype=torch.float64)
    on_data, on_constraint = projections(basis, A)
    matrix = (1 - step) * torch.eye(5, dtype=torch.float64) + step * on_constraint @ on_data
    expected = (START - truth) @ torch.linalg.matrix_power(matrix, 40).T
    assert (found - truth - expected).abs().max() < 1e-12
    cosine = float(torch.linalg.matrix_norm(on_constraint @ on_data, 2))
    radius = float(torch.linalg.eigvals(matrix).abs().max())
    assert radius == pytest.approx(1 - step + step * cosine**2, rel=1e-12)
    assert radius < 1


def test_ddim_on_a_geometric_grid_is_that_iteration():
    """Its η is 1 − ρ'/ρ: the error falls no faster than ρ does, and no faster than the projections allow."""
    basis, A, y, truth = two_subspaces()
    model = projected(subspace(basis, LEVELS), LEVELS, onto_measurements(A, y))
    plan = ddim(LEVELS, grids.check(LEVELS, 10.0 * 0.8 ** np.arange(61)))
    found = sample(plan, model, START, dtype=torch.float64)
    on_data, on_constraint = projections(basis, A)
    matrix = 0.8 * torch.eye(5, dtype=torch.float64) + 0.2 * on_constraint @ on_data
    expected = (START - truth) @ torch.linalg.matrix_power(matrix, 60).T
    assert (found - truth - expected).abs().max() < 1e-12


@pytest.mark.parametrize("eta", [0.3, 1.5])
def test_plug_and_play_gradient_steps_solve_the_least_squares_problem(eta):
    """Measurements with noise, data on a plane: x ← P_K(x − η Aᵀ(Ax − y)) tends to K's least-squares point.

    The error on K is multiplied by P_K (I − η AᵀA), of spectral radius max |1 − ηλ| over the eigenvalues of BᵀAᵀAB.
    """
    basis, A, _, _ = two_subspaces()
    A = A / torch.linalg.matrix_norm(A, 2)
    y = normal(0, 7, [0], (3,), torch.float64)[0]
    solution = basis @ torch.linalg.lstsq(A @ basis, y[:, None]).solution[:, 0]
    # The wrapper steps after denoising; the projection of the result is the iterate on K.
    model = projected(subspace(basis, LEVELS), LEVELS, gradient_step(A, y, eta))
    on_data, _ = projections(basis, A)
    matrix = on_data @ (torch.eye(5, dtype=torch.float64) - eta * A.T @ A)
    for n in (30, 300):
        times = grids.check(LEVELS, 10.0 * 0.99 ** np.arange(n + 1))
        found = sample(distance_descent(LEVELS, times, [1.0] * n), model, START, dtype=torch.float64) @ on_data
        expected = (START @ on_data - solution) @ torch.linalg.matrix_power(matrix, n).T
        assert (found - solution - expected).abs().max() < 1e-12
    rates = (1 - eta * torch.linalg.eigvalsh(basis.T @ A.T @ A @ basis)).abs()
    assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(float(rates.max()), rel=1e-10)
    assert rates.max() < 1 and expected.abs().max() < 0.1 * (START @ on_data - solution).abs().max()


# --- exact recovery -------------------------------------------------------------------------------------------------


POINTS = normal(0, 0, range(20), (12,), torch.float64)


def recovered(m, process):
    """How many of 20 points in 12 dimensions come back from m generic measurements."""
    A = normal(1, 0, range(m), (12,), torch.float64)
    ideal = IdealDenoiser(POINTS, process)
    plan = build("ddim", process, 60, "rho7")
    project = onto_measurements(A, POINTS @ A.T)
    found = recover(plan, ideal, process, project, (12,), range(20), seed=9, dtype=torch.float64)
    error = (found - POINTS).norm(dim=1)
    assert (found @ A.T - POINTS @ A.T).abs().max() < 1e-10
    # Either the point itself, or one as far away as another point is.
    assert ((error < 1e-9) | (error > 0.1)).all()
    return int((error < 1e-9).sum())


def test_points_of_a_finite_set_come_back_exactly_from_enough_measurements():
    process = linear_vp()
    counts = [recovered(m, process) for m in (1, 4, 10)]
    assert counts[-1] == 20
    assert counts[0] < 10 and counts == sorted(counts)


@pytest.mark.parametrize("name", ["ddim", "ge", "deis-tab3", "dpmpp-2m", "deis-rhork-heun", "ddpm"])
def test_a_point_with_its_measurements_is_a_fixed_point(name):
    """From near a point the ideal denoiser returns it and the projection leaves it: every plan ends there."""
    process = linear_vp()
    ideal, A = IdealDenoiser(POINTS, process), normal(1, 0, range(3), (12,), torch.float64)
    start = float(process.t_of_rho(0.05))
    grid = "uniform" if name == "ge" else None
    plan = build(name, process, 12, grid, {"t_start": start})
    alpha = float(process.alpha(start))
    x = alpha * (POINTS + 0.05 * normal(2, 0, range(20), (12,), torch.float64))
    model = projected(ideal, process, onto_measurements(A, POINTS @ A.T))
    assert (sample(plan, model, x, dtype=torch.float64) - POINTS).abs().max() < 1e-9


# --- posterior sampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_for_gaussian_data_the_posterior_eps_is_exact(process, noise):
    """One measurement a·x₀ + noise of correlated data: ε of N(m, C) given y, in closed form by conditioning.

    The variance that ``posterior`` asks for is a·Cov(x₀ | x)·a, with Cov(x₀ | x) = (C⁻¹ + I/ρ²)⁻¹.
    """
    root, unit = normal(0, 0, range(4), (4,), torch.float64), torch.eye(4, dtype=torch.float64)
    covariance, mean = root @ root.T + 0.1 * unit, normal(0, 1, [0], (4,), torch.float64)[0]
    a, y = normal(0, 2, [0], (4,), torch.float64)[0], torch.tensor([[0.8]], dtype=torch.float64)
    gain = covariance @ a / (a @ covariance @ a + noise**2)
    given = gaussian(process, covariance - torch.outer(gain, a @ covariance), mean + gain * (0.8 - a @ mean))

    def variance(rho):
        inside = torch.linalg.inv(torch.linalg.inv(covariance) + unit / float(rho[0, 0]) ** 2)
        return torch.full_like(rho, float(a @ inside @ a) + noise**2)

    x, t = normal(0, 3, range(6), (4,), torch.float64), middle(process, 6)
    model = posterior(
        gaussian(process, covariance, mean), process, lambda x0: (x0 @ a)[:, None], y.expand(6, 1), variance=variance
    )
    expected = given(x, t)
    assert (model(x, t) - expected).abs().max() < 1e-10 * expected.abs().max()


def test_the_default_variance_is_that_of_unit_gaussian_pixels():
    """Known pixels of N(0, I): ε = (x − αy)/σ, whose every plan ends at y; the others are left as they are."""
    process = linear_vp()
    known = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    truth = normal(0, 0, range(3), (4,), torch.float64)
    free = gaussian(process, torch.eye(4, dtype=torch.float64))
    model = posterior(free, process, lambda x0: known * x0, known * truth)
    plan = build("deis-tab2", process, 20)
    start = normal(0, 1, range(3), (4,), torch.float64)
    found = sample(plan, model, start, dtype=torch.float64)
    assert (found - truth)[:, :2].abs().max() < 1e-9
    torch.testing.assert_close(
        found[:, 2:], sample(plan, free, start, dtype=torch.float64)[:, 2:], rtol=1e-10, atol=1e-10
    )


def test_weight_zero_is_the_unconditional_model():
    process = ContinuousVP()
    free = gaussian(process, torch.eye(4, dtype=torch.float64))
    x, t = normal(0, 1, range(3), (4,), torch.float64), middle(process, 3)
    assert torch.equal(posterior(free, process, lambda x0: x0, 0 * x, weight=0.0)(x, t), free(x, t))


# --- denoising ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_one_call_is_the_wiener_filter(process):
    """For data N(0, s²) the least squared error is y s²/(s² + σ²), as far as the process ends clean."""
    noisy, s, sigma = 2 * normal(0, 0, range(6), (4,), torch.float64), 0.7, 1.3
    found = denoise(
        gaussian(process, s**2 * torch.eye(4, dtype=torch.float64)), process, noisy, sigma, dtype=torch.float64
    )
    end = process.t_end
    alpha, rho = float(process.alpha(end)), float(process.rho(end))
    slope = (sigma * noisy) / (s**2 + sigma**2)  # ε in x̄
    torch.testing.assert_close(found, alpha * (noisy + (rho - sigma) * slope), rtol=1e-10, atol=1e-10)
    if rho == 0:
        torch.testing.assert_close(found, noisy * s**2 / (s**2 + sigma**2), rtol=1e-10, atol=1e-10)


def test_many_calls_follow_the_ode():
    """Which leads y to y s/√(s² + σ²): a sample, of the data's own variance, with more squared error than the mean."""
    process, s, sigma = linear_vp(), 0.7, 1.3
    noisy = 2 * normal(0, 0, range(6), (4,), torch.float64)
    model = gaussian(process, s**2 * torch.eye(4, dtype=torch.float64))
    expected = noisy * s / math.sqrt(s**2 + sigma**2)
    errors = [
        float((denoise(model, process, noisy, sigma, n, dtype=torch.float64) - expected).abs().max())
        for n in (50, 100, 200)
    ]
    assert errors[2] < 0.02
    assert math.log2(errors[1] / errors[2]) == pytest.approx(1.0, abs=0.1)


def test_the_denoiser_of_an_ideal_eps_is_the_ideal_denoiser():
    process = ContinuousVP()
    ideal = IdealDenoiser(POINTS, process)
    x, t = normal(0, 4, range(6), (12,), torch.float64), middle(process, 6)
    torch.testing.assert_close(denoised(ideal, process)(x, t), ideal.x0(x, t), rtol=1e-11, atol=1e-11)


def test_mistakes_get_one_line():
    process = linear_vp()
    model = gaussian(process, torch.eye(4, dtype=torch.float64))
    x, t = normal(0, 4, range(6), (4,), torch.float64), middle(process, 6)
    A = normal(0, 5, range(2), (4,), torch.float64)
    for A_, y in [(A, torch.zeros(6, 3)), (A[0], torch.zeros(6, 1)), (A, torch.zeros(2, 3, 2)), (A, torch.tensor(0.0))]:
        with pytest.raises(UserError, match=r"A of shape \(m, n\)"):
            onto_measurements(A_, y)
        with pytest.raises(UserError, match=r"A of shape \(m, n\)"):
            gradient_step(A_, y, 0.5)
    with pytest.raises(UserError, match="measures samples of 4 elements; these have 5"):
        onto_measurements(A, torch.zeros(6, 2))(torch.zeros(6, 5))
    for step in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="step must be positive"):
            gradient_step(A, torch.zeros(6, 2), step)
    with pytest.raises(UserError, match="the weight must not be negative"):
        posterior(model, process, lambda x0: x0, x, weight=-1.0)
    with pytest.raises(UserError, match=r"measurements have the shape \(6, 4\); y has \(6, 2\)"):
        posterior(model, process, lambda x0: x0, x[:, :2])(x, t)
    for sigma in (0.0, -1.0, 1e4, math.nan):
        with pytest.raises(UserError, match="sigma must lie in"):
            denoise(model, process, x, sigma)
    with pytest.raises(UserError, match="ddpm injects noise"):
        denoise(model, process, x, 1.0, 5, "ddpm")
