"""The vectors of DDIM's program."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.models.protocol import clipped
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm

from .problem import DISCRETE, Problem, Run, replay


def _ddim(p: Problem, run: str, n: int, info: dict[str, Any], data) -> Run | None:
    labels = np.arange(0, 1000, 1000 // n) if "uniform" in run else np.floor(np.linspace(0, 800**0.5, n) ** 2)
    times = np.append(labels[::-1].astype(float), -1.0)
    plan = ddim(DISCRETE, times, float(run.split("eta")[1])) if "eta" in run else ddpm(DISCRETE, times)
    model = p.model(DISCRETE)
    return replay(p, plan, clipped(model, DISCRETE) if run.endswith("_clip") else model)


BUILDERS = {"ddim": _ddim}
