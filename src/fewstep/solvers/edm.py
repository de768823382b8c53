r"""EDM's samplers (Karras, Aittala, Aila & Laine 2022).

EDM lets a sampler choose its own clock: any :math:`\sigma(t)` and scale s(t), whatever process the network was trained
with, since all that the network must be told is the noise level. In this book's notation a clock is a process with
s = α and EDM's σ = ρ, and with :math:`D = \bar x - \rho\varepsilon` the ODE of EDM's Algorithm 1 is

.. math::

    \frac{dx}{dt} = \Bigl(\frac{\dot\rho}{\rho} + \frac{\dot\alpha}{\alpha}\Bigr)x
        - \frac{\dot\rho\,\alpha}{\rho}\,D\Bigl(\frac x\alpha; \rho\Bigr)
    = \frac{\dot\alpha}{\alpha}\,x + \alpha\dot\rho\,\varepsilon, \qquad x = \alpha\bar x .

The table's columns are four clocks: VP is :class:`~fewstep.schedules.ContinuousVP`, VE
:class:`~fewstep.schedules.BrownianVE`, iDDPM and EDM's own :class:`~fewstep.schedules.EDM`.
"""

from __future__ import annotations

import math

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import EDM, Process

__all__ = ["edm_heun", "edm_rk"]


def edm_rk(
    process: Process,
    times: Grid,
    order: int = 2,
    alpha: float = 1.0,
    clock: Process | None = None,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Plan:
    r"""Euler's method and the second-order Runge–Kutta methods of EDM, on any clock (EDM, Algorithms 1–3).

    With f the right-hand side above, :math:`h = t_{i+1} - t_i` and :math:`d = f(x_i, t_i)`,

    .. math::

        x' = x_i + \alpha h d, \qquad
        x_{i+1} = x_i + h\Bigl[\bigl(1 - \tfrac1{2\alpha}\bigr) d + \tfrac1{2\alpha} f(x', t_i + \alpha h)\Bigr] ,

    where this α is a number, not the process's: 1 is Heun's method, 2/3 Ralston's, 1/2 the midpoint method. The step
    to ρ = 0 is an Euler step, so that n steps make 2n − 1 calls. With churn each step first raises the noise level to
    :math:`\hat\rho = \rho_i(1 + \min(\mathrm{churn}/n, \sqrt2 - 1))`, where :math:`s_{\min} \le \rho_i \le s_{\max}`,
    by adding noise; never above the level at ``process.t_max``, which no network has seen.

    Args:
        process: the network's, to which the times of ``times`` belong.
        order: 1 (Euler) or 2.
        alpha: where the second call is made, in (0, 1] of the step.
        clock: the process whose t and α the method steps in; EDM's own choice σ(t) = t, s(t) = 1 unless given.
        churn: S_churn, at least 0 (0: deterministic).
        s_min: the smallest noise level that is churned.
        s_max: the largest.
        s_noise: scales the added noise.

    Raises:
        UserError: for another order, an ``alpha`` outside (0, 1], a negative churn or s_noise, or a clock that never
            shows one of the noise levels.
    """
    if order not in (1, 2):
        raise UserError(f"EDM's methods have order 1 (Euler) or 2, got {order}")
    if not 0.0 < alpha <= 1.0:
        raise UserError(f"alpha must lie in (0, 1], got {alpha:g}")
    if not (churn >= 0 and s_noise >= 0):
        raise UserError(f"churn and s_noise must not be negative, got {churn:g} and {s_noise:g}")
    times = check(process, times)
    clock = EDM() if clock is None else clock
    rho = process.rho(times).tolist()
    top = float(process.rho(process.t_max))
    n = len(times) - 1
    tape = Tape(process, times[0])
    x = tape.x
    for i, t in enumerate(times[:-1].tolist()):
        level = rho[i]
        if churn > 0:
            z = tape.noise()
            if s_min <= rho[i] <= s_max:
                level = max(rho[i], min(rho[i] * (1.0 + min(churn / n, math.sqrt(2.0) - 1.0)), top))
            if level > rho[i]:
                x = x + s_noise * math.sqrt(level**2 - rho[i] ** 2) * z
                t = float(process.t_of_rho(level))
        start, end = _time(clock, level), _time(clock, rho[i + 1])
        h, scale = end - start, float(clock.alpha(start))
        d = _slope(clock, start, x, tape.eval(x, t))
        if order == 1 or rho[i + 1] == 0:
            x = (scale * x + h * d) / float(clock.alpha(end))
            continue
        middle = end if alpha == 1.0 else start + alpha * h
        s = float(times[i + 1]) if alpha == 1.0 else float(process.t_of_rho(clock.rho(middle)))
        y = (scale * x + alpha * h * d) / float(clock.alpha(middle))
        d2 = _slope(clock, middle, y, tape.eval(y, s))
        weight = 0.5 / alpha
        x = (scale * x + h * ((1.0 - weight) * d + weight * d2)) / float(clock.alpha(end))
    return tape.plan(x, times[-1])


def _time(clock: Process, rho: float) -> float:
    """When the clock shows a noise level."""
    t = float(clock.t_of_rho(rho))
    if not math.isfinite(t) or abs(float(clock.rho(t)) - rho) > 1e-6 * rho:
        raise UserError(f"the clock {type(clock).__name__} never shows the noise level rho = {rho + 0.0:g}")
    return t


def _slope(clock: Process, t: float, x: Symbol, e: Symbol) -> Symbol:
    r""":math:`\dot\alpha\,\bar x + \alpha\dot\rho\,\varepsilon` for :math:`\bar x` = ``x``."""
    alpha = float(clock.alpha(t))
    return alpha * (float(clock.dlog_alpha(t)) * x + float(clock.drho(t)) * e)


def edm_heun(
    process: Process,
    times: Grid,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Plan:
    r"""Heun's second-order method as EDM uses it (EDM, Algorithms 1 and 2): :func:`edm_rk` with σ(t) = t, s(t) = 1.

    .. math::

        d_i = (\bar x_i - D(\bar x_i))/\rho_i, \qquad
        \bar x_{i+1} = \bar x_i + (\rho_{i+1} - \rho_i)\,\tfrac12(d_i + d_i') ,

    where d′ is taken at the Euler step. The step to ρ = 0 is an Euler step: n steps make 2n − 1 calls. For the keywords
    see :func:`edm_rk`.

    Raises:
        UserError: for a negative churn or s_noise.
    """
    return edm_rk(process, times, churn=churn, s_min=s_min, s_max=s_max, s_noise=s_noise)
