"""The vectors of DDIM's program."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.models.protocol import clipped
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm

from .problem import DISCRETE, Problem, Run, replay_labels


def _ddim(p: Problem, run: str, n: int, info: dict[str, Any], data) -> Run | None:
    labels = np.arange(0, 1000, 1000 // n) if "uniform" in run else np.floor(np.linspace(0, 800**0.5, n) ** 2)
    times = np.append(labels[::-1].astype(float), -1.0)
    model = clipped(p.model(DISCRETE), DISCRETE) if run.endswith("_clip") else p.model(DISCRETE)
    if "eta" in run:
        return replay_labels(p, lambda times: ddim(DISCRETE, times, float(run.split("eta")[1])), times, model)
    return replay_labels(p, lambda times: ddpm(DISCRETE, times), times, model)


BUILDERS = {"ddim": _ddim}
