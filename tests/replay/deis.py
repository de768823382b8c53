"""The vectors of DEIS's program, and the exact or corrected variants that no program computes."""

from __future__ import annotations

import re

import numpy as np

from fewstep import grids, schedules
from fewstep.solvers.coefficients import lagrange
from fewstep.solvers.deis import _adams, rho_ab, rho_rk, t_ab
from fewstep.solvers.pndm import ipndm
from fewstep.solvers.unipc import unipc

from .dpm_solver import spacing
from .problem import DISCRETE, EDM, VP, Problem, Run, Table, replay


def _riemann(process: schedules.Process, in_rho: bool):
    """DEIS coefficients as the authors integrate them: 10,000 left-hand rectangles."""

    def weights(nodes, t, u):
        tau = np.linspace(t, u, 10_001)[:-1]
        if in_rho:
            edges = np.linspace(process.rho(t), process.rho(u), 10_001)
            return lagrange(process.rho(nodes), edges[:-1]) @ np.diff(edges)
        return lagrange(nodes, tau) @ (process.drho(tau) * (u - t) / 10_000)

    return weights


def _deis(p: Problem, run: str, n: int, info, data) -> Run | None:
    process, kind = (VP, "cont") if "cont_" in run else (Table(np.append(1.0, p.alpha_bar), "linear"), "disc")
    end = 1e-3 if kind == "cont" else 0.0
    exact = run.startswith("deis_exact_")
    name = run.removeprefix("deis_exact_").split("_", 1)[1]
    method, _, phase = name.rpartition("_")
    if name == "ipndm":
        method, phase = "ipndm", "t1"
    spacing = {
        "t1": lambda: np.linspace(process.t_max, end, n + 1),
        "t2": lambda: np.linspace(process.t_max**0.5, end**0.5, n + 1) ** 2,
        "log1": lambda: grids.uniform_lambda(process, n, t_end=end),
        "rho7": lambda: grids.power_rho(process, n, power=7.0, t_end=end),
    }.get(phase)
    if spacing is None:
        return None
    times = spacing()
    times[-1] = end
    if method == "ipndm":
        plan = ipndm(process, times)
    elif method.startswith("rho_rk_"):
        tableau = {"1euler": "euler", "2heun": "heun", "3kutta": "kutta3", "3heun": "heun3", "4rk": "rk4"}
        plan = rho_rk(process, times, tableau[method.removeprefix("rho_rk_")])
    else:
        order = int(method[-1])
        if exact:
            plan = (t_ab if method.startswith("t_ab") else rho_ab)(process, times, order)
        else:
            plan = _adams(process, times, order, _riemann(process, method.startswith("rho_ab")))
    return replay(p, plan, p.model(VP if kind == "cont" else DISCRETE))


def _derived(p: Problem, run: str, n: int, info, data) -> Run | None:
    if run.startswith("deis_exact_"):
        return _deis(p, run, n, info, data)
    if run.startswith("ab_variable_step_order"):
        times = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n + 1) ** 7
        return replay(p, rho_ab(EDM, times, int(run[22]) - 1), p.model(EDM), 80.0)
    if run.startswith("unipc_varycoeff"):
        order = int(re.search(r"order(\d)", run)[1])
        process = DISCRETE
        times = spacing(process, "logSNR")(process, n, process.t_max, 0.0)
        return replay(p, unipc(process, times, order, "vary"), p.model(process))
    return None


BUILDERS = {"deis": _deis, "derived_not_upstream": _derived}
