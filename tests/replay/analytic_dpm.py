"""The vectors of Analytic-DPM's program."""

from __future__ import annotations

import re

import numpy as np

from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde

from .problem import DISCRETE, Problem, Run, clipped, replay


def _analytic_dpm(p: Problem, run: str, n: int, info, data) -> Run | None:
    found = re.fullmatch(r"(ddim_naive_eta([01])|ddpm_naive_(small|large))_(no)?clamp", run)
    if not found or (found[2] and not found[4]):
        return None  # its clamped DDIM keeps the ε that belongs to the unclamped x̂0: no ε-model says both
    times = np.append(np.round(np.arange(n) * 999 / (n - 1))[::-1], -1.0)
    if found[2]:
        plan = ddim(DISCRETE, times, float(found[2]))
    else:
        plan = (ddpm if found[3] == "large" else ddpm_beta_tilde)(DISCRETE, times)
    model = p.model(DISCRETE)
    return replay(p, plan, model if found[4] else clipped(model, DISCRETE))


BUILDERS = {"analytic-dpm": _analytic_dpm}
