r"""Diffusion exponential integrators (Zhang & Chen 2023, "DEIS").

The linear part of the probability-flow ODE is solved exactly, which in :math:`\bar x` leaves
:math:`d\bar x/d\rho = \varepsilon`; the methods differ in how they replace ε between calls.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from ..errors import UserError, unknown
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process
from .coefficients import TABLEAUX, adams_bashforth, integrate_d_rho, lagrange

__all__ = ["ei_eps", "ei_score", "lambda_ab", "rho_ab", "rho_rk", "t_ab"]


def ei_score(process: Process, times: Grid) -> Plan:
    r"""The exponential integrator with the *score* frozen over a step (DEIS, Eq. 8).

    With :math:`s = -\varepsilon/\sigma` constant,
    :math:`\bar x_u = \bar x_t + \varepsilon_t\int (\sigma_\tau/\sigma_t)\,d\rho_\tau`.
    """
    times = check(process, times)
    tape = Tape(process, times[0])
    x = tape.x
    for t, u in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        weight = float(integrate_d_rho(process, process.sigma, t, u)) / float(process.sigma(t))
        x = x + weight * tape.eval(x, t)
    return tape.plan(x, times[-1])


def ei_eps(process: Process, times: Grid) -> Plan:
    r"""The exponential integrator with *ε* frozen over a step (DEIS, Eq. 11), which is DDIM (DEIS, Prop. 2).

    :math:`\bar x_u = \bar x_t + (\rho_u - \rho_t)\varepsilon_t`, the weight computed as the integral it is.
    """
    times = check(process, times)
    tape = Tape(process, times[0])
    x = tape.x
    for t, u in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        weight = float(integrate_d_rho(process, lambda tau: tau**0, t, u))
        x = x + weight * tape.eval(x, t)
    return tape.plan(x, times[-1])


def t_ab(process: Process, times: Grid, order: int = 3) -> Plan:
    r"""tAB-DEIS (DEIS, Eqs. 14–15): ε extrapolated by the polynomial in *t* through the last ``order`` + 1 outputs.

    .. math::

        \bar x_{i+1} = \bar x_i + \sum_j C_{ij}\,\varepsilon_{i-j}, \qquad
        C_{ij} = \int_{\rho_i}^{\rho_{i+1}} L_j(t(\rho))\,d\rho .

    The degree rises 0, 1, … ``order`` over the first steps.

    Raises:
        UserError: unless 0 <= order <= 3.
    """
    return _adams(
        process, times, order, lambda nodes, t, u: integrate_d_rho(process, lambda tau: lagrange(nodes, tau), t, u)
    )


def rho_ab(process: Process, times: Grid, order: int = 3) -> Plan:
    r"""ρAB-DEIS (DEIS, §4 and Prop. 3): ε extrapolated by the polynomial in *ρ*, that is variable-step Adams–Bashforth.

    Raises:
        UserError: unless 0 <= order <= 3.
    """
    return _adams(
        process,
        times,
        order,
        lambda nodes, t, u: adams_bashforth(process.rho(nodes), float(process.rho(t)), float(process.rho(u))),
    )


def lambda_ab(process: Process, times: Grid, order: int = 3, final: int = 0) -> Plan:
    r"""The Adams–Bashforth form of DEIS with the polynomial in *λ* = −log ρ, a third choice beside *t* and *ρ*.

    With :math:`s = \lambda - \lambda_i` and :math:`h = \lambda_{i+1} - \lambda_i`,

    .. math::

        C_{ij} = \int_{\rho_i}^{\rho_{i+1}} L_j(\lambda)\,d\rho = -\rho_i\int_0^h L_j(s)\,e^{-s}\,ds, \qquad
        \int_0^h s^k e^{-s}\,ds = \gamma(k + 1, h) ,

    the incomplete gamma function, so that the integrals are closed forms. It is the exponential Adams–Bashforth method
    of DPM-Solver's integral of ε; degree 1 is multistep DPM-Solver-2 in its Taylor form. A step to ρ = 0, where λ is
    infinite, is a DDIM step.

    Args:
        order: the degree; it rises 0, 1, … ``order`` over the first steps.
        final: in the last ``final`` steps the degree is less than the number of steps left. 0: no fall back.

    Raises:
        UserError: unless 0 <= order <= 3 and final >= 0.
    """
    if final < 0:
        raise UserError(f"final must not be negative, got {final}")
    grid = check(process, times)

    def weights(nodes: Grid, t: float, u: float) -> NDArray[np.float64]:
        left = int(np.count_nonzero(grid < t))
        used = min(len(nodes), left) if left <= final else len(nodes)
        C = np.zeros(len(nodes))
        if process.rho(u) > 0:
            C[:used] = _lambda_weights(process.rho(nodes[:used]), float(process.rho(u)))
        else:
            C[0] = -float(process.rho(t))
        return C

    return _adams(process, times, order, weights)


def _lambda_weights(rho: NDArray[np.float64], rho_u: float) -> NDArray[np.float64]:
    r"""The integrals of :math:`L_j(\lambda)\,d\rho` from the first of the levels ``rho`` to ``rho_u``."""
    h = math.log(rho[0] / rho_u)
    s = np.log(rho[0] / rho)
    unit = -float(s[-1]) or 1.0  # distances in units of the history's length, for the conditioning of the system
    k = np.arange(len(rho))
    moments = np.array([math.factorial(i) for i in k]) * gammainc(k + 1.0, h) / unit**k
    return np.asarray(-rho[0] * np.linalg.solve(np.vander(s / unit, increasing=True).T, moments))


def _adams(process: Process, times: Grid, order: int, weights) -> Plan:
    if order not in (0, 1, 2, 3):
        raise UserError(f"DEIS-AB has orders 0 to 3, got {order}")
    times = check(process, times)
    tape = Tape(process, times[0])
    x = tape.x
    history: list[Symbol] = []
    for i in range(len(times) - 1):
        history = [tape.eval(x, times[i]), *history[:order]]
        nodes = times[i - len(history) + 1 : i + 1][::-1]
        C = weights(nodes, times[i], times[i + 1])
        x = x + sum(c * e for c, e in zip(C.tolist(), history, strict=True))
    return tape.plan(x, times[-1])


def rho_rk(process: Process, times: Grid, method: str = "heun") -> Plan:
    r"""ρRK-DEIS (DEIS, §4): a Runge–Kutta method on :math:`d\bar x/d\rho = \varepsilon`.

    Stages are at :math:`t(\rho_i + c_k h)`. A last step to a clean end (ρ = 0), where no network was trained, is a
    DDIM step with one call, as in EDM's Algorithm 1.

    Args:
        method: a name in :data:`~fewstep.solvers.coefficients.TABLEAUX`.

    Raises:
        UserError: if there is no such method.
    """
    if method not in TABLEAUX:
        raise unknown("Runge–Kutta method", method, TABLEAUX)
    tableau = TABLEAUX[method]
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i, t in enumerate(times[:-1].tolist()):
        h = rho[i + 1] - rho[i]
        e = [tape.eval(x, t)]
        if rho[i + 1] == 0.0:
            x = x + h * e[0]
            continue
        for a, c in zip(tableau.a, tableau.c[1:], strict=True):
            stage = x + h * sum(w * k for w, k in zip(a, e, strict=True))
            s = times[i + 1] if c == 1.0 else float(process.t_of_rho(rho[i] + c * h))
            e.append(tape.eval(stage, s))
        x = x + h * sum(w * k for w, k in zip(tableau.b, e, strict=True))
    return tape.plan(x, times[-1])
