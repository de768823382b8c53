r"""UniPC (Zhao et al. 2023): a predictor and a corrector of arbitrary order in :math:`\lambda = -\log\rho`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process
from .dpm_solver import _prediction, _Step

__all__ = ["unipc"]

BASES = ("bh1", "bh2", "vary")


def _moments(hh: float, p: int) -> NDArray[np.float64]:
    r"""The numbers :math:`i!\,hh\,\varphi_{i+1}(hh)`, i = 1 … p, with :math:`\varphi_k(z) = \sum_n z^n/(n + k)!`."""
    if abs(hh) < 0.1:  # the recursion below cancels
        return np.array(
            [
                math.factorial(i) * sum(hh ** (n + 1) / math.factorial(n + i + 1) for n in range(16))
                for i in range(1, p + 1)
            ]
        )
    moments, last = [], math.expm1(hh)
    for i in range(1, p + 1):
        last = last / hh - 1.0 / math.factorial(i)
        moments.append(math.factorial(i) * last)
    return np.array(moments)


def unipc(
    process: Process, times: Grid, order: int = 3, basis: str = "bh2", data: bool = True, final: int = 100
) -> Plan:
    r"""UniP-p with UniC-p (UniPC, Algorithms 1 and 2), p = ``order``, one call a step.

    With differences :math:`D_j = (m_{-j} - m_0)/r_j` of the last predictions at
    :math:`r_j = (\lambda_{-j} - \lambda_t)/h`, the predictor adds :math:`B\sum_{j<p} a_j D_j` to the first-order step;
    the corrector then redoes the step with the prediction at the point just found (r = 1) among the differences. The
    prediction at the *predicted* state enters the history, so a step costs one call. The last step is not corrected.

    Args:
        order: p, from 1 to 4; it rises 1, 2, … over the first steps.
        basis: what B(h) is, h (``bh1``) or e^h − 1 (``bh2``); or ``vary``, the varying coefficients of the paper's
            App. C. They differ only in the order-2 predictor and the order-1 corrector.
        data: expand the denoised data instead of ε.
        final: in the last ``final`` steps the order is at most the number of steps left.

    Raises:
        UserError: for another order or basis, or a negative ``final``.
    """
    if order not in (1, 2, 3, 4):
        raise UserError(f"UniPC has orders 1 to 4, got {order}")
    if basis not in BASES:
        raise UserError(f"UniPC's basis is one of {', '.join(BASES)}, got {basis!r}")
    if final < 0:
        raise UserError(f"final must not be negative, got {final}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    steps = len(times) - 1
    tape = Tape(process, times[0])
    x = tape.x
    history: list[tuple[float, Symbol]] = []
    e = tape.eval(x, times[0])
    history = [(-math.log(rho[0]), _prediction(data, x, rho[0], e))]
    for i in range(steps):
        step = _Step(data, rho[i], rho[i + 1])
        left = steps - i
        p = min(order, len(history), left if left <= final else order)
        base = step.linear(x) + step.weight(0) * history[0][1]
        if rho[i + 1] == 0.0:
            x = base
            continue
        (l0, m0), older = history[0], history[1:p]
        r = [(lam - l0) / step.h for lam, _ in older]
        D = [(m - m0) / rj for (_, m), rj in zip(older, r, strict=True)]
        predicted = base + _combine(step, _weights(basis, step, r), D)
        if i + 1 == steps:
            x = predicted
            continue
        e = tape.eval(predicted, times[i + 1])
        m_u = _prediction(data, predicted, rho[i + 1], e)
        x = base + _combine(step, _weights(basis, step, [*r, 1.0]), [*D, m_u - m0])
        tape.store(x, times[i + 1])
        history = [(-math.log(rho[i + 1]), m_u), *history[: order - 1]]
    return tape.plan(x, times[-1])


def _combine(step: _Step, weights: NDArray[np.float64], D: list[Symbol]) -> Symbol:
    return sum((w * d for w, d in zip(weights.tolist(), D, strict=True)), Symbol({}))


def _weights(basis: str, step: _Step, r: list[float]) -> NDArray[np.float64]:
    r"""The weight of each difference: :math:`-c\,w` with :math:`\sum_j r_j^{i-1} w_j = i!\,hh\,\varphi_{i+1}(hh)`.

    B(h) cancels from the paper's :math:`B\,R^{-1}(b/B)`. It is left where one difference alone is weighed: there bh1
    and bh2 take :math:`w = B/2`, and only ``vary`` solves the one equation.
    """
    if not r:
        return np.zeros(0)
    hh = -step.h if step.data else step.h
    scale = -1.0 if step.data else -step.rho
    if len(r) == 1 and basis != "vary":
        return np.array([scale * 0.5 * (hh if basis == "bh1" else math.expm1(hh))])
    weights = scale * np.linalg.solve(np.vander(r, increasing=True).T, _moments(hh, len(r)))
    return np.asarray(weights, dtype=np.float64)
