"""Classical coefficients, as data: Runge–Kutta tableaux, Adams–Bashforth weights, Lagrange and quadrature rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..schedules import DiscreteVP, Process

__all__ = ["ADAMS_BASHFORTH", "TABLEAUX", "Tableau", "adams_bashforth", "integrate_d_rho", "lagrange"]

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method (Hairer, Nørsett & Wanner, §II.1).

    Attributes:
        a: rows 2 … s of the stage weights.
        b: the weights of the result.
        c: the nodes of the stages.
        order: the classical order.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int


TABLEAUX: dict[str, Tableau] = {
    "euler": Tableau((), (1.0,), (0.0,), 1),
    "midpoint": Tableau(((1 / 2,),), (0.0, 1.0), (0.0, 1 / 2), 2),
    "heun": Tableau(((1.0,),), (1 / 2, 1 / 2), (0.0, 1.0), 2),
    "heun3": Tableau(((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4), (0.0, 1 / 3, 2 / 3), 3),
    "kutta3": Tableau(((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6), (0.0, 1 / 2, 1.0), 3),
    "rk4": Tableau(
        ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 1 / 2, 1 / 2, 1.0), 4
    ),
}
"""Explicit Runge–Kutta methods by name."""

ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Adams–Bashforth weights of orders 1 to 4 on equal steps, the newest slope first."""


def lagrange(nodes: Float, at: Float) -> Float:
    """The Lagrange basis polynomials of ``nodes`` (n,) at the points ``at`` (m,): shape (n, m)."""
    basis = np.ones((len(nodes), len(at)))
    for j, node in enumerate(nodes):
        for k, other in enumerate(nodes):
            if k != j:
                basis[j] *= (at - other) / (node - other)
    return basis


def adams_bashforth(nodes: Float, start: float, end: float) -> Float:
    r"""Variable-step Adams–Bashforth weights :math:`\int L_j(s)\,ds` from start to end, exact up to rounding."""
    x, w = np.polynomial.legendre.leggauss(len(nodes) // 2 + 1)
    half = 0.5 * (end - start)
    return lagrange(nodes, start + half * (1.0 + x)) @ (half * w)


_GAUSS_64 = np.polynomial.legendre.leggauss(64)
_GAUSS_8 = np.polynomial.legendre.leggauss(8)


def integrate_d_rho(process: Process, f: Callable[[Float], Float], t: float, u: float) -> Float:
    r"""The integral :math:`\int_{\rho(t)}^{\rho(u)} f(\tau(\rho))\,d\rho` of a smooth f, by Gauss–Legendre quadrature.

    In log ρ where ρ(u) > 0: there τ is analytic in a strip of half-width π/2, so that 64 nodes leave nothing but
    rounding even for one step over a whole VP schedule. A discrete schedule is smooth only between its labels, so
    each label is the end of a panel.

    Args:
        f: maps an array of times (m,) to values (…, m).

    Returns:
        The integral over the last axis.
    """
    if isinstance(process, DiscreteVP):
        labels = np.arange(np.floor(t), u, -1.0)
        edges = np.asarray(process.rho(np.concatenate([[t], labels[labels < t], [u]])))
        # Within one label ρ changes little, except down to the clean end, where τ is analytic in ρ itself.
        x, w = _GAUSS_8
        half = 0.5 * np.diff(edges)
        rho, weights = (edges[:-1] + half + np.outer(x, half)).ravel(), np.outer(w, half).ravel()
        return f(np.asarray(process.t_of_rho(rho))) @ weights
    x, w = _GAUSS_64
    start, end = float(process.rho(t)), float(process.rho(u))
    if end > 0:
        width = 0.5 * np.log(end / start)
        rho = start * np.exp(width * (1.0 + x))
        weights = width * w * rho
    else:
        width = 0.5 * (end - start)
        rho, weights = start + width * (1.0 + x), width * w
    return f(np.asarray(process.t_of_rho(rho))) @ weights
