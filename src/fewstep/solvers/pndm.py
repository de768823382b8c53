r"""Pseudo numerical methods (Liu, Ren, Lin & Zhao 2022) and iPNDM (Zhang & Chen 2023).

A pseudo numerical method replaces x + hf by the *transfer* (PNDM, Eq. 11), which is DDIM's map; in
:math:`\bar x` it is :math:`\bar x_u = \bar x_t + (\rho_u - \rho_t)\,e`. What remains of a classical method is its
gradient part: how e is built from several outputs of the network.
"""

from __future__ import annotations

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process
from .coefficients import ADAMS_BASHFORTH

__all__ = ["f_pndm", "ipndm", "plms", "pseudo_runge_kutta", "s_pndm"]


def _pseudo_rk_step(tape: Tape, process: Process, x: Symbol, t: float, u: float) -> tuple[Symbol, Symbol]:
    """One pseudo Runge–Kutta step (PNDM, Eq. 13); returns the new state and the first ε."""
    m = 0.5 * (t + u)
    rho_t, rho_m, rho_u = process.rho([t, m, u]).tolist()
    e1 = tape.eval(x, t)
    e2 = tape.eval(x + (rho_m - rho_t) * e1, m)
    e3 = tape.eval(x + (rho_m - rho_t) * e2, m)
    e4 = tape.eval(x + (rho_u - rho_t) * e3, u)
    return x + (rho_u - rho_t) / 6.0 * (e1 + 2.0 * e2 + 2.0 * e3 + e4), e1


def pseudo_runge_kutta(process: Process, times: Grid) -> Plan:
    """The pseudo Runge–Kutta method at every step (PNDM, Eq. 13), four calls a step.

    A last step to a clean end (ρ = 0), where no network was trained, is a DDIM step with one call.
    """
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i, (t, u) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        if rho[i + 1] > 0:
            x, _ = _pseudo_rk_step(tape, process, x, t, u)
        else:
            x = x + (rho[i + 1] - rho[i]) * tape.eval(x, t)
    return tape.plan(x, times[-1])


def f_pndm(process: Process, times: Grid) -> Plan:
    r"""F-PNDM (PNDM, Algorithm 2): three pseudo Runge–Kutta steps, then pseudo linear multistep steps (PNDM, Eq. 12)

    .. math:: e = \tfrac1{24}(55\varepsilon_k - 59\varepsilon_{k-1} + 37\varepsilon_{k-2} - 9\varepsilon_{k-3}) .

    n steps make n + 9 calls.

    Raises:
        UserError: for fewer than 4 steps.
    """
    times = check(process, times)
    if len(times) < 5:
        raise UserError(f"F-PNDM takes at least 4 steps (13 network calls), got {len(times) - 1}")
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    history: list[Symbol] = []
    for i, (t, u) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        if i < 3:
            x, e = _pseudo_rk_step(tape, process, x, t, u)
            history.insert(0, e)
        else:
            history = [tape.eval(x, t), *history[:3]]
            x = x + (rho[i + 1] - rho[i]) * sum(w * e for w, e in zip(ADAMS_BASHFORTH[3], history, strict=True))
    return tape.plan(x, times[-1])


def s_pndm(process: Process, times: Grid) -> Plan:
    r"""S-PNDM, the second-order method (PNDM, App. A.3): :func:`plms` of order 2.

    A pseudo improved-Euler step, then :math:`e = \tfrac12(3\varepsilon_k - \varepsilon_{k-1})`.

    n steps make n + 1 calls.

    Raises:
        UserError: for fewer than 2 steps.
    """
    return plms(process, times, order=2)


def plms(process: Process, times: Grid, order: int = 4) -> Plan:
    r"""PLMS: the pseudo linear multistep method (PNDM, Eqs. 11–12) started by a pseudo improved-Euler step.

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


def ipndm(process: Process, times: Grid, order: int = 4) -> Plan:
    """iPNDM (DEIS, App. H.2): the pseudo linear multistep method from the first step on, its order rising to ``order``.

    n steps make n calls. The weights are those of equal steps, on any grid.

    Raises:
        UserError: unless 1 <= order <= 4.
    """
    if order not in (1, 2, 3, 4):
        raise UserError(f"iPNDM has orders 1 to 4, got {order}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    history: list[Symbol] = []
    for i in range(len(times) - 1):
        history = [tape.eval(x, times[i]), *history[: order - 1]]
        weights = ADAMS_BASHFORTH[len(history) - 1]
        x = x + (rho[i + 1] - rho[i]) * sum(w * e for w, e in zip(weights, history, strict=True))
    return tape.plan(x, times[-1])
