r"""Taylor and Itô–Taylor schemes with ideal derivatives (Tachibana, Go, Inahara, Katayama & Watanabe 2021).

A Taylor scheme of order p needs p − 1 derivatives of ε along the solution, which a network does not give. The *ideal
derivatives* are those of data at one point :math:`x_*`, where :math:`\varepsilon = (\bar x - x_*)/\rho` in
:math:`\bar x`. They need no further call: along the probability-flow ODE this ε is constant, and along the reverse SDE

.. math:: d\varepsilon = \varepsilon\,d\rho/\rho + \text{noise} .

Both equations can then be solved exactly. The ODE leads to :func:`~fewstep.solvers.ddim.ddim`, the SDE to
:func:`~fewstep.solvers.ddpm.ddpm_beta_tilde`; the schemes here are the power series of these two steps in h = t − u,
in the coordinate x and the time t of the process, cut off after :math:`h^p`. Data are rarely a single point, so the
order p is that of the series: on other data the schemes converge with order 1, as their limits do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Tape
from ..schedules import DiscreteVP, Process

__all__ = ["ito_taylor", "quasi_taylor"]

Float = NDArray[np.float64]


def quasi_taylor(process: Process, times: Grid, order: int = 2) -> Plan:
    r"""The deterministic scheme: DDIM's step as a power series in h = t − u.

    .. math::

        x_u = A\,x_t + B\,\varepsilon, \qquad
        A = \frac{\alpha_u}{\alpha_t} + O(h^{p+1}), \qquad B = \alpha_u(\rho_u - \rho_t) + O(h^{p+1}) .

    For a variance-preserving process with :math:`\beta = -2\,d\log\alpha/dt` and p = 2,

    .. math::

        A = 1 + \tfrac h2\beta + \tfrac{h^2}4\left(\tfrac12\beta^2 - \dot\beta\right), \qquad
        B = \frac1\sigma\left(-\tfrac h2\beta + \tfrac{h^2}4\left(\dot\beta - \frac{\beta^2}{2\sigma^2}\right)\right) .

    p = 1 is Euler's method (on the labels of a discrete process, with the slopes of the smooth curve through them);
    p → ∞ is DDIM as long as h is smaller than the distance of t to the clean end, where σ has a branch point. A step to
    ρ = 0 is therefore a DDIM step.

    Args:
        order: p, the power of h after which the series are cut off, 1 to 3.

    Raises:
        UserError: unless the order is 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise UserError(f"quasi_taylor has orders 1, 2 and 3, got {order}")
    times = check(process, times)
    log_alpha, drop = _series(process, times[:-1], order)
    alpha, rho = process.alpha(times).tolist(), process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i, t in enumerate(times[:-1].tolist()):
        e = tape.eval(x, t)
        if rho[i + 1] == 0.0:
            x = x - rho[i] * e
            continue
        h = (t - times[i + 1]) ** np.arange(order + 1)
        a = _exponential(log_alpha[i])
        b = alpha[i] * np.convolve(a, drop[i])[: order + 1]
        x = (float(a @ h) * alpha[i] * x + float(b @ h) * e) / alpha[i + 1]
    return tape.plan(x, times[-1])


def ito_taylor(process: Process, times: Grid, order: int = 2) -> Plan:
    r"""The stochastic scheme, of weak order p: the Itô–Taylor expansion of the reverse SDE.

    .. math::

        x_u = A\,x_t + B\,\varepsilon + n, \qquad
        A = \frac{\alpha_u}{\alpha_t} + O(h^{p+1}), \qquad
        B = \alpha_u\left(\frac{\rho_u^2}{\rho_t} - \rho_t\right) + O(h^{p+1}) ,

    and n is the integral of the noise with its kernel cut off after :math:`h^{p-1}`: with :math:`f = d\log\alpha/dt`,
    s the time since the step began and w the Brownian motion of the SDE,

    .. math::

        n = \int_0^h \left[g - g\left(f + 2\frac{\dot\rho}\rho\right)(h - s) - \dot g\,s\right] dw_s \qquad (p = 2).

    The two correlated normal variables in which such an integral is usually written appear nowhere else, so one normal
    variable of the same variance stands for them. p = 1 is the Euler–Maruyama method. A step to ρ = 0 is that of the
    limit, :math:`\hat x_0` without noise.

    Args:
        order: p, 1 or 2.

    Raises:
        UserError: unless the order is 1 or 2.
    """
    if order not in (1, 2):
        raise UserError(f"ito_taylor has orders 1 and 2, got {order}")
    times = check(process, times)
    log_alpha, drop = _series(process, times[:-1], order)
    alpha, rho = process.alpha(times).tolist(), process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i, t in enumerate(times[:-1].tolist()):
        e = tape.eval(x, t)
        if rho[i + 1] == 0.0:
            x = x - rho[i] * e
            continue
        h = (t - times[i + 1]) ** np.arange(order + 1)
        a = _exponential(log_alpha[i])
        square = 2.0 * rho[i] * drop[i] + np.convolve(drop[i], drop[i])[: order + 1]  # ρ_u² − ρ_t²
        b = alpha[i] / rho[i] * np.convolve(a, square)[: order + 1]
        std = math.sqrt(_noise_variance(alpha[i], rho[i], a, square, t - times[i + 1]))
        x = (float(a @ h) * alpha[i] * x + float(b @ h) * e + std * tape.noise()) / alpha[i + 1]
    return tape.plan(x, times[-1])


