r"""What can be read off a sampler's table before any network runs: which samplers coincide, and how accurate they are.

In :math:`\bar x` and ρ the canonical table of a deterministic plan is an explicit Runge–Kutta method of K stages over
the whole interval, with nodes :math:`\rho_k`, stage weights :math:`A_{kj}` and weights :math:`b_j`
(:func:`tableau`); its order conditions are those of Butcher.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .grids import Grid
from .plan import Plan
from .schedules import Process
from .solvers import SOLVERS

__all__ = [
    "ROUNDING",
    "TREES",
    "amplification",
    "classes",
    "defects",
    "distances",
    "on_grid",
    "shares",
    "tableau",
    "uniform_rho",
]

Float = NDArray[np.float64]

ROUNDING = sys.float_info.epsilon**0.5
"""Tables that agree to half of the digits of float64 count as equal: what rounding leaves is far below."""


def uniform_rho(process: Process, n: int) -> Grid:
    """n equal steps in ρ from ``process.t_max`` to ``process.t_end``, a clean end included."""
    rho = np.linspace(float(process.rho(process.t_max)), float(process.rho(process.t_end)), n + 1)
    times = np.asarray(process.t_of_rho(rho), dtype=np.float64)
    times[0], times[-1] = process.t_max, process.t_end
    return times


def on_grid(
    process: Process, nfe: int, grid: Callable[[Process, int], Grid], names: Iterable[str] | None = None
) -> dict[str, Plan]:
    """The plans of the deterministic solvers that can spend ``nfe`` calls, by name.

    Args:
        process: the diffusion process.
        nfe: the budget of calls; each solver takes the largest number of steps that fits.
        grid: ``grid(process, n)`` are n steps.
        names: keys of :data:`~fewstep.solvers.SOLVERS`; by default all.
    """
    clean = float(process.rho(process.t_end)) == 0.0
    found = {}
    for name in SOLVERS if names is None else names:
        solver = SOLVERS[name]
        try:
            plan = solver.load()(process, grid(process, solver.steps(nfe, clean)), **solver.options)
        except UserError:  # the budget is too small, or the process has no such grid
            continue
        if not plan.stochastic:
            found[name] = plan
    return found


def distances(plans: Mapping[str, Plan]) -> dict[tuple[str, str], float]:
    """How far each two plans are apart: :func:`fewstep.plan.difference`, relative to the largest weight of the two.

    Pairs whose calls differ in number or in time are left out.
    """
    forms = {name: plan.canonical() for name, plan in plans.items()}
    found = {}
    for a, b in combinations(plans, 2):
        p, q = forms[a], forms[b]
        if p.C.shape != q.C.shape or not np.allclose(p.times, q.times, rtol=ROUNDING, atol=ROUNDING):
            continue
        largest = max(np.abs(p.C).max(), np.abs(q.C).max())
        found[a, b] = float(max(np.abs(p.a - q.a).max(), np.abs(p.C - q.C).max()) / largest)
    return found


def classes(plans: Mapping[str, Plan], tolerance: float = ROUNDING) -> list[list[str]]:
    """The names of deterministic plans in groups of equal tables, in their order."""
    near = {pair for pair, distance in distances(plans).items() if distance < tolerance}
    groups: list[list[str]] = []
    for name in plans:
        home = next((group for group in groups if (group[0], name) in near), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return groups


def tableau(plan: Plan) -> tuple[Float, Float, Float, Float]:
    r"""A deterministic plan as one explicit Runge–Kutta step in ρ, scaled to the interval [0, 1].

    With :math:`u = (\rho_0 - \rho)/(\rho_0 - \rho_K)` the state of call k is
    :math:`\bar x_k = a_k\bar x_0 - (\rho_0-\rho_K)\sum_j A_{kj}\varepsilon_j`, and the result the same with
    :math:`a_K` and b.

    Returns:
        u of the calls (K,), A (K, K), b (K,), a of the calls and of the result (K + 1,).

    Raises:
        UserError: for a stochastic plan.
    """
    if plan.stochastic:
        raise UserError("only a deterministic plan is a Runge–Kutta method")
    rho = plan.sigma / plan.alpha
    form = plan.canonical()
    span = float(rho[0] - rho[-1])
    C = np.vstack([np.zeros(plan.nfe), form.C])
    a = np.concatenate([[1.0], form.a])
    at = np.array([*plan.inputs, len(plan.states)])
    A = -C[at] / plan.alpha[:, None] / span
    return (rho[0] - rho[:-1]) / span, A[:-1], A[-1], a[at] * plan.alpha[0] / plan.alpha


TREES: dict[str, tuple[int, float, Callable[[Float, Float], Float]]] = {
    "∫1": (1, 1.0, lambda u, A: u**0),
    "∫u": (2, 1 / 2, lambda u, A: u),
    "∫u²": (3, 1 / 3, lambda u, A: u**2),
    "∫∫u": (3, 1 / 6, lambda u, A: A @ u),
    "∫u³": (4, 1 / 4, lambda u, A: u**3),
    "∫u∫u": (4, 1 / 8, lambda u, A: u * (A @ u)),
    "∫∫u²": (4, 1 / 12, lambda u, A: A @ u**2),
    "∫∫∫u": (4, 1 / 24, lambda u, A: A @ (A @ u)),
}
"""The rooted trees of up to four nodes, as iterated integrals over [0, 1]: number of nodes, value, and what a plan sums
with its weights b."""


def defects(plan: Plan) -> Float:
    """How far a plan misses each of :data:`TREES`, relative to its value, shape (8,); raises as :func:`tableau`."""
    u, A, b, _ = tableau(plan)
    return np.array([abs(b @ f(u, A) / exact - 1.0) for _, exact, f in TREES.values()])


def shares(plan: Plan, times: Grid) -> tuple[Float, Float]:
    r"""What part of each step is due to which output: a row for each step of the grid, a column for each call.

    .. math::

        w_{ij} = \frac{\bar C_{i+1,j} - \bar C_{ij}}{\rho_{i+1} - \rho_i}, \qquad
        \theta_{ij} = \frac{\rho(t_j) - \rho_i}{\rho_{i+1} - \rho_i},

    where the state at a time of the grid is the one at which the network is called there for the last time. A step is
    exact for a constant ε if its shares sum to 1, and for one linear in ρ if also :math:`\sum_jw_{ij}\theta_{ij} =
    \tfrac12`.

    Args:
        plan: a deterministic plan.
        times: the grid that it was built on.

    Returns:
        w and θ, shape (n, K) for n steps and K calls.

    Raises:
        UserError: for a stochastic plan, or one that does not call the network at a time of the grid.
    """
    u, A, b, _ = tableau(plan)
    rows = []
    for t in times[:-1]:
        calls = np.flatnonzero(np.isclose(plan.times[:-1], t, rtol=ROUNDING, atol=ROUNDING))
        if not len(calls):
            raise UserError(f"the plan does not call the network at t = {t:g}, a time of the grid")
        rows.append(calls[-1])
    ends = np.append(u[rows], 1.0)
    step = np.diff(ends)[:, None]
    return np.diff(np.vstack([A[rows], b]), axis=0) / step, (u[None, :] - ends[:-1, None]) / step


def amplification(plan: Plan) -> float:
    r"""By how much the weights exceed what they add up to, :math:`\sum_j|b_j| / |\sum_j b_j|`: 1 if none is negative.

    If each output is wrong by up to δ, the weights alone move the result by up to this factor times
    :math:`(\rho_0 - \rho_K)\,\delta` (for a consistent plan). Raises as :func:`tableau`.
    """
    b = tableau(plan)[2]
    return float(np.abs(b).sum() / abs(b.sum()))
