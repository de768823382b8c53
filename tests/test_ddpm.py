"""What DDPM states of its chain: the posterior, the terms of the bound, and how little is left at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fewstep import data
from fewstep.schedules import linear_vp
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde

DISCRETE = linear_vp()
PAIRS = [(1, 0), (10, 9), (500, 499), (999, 998), (999, 0), (800, 300)]


def forward(t: int, u: int) -> tuple[float, float]:
    """Factor and variance of x_t given x_u by the chain itself, step by step."""
    factor, variance = 1.0, 0.0
    for beta in DISCRETE.betas[u + 1 : t + 1]:
        factor, variance = factor * (1 - beta) ** 0.5, variance * (1 - beta) + beta
    return factor, variance


@pytest.mark.parametrize(("t", "u"), PAIRS)
def test_the_posterior_is_bayes_rule(t, u):
    """q(x_u | x_t, x_0) ∝ q(x_t | x_u) q(x_u | x_0): precisions add (DDPM, Eqs. 6–7); x_0 then is what ε says it is."""
    factor, variance = forward(t, u)
    alpha, sigma = (f([t, u]) for f in (DISCRETE.alpha, DISCRETE.sigma))
    precision = factor**2 / variance + 1 / sigma[1] ** 2
    of_state, of_data = factor / variance / precision, alpha[1] / sigma[1] ** 2 / precision
    X, E, S = ddpm_beta_tilde(DISCRETE, np.array([t, u], dtype=float)).table()
    expected = [of_state + of_data / alpha[0], -of_data * sigma[0] / alpha[0], precision**-0.5]
    np.testing.assert_allclose([X[0, 0], E[0, 0], S[0, 0]], expected, rtol=1e-9)


@pytest.mark.parametrize("k", [1, 10, 500, 999])
def test_a_term_of_the_bound_is_a_weighted_error_of_the_noise(k):
    """DDPM, Eq. 12, for both variances: KL = β² ‖z − ε‖² / (2 σ² (1 − β)(1 − ᾱ))."""
    beta, bar = DISCRETE.betas[k], float(DISCRETE.alpha(k)) ** 2
    z, eps = 0.7, -0.4
    for solver in (ddpm, ddpm_beta_tilde):
        _, E, S = solver(DISCRETE, np.array([k, k - 1], dtype=float)).table()
        std = torch.tensor(S[0, 0])
        found = kl_divergence(Normal(torch.tensor(E[0, 0] * z), std), Normal(torch.tensor(E[0, 0] * eps), std))
        expected = beta**2 * (z - eps) ** 2 / (2 * S[0, 0] ** 2 * (1 - beta) * (1 - bar))
        assert float(found) == pytest.approx(expected, rel=1e-9)


def test_what_is_left_of_an_image_at_the_end_is_about_1e_5_bits_per_dimension():
    """DDPM, §4: KL(q(x_T | x_0) ‖ N(0, I)) of the linear schedule, for an average digit."""
    images = data.digits().images.double()
    a, s = float(DISCRETE.alpha(999)), float(DISCRETE.sigma(999))
    divergence = kl_divergence(Normal(a * images, torch.full_like(images, s)), Normal(0.0, 1.0))
    assert 1e-5 / 3 < float(divergence.mean()) / np.log(2) < 3e-5
