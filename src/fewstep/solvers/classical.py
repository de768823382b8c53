r"""Classical methods on the probability-flow ODE in t, :math:`dx/dt = f(t)\,x + \alpha\,\dot\rho\,\varepsilon`.

They know nothing of the ODE's form, and pay for it: the linear term, which the exponential integrators of
:mod:`~fewstep.solvers.deis` solve exactly, is discretised as well.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process
from .coefficients import ADAMS_BASHFORTH

__all__ = ["Slope", "euler", "fon", "ode_slope", "rk4", "unit_transfer_slope"]

Slope = Callable[[Process, Symbol, float, Symbol, float, Symbol], Symbol]
"""``slope(process, x, t, y, s, e)``: dx/dt at the stage (y, s) with output e, of the step that began at (x, t)."""


def ode_slope(process: Process, x: Symbol, t: float, y: Symbol, s: float, e: Symbol) -> Symbol:
    r"""The slope of the probability-flow ODE (score SDE, §4.3), :math:`f(s)\,y + \alpha(s)\dot\rho(s)\,\varepsilon`."""
    return float(process.dlog_alpha(s)) * y + float(process.alpha(s) * process.drho(s)) * e


def unit_transfer_slope(process: Process, x: Symbol, t: float, y: Symbol, s: float, e: Symbol) -> Symbol:
    r"""The change of x over one unit of t by the DDIM map, from the state and time at which the step *began*.

    PNDM's published program uses it for FON, where the paper has the ODE's slope. Only ε is taken at the stage.
    Its error does not vanish with the step: it is of the size of one training step.
    """
    a, b = float(process.alpha(t)), float(process.alpha(t - 1))
    return -1.0 * ((b / a - 1.0) * x + b * (float(process.rho(t - 1)) - float(process.rho(t))) * e)


def _scaled(process: Process, x: Symbol, t: float) -> Symbol:
    """The symbol of x̄ = x/α(t), which the tape expects."""
    return x / float(process.alpha(t))


def euler(process: Process, times: Grid) -> Plan:
    r"""Euler's method: :math:`x_u = x_t + (u - t)\,dx/dt`."""
    times = check(process, times)
    tape = Tape(process, times[0])
    x = float(process.alpha(times[0])) * tape.x
    for t, u in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x, e = _call(tape, x, t)
        x = x + (u - t) * ode_slope(process, x, t, x, t, e)
    return tape.plan(_scaled(process, x, times[-1]), times[-1])


def _call(tape: Tape, x: Symbol, t: float) -> tuple[Symbol, Symbol]:
    """ε at the state x, and the state as the tape now names it."""
    bar = _scaled(tape.process, x, t)  # type: ignore[arg-type]
    e = tape.eval(bar, t)
    return float(tape.process.alpha(t)) * bar, e


def _rk4_step(tape: Tape, process: Process, slope: Slope, x: Symbol, t: float, u: float) -> tuple[Symbol, Symbol]:
    """One classical Runge–Kutta step; returns the new state and the first slope."""
    h, m = u - t, 0.5 * (t + u)
    x, e = _call(tape, x, t)
    d1 = slope(process, x, t, x, t, e)
    y, e = _call(tape, x + 0.5 * h * d1, m)
    d2 = slope(process, x, t, y, m, e)
    y, e = _call(tape, x + 0.5 * h * d2, m)
    d3 = slope(process, x, t, y, m, e)
    y, e = _call(tape, x + h * d3, u)
    d4 = slope(process, x, t, y, u, e)
    return x + (h / 6.0) * (d1 + 2.0 * d2 + 2.0 * d3 + d4), d1


def rk4(process: Process, times: Grid) -> Plan:
    """The classical fourth-order Runge–Kutta method, four calls a step.

    The slope is infinite where ρ = 0: a last step to a clean end is an Euler step, with one call.
    """
    times = check(process, times)
    tape = Tape(process, times[0])
    x = float(process.alpha(times[0])) * tape.x
    for t, u in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        if process.rho(u) > 0:
            x, _ = _rk4_step(tape, process, ode_slope, x, t, u)
        else:
            x, e = _call(tape, x, t)
            x = x + (u - t) * ode_slope(process, x, t, x, t, e)
    return tape.plan(_scaled(process, x, times[-1]), times[-1])


def fon(process: Process, times: Grid, slope: Slope = ode_slope) -> Plan:
    """FON, the classical fourth-order method of PNDM §3.2: three Runge–Kutta steps, then Adams–Bashforth 4 on dx/dt.

    n steps make n + 9 calls. The Adams–Bashforth weights are those of equal steps.

    Args:
        slope: what stands for dx/dt; :func:`unit_transfer_slope` is the authors' program.

    Raises:
        UserError: for fewer than 4 steps.
    """
    times = check(process, times)
    if len(times) < 5:
        raise UserError(f"FON takes at least 4 steps (13 network calls), got {len(times) - 1}")
    tape = Tape(process, times[0])
    x = float(process.alpha(times[0])) * tape.x
    slopes: list[Symbol] = []
    for t, u in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        if len(slopes) < 3:
            x, d = _rk4_step(tape, process, slope, x, t, u)
            slopes.insert(0, d)
        else:
            x, e = _call(tape, x, t)
            slopes = [slope(process, x, t, x, t, e), *slopes[:3]]
            x = x + (u - t) * sum(w * d for w, d in zip(ADAMS_BASHFORTH[3], slopes, strict=True))
    return tape.plan(_scaled(process, x, times[-1]), times[-1])
