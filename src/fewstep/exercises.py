"""The book's exercises ask for solvers; :func:`check` says whether one that you wrote is the one that is meant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import schedules, solvers
from .errors import UserError
from .grids import GRIDS, Grid
from .plan import Plan

__all__ = ["check"]

TOLERANCE = 1e-6
"""Relative to the largest coefficient: loose enough for another way to integrate a polynomial."""


def check(solver: Callable[[schedules.Process, Grid], Plan], name: str) -> None:
    """Compare a solver with the one of this name, on three processes and grids each, by their tables.

    Two samplers are the same if and only if their canonical tables are equal (:func:`fewstep.plan.difference`); no
    network is needed. Prints the largest difference.

    Args:
        solver: ``solver(process, times)`` makes a plan, as those of :mod:`fewstep.solvers` do.
        name: what it should be, a key of :data:`fewstep.solvers.SOLVERS`.

    Raises:
        UserError: at the first process and grid where the tables differ; the line says in what.
    """
    meant = solvers.get(name)
    worst = 0.0
    for process in (schedules.linear_vp(), schedules.ContinuousVP(), schedules.VE()):
        for grid in ("uniform", "quadratic", "rho7"):
            times = GRIDS[grid](process, max(7, meant.min_steps))
            where = f"{type(process).__name__}, grid {grid}, {len(times) - 1} steps"
            expected, found = meant.load()(process, times, **meant.options), solver(process, times)
            if not isinstance(found, Plan):
                raise UserError(f"a solver ends with `return tape.plan(x, times[-1])`; yours gives {found!r}")
            if found.nfe != expected.nfe:
                raise UserError(f"{name} makes {expected.nfe} calls, yours {found.nfe} ({where})")
            theirs, yours = expected.canonical(), found.canonical()
            if (late := np.abs(yours.times - theirs.times) > TOLERANCE * abs(process.t_max)).any():
                k = int(late.argmax())
                raise UserError(
                    f"{name} makes call {k} at t = {theirs.times[k]:g}, yours at {yours.times[k]:g} ({where})"
                )
            if theirs.C.shape != yours.C.shape or theirs.S.shape != yours.S.shape:
                raise UserError(
                    f"{name} forms {len(theirs.a)} states with {theirs.S.shape[1]} noises, yours {len(yours.a)} with "
                    f"{yours.S.shape[1]} ({where})"
                )
            pairs = [(yours.a[:, None], theirs.a[:, None]), (yours.C, theirs.C), (yours.S, theirs.S)]
            size = max(np.abs(table).max(initial=0.0) for _, table in pairs)
            gaps = np.abs(np.hstack([u - v for u, v in pairs])).max(1) / size
            if (wrong := gaps > TOLERANCE).any():
                raise UserError(f"state {int(wrong.argmax()) + 1} is not that of {name} ({where})")
            worst = max(worst, gaps.max())
    print(f"the same table as that of {name}: the largest relative difference is {worst:.0e}")
