"""Exact problems: ε* against autograd and closed forms, and the reference solution against a solvable ODE."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, IdealDenoiser, projection, reference, smoothed_distance
from fewstep.schedules import PROCESSES, ContinuousVP

GENERATOR = torch.Generator().manual_seed(0)
MEANS = 2 * torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64)
X = 2 * torch.randn(7, 3, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15], dtype=torch.float64)


def interior(process):
    return process.t_min + 0.6 * (process.t_max - process.t_min)


@pytest.mark.parametrize("std", [0.0, 0.3])
@pytest.mark.parametrize("name", PROCESSES)
def test_eps_is_minus_sigma_times_the_gradient_of_the_log_density(name, std):
    process = PROCESSES[name]()
    mixture = GaussianMixture(MEANS, std, process, WEIGHTS)
    t = torch.full((7,), interior(process), dtype=torch.float64)
    x = X.clone().requires_grad_()
    mixture.log_density(x, t).sum().backward()
    sigma, alpha = float(process.sigma(t[0])), float(process.alpha(t[0]))
    torch.testing.assert_close(mixture(X, t), -sigma * x.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.score(X, t), x.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.x0(X, t), (X - sigma * mixture(X, t)) / alpha, rtol=1e-9, atol=1e-9)


def test_the_density_is_normalised():
    mixture = GaussianMixture(MEANS[:, :1], 0.3, ContinuousVP(), WEIGHTS)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)[:, None]
    p = mixture.log_density(x, torch.full((len(x),), 0.2, dtype=torch.float64)).exp()
    assert abs(float(torch.trapezoid(p, x[:, 0])) - 1) < 1e-10


def test_times_may_differ_in_a_batch():
    mixture = GaussianMixture(MEANS, 0.3, ContinuousVP(), WEIGHTS)
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    together = mixture(X, t)
    for i in range(7):
        torch.testing.assert_close(mixture(X[i : i + 1], t[i : i + 1])[0], together[i], rtol=1e-12, atol=1e-12)


def test_the_ideal_denoiser_is_the_weighted_mean_of_the_data():
    process, t = ContinuousVP(), torch.tensor([0.4], dtype=torch.float64)
    a, s = float(process.alpha(0.4)), float(process.sigma(0.4))
    w = torch.exp(-((X[:1, None] - a * MEANS) ** 2).sum(-1) / (2 * s**2))
    expected = (w[..., None] * MEANS).sum(1) / w.sum(1, keepdim=True)
    torch.testing.assert_close(IdealDenoiser(MEANS, process).x0(X[:1], t), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 3.0, 40.0])
def test_gradient_of_the_smoothed_distance_is_sigma_eps(sigma):
    from fewstep.schedules import EDM

    x = X.clone().requires_grad_()
    smoothed_distance(MEANS, x, sigma).sum().backward()
    eps = IdealDenoiser(MEANS, EDM())(X, torch.full((7,), sigma, dtype=torch.float64))
    torch.testing.assert_close(x.grad, sigma * eps, rtol=1e-10, atol=1e-10)


def test_the_smoothed_distance_tends_to_the_distance():
    _, distance = projection(MEANS, X)
    # −σ² log(1/n Σ…) lies between ½d² and ½d² + σ² log n.
    for sigma in (0.2, 0.05, 0.01):
        gap = smoothed_distance(MEANS, X, sigma) - 0.5 * distance**2
        assert torch.all(gap >= -1e-12) and torch.all(gap <= sigma**2 * np.log(5) + 1e-12)


def test_projection():
    nearest, distance = projection(MEANS, MEANS[[3, 1]] + 1e-3)
    torch.testing.assert_close(nearest, MEANS[[3, 1]])
    torch.testing.assert_close(distance, torch.full((2,), 1e-3 * 3**0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", PROCESSES)
def test_reference_on_one_gaussian(name):
    r"""One Gaussian N(μ, s²): x̄(ρ) = μ + (x̄₀ − μ) √((s² + ρ²)/(s² + ρ₀²))."""
    process = PROCESSES[name]()
    model = GaussianMixture(MEANS[:1], 0.5, process)
    start, end = process.t_max, process.t_end
    rho = process.rho([start, interior(process), end])
    found = reference(model, process, X * process.prior_std, start, end, times=np.array([interior(process), end]))
    bar0 = X * process.prior_std / float(process.alpha(start))
    for state, r, t in zip(found, rho[1:], (interior(process), end), strict=True):
        bar = MEANS[0] + (bar0 - MEANS[0]) * np.sqrt((0.25 + r**2) / (0.25 + rho[0] ** 2))
        torch.testing.assert_close(state / float(process.alpha(t)), bar, rtol=1e-9, atol=1e-9)


def test_samples_of_the_data():
    x = GaussianMixture(MEANS, 0.3, ContinuousVP(), WEIGHTS).sample(40_000, torch.Generator().manual_seed(1))
    expected = (WEIGHTS[:, None] * MEANS).sum(0)
    assert torch.all((x.mean(0) - expected).abs() < 5 * x.std(0) / 200)


@pytest.mark.parametrize(
    "call",
    [
        lambda: GaussianMixture(MEANS, -1.0, ContinuousVP()),
        lambda: GaussianMixture(MEANS, 0.3, ContinuousVP(), WEIGHTS[:3]),
        lambda: GaussianMixture(MEANS, 0.3, ContinuousVP(), -WEIGHTS),
        lambda: smoothed_distance(MEANS, X, 0.0),
    ],
)
def test_refusals(call):
    with pytest.raises(UserError):
        call()
