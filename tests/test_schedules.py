"""Schedules: the identities between α, σ, ρ, λ, their derivatives and their inverses."""

from __future__ import annotations

import numpy as np
import pytest

from fewstep.schedules import (
    EDM,
    PROCESSES,
    VE,
    ContinuousVP,
    DiscreteVP,
    SubVP,
    cosine_vp,
    linear_vp,
    scaled_linear_vp,
)

ALL = [make() for make in PROCESSES.values()]
IDS = list(PROCESSES)


def inside(process, n=97):
    """Times in the open interior, off the labels of a discrete process."""
    return process.t_min + (process.t_max - process.t_min) * (np.arange(n) + 0.3719) / n


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_rho_and_lambda_follow_from_alpha_and_sigma(process):
    t = inside(process)
    np.testing.assert_allclose(process.rho(t), process.sigma(t) / process.alpha(t), rtol=1e-13)
    np.testing.assert_allclose(process.lambda_(t), np.log(process.alpha(t) / process.sigma(t)), rtol=0, atol=1e-12)
    assert np.all(np.diff(process.rho(t)) > 0)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_inverses(process):
    t = inside(process)
    # t(ρ) amplifies rounding where ρ is flat in t; 1e-9 of the time axis bounds it for every schedule.
    scale = process.t_max - process.t_min
    np.testing.assert_allclose(process.t_of_rho(process.rho(t)), t, rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(process.t_of_lambda(process.lambda_(t)), t, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("process", ALL, ids=IDS)
def test_derivatives(process):
    t = inside(process)
    h = 1e-6 * (process.t_max - process.t_min) / 100
    central = lambda f: (f(t + h) - f(t - h)) / (2 * h)  # noqa: E731
    # Rounding of the difference: about eps · |f| / h.
    np.testing.assert_allclose(process.dlog_alpha(t), central(process.log_alpha), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(process.drho(t), central(process.rho), rtol=1e-5, atol=1e-7)
    dvariance = central(lambda s: process.sigma(s) ** 2)
    g2 = dvariance - 2 * process.dlog_alpha(t) * process.sigma(t) ** 2
    np.testing.assert_allclose(process.g2(t), g2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("process", [linear_vp(), cosine_vp(), scaled_linear_vp(), ContinuousVP()])
def test_variance_preserving(process):
    t = np.append(inside(process), [process.t_min, process.t_max])
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1.0, rtol=1e-14)


def test_vp_diffusion_coefficient_is_beta():
    vp, t = ContinuousVP(), np.linspace(0.01, 1, 50)
    np.testing.assert_allclose(vp.g2(t), 0.1 + t * 19.9, rtol=1e-12)
    np.testing.assert_allclose(vp.log_alpha(1.0), -0.25 * 19.9 - 0.05, rtol=1e-15)


def test_the_noise_level_of_vp_moves_infinitely_fast_at_the_clean_end():
    """PNDM, §3.2: the slope of the ODE is unbounded; σ̇ = fσ + αρ̇ ≈ √β_min/(2√t), while f and ε are bounded."""
    vp, t = ContinuousVP(), np.array([1e-8, 1e-6, 1e-4])
    speed = vp.dlog_alpha(t) * vp.sigma(t) + vp.alpha(t) * vp.drho(t)
    # The next term of β = β_min + t(β_max − β_min) is relatively 100 t.
    np.testing.assert_allclose(speed * 2 * np.sqrt(t) / np.sqrt(0.1), 1.0, rtol=0, atol=300 * t[-1])
    np.testing.assert_allclose(speed[0] / speed[1], 10.0, rtol=1e-3)
    assert np.all(np.abs(vp.dlog_alpha(t)) < 0.06)


def test_sub_vp_sigma():
    sub, t = SubVP(), np.linspace(0, 1, 50)
    np.testing.assert_allclose(sub.sigma(t), 1 - sub.alpha(t) ** 2, rtol=0, atol=1e-15)


def test_sub_vp_has_the_mean_of_vp_and_less_variance():
    """Score SDE, §3.4: for the same β."""
    sub, vp, t = SubVP(), ContinuousVP(), np.linspace(0.01, 1, 50)
    np.testing.assert_array_equal(sub.alpha(t), vp.alpha(t))
    assert np.all(sub.sigma(t) < vp.sigma(t))


def test_ve_and_edm():
    np.testing.assert_allclose(VE(0.01, 50).sigma([0, 0.5, 1]), [0.01, (0.01 * 50) ** 0.5, 50], rtol=1e-14)
    np.testing.assert_array_equal(EDM().sigma([0, 1.5, 80]), [0, 1.5, 80])
    assert VE().prior_std == 50 and EDM().prior_std == 80 and linear_vp().prior_std == 1


def test_discrete_tables():
    process = linear_vp()
    betas = np.linspace(1e-4, 2e-2, 1000)
    np.testing.assert_allclose(process.alpha(np.arange(1000)) ** 2, np.cumprod(1 - betas), rtol=1e-13)
    assert process.alpha(-1) == 1 and process.sigma(-1) == 0 and process.rho(-1) == 0
    assert process.lambda_(-1) == np.inf
    np.testing.assert_allclose(scaled_linear_vp().betas[[0, -1]], [8.5e-4, 1.2e-2], rtol=1e-13)
    assert cosine_vp().betas.max() == 0.999
    # iDDPM, Eq. 17: away from the cap the table is the cosine itself.
    u = np.arange(1, 900) / 1000
    bar = (np.cos((u + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    np.testing.assert_allclose(cosine_vp().alpha(np.arange(899)) ** 2, bar, rtol=1e-11)


def test_fractional_labels_interpolate_log_alpha_bar():
    process = linear_vp()
    for k, w in [(0, 0.25), (17, 0.5), (998, 0.9), (-1, 0.3)]:
        expected = (1 - w) * process.log_alpha(k) + w * process.log_alpha(k + 1)
        np.testing.assert_allclose(process.log_alpha(k + w), expected, rtol=1e-13)
    # On a piece, f = ½ log(1 − β); at a label it is the piece below.
    np.testing.assert_allclose(process.dlog_alpha([4.5, 5.0]), 0.5 * np.log1p(-process.betas[5]), rtol=1e-15)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.0], [[0.1]]])
def test_bad_betas(betas):
    with pytest.raises(ValueError, match="between 0 and 1"):
        DiscreteVP(np.array(betas))


@pytest.mark.parametrize("make", [lambda: VE(2, 1), lambda: EDM(0), lambda: ContinuousVP(0, 1), lambda: SubVP(3, 2)])
def test_bad_ranges(make):
    with pytest.raises(ValueError, match=r"needed|positive"):
        make()
