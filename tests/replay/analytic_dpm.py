"""The vectors of Analytic-DPM's program."""

from __future__ import annotations

import functools
import math
import os
import re
from pathlib import Path

import numpy as np

from fewstep.models.protocol import clipped
from fewstep.plan import Plan, Tape
from fewstep.run import sample
from fewstep.solvers.analytic_dpm import analytic_dpm, pixel_std
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde

from .problem import DISCRETE, Problem, Run, replay

FOLDER = Path(os.environ.get("FEWSTEP_GOLDEN") or Path(__file__).parents[1] / "golden")


@functools.cache
def _mean_square() -> np.ndarray:
    """The program's estimate of E‖ε‖²/d; its label n stands for ᾱ[n − 1], the package's label n − 1."""
    return np.load(FOLDER / "analytic-dpm.npz")["ms_eps"][1:]


def _plan(run: str, n: int) -> Plan:
    times = np.append(np.round(np.arange(n) * 999 / max(n - 1, 1))[::-1], -1.0)
    analytic = {"mean_square": _mean_square()[times[:-1].astype(int)]}
    if found := re.match(r"ddim_naive_eta([\d.]+)_", run):
        return ddim(DISCRETE, times, float(found[1]))
    if found := re.match(r"ddim_analytic_eta([\d.]+)_", run):
        return analytic_dpm(DISCRETE, times, eta=float(found[1]), **analytic)
    if found := re.match(r"ddpm_analytic_clipidx([01])_", run):
        return analytic_dpm(DISCRETE, times, last_std=pixel_std(2) if found[1] == "1" else math.inf, **analytic)
    return (ddpm if "_large_" in run else ddpm_beta_tilde)(DISCRETE, times)


def _data_and_direction(plan: Plan) -> Plan:
    """The plan with two outputs at every state: ε₁ gives the data, ε₂ the direction back to the noise.

    A step x̄_u = x̄_t + (k − ρ_t)ε + … is x̂₀ + kε with x̂₀ = x̄_t − ρ_tε; here it becomes x̄_t − ρ_tε₁ + kε₂ + ….
    """
    tape = Tape(DISCRETE, plan.times[0])
    x, noises = tape.x, [tape.noise() for _ in range(plan.draws)]
    for i, terms in enumerate(plan.states):
        t, u = plan.times[i], plan.times[i + 1]
        first, second = tape.eval(x, t), tape.eval(x, t)
        rho, end = float(DISCRETE.rho(t)), float(DISCRETE.alpha(u))
        x = x - rho * first + (terms["e", i] / end + rho) * second
        for (kind, draw), weight in terms.items():
            if kind == "z":
                x = x + (weight / end) * noises[draw]
    return tape.plan(x, plan.times[-1])


def _clipped_data(p: Problem, plan: Plan) -> Run:
    """The program's clipped DDIM: x̂₀ is clipped, but ε stays the one that belongs to the unclipped x̂₀."""
    twofold = _data_and_direction(plan)

    def run():
        model, calls, kept = p.model(DISCRETE), 0, None

        def alternate(x, t):
            nonlocal calls, kept
            if kept is None:
                calls, kept = calls + 1, model(x, t)
                return clipped(lambda x, t: kept, DISCRETE)(x, t)
            eps, kept = kept, None
            return eps

        return sample(twofold, alternate, p.x_T, noise=p.noise.__getitem__, dtype=p.x_T.dtype), calls

    return run


def _analytic_dpm(p: Problem, run: str, n: int, info, data) -> Run | None:
    if not re.fullmatch(
        r"(ddim_(naive|analytic)_eta[\d.]+|ddpm_(naive_(small|large)|analytic_clipidx[01]))_(no)?clamp", run
    ):
        return None
    plan, model = _plan(run, n), p.model(DISCRETE)
    if run.endswith("_noclamp"):
        return replay(p, plan, model)
    return _clipped_data(p, plan) if run.startswith("ddim") else replay(p, plan, clipped(model, DISCRETE))


BUILDERS = {"analytic-dpm": _analytic_dpm}
