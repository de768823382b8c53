"""DDIM (Song, Meng & Ermon 2020)."""

from __future__ import annotations

import math

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Tape
from ..schedules import Process

__all__ = ["ddim"]


def ddim(process: Process, times: Grid, eta: float = 0.0) -> Plan:
    r"""Generalised steps (DDIM, Eqs. 12, 16), η from 0 (deterministic) to 1 (DDPM with variance :math:`\tilde\beta`).

    .. math::

        \bar x_u = \bar x_t + \left(\sqrt{\rho_u^2 - s^2} - \rho_t\right)\varepsilon + s z, \qquad
        s = \eta\,\rho_u\sqrt{1 - \rho_u^2/\rho_t^2} .

    Raises:
        UserError: unless 0 <= eta <= 1.
    """
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must lie in [0, 1], got {eta:g}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i in range(len(times) - 1):
        e = tape.eval(x, times[i])
        s = eta * rho[i + 1] * math.sqrt(1.0 - (rho[i + 1] / rho[i]) ** 2)
        x = x + (math.sqrt(rho[i + 1] ** 2 - s**2) - rho[i]) * e
        if eta > 0:
            x = x + s * tape.noise()
    return tape.plan(x, times[-1])
