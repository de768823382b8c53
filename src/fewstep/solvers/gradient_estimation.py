"""The gradient-estimation sampler of the optimization view (Permenter & Yuan 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Tape
from ..schedules import Process

__all__ = ["distance_descent", "ge"]


def ge(process: Process, times: Grid, gamma: float = 2.0, mu: float = 0.0) -> Plan:
    r"""Gradient estimation (Permenter & Yuan, §5 and Algorithm 2), with noise of level μ.

    In :math:`\bar x` with σ = ρ, the direction is
    :math:`\bar\varepsilon = \gamma\varepsilon_k + (1-\gamma)\varepsilon_{k-1}` (the first step has
    :math:`\varepsilon_0` alone) and

    .. math::

        \bar x_{k+1} = \bar x_k + (\rho' - \rho_k)\,\bar\varepsilon + \sqrt{\rho_{k+1}^2 - \rho'^2}\;z, \qquad
        \rho' = \left(\rho_{k+1}/\rho_k^{\mu}\right)^{1/(1-\mu)} .

    γ = 1, μ = 0 is DDIM; γ = 1, μ = ½ is DDPM with variance :math:`\tilde\beta`. On a uniform ρ grid γ = 3/2 is
    Adams–Bashforth 2; the paper's γ = 2 is of first order.

    Raises:
        UserError: unless 0 < gamma <= 4 and 0 <= mu < 1.
    """
    if not 0.0 < gamma <= 4.0:
        raise UserError(f"gamma must lie in (0, 4], got {gamma:g} (1 is DDIM, the paper takes 2)")
    if not 0.0 <= mu < 1.0:
        raise UserError(f"mu must lie in [0, 1), got {mu:g} (0 is deterministic, 1/2 is DDPM)")
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x, last = tape.x, None
    for i in range(len(times) - 1):
        e = tape.eval(x, times[i])
        low = (rho[i + 1] / rho[i] ** mu) ** (1.0 / (1.0 - mu))
        x = x + (low - rho[i]) * (e if last is None else gamma * e + (1.0 - gamma) * last)
        if mu > 0:
            x = x + math.sqrt(rho[i + 1] ** 2 - low**2) * tape.noise()
        last = e
    return tape.plan(x, times[-1])


def distance_descent(process: Process, times: Grid, steps: Sequence[float] | None = None) -> Plan:
    r"""Gradient descent on the squared distance to the data, smoothed ever less (Permenter & Yuan 2023).

    In :math:`\bar x` with σ = ρ, and :math:`\sigma\varepsilon` for the gradient of half the smoothed squared distance
    (:func:`~fewstep.exact.smoothed_distance`), which it is for the ideal denoiser,

    .. math:: \bar x_{k+1} = \bar x_k - \eta_k\,\nabla\tfrac12 d^2_{\sigma_k}(\bar x_k) .

    η = 1 would jump to the denoised value. The default, :math:`1 - \sigma_{k+1}/\sigma_k`, shrinks the distance as
    fast as the grid shrinks σ, wherever the gradient is the offset from the nearest point. It makes this DDIM.

    Args:
        steps: the n step sizes :math:`\eta_k`, each in (0, 1].

    Raises:
        UserError: unless there is one step size in (0, 1] for each step of the grid.
    """
    times = check(process, times)
    rho = process.rho(times).tolist()
    if steps is None:
        steps = [1.0 - after / before for before, after in pairwise(rho)]
    if len(steps) != len(times) - 1 or not all(0.0 < step <= 1.0 for step in steps):
        raise UserError(f"steps needs {len(times) - 1} step sizes in (0, 1], one for each step of the grid")
    tape = Tape(process, times[0])
    x = tape.x
    for i, step in enumerate(steps):
        gradient = rho[i] * tape.eval(x, times[i])
        x = x - step * gradient
    return tape.plan(x, times[-1])
