r"""Analytic-DPM (Bao, Li, Zhu & Zhang 2022): the variance of a reverse step that the model itself implies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Tape
from ..schedules import Process

__all__ = ["MeanSquare", "analytic_dpm", "pixel_std"]

MeanSquare = Callable[[float], float] | ArrayLike
r""":math:`E\lVert\varepsilon(x_t, t)\rVert^2/d`, as a function of t or as its values at the times of the calls."""


def analytic_dpm(
    process: Process,
    times: Grid,
    mean_square: MeanSquare | None = None,
    eta: float = 1.0,
    half_range: float = 1.0,
    last_std: float = math.inf,
) -> Plan:
    r"""DDIM's generalised steps with the reverse variance that is optimal for them (Analytic-DPM, Theorem 1).

    A step of :func:`~fewstep.solvers.ddim.ddim` takes :math:`\hat x_0` for the data and forgets that the data vary
    given :math:`x_t`, by :math:`v = \rho_t^2(1 - E\lVert\varepsilon\rVert^2/d)` per dimension on average. The Gaussian
    nearest to the true reverse step (Kullback–Leibler) has the same mean and, in :math:`\bar x`, the variance

    .. math::

        \bar\sigma^2 = s^2 + \left(1 - \frac{\sqrt{\rho_u^2 - s^2}}{\rho_t}\right)^{\!2} v, \qquad
        s = \eta\,\rho_u\sqrt{1 - \rho_u^2/\rho_t^2} ,

    η = 1 is Analytic-DDPM, η = 0 Analytic-DDIM, which is stochastic although DDIM is not. v is clipped to its bounds:
    at least 0, and at most :math:`((b-a)/2)^2` for data in [a, b] (Analytic-DPM, Theorem 2). A step to ρ = 0 adds no
    noise. For data :math:`N(m, c^2 I)` with c at most ``half_range`` every step to ρ > 0 is exact in law, however long.

    Args:
        mean_square: :math:`E\lVert\varepsilon(x_t, t)\rVert^2/d` of the network, estimated over data and noise: a
            function of t, or n values for the n calls. Unless given, that of standard normal data,
            :math:`\rho^2/(1 + \rho^2)`.
        eta: DDIM's η, from 0 to 1.
        half_range: (b − a)/2 for data in [a, b]; infinite for none known.
        last_std: bounds the standard deviation, in x, of the last noise that is added; see :func:`pixel_std`.

    Raises:
        UserError: unless 0 <= eta <= 1, the bounds are positive, and there is one mean square >= 0 for each call.
    """
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must lie in [0, 1], got {eta:g}")
    if not (half_range > 0 and last_std > 0):
        raise UserError(f"half_range and last_std must be positive, got {half_range:g} and {last_std:g}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    variances = np.clip(np.square(rho[:-1]) * (1.0 - _mean_squares(process, times, mean_square)), 0.0, half_range**2)
    # The last step whose end is noisy.
    last = max((i for i in range(len(times) - 1) if rho[i + 1] > 0), default=None)
    tape = Tape(process, times[0])
    x = tape.x
    for i, variance in enumerate(variances.tolist()):
        e = tape.eval(x, times[i])
        s2 = (eta * rho[i + 1]) ** 2 * (1.0 - (rho[i + 1] / rho[i]) ** 2)
        kept = math.sqrt(rho[i + 1] ** 2 - s2)
        x = x + (kept - rho[i]) * e
        if rho[i + 1] > 0:
            std = math.sqrt(s2 + (1.0 - kept / rho[i]) ** 2 * variance)
            if i == last:
                std = min(std, last_std / float(process.alpha(times[i + 1])))
            x = x + std * tape.noise()
    return tape.plan(x, times[-1])


def _mean_squares(process: Process, times: Grid, mean_square: MeanSquare | None) -> Grid:
    calls = times[:-1]
    if mean_square is None:
        square = process.rho(calls) ** 2
        return square / (1.0 + square)
    values = [mean_square(t) for t in calls.tolist()] if callable(mean_square) else mean_square
    found = np.asarray(values, dtype=np.float64)
    if found.shape != calls.shape:
        raise UserError(f"mean_square needs one value for each of the {len(calls)} calls, got shape {found.shape}")
    if not np.all(found >= 0) or not np.all(np.isfinite(found)):
        raise UserError("mean_square must be finite and not negative at every call")
    return found


def pixel_std(levels: float, half_range: float = 1.0, colours: int = 256) -> float:
    r"""The standard deviation of a noise whose mean size is ``levels`` steps of a pixel's scale (Analytic-DPM, App.).

    A normal number has :math:`E|\sigma z| = \sigma\sqrt{2/\pi}`, and the values of a pixel in [a, b] lie (b − a)/255
    apart, so :math:`\sigma = \mathrm{levels}\,\sqrt{\pi/2}\,(b - a)/255`. The paper takes 1 or 2 levels.

    Args:
        levels: the mean size.
        half_range: (b − a)/2.
        colours: how many values a pixel has.
    """
    return math.sqrt(math.pi / 2.0) * 2.0 * half_range / (colours - 1) * levels
