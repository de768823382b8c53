r"""Ancestral and SDE samplers of k-diffusion, most of them stochastic forms of DPM-Solver++.

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

__all__ = ["dpm2", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_3m_sde", "dpmpp_sde"]


def _split(rho_t: float, rho_u: float, eta: float) -> tuple[float, float]:
    """ρ↓ and ρ↑ of a step from ρ_t to ρ_u."""
    up = min(rho_u, eta * rho_u * math.sqrt(max(0.0, 1.0 - (rho_u / rho_t) ** 2)))
    return math.sqrt(rho_u**2 - up**2), up


def _check_eta(eta: float, top: float = 1.0) -> None:
    if not 0.0 <= eta <= top:
        raise UserError(f"eta must lie in [0, {top:g}], got {eta:g}")


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


def dpmpp_2m_sde(process: Process, times: Grid, eta: float = 1.0, taylor: bool = False) -> Plan:
    r"""SDE-DPM-Solver++ (2M) (DPM-Solver++, App. on SDE solvers; k-diffusion's DPM++ 2M SDE).

    The SDE with noise level η is solved exactly for a linear denoised value: with :math:`h' = (1 + \eta)h`,

    .. math::

        \bar x_u = e^{-h'}\bar x_t + (1 - e^{-h'})\,m_0 + w\,\frac{m_0 - m_{-1}}{r}
                   + \rho_u\sqrt{1 - e^{-2\eta h}}\;z .

    Args:
        eta: 0 is DPM-Solver++ (2M).
        taylor: :math:`w = 1 - (1 - e^{-h'})/h'` instead of :math:`\tfrac12(1 - e^{-h'})`.

    Raises:
        UserError: for a negative eta.
    """
    return _multistep_sde(process, times, eta, 2, taylor)


def dpmpp_3m_sde(process: Process, times: Grid, eta: float = 1.0) -> Plan:
    """k-diffusion's DPM++ 3M SDE: :func:`dpmpp_2m_sde` with one more difference, both with Taylor weights.

    As in the published third-order multistep method, the second derivative is counted half.

    Raises:
        UserError: for a negative eta.
    """
    return _multistep_sde(process, times, eta, 3, True)


def _multistep_sde(process: Process, times: Grid, eta: float, order: int, taylor: bool) -> Plan:
    _check_eta(eta, math.inf)
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    history: list[tuple[float, Symbol]] = []
    for i in range(len(times) - 1):
        e = tape.eval(x, times[i])
        m0 = x - rho[i] * e
        history = [(-math.log(rho[i]), m0), *history[: order - 1]]
        if rho[i + 1] == 0.0:
            x = m0
            continue
        h = math.log(rho[i] / rho[i + 1])
        total = (1.0 + eta) * h
        whole = -math.expm1(-total)
        new = math.exp(-total) * x + whole * m0
        linear = 1.0 - whole / total  # the weight of h · dm/dλ
        if len(history) == 2:
            slope = (h / (history[0][0] - history[1][0])) * (m0 - history[1][1])
            new = new + (linear if taylor else 0.5 * whole) * slope
        elif len(history) == 3:
            (l0, _), (l1, m1), (l2, m2) = history
            first, second = (h / (l0 - l1)) * (m0 - m1), (h / (l1 - l2)) * (m1 - m2)
            curve = (h / (l0 - l2)) * (first - second)
            new = new + linear * (first + ((l0 - l1) / h) * curve) - (linear / total - 0.5) * curve
        if eta > 0:
            new = new + rho[i + 1] * math.sqrt(-math.expm1(-2.0 * eta * h)) * tape.noise()
        x = new
    return tape.plan(x, times[-1])
