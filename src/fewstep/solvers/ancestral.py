r"""Ancestral samplers of k-diffusion, two calls a step.

An *ancestral* step from noise level :math:`\rho_t` to :math:`\rho_u` goes down to :math:`\rho_\downarrow` by a step
of the ODE and up again by fresh noise of standard deviation :math:`\rho_\uparrow`,

.. math::

    \rho_\uparrow = \eta\,\rho_u\sqrt{1 - \rho_u^2/\rho_t^2}, \qquad \rho_\downarrow^2 = \rho_u^2 - \rho_\uparrow^2 ,

DDIM's split of the variance. With η = 0 all of them are deterministic.
"""

from __future__ import annotations

import math

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process

__all__ = ["dpm2", "dpmpp_2s", "dpmpp_sde"]


def _split(rho_t: float, rho_u: float, eta: float) -> tuple[float, float]:
    """ρ↓ and ρ↑ of a step from ρ_t to ρ_u."""
    up = min(rho_u, eta * rho_u * math.sqrt(max(0.0, 1.0 - (rho_u / rho_t) ** 2)))
    return math.sqrt(rho_u**2 - up**2), up


def _check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must lie in [0, 1], got {eta:g}")


def _two_stage(process: Process, times: Grid, eta: float, exponential: bool) -> Plan:
    """A midpoint step in log ρ down to ρ↓, then noise; a step to ρ = 0 is a DDIM step."""
    _check_eta(eta)
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i in range(len(times) - 1):
        e = tape.eval(x, times[i])
        down, up = _split(rho[i], rho[i + 1], eta)
        if down == 0.0:
            x = x + (down - rho[i]) * e
        else:
            middle = math.sqrt(rho[i] * down)
            y = x + (middle - rho[i]) * e
            e = tape.eval(y, float(process.t_of_rho(middle)))
            # The stage's ε, or its denoised value, stands for the whole step.
            if exponential:
                x = (down / rho[i]) * x + (1.0 - down / rho[i]) * (y - middle * e)
            else:
                x = x + (down - rho[i]) * e
        if eta > 0 and rho[i + 1] > 0:
            x = x + up * tape.noise()
    return tape.plan(x, times[-1])


def dpm2(process: Process, times: Grid, eta: float = 0.0) -> Plan:
    r"""k-diffusion's DPM-2: the midpoint rule in ρ, its stage at the geometric mean of the two levels.

    Two calls a step, one in a step to ρ = 0.

    Raises:
        UserError: unless 0 <= eta <= 1.
    """
    return _two_stage(process, times, eta, exponential=False)


def dpmpp_2s(process: Process, times: Grid, eta: float = 0.0) -> Plan:
    """DPM-Solver++ (2S) with ancestral noise: the denoised value half-way in λ stands for the whole step.

    Two calls a step, one in a step to ρ = 0.

    Raises:
        UserError: unless 0 <= eta <= 1.
    """
    return _two_stage(process, times, eta, exponential=True)


def dpmpp_sde(process: Process, times: Grid, eta: float = 1.0) -> Plan:
    """k-diffusion's DPM++ SDE: both the stage half-way in λ and the step are ancestral.

    Two calls and two noises a step; a step to ρ = 0 is a DDIM step.

    Raises:
        UserError: unless 0 <= eta <= 1.
    """
    _check_eta(eta)
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i in range(len(times) - 1):
        e = tape.eval(x, times[i])
        if rho[i + 1] == 0.0:
            x = x - rho[i] * e
            continue
        denoised = x - rho[i] * e
        middle = math.sqrt(rho[i] * rho[i + 1])
        y = _to(x, denoised, rho[i], middle, eta, tape)
        e = tape.eval(y, float(process.t_of_rho(middle)))
        x = _to(x, y - middle * e, rho[i], rho[i + 1], eta, tape)
    return tape.plan(x, times[-1])


def _to(x: Symbol, denoised: Symbol, rho_t: float, rho_u: float, eta: float, tape: Tape) -> Symbol:
    """The ancestral step with the denoised value frozen."""
    down, up = _split(rho_t, rho_u, eta)
    x = (down / rho_t) * x + (1.0 - down / rho_t) * denoised
    return x + up * tape.noise() if eta > 0 else x
