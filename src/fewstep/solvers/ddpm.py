"""DDPM's ancestral sampler (Ho, Jain & Abbeel 2020)."""

from __future__ import annotations

import math

from ..grids import Grid, check
from ..plan import Plan, Tape
from ..schedules import Process

__all__ = ["ddpm", "ddpm_beta_tilde"]


def ddpm(process: Process, times: Grid) -> Plan:
    r"""Ancestral sampling with the larger variance :math:`\hat\sigma^2 = \beta` (DDPM, Algorithm 2 and §3.2).

    On a subset of the steps, :math:`\beta = \sigma_t^2 - (\alpha_t/\alpha_u)^2\sigma_u^2` is the forward variance from
    u to t. The mean of :math:`q(x_u \mid x_t, \hat x_0)` (DDPM, Eqs. 6–7) is, in :math:`\bar x`,

    .. math:: \bar x_u = \bar x_t + \left(\rho_u^2/\rho_t - \rho_t\right)\varepsilon .

    A step that ends clean (ρ = 0) adds no noise.
    """
    return _ancestral(
        process,
        times,
        lambda t, u, rho_t, rho_u: float(process.alpha(t)) / float(process.alpha(u)) * math.sqrt(rho_t**2 - rho_u**2),
    )


def ddpm_beta_tilde(process: Process, times: Grid) -> Plan:
    r"""Ancestral sampling with the posterior variance :math:`\tilde\beta` (DDPM, Eq. 7 and §3.2).

    In :math:`\bar x` the variance is :math:`\rho_u^2(1 - \rho_u^2/\rho_t^2)`; the mean is that of :func:`ddpm`.
    """
    return _ancestral(process, times, lambda t, u, rho_t, rho_u: rho_u * math.sqrt(1.0 - (rho_u / rho_t) ** 2))


def _ancestral(process: Process, times: Grid, std) -> Plan:
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i in range(len(times) - 1):
        e, z = tape.eval(x, times[i]), tape.noise()
        x = x + (rho[i + 1] ** 2 / rho[i] - rho[i]) * e
        if rho[i + 1] > 0:
            x = x + std(times[i], times[i + 1], rho[i], rho[i + 1]) * z
    return tape.plan(x, times[-1])
