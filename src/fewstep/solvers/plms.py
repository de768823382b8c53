r"""PLMS, the pseudo linear multistep sampler of latent diffusion (Rombach, Blattmann, Lorenz, Esser & Ommer 2022)."""

from __future__ import annotations

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process
from .coefficients import ADAMS_BASHFORTH

__all__ = ["plms"]


def plms(process: Process, times: Grid, order: int = 4) -> Plan:
    r"""PNDM's pseudo linear multistep method (PNDM, Eqs. 11–12) started by a pseudo improved-Euler step.

    With :math:`\varepsilon_0` at the start and :math:`\varepsilon_0'` at the DDIM step's end,

    .. math:: \bar x_1 = \bar x_0 + (\rho_1 - \rho_0)\,\tfrac12(\varepsilon_0 + \varepsilon_0') ;

    then, with one call a step, the Adams–Bashforth weights of 2, 3, … ``order`` outputs. :math:`\varepsilon_0'` is
    not used again. Order 2 is S-PNDM (PNDM, App. A.3); order 4, latent diffusion's sampler, saves F-PNDM's three
    Runge–Kutta steps. n steps make n + 1 calls. The weights are those of equal steps in ρ, on any grid.

    Raises:
        UserError: unless 2 <= order <= 4, or for fewer than 2 steps.
    """
    if order not in (2, 3, 4):
        raise UserError(f"PLMS has orders 2 to 4, got {order}")
    times = check(process, times)
    if len(times) < 3:
        raise UserError(f"PLMS takes at least 2 steps (3 network calls), got {len(times) - 1}")
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    history: list[Symbol] = [tape.eval(x, times[0])]
    ahead = tape.eval(x + (rho[1] - rho[0]) * history[0], times[1])
    x = x + (rho[1] - rho[0]) * (0.5 * (history[0] + ahead))
    for i in range(1, len(times) - 1):
        history = [tape.eval(x, times[i]), *history[: order - 1]]
        weights = ADAMS_BASHFORTH[len(history) - 1]
        x = x + (rho[i + 1] - rho[i]) * sum(w * e for w, e in zip(weights, history, strict=True))
    return tape.plan(x, times[-1])
