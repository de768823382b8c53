"""The vectors of gradient estimation's two programs."""

from __future__ import annotations

import re

import numpy as np

from fewstep.models.protocol import clipped
from fewstep.solvers.gradient_estimation import ge

from .problem import DISCRETE, EDM, Problem, Run, replay


def _smalldiffusion(p: Problem, run: str, n: int, info, data) -> Run | None:
    found = re.fullmatch(r"samples_(ddpm|loglinear_([\d.]+)_([\d.]+))_gam([\d.]+)_mu([\d.]+)", run)
    if not found:
        return None
    if found[1] == "ddpm":
        table = np.sqrt(1.0 / p.alpha_bar - 1.0)
    else:
        table = np.logspace(np.log10(float(found[2])), np.log10(float(found[3])), 1000)
    labels = np.append(np.round(1000 * (1 - np.arange(n) / n)).astype(int) - 1, 0)
    sigmas = table[labels]
    return replay(p, ge(EDM, sigmas, float(found[4]), float(found[5])), p.model(EDM), float(sigmas[0]))


def labels(run: str, settings: dict, n: int) -> np.ndarray:
    """The labels of the authors' schedules by the rules that settings.json states, the end included.

    A level stands for the first label that is not below it. The log-linear rules end on a level of the table itself:
    in single precision rounding then decides between two labels, which is why the replays take the recorded ones.
    """
    table = DISCRETE.rho(np.arange(DISCRETE.n))
    start, end = settings["start"], settings["end"]

    def first(levels: np.ndarray) -> np.ndarray:
        return np.searchsorted(table, levels * (1 - 1e-12))

    if settings["style"] == "Linear" and run.startswith("experiment"):
        return np.append(first(np.geomspace(start, end, n)), 0)
    if settings["style"] == "Linear":  # the stated end is not used
        return np.append(first(np.geomspace(start, table[1000 // n], n)), 0)
    if settings["style"] == "LinearPrecise":
        return np.append(first(np.geomspace(start, table[1000 // n], n - 1)), [1, 0])
    if settings["style"] == "EDM":
        return first(np.linspace(start ** (1 / 7), end ** (1 / 7), n + 1) ** 7)
    high, low = first(np.array([start, end]))
    if settings["style"] == "DDIM":
        return np.linspace(high, low, n + 1).astype(int)
    return np.append(np.linspace(high, low, n).astype(int), 0)  # DDIMPrecise


def _gradient_estimation(p: Problem, run: str, n: int, info, data) -> Run | None:
    alpha, sigma = info["end"]
    end = np.round(DISCRETE.t_of_rho(sigma / alpha))
    times = np.append(data["timesteps"].astype(float), end)
    model = clipped(p.model(DISCRETE), DISCRETE) if "clip" in run else p.model(DISCRETE)
    return replay(p, ge(DISCRETE, times, float(re.search(r"gamm?a?([\d.]+)", run)[1])), model, bar=True)


BUILDERS = {"smalldiffusion": _smalldiffusion, "gradient-estimation-sampler": _gradient_estimation}
