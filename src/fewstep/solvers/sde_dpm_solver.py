r"""SDE-DPM-Solver and SDE-DPM-Solver++ (Lu et al. 2022): DPM-Solver's exponential integrators for the reverse SDE.

In :math:`\bar x` the reverse-time SDE with noise level η (1: the SDE of score SDE, 0: the probability-flow ODE) is

.. math:: d\bar x = (1 + \eta)\,\varepsilon\,d\rho + \sqrt{2\eta\rho\,|d\rho|}\;\dot w
          = (1 + \eta)\,(\hat x_0 - \bar x)\,d\lambda + \sqrt{2\eta\,d\lambda}\;\rho\,\dot w , \qquad
          \hat x_0 = \bar x - \rho\,\varepsilon .

Expanding ε (first form, "noise") or :math:`\hat x_0` (second form, "data") in λ leaves integrals that are 1 + η times
DPM-Solver's, or those of DPM-Solver++ with (1 + η)h for h.
"""

from __future__ import annotations

import math

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process
from .dpm_solver import _prediction, _Step

__all__ = ["sde_dpm_solver_multistep"]


class _NoisyStep(_Step):
    """The exact part of a step of the SDE with noise level ``eta``, and the standard deviation of its noise."""

    def __init__(self, data: bool, rho_t: float, rho: float, eta: float) -> None:
        super().__init__(data, rho_t, rho)
        self.eta = eta

    @property
    def std(self) -> float:
        """Of the noise in x̄."""
        if self.data:
            return self.rho * math.sqrt(-math.expm1(-2.0 * self.eta * self.h))
        return math.sqrt(self.eta * (self.rho_t**2 - self.rho**2))

    def linear(self, x: Symbol) -> Symbol:
        return math.exp(-(1.0 + self.eta) * self.h) * x if self.data else x

    def weight(self, k: int) -> float:
        if not self.data:
            return (1.0 + self.eta) * super().weight(k)
        total = (1.0 + self.eta) * self.h
        whole = -math.expm1(-total)
        if k == 0:
            return whole
        return (
            (total - whole) / (1.0 + self.eta) if k == 1 else (0.5 * total**2 - total + whole) / (1.0 + self.eta) ** 2
        )


def sde_dpm_solver_multistep(
    process: Process,
    times: Grid,
    order: int = 2,
    data: bool = True,
    eta: float = 1.0,
    taylor: bool = False,
    final: int = 0,
) -> Plan:
    r"""Multistep SDE-DPM-Solver (``data=False``) and SDE-DPM-Solver++ (``data=True``), orders 1, 2M and 3M.

    DPM-Solver++ gives orders 1 and 2 in its section on diffusion SDEs. In the noise form a step is

    .. math::

        \bar x_u = \bar x_t + (1 + \eta)\int_t^u \varepsilon\,d\rho + \sqrt{\eta(\rho_t^2 - \rho_u^2)}\;z ,

    in the data form, with :math:`h = \lambda_u - \lambda_t`,

    .. math::

        \bar x_u = e^{-(1+\eta)h}\,\bar x_t + (1 + \eta)\int_0^h e^{(1+\eta)(s - h)}\,\hat x_0\,ds
                   + \rho_u\sqrt{1 - e^{-2\eta h}}\;z ,

    with the polynomial in λ of :func:`~fewstep.solvers.dpm_solver.dpm_solver_multistep` for ε or :math:`\hat x_0`. A
    step to ρ = 0 is a DDIM step without noise.

    Args:
        order: 1, 2 or 3; the number of outputs, which rises over the first steps. As in the deterministic method,
            order 3 counts its second derivative half.
        data: expand the denoised data instead of ε.
        eta: 0 is the deterministic method; with 1, order 1 of the data form is DDPM with variance β̃.
        taylor: order 2 weighs its derivative by the exact integral, instead of by half the first weight times h.
        final: how many of the last steps fall back: the order there is at most the number of steps left. 0: none.

    Raises:
        UserError: unless 1 <= order <= 3, eta >= 0 and final >= 0.
    """
    if order not in (1, 2, 3):
        raise UserError(f"SDE-DPM-Solver has orders 1 to 3, got {order}")
    if not 0.0 <= eta < math.inf:
        raise UserError(f"eta must be a number >= 0, got {eta:g}")
    if final < 0:
        raise UserError(f"final must not be negative, got {final}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    steps = len(times) - 1
    tape = Tape(process, times[0])
    x = tape.x
    history: list[tuple[float, Symbol]] = []
    for i in range(steps):
        e = tape.eval(x, times[i])
        if rho[i + 1] == 0.0:
            x = x - rho[i] * e
            continue
        history = [(-math.log(rho[i]), _prediction(data, x, rho[i], e)), *history[: order - 1]]
        step = _NoisyStep(data, rho[i], rho[i + 1], eta)
        left = steps - i
        p = min(len(history), left if left <= final else order)
        new = step.linear(x) + step.weight(0) * history[0][1]
        if p == 2:
            slope = (history[0][1] - history[1][1]) / (history[0][0] - history[1][0])
            new = new + (step.weight(1) if taylor else 0.5 * step.h * step.weight(0)) * slope
        if p == 3:
            (l0, m0), (l1, m1), (l2, m2) = history
            first, second = (m0 - m1) / (l0 - l1), (m1 - m2) / (l1 - l2)
            curve = (first - second) / (l0 - l2)
            new = new + step.weight(1) * (first + (l0 - l1) * curve) + step.weight(2) * curve
        x = new + step.std * tape.noise() if eta > 0 else new
    return tape.plan(x, times[-1])