def _noise_variance(alpha: float, rho: float, a: Float, square: Float, h: float) -> float:
    """∫ k(s)² ds of the kernel of the noise, k constant (order 1) or linear in s (order 2)."""
    if not square[1] < 0:
        raise UserError("the noise level of this process is too rough at its labels for a Taylor scheme; use ddpm")
    g = math.sqrt(-(alpha**2) * square[1])  # g² = α² dρ²/dt, and the series is in t − u
    if len(a) == 2:
        return g**2 * h
    first = g * (1.0 + h * (a[1] + square[1] / rho**2))  # what enters at the start is carried along by the drift
    slope = g * (a[1] + square[2] / square[1])  # dg/ds, from g² = α² dρ²/dt
    last = g + h * slope
    return h * (first**2 + first * last + last**2) / 3.0


def _exponential(series: Float) -> Float:
    """The power series of exp of one without constant term."""
    result = np.zeros(len(series))
    term = np.eye(1, len(series))[0]
    for k in range(1, len(series) + 1):
        result = result + term
        term = np.convolve(term, series)[: len(series)] / k
    return result


def _series(process: Process, times: Grid, order: int) -> tuple[Float, Float]:
    """log α(t − h) − log α(t) and ρ(t − h) − ρ(t) as power series in h: two arrays of shape (n, order + 1).

    By interpolation with seven points. A discrete process is smooth at its labels only: log α at the labels next to t,
    and ρ² from it. Of a continuous one the slopes, at points a thousandth of the time axis apart. ρ² is smooth at the
    clean end, where ρ is not.
    """
    width = process.t_max - process.t_min
    if isinstance(process, DiscreteVP):
        count = int(min(7.0, width + 1.0))
        first = np.clip(np.round(times) - 3.0, process.t_min, process.t_max - (count - 1))
        (log_alpha,) = _expand(times, first, np.ones(len(times)), count, order, lambda s: (process.log_alpha(s),))
        # ρ² = α⁻² − 1 may grow a thousandfold from one label to the next (a cosine's last), where log α still does not.
        growth = np.array([_exponential(-2.0 * np.append(0.0, row[1:])) for row in log_alpha])
        square = (1.0 + process.rho(times)[:, None] ** 2) * growth
    else:
        spacing = np.minimum(1e-3 * width, 0.1 * (times - process.t_min))
        first = np.minimum(times, process.t_max - 3.0 * spacing) - 3.0 * spacing
        slopes = _expand(
            times,
            first,
            spacing,
            7,
            order - 1,
            lambda s: (process.dlog_alpha(s), 2.0 * process.rho(s) * process.drho(s)),
        )
        log_alpha, square = (np.pad(-slope / np.arange(1, order + 1), ((0, 0), (1, 0))) for slope in slopes)
    log_alpha[:, 0] = 0.0
    # ρ = √(ρ²), coefficient by coefficient.
    rho = np.zeros_like(square)
    rho[:, 0] = process.rho(times)
    for k in range(1, order + 1):
        known = sum(rho[:, j] * rho[:, k - j] for j in range(1, k))
        rho[:, k] = (square[:, k] - known) / (2.0 * rho[:, 0])
    rho[:, 0] = 0.0
    return log_alpha, rho


def _expand(
    times: Float, first: Float, spacing: Float, count: int, order: int, functions: Callable[[Float], tuple[Float, ...]]
) -> list[Float]:
    """Power series in h = t − s of each function: that of the polynomial through ``count`` nodes from ``first`` on.

    Where a chain has fewer labels than the series has terms, the polynomial's further terms are zero.
    """
    nodes = first[:, None] + spacing[:, None] * np.arange(count)
    powers = ((nodes - times[:, None]) / spacing[:, None])[:, :, None] ** np.arange(count)
    scale = (-1.0 / spacing[:, None]) ** np.arange(order + 1)
    missing = ((0, 0), (0, max(0, order + 1 - count)))
    terms = (np.linalg.solve(powers, values[:, :, None])[:, : order + 1, 0] for values in functions(nodes))
    return [np.pad(found, missing) * scale for found in terms]
