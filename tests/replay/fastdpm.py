"""The vectors of FastDPM's program."""

from __future__ import annotations

import re

import numpy as np

from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm_beta_tilde

from .problem import DISCRETE, Problem, Run, replay


def _fastdpm(p: Problem, run: str, n: int, info, data) -> Run | None:
    if run == "STD":
        return replay(p, ddpm_beta_tilde(DISCRETE, np.arange(999.0, -2.0, -1.0)), p.model(DISCRETE))
    found = re.fullmatch(r"STEP_(linear|quadratic)_kappa([\d.]+)", run)
    if not found:
        return None
    labels = np.arange(n) * 999 / (n - 1) if found[1] == "linear" else np.linspace(0, 800**0.5, n) ** 2
    times = np.append(np.floor(labels + 1e-9)[::-1], -1.0)
    return replay(p, ddim(DISCRETE, times, float(found[2])), p.model(DISCRETE))


BUILDERS = {"fastdpm": _fastdpm}
