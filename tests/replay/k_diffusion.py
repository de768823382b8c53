"""The vectors of k-diffusion."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fewstep.adaptive.dpm_solver import PID, dpm_solver_adaptive, rms
from fewstep.plan import Plan
from fewstep.solvers import ancestral
from fewstep.solvers.ddim import ddim
from fewstep.solvers.deis import rho_ab
from fewstep.solvers.dpm_solver import dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.edm import edm_heun

from .problem import EDM, Problem, Run, replay


def _adaptive(p: Problem, info) -> Run:
    """k-diffusion's program evaluates the model again where it stood before a rejected step: one call more for each."""

    def calls() -> tuple[Tensor, int]:
        found = dpm_solver_adaptive(
            EDM,
            p.model(EDM),
            80.0 * p.x_T,
            info["order"],
            atol=info["atol"],
            rtol=info["rtol"],
            h=info["h_init"],
            controller=PID(info["order"]),
            norm=rms,
            t_start=80.0,
            t_end=0.002,
            dtype=torch.float64,
        )
        return found.x, found.nfe + found.rejected

    return calls


def _k_diffusion(p: Problem, run: str, n: int, info, data) -> Run | None:
    if run.startswith("dpm_fast"):
        m = n // 3 + 1
        orders = [3] * (m - 2) + [2, 1] if n % 3 == 0 else [3] * (m - 1) + [n % 3]
        return replay(p, dpm_solver_singlestep(EDM, np.geomspace(80, 0.002, m + 1), orders), p.model(EDM), 80.0)
    if run.startswith("dpm_adaptive"):
        return _adaptive(p, info)
    if "sigmas" not in data:
        return None
    sigmas = data["sigmas"].astype(float)
    eta = float(m[1]) if (m := re.search(r"eta(\d)", run)) else 0.0
    solvers: dict[str, Callable[..., Plan]] = {
        "dpmpp_2s_ancestral": lambda q, t: ancestral.dpmpp_2s(q, t, eta),
        "dpmpp_2m_sde_midpoint": lambda q, t: dpm_solver_multistep(q, t, 2, eta=eta),
        "dpmpp_2m_sde_heun": lambda q, t: dpm_solver_multistep(q, t, 2, taylor=True, eta=eta),
        "dpmpp_3m_sde": lambda q, t: dpm_solver_multistep(q, t, 3, taylor=True, eta=eta),
        "dpmpp_sde": lambda q, t: ancestral.dpmpp_sde(q, t, eta),
        "dpmpp_2m": lambda q, t: dpm_solver_multistep(q, t, 2),
        "euler_ancestral": lambda q, t: ddim(q, t, eta),
        "dpm_2_ancestral": lambda q, t: ancestral.dpm2(q, t, eta),
        "dpm_2": ancestral.dpm2,
        "euler": ddim,
        "heun_churn": lambda q, t: edm_heun(q, t, info["s_churn"], info["s_tmin"], info["s_tmax"], info["s_noise"]),
        "heun": edm_heun,
        "lms_order1": lambda q, t: rho_ab(q, t, 0),
        "lms_order2": lambda q, t: rho_ab(q, t, 1),
        "lms_order3": lambda q, t: rho_ab(q, t, 2),
        "lms_order4": lambda q, t: rho_ab(q, t, 3),
    }
    plan = next(solver for name, solver in solvers.items() if run.startswith(name))(EDM, sigmas)
    return replay(p, plan, p.model(EDM), float(sigmas[0]))


BUILDERS = {"k-diffusion": _k_diffusion}
