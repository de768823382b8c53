"""The vectors of k-diffusion."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from fewstep.plan import Plan
from fewstep.solvers import ancestral
from fewstep.solvers.ddim import ddim
from fewstep.solvers.deis import rho_ab
from fewstep.solvers.dpm_solver import dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.edm import edm_heun

from .problem import EDM, Problem, Run, replay


def _k_diffusion(p: Problem, run: str, n: int, info, data) -> Run | None:
    if run.startswith("dpm_fast"):
        m = n // 3 + 1
        orders = [3] * (m - 2) + [2, 1] if n % 3 == 0 else [3] * (m - 1) + [n % 3]
        return replay(p, dpm_solver_singlestep(EDM, np.geomspace(80, 0.002, m + 1), orders), p.model(EDM), 80.0)
    if "sigmas" not in data or "adaptive" in run:
        return None
    sigmas = data["sigmas"].astype(float)
    eta = float(m[1]) if (m := re.search(r"eta(\d)", run)) else 0.0
    solvers: dict[str, Callable[..., Plan]] = {
        "dpmpp_2s_ancestral": lambda q, t: ancestral.dpmpp_2s(q, t, eta),
        "dpmpp_2m_sde_midpoint": lambda q, t: ancestral.dpmpp_2m_sde(q, t, eta),
        "dpmpp_2m_sde_heun": lambda q, t: ancestral.dpmpp_2m_sde(q, t, eta, taylor=True),
        "dpmpp_3m_sde": lambda q, t: ancestral.dpmpp_3m_sde(q, t, eta),
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
