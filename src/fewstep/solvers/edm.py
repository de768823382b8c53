"""EDM's samplers (Karras, Aittala, Aila & Laine 2022)."""

from __future__ import annotations

import math

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Tape
from ..schedules import Process

__all__ = ["edm_heun"]


def edm_heun(
    process: Process,
    times: Grid,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Plan:
    r"""Heun's second-order method as EDM states it (EDM, Algorithms 1 and 2), with s(t) = 1 and σ = ρ.

    .. math::

        d_i = (\bar x_i - D(\bar x_i))/\rho_i, \qquad
        \bar x_{i+1} = \bar x_i + (\rho_{i+1} - \rho_i)\,\tfrac12(d_i + d_i') ,

    where D is the denoiser and d′ is taken at the Euler step. The step to ρ = 0 is an Euler step: n steps make
    2n − 1 calls. With churn each step first raises the noise level to
    :math:`\hat\rho = \rho_i(1 + \min(\mathrm{churn}/n, \sqrt2 - 1))`, where :math:`s_{min} \le \rho_i \le s_{max}`, by
    adding noise; never above the level at ``process.t_max``, which no network has seen.

    Args:
        churn: S_churn, at least 0 (0: deterministic).
        s_min: the smallest noise level that is churned.
        s_max: the largest.
        s_noise: scales the added noise.

    Raises:
        UserError: for a negative churn or s_noise.
    """
    if churn < 0 or s_noise < 0:
        raise UserError(f"churn and s_noise must not be negative, got {churn:g} and {s_noise:g}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    top = float(process.rho(process.t_max))
    n = len(times) - 1
    tape = Tape(process, times[0])
    x = tape.x
    for i, (t, u) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        level = rho[i]
        if churn > 0:
            z = tape.noise()
            if s_min <= rho[i] <= s_max:
                level = max(rho[i], min(rho[i] * (1.0 + min(churn / n, math.sqrt(2.0) - 1.0)), top))
            if level > rho[i]:
                x = x + s_noise * math.sqrt(level**2 - rho[i] ** 2) * z
                t = float(process.t_of_rho(level))
        e = tape.eval(x, t)
        denoised = x - level * e
        d = (x - denoised) / level
        y = x + (rho[i + 1] - level) * d
        if rho[i + 1] > 0:
            e = tape.eval(y, u)
            denoised = y - rho[i + 1] * e
            d2 = (y - denoised) / rho[i + 1]
            y = x + (rho[i + 1] - level) * (0.5 * (d + d2))
        x = y
    return tape.plan(x, times[-1])
