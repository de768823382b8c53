"""EDM's deterministic sampler (Karras, Aittala, Aila & Laine 2022)."""

from __future__ import annotations

from ..grids import Grid, check
from ..plan import Plan, Tape
from ..schedules import Process

__all__ = ["edm_heun"]


def edm_heun(process: Process, times: Grid) -> Plan:
    r"""Heun's second-order method as EDM states it (EDM, Algorithm 1), with s(t) = 1 and σ = ρ.

    .. math::

        d_i = (\bar x_i - D(\bar x_i))/\rho_i, \qquad
        \bar x_{i+1} = \bar x_i + (\rho_{i+1} - \rho_i)\,\tfrac12(d_i + d_i') ,

    where D is the denoiser and d′ is taken at the Euler step. The step to ρ = 0 is an Euler step: n steps make
    2n − 1 calls.
    """
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i, (t, u) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        e = tape.eval(x, t)
        denoised = x - rho[i] * e
        d = (x - denoised) / rho[i]
        y = x + (rho[i + 1] - rho[i]) * d
        if rho[i + 1] > 0:
            e = tape.eval(y, u)
            denoised = y - rho[i + 1] * e
            d2 = (y - denoised) / rho[i + 1]
            y = x + (rho[i + 1] - rho[i]) * (0.5 * (d + d2))
        x = y
    return tape.plan(x, times[-1])
