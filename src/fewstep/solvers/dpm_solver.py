r"""DPM-Solver and DPM-Solver++ (Lu et al. 2022): exponential integrators in :math:`\lambda = -\log\rho`.

Over a step from t to u with :math:`h = \lambda_u - \lambda_t`, the probability-flow ODE is solved by either of

.. math::

    \bar x_u = \bar x_t - \int_{\lambda_t}^{\lambda_u} e^{-\lambda}\,\varepsilon\,d\lambda, \qquad
    \bar x_u = \frac{\rho_u}{\rho_t}\,\bar x_t + \rho_u\int_{\lambda_t}^{\lambda_u} e^{\lambda}\,\hat x_0\,d\lambda,
    \qquad \hat x_0 = \bar x - \rho\,\varepsilon .

DPM-Solver expands ε in powers of λ − λ_t (first form, "noise"), DPM-Solver++ the denoised :math:`\hat x_0` (second
form, "data"). The weight of the k-th derivative m⁽ᵏ⁾ is, with :math:`s = \lambda - \lambda_t`,

.. math:: -\rho_u\int_0^h e^{h-s}\frac{s^k}{k!}\,ds \quad\text{(noise)}, \qquad
          \int_0^h e^{s-h}\frac{s^k}{k!}\,ds \quad\text{(data)} .

λ is infinite where ρ = 0; there the first-order step (DDIM) is what is left, and it needs no λ.

The reverse-time SDE with noise level η (1: the SDE of score SDE, 0: the ODE above) is

.. math:: d\bar x = (1 + \eta)\,\varepsilon\,d\rho + \sqrt{2\eta\rho\,|d\rho|}\;\dot w
          = (1 + \eta)\,(\hat x_0 - \bar x)\,d\lambda + \sqrt{2\eta\,d\lambda}\;\rho\,\dot w ,

so that the weights of ε are 1 + η times those above, and those of :math:`\hat x_0` the ones above with
(1 + η)λ for λ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..errors import UserError
from ..grids import Grid, check, uniform_lambda
from ..plan import Plan, Symbol, Tape
from ..schedules import Process

__all__ = ["dpm_solver_fast", "dpm_solver_multistep", "dpm_solver_singlestep"]

Spacing = Callable[..., Grid]


class _Step:
    """The exact part of a step over h in λ to noise level ``rho``, for one of the two predictions.

    With ``eta`` > 0 that of the SDE.
    """

    def __init__(self, data: bool, rho_t: float, rho: float, eta: float = 0.0) -> None:
        self.data, self.rho_t, self.rho, self.eta = data, rho_t, rho, eta
        self.h = math.log(rho_t / rho) if rho > 0 else math.inf

    @property
    def std(self) -> float:
        """The standard deviation of the noise in x̄."""
        if self.data:
            return self.rho * math.sqrt(-math.expm1(-2.0 * self.eta * self.h))
        return math.sqrt(self.eta * (self.rho_t**2 - self.rho**2))

    def linear(self, x: Symbol) -> Symbol:
        """The state when the prediction is zero."""
        return (self.rho / self.rho_t) ** (1.0 + self.eta) * x if self.data else x

    def weight(self, k: int) -> float:
        """The weight of the k-th derivative in λ, k = 0, 1, 2."""
        more = 1.0 + self.eta
        if k == 0:  # finite at a clean end too
            return -math.expm1(-more * self.h) if self.data else more * (self.rho - self.rho_t)
        if self.data:
            h = more * self.h
            return (h + math.expm1(-h) if k == 1 else 0.5 * h * h - h - math.expm1(-h)) / more**k
        h = self.h
        return -more * self.rho * (math.expm1(h) - h if k == 1 else math.expm1(h) - h - 0.5 * h * h)


def _prediction(data: bool, x: Symbol, rho: float, e: Symbol) -> Symbol:
    """What is expanded: the denoised x̄ − ρε, or ε."""
    return x - rho * e if data else e


def dpm_solver_multistep(
    process: Process,
    times: Grid,
    order: int = 2,
    data: bool = True,
    taylor: bool = False,
    final: int = 0,
    eta: float = 0.0,
) -> Plan:
    r"""Multistep DPM-Solver (``data=False``) and DPM-Solver++ (``data=True``; DPM-Solver++, Algorithm 2 is order 2).

    The order rises 1, 2, … ``order`` over the first steps. Derivatives are divided differences of the last outputs.
    A step to ρ = 0 is a DDIM step, without noise. With ``eta`` > 0 they are SDE-DPM-Solver and SDE-DPM-Solver++, whose
    noise is, over a step of h,

    .. math:: \sqrt{\eta(\rho_t^2 - \rho_u^2)}\;z \quad\text{(noise)}, \qquad
              \rho_u\sqrt{1 - e^{-2\eta h}}\;z \quad\text{(data)} ;

    order 1 with data and η = 1 is DDPM with variance β̃, orders 2 and 3 are k-diffusion's 2M SDE and 3M SDE.

    Args:
        order: 1 (DDIM), 2 or 3. The published third-order method counts its second derivative half, which makes it a
            method of second order; it is kept.
        data: expand the denoised data instead of ε.
        taylor: order 2 weighs its derivative by the Taylor expansion, instead of by half the first weight times h
            (the midpoint rule). Both are of second order.
        final: how many of the last steps fall back: the order there is at most the number of steps left. 0: none.
        eta: noise level of the SDE, 0 for the ODE.

    Raises:
        UserError: unless 1 <= order <= 3, final >= 0 and eta >= 0.
    """
    if order not in (1, 2, 3):
        raise UserError(f"DPM-Solver has orders 1 to 3, got {order}")
    if final < 0:
        raise UserError(f"final must not be negative, got {final}")
    if not 0.0 <= eta < math.inf:
        raise UserError(f"eta must be a number >= 0, got {eta:g}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    steps = len(times) - 1
    tape = Tape(process, times[0])
    x = tape.x
    history: list[tuple[float, Symbol]] = []
    for i in range(steps):
        e = tape.eval(x, times[i])
        history = [(-math.log(rho[i]), _prediction(data, x, rho[i], e)), *history[: order - 1]]
        noisy = eta > 0 and rho[i + 1] > 0
        step = _Step(data, rho[i], rho[i + 1], eta if noisy else 0.0)
        left = steps - i
        p = min(len(history), left if left <= final else order, 1 if rho[i + 1] == 0.0 else order)
        new = step.linear(x) + step.weight(0) * history[0][1]
        if p == 2:
            slope = (history[0][1] - history[1][1]) / (history[0][0] - history[1][0])
            new = new + (step.weight(1) if taylor else 0.5 * step.h * step.weight(0)) * slope
        if p == 3:
            (l0, m0), (l1, m1), (l2, m2) = history
            first, second = (m0 - m1) / (l0 - l1), (m1 - m2) / (l1 - l2)
            curve = (first - second) / (l0 - l2)
            new = new + step.weight(1) * (first + (l0 - l1) * curve) + step.weight(2) * curve
        x = new + step.std * tape.noise() if noisy else new
    return tape.plan(x, times[-1])


def dpm_solver_singlestep(
    process: Process,
    times: Grid,
    orders: int | Sequence[int] = 2,
    data: bool = False,
    taylor: bool = False,
    spacing: Spacing = uniform_lambda,
) -> Plan:
    r"""Singlestep DPM-Solver-1, 2, 3 (DPM-Solver, Algorithms 1, 2) and their ++ forms, ``orders[i]`` calls in step i.

    Args:
        orders: the order of each step, or one for all. A step to ρ = 0 is of order 1 whatever is given.
        data: expand the denoised data instead of ε.
        taylor: use the stages' divided differences as Taylor coefficients (for order 3 a second one too) instead of the
            published weights.
        spacing: the rule that places the stages inside a step: a grid function; uniform in λ puts them at
            1/2 (order 2) and 1/3, 2/3 (order 3) of h.

    Raises:
        UserError: for orders other than 1, 2, 3, or a wrong number of them.
    """
    times = check(process, times)
    steps = len(times) - 1
    sequence = [orders] * steps if isinstance(orders, int) else list(orders)
    if len(sequence) != steps or not set(sequence) <= {1, 2, 3}:
        raise UserError(f"{steps} orders, each 1, 2 or 3, are needed, got {sequence}")
    tape = Tape(process, times[0])
    x = tape.x
    for t, u, order in zip(times[:-1].tolist(), times[1:].tolist(), sequence, strict=True):
        rho_t, rho_u = float(process.rho(t)), float(process.rho(u))
        if rho_u == 0.0:
            order = 1
        step = _Step(data, rho_t, rho_u)
        e = tape.eval(x, t)
        m0 = _prediction(data, x, rho_t, e)
        if order == 1:
            x = step.linear(x) + step.weight(0) * m0
            continue
        inner = spacing(process, order, t_start=t, t_end=u)[1:-1].tolist()
        rhos = [float(process.rho(s)) for s in inner]
        first = _Step(data, rho_t, rhos[0])
        y = first.linear(x) + first.weight(0) * m0
        r1 = first.h / step.h
        e1 = tape.eval(y, inner[0])
        d1 = _prediction(data, y, rhos[0], e1) - m0
        if order == 2:
            weight = step.weight(1) / (r1 * step.h) if taylor else 0.5 / r1 * step.weight(0)
            if abs(weight / step.weight(0) - 1.0) < 1e-12:  # half-way in λ m0 cancels; rounding must not keep it alive
                x = step.linear(x) + weight * _prediction(data, y, rhos[0], e1)
            else:
                x = step.linear(x) + step.weight(0) * m0 + weight * d1
            continue
        second = _Step(data, rho_t, rhos[1])
        r2 = second.h / step.h
        y = second.linear(x) + second.weight(0) * m0 + (second.weight(1) / (r1 * step.h)) * d1
        e2 = tape.eval(y, inner[1])
        d2 = _prediction(data, y, rhos[1], e2) - m0
        x = step.linear(x) + step.weight(0) * m0
        if taylor:
            first_derivative = (r2 * (d1 / r1) - r1 * (d2 / r2)) / (r2 - r1)
            second_derivative = 2.0 * ((d2 / r2) - (d1 / r1)) / (r2 - r1)
            x = x + step.weight(1) / step.h * first_derivative + step.weight(2) / step.h**2 * second_derivative
        else:
            x = x + step.weight(1) / (r2 * step.h) * d2
    return tape.plan(x, times[-1])


def dpm_solver_fast(process: Process, times: Grid, nfe: int | None = None) -> Plan:
    """DPM-Solver-fast (DPM-Solver, §3.4): third-order steps, and at the end lower ones, so that all calls are spent.

    n steps spend 3n − 3 calls (the last orders are 2, 1), 3n − 2 (1) or 3n − 1 (2). A step to ρ = 0 makes one call, so
    that on a grid with a clean end one of 3n − 1 calls is left over.

    Args:
        nfe: the budget of calls; by default the fewest that n steps take.

    Raises:
        UserError: if n steps take more.
    """
    times = check(process, times)
    steps = len(times) - 1
    spare = 0 if nfe is None else min(2, nfe - 3 * (steps - 1))
    if spare < 0 or (spare == 0 and steps < 2):
        raise UserError(f"DPM-Solver-fast takes at least {max(1, 3 * steps - 3)} calls in {steps} steps, got {nfe}")
    orders = [3] * (steps - 2) + [2, 1] if spare == 0 else [3] * (steps - 1) + [spare]
    return dpm_solver_singlestep(process, times, orders)
