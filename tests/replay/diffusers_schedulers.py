"""The vectors of diffusers' schedulers."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde
from fewstep.solvers.dpm_solver import dpm_solver_multistep
from fewstep.solvers.pndm import f_pndm
from fewstep.solvers.unipc import unipc

from .problem import DISCRETE, EDM, Case, Problem, Run, clipped, replay


def _diffusers_lambda(p: Problem, run: str, n: int, info, data) -> Run | None:
    """DPM-Solver and UniPC of diffusers, on labels or on noise levels of their own."""
    if not run.startswith(("DPMmulti", "UniPC")) or "sde" in run or "lu" in run:
        return None
    config = info["config"]
    if config.get("use_karras_sigmas"):
        # The noise levels are exact, the labels handed to the network are rounded to integers.
        sigmas, labels = data["sigmas"].astype(float), data["timesteps"].astype(float)
        process, times, scale = EDM, sigmas, float(np.hypot(1, sigmas[0]))
        network = p.model(DISCRETE)

        def model(x: Tensor, t: Tensor) -> Tensor:
            k = int(np.argmin(np.abs(sigmas - float(t[0]))))
            return network(x / np.hypot(1, sigmas[k]), torch.full((len(x),), labels[k], dtype=torch.float64))
    else:
        end = -1.0 if config["final_sigmas_type"] == "zero" else 0.0
        process, times, scale = DISCRETE, np.append(data["scheduler_timesteps"].astype(float), end), 1.0
        model = p.model(DISCRETE)
        if times[-2] <= times[-1]:
            return None
    order, kind = config["solver_order"], config["solver_type"]
    if run.startswith("DPMmulti"):
        # Below 15 steps the program lowers the order at the end; ``euler_at_final`` lowers the last step only.
        final = order if config["lower_order_final"] and n < 15 else int(config["euler_at_final"])
        data_prediction = config["algorithm_type"] == "dpmsolver++"
        plan = dpm_solver_multistep(process, times, order, data_prediction, kind == "heun", final)
    elif config["disable_corrector"] != "[]":
        return None
    else:
        plan = unipc(process, times, order, kind, config["predict_x0"], 100 if config["lower_order_final"] else 0)
    return replay(p, plan, model, scale)


def _diffusers(p: Problem, run: str, n: int, info, data) -> Run | None:
    found = re.match(r"(DDPM|DDIM|PNDM)_(leading|trailing|linspace)_", run)
    if not found:
        return _diffusers_lambda(p, run, n, info, data)
    if "skipprkTrue" in run or 1000 % n:
        return None
    if found[1] != "DDPM" and found[2] == "linspace":
        return None  # pairs its labels with the wrong previous step: not a sampler on any grid
    offset = int(m[1]) if (m := re.search(r"off(\d)", run)) else 0
    labels = {
        "leading": lambda: np.arange(n)[::-1] * (1000 // n) + offset,
        "trailing": lambda: np.round(1000 - np.arange(n) * (1000 / n)) - 1,
        "linspace": lambda: np.round(np.linspace(0, 999, n))[::-1],
    }[found[2]]().astype(float)
    end = -1.0 if "alpha1True" in run or found[1] == "DDPM" else 0.0
    if labels[-1] <= end or (found[1] != "DDPM" and labels[-1] - 1000 // n >= 0):
        return None
    # set_alpha_to_one = False ends at ᾱ_0; the table is that of label 0 there.
    times = np.append(labels, end)
    if found[1] == "PNDM":
        return replay(p, f_pndm(DISCRETE, times), p.model(DISCRETE)) if n >= 4 else None
    if found[1] == "DDIM":
        return replay(p, ddim(DISCRETE, times, float(run.split("eta")[1])), p.model(DISCRETE))
    solver = ddpm if "fixed_large" in run else ddpm_beta_tilde
    model = clipped(p.model(DISCRETE), DISCRETE) if run.endswith("_clip") else p.model(DISCRETE)
    return replay(p, solver(DISCRETE, times), model)


def _noise_on_the_result(p: Problem, case: Case, x: Tensor) -> bool:
    """diffusers' DDPM adds noise whenever its label is positive, even in the step to ᾱ = 1.

    DDPM's Algorithm 2 has z = 0 there: with trailing labels and the larger variance its result is ours plus √β z.
    """
    if not case.run.startswith("DDPM_trailing_fixed_large"):
        return False
    last = np.round(1000 - (case.steps - 1) * 1000 / case.steps) - 1
    extra = float(DISCRETE.sigma(last)) * p.noise[case.steps - 1]
    return bool(np.abs((x + extra).numpy() - case.expected).max() < 1e-9 * np.abs(case.expected).max())


BUILDERS = {"diffusers": _diffusers}
EXPLAINED = {"diffusers": _noise_on_the_result}
