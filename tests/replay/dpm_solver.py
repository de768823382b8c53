"""The vectors of the programs of DPM-Solver and UniPC."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import grids, schedules
from fewstep.adaptive.dpm_solver import Elementary, dpm_solver_adaptive
from fewstep.run import sample
from fewstep.solvers import unipc as unipc_module
from fewstep.solvers.ddim import ddim
from fewstep.solvers.dpm_solver import dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.unipc import unipc

from .problem import DISCRETE, VP, Problem, Run, replay


def spacing(process: schedules.Process, rule: str) -> Callable[..., np.ndarray]:
    """The grid rules of DPM-Solver's program, whose time on labels is (label + 1)/1000."""
    shift, scale = (1.0, 1000.0) if process is DISCRETE else (0.0, 1.0)

    def quadratic(process, n, t_start, t_end):
        return np.linspace(*np.sqrt((np.array([t_start, t_end]) + shift) / scale), n + 1) ** 2 * scale - shift

    return {
        "logSNR": lambda q, n, t_start, t_end: grids.uniform_lambda(q, n, t_start=t_start, t_end=t_end),
        "time_uniform": lambda q, n, t_start, t_end: np.linspace(t_start, t_end, n + 1),
        "time_quadratic": quadratic,
    }[rule]


def _lambda_setting(run: str) -> tuple[schedules.Process, Callable[..., np.ndarray], float, int]:
    """Process, grid rule, end and order of a run of DPM-Solver's or UniPC's program."""
    process, end = (DISCRETE, 0.0) if run.startswith("disc") else (VP, 1e-3)
    rule = re.search(r"time_uniform|logSNR|time_quadratic", run)[0]
    return process, spacing(process, rule), end, int(re.search(r"order(\d)", run)[1])


def _singlestep_orders(n: int, order: int) -> list[int]:
    """How the programs spend n calls on singlestep methods of order up to ``order``."""
    if order == 3:
        k = n // 3 + 1
        return [3] * (k - 2) + [2, 1] if n % 3 == 0 else [3] * (k - 1) + [n % 3]
    return [order] * (n // order) + [1] * (n % order)


class _SinglePrecision(Elementary):
    """The controller of DPM-Solver's program, which rounds E^(-1/p) to float32: a relative change of 6e-8 in h."""

    def __call__(self, error: float) -> tuple[bool, float]:
        accepted, _ = super().__call__(error)
        return accepted, self.safety * float(np.float32(error ** (-1.0 / self.order)))


def _adaptive(p: Problem, run: str, info) -> Run:
    """DPM-Solver's program evaluates the model again where it stood before a rejected step: one call more for each."""
    process, end = (DISCRETE, 0.0) if run.startswith("disc") else (VP, 1e-3)
    order = info["order"]

    def calls() -> tuple[Tensor, int]:
        found = dpm_solver_adaptive(
            process,
            p.model(process),
            p.x_T,
            order,
            "dpmsolver++" in run,
            atol=info["atol"],
            rtol=info["rtol"],
            h=info["h_init"],
            controller=_SinglePrecision(order, info["theta"]),
            t_end=end,
            dtype=torch.float64,
        )
        return found.x, found.nfe + found.rejected

    return calls


def _and_denoise(p: Problem, process: schedules.Process, end: float, run: Run) -> Run:
    """A DDIM step from ``end`` to the clean end: what the program calls denoise to zero."""

    def both() -> tuple[Tensor, int]:
        x, calls = run()
        plan = ddim(process, np.array([end, process.t_min]))
        return sample(plan, p.model(process), x, dtype=torch.float64), calls + plan.nfe

    return both


def _dpm_solver(p: Problem, run: str, n: int, info, data) -> Run | None:
    if "adaptive" in run:
        return _adaptive(p, run, info)
    process, grid, end, order = _lambda_setting(run)
    options = {"data": "dpmsolver++" in run, "taylor": "taylor" in run}
    times = grid(process, n, process.t_max, end)
    if "multistep" in run:
        final = order if "nolof" not in run and n < 10 else 0
        plan = dpm_solver_multistep(process, times, order, final=final, **options)
    else:
        orders = [order] * (n // order) if "fixed" in run else _singlestep_orders(n, order)
        if "fixed" in run or "logSNR" in run:
            times = grid(process, len(orders), process.t_max, end)
        else:
            times = times[np.cumsum([0, *orders])]
        plan = dpm_solver_singlestep(process, times, orders, spacing=grid, **options)
    result = replay(p, plan, p.model(process))
    return _and_denoise(p, process, end, result) if "denoise0" in run else result


WEIGHTS = unipc_module._weights


def _stale(basis: str, step, r: list[float]) -> np.ndarray:
    """The varying-coefficient corrector as the program has it, first order in effect.

    All differences but the newest lack the last equation, and the newest takes it with the row before.
    """
    if not r or r[-1] != 1.0:
        return WEIGHTS(basis, step, r)
    k = np.arange(len(r))
    phi = unipc_module._moments(-step.h if step.data else step.h, len(r)) / np.cumprod(k + 1.0)
    A = np.linalg.inv(np.array(r)[:, None] ** k / np.cumprod(k + 1.0))
    weights = np.append(phi[:-1] @ A[:-1, :-1], phi[-1] * A[max(len(r) - 2, 0), -1])
    return (-1.0 if step.data else -step.rho) * weights


def _unipc(p: Problem, run: str, n: int, info, data) -> Run | None:
    process, grid, end, order = _lambda_setting(run)
    basis = re.search(r"bh1|bh2|vary", run)[0]
    times = grid(process, n, process.t_max, end)
    with pytest.MonkeyPatch.context() as patch:
        if basis == "vary":
            patch.setattr(unipc_module, "_weights", _stale)
        plan = unipc(process, times, order, basis, "data" in run, 0 if "nolof" in run else 100)
    return replay(p, plan, p.model(process))


BUILDERS = {"dpm-solver": _dpm_solver, "unipc": _unipc}
