"""The vectors of EDM's program."""

from __future__ import annotations

import math

import numpy as np

from fewstep.solvers.edm import edm_heun

from .problem import EDM, Problem, Run, replay


def _edm(p: Problem, run: str, n: int, info, data) -> Run | None:
    if not run.startswith("edm_sampler"):
        return None
    i = np.arange(n) / (n - 1)
    sigmas = np.append((80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0.0)
    churn = [
        float(info[k]) if k in info else d
        for k, d in (("S_churn", 0), ("S_min", 0), ("S_max", math.inf), ("S_noise", 1))
    ]
    return replay(p, edm_heun(EDM, sigmas, *churn), p.model(EDM), 80.0)


BUILDERS = {"edm": _edm}
