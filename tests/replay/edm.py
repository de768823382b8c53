"""The vectors of EDM's program."""

from __future__ import annotations

import math
import re

import numpy as np
from torch import Tensor

from fewstep import schedules
from fewstep.solvers.edm import edm_heun, edm_rk

from .problem import EDM, Case, Problem, Run, replay

VP, VE = schedules.ContinuousVP(), schedules.BrownianVE()
RANGES = {"vp": VP.rho([1e-3, 1.0]), "ve": (0.02, 100.0), "iddpm": (0.002, 81.0), "edm": (0.002, 80.0)}
"""The range of noise levels that each column of the paper's table has."""


class _FittedVP(schedules.ContinuousVP):
    """A VP clock through two noise levels, at t = ε and t = 1. The fit may make β negative near t = 0, where nothing
    is evaluated; only the end t = 0 itself must be found."""

    def __post_init__(self) -> None:
        pass

    def _t_of_log_alpha(self, log_alpha):
        return np.where(log_alpha == 0, 0.0, super()._t_of_log_alpha(np.where(log_alpha == 0, -1.0, log_alpha)))


def fitted_vp(low: float, high: float, epsilon: float) -> schedules.ContinuousVP:
    r"""log(1 + ρ²) = β_d t²/2 + β_min t through ρ(ε) = ``low`` and ρ(1) = ``high``."""
    at_epsilon, at_one = math.log1p(low**2), math.log1p(high**2)
    beta_d = 2 * (at_epsilon / epsilon - at_one) / (epsilon - 1)
    beta_min = at_one - 0.5 * beta_d
    return _FittedVP(beta_min, beta_min + beta_d)


def _levels(grid: str, n: int, info) -> np.ndarray:
    """The n noise levels of an ablation run, then 0."""
    low, high = RANGES[grid]
    if grid == "vp":
        inner = VP.rho(np.linspace(1.0, info["epsilon_s"], n))
    elif grid == "ve":
        inner = np.geomspace(high, low, n)
    elif grid == "iddpm":
        # The program rounds halves to even; the paper rounds them up.
        labels = np.arange(info["M"] - 1.0, -1.0, -1.0)
        levels = schedules.cosine_vp(info["M"], info["C_2"], 1 - info["C_1"]).rho(labels)
        levels = levels[(levels >= low) & (levels <= high)]
        inner = levels[np.round((len(levels) - 1) / (n - 1) * np.arange(n)).astype(int)]
    else:
        inner = np.linspace(high ** (1 / info["rho"]), low ** (1 / info["rho"]), n) ** info["rho"]
    return np.append(inner, 0.0)


def _ablation(run: str, n: int, info):
    """The noise levels, clock, order and α of an ablation run."""
    found = re.fullmatch(r"ablation_(euler|heun)_([a-z]+)_([a-z]+)_([a-z]+)_alpha([\d.]+)", run)
    if not found:
        return None
    sigmas = _levels(found[2], n, info)
    clock = {
        "vp": lambda: fitted_vp(*RANGES[found[2]], info["epsilon_s"]),
        "ve": lambda: VE,
        "linear": lambda: EDM,
    }[found[3]]()
    return sigmas, clock, 1 if found[1] == "euler" else 2, float(found[5])


def _edm(p: Problem, run: str, n: int, info, data) -> Run | None:
    if ablation := _ablation(run, n, info):
        sigmas, clock, order, alpha = ablation
        return replay(p, edm_rk(EDM, sigmas, order, alpha, clock), p.model(EDM), sigmas[0])
    i = np.arange(n) / (n - 1)
    sigmas = np.append((80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0.0)
    churn = [
        float(info[k]) if k in info else d
        for k, d in (("S_churn", 0), ("S_min", 0), ("S_max", math.inf), ("S_noise", 1))
    ]
    return replay(p, edm_heun(EDM, sigmas, *churn), p.model(EDM), 80.0)


def _rounding_noise(p: Problem, case: Case, x: Tensor) -> bool:
    r"""The ablation churns even when S_churn = 0, with what rounding leaves of :math:`\sigma(\hat t)^2 - \sigma(t)^2`.

    There :math:`\hat t = \sigma^{-1}(\sigma(t))`, and :math:`\sigma^2 = e^{\cdots} - 1` carries a rounding error of
    about :math:`\epsilon(1 + \sigma^2)`: where the difference comes out positive, :math:`c\,z` with
    :math:`c \approx \sqrt\epsilon = 10^{-8}` is added. Ours has no such noise. What their result adds is checked to be
    :math:`\sum_i c_i J_i z_i` to 1e-9, J_i being how the result answers to noise in step i, and each
    :math:`c_i^2` within some units of rounding.
    """
    ablation = _ablation(case.run, case.steps, case.info)
    if not ablation:
        return False
    sigmas, clock, order, alpha = ablation
    responses = []
    for s in sigmas[:-1]:
        size = 1e-5 * (1 + s)
        churn = case.steps * (np.hypot(1.0, size / s) - 1.0)
        plan = edm_rk(EDM, sigmas, order, alpha, clock, churn, s, s)
        responses.append((replay(p, plan, p.model(EDM), sigmas[0])()[0] - x).flatten().numpy() / size)
    responses, left = np.array(responses).T, case.expected.ravel() - x.numpy().ravel()
    weights = np.linalg.lstsq(responses, left)[0]
    left = np.abs(left - responses @ weights).max() / np.abs(case.expected).max()
    return bool(left < 1e-9 and np.all(weights**2 < 32 * np.finfo(float).eps * (1 + sigmas[:-1] ** 2)))


BUILDERS = {"edm": _edm}
EXPLAINED = {"edm": _rounding_noise}
