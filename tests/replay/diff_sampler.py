"""The vectors of diff-sampler."""

from __future__ import annotations

import re

import numpy as np

from fewstep.solvers import ancestral
from fewstep.solvers.ddim import ddim
from fewstep.solvers.deis import rho_ab, rho_rk
from fewstep.solvers.dpm_solver import dpm_solver_multistep
from fewstep.solvers.pndm import ipndm
from fewstep.solvers.unipc import unipc

from .problem import EDM, Problem, Run, replay


def _diff_sampler(p: Problem, run: str, n: int, info, data) -> Run | None:
    found = re.fullmatch(r"(.*)_(polynomial|logsnr|time_uniform)", run)
    name, phase = found[1], found[2]
    if phase == "polynomial":
        sigmas = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n + 1) ** 7
    elif phase == "logsnr":
        sigmas = np.geomspace(80, 0.002, n + 1)
    else:
        # "time_uniform": equal steps of the t of a VP SDE that is fitted to reach 80 at t = 1 and 0.002 at t = 1e-3.
        e, (lo, hi) = 1e-3, np.log1p(np.square([0.002, 80.0]))
        beta_d = 2 * (lo / e - hi) / (e - 1)
        t = np.linspace(1.0, e, n + 1)
        sigmas = np.sqrt(np.expm1(0.5 * beta_d * t**2 + (hi - 0.5 * beta_d) * t))
    order = int(m[1]) if (m := re.search(r"order(\d)", name)) else 1
    lof = 0 if "nolof" in name else 100
    if name == "euler":
        plan = ddim(EDM, sigmas)
    elif name == "heun":
        plan = rho_rk(EDM, sigmas, "heun")
    elif name == "dpm_2":
        plan = ancestral.dpm2(EDM, sigmas)
    elif name.startswith("ipndm_order"):
        plan = ipndm(EDM, sigmas, order)
    elif "_thresh" in name:
        return None
    elif name.startswith("dpm_pp"):
        plan = dpm_solver_multistep(EDM, sigmas, order, "x0" in name, False, lof and order)
    elif name.startswith("unipc"):
        plan = unipc(EDM, sigmas, order, re.search(r"bh\d", name)[0], "x0" in name, lof)
    elif name.startswith("ipndm_v_order2"):
        plan = rho_ab(EDM, sigmas, 1)
    else:
        return None
    return replay(p, plan, p.model(EDM), 80.0)


BUILDERS = {"diff-sampler": _diff_sampler}
