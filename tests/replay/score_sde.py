"""The vectors of score SDE's program.

Where the program leaves the paper it does so in three places, all of which are a transition or a grid here: n steps of
VP take the variances of a chain of n steps, linspace(0.1/n, 20/n, n), not those between the times of the grid;
Euler–Maruyama's step is 1/n, not the spacing of n times, 1/(n − 1); VE takes the noise levels of a table of n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from fewstep import schedules
from fewstep.adaptive.predictor_corrector import predictor_corrector
from fewstep.adaptive.rk45 import rk45
from fewstep.plan import Plan
from fewstep.solvers.score_sde import (
    Predictor,
    Step,
    Transition,
    ancestral_step,
    annealed_langevin,
    predict,
    reverse_diffusion_step,
)

from .problem import Case, Model, Problem, Run, replay

PROCESSES = {"vp": schedules.ContinuousVP(), "subvp": schedules.SubVP(), "ve": schedules.VE()}


def euler(n: int) -> Transition:
    """Euler–Maruyama with steps of 1/n, whatever the grid."""
    return lambda process, t, u: (1.0 + float(process.dlog_alpha(t)) / n, float(process.g2(t)) / n)


def vp_chain(n: int) -> Transition:
    """The chain of n steps whose label at time t is the floor of t (n − 1)."""
    betas = np.linspace(0.1 / n, 20.0 / n, n)

    def transition(process, t, u):
        beta = float(betas[math.floor(t * (n - 1))])
        return math.sqrt(1.0 - beta), beta

    return transition


@functools.cache
def ve_levels(n: int, t: float) -> tuple[float, float]:
    """The noise level of the table of n at time t, and the one below it, 0 below the last."""
    sigmas = np.geomspace(0.01, 50.0, n)
    k = math.floor(t * (n - 1))
    return float(sigmas[k]), float(sigmas[k - 1]) if k > 0 else 0.0


def ve_chain(n: int) -> Transition:
    def transition(process, t, u):
        level, below = ve_levels(n, t)
        return 1.0, level**2 - below**2

    return transition


def ve_ancestral(n: int) -> Predictor:
    """The posterior variance by the table, the score at σ(t)."""

    def predictor(process, t, u):
        level, below = ve_levels(n, t)
        v = level**2 - below**2
        return Step(1.0, -v / float(process.sigma(t)), math.sqrt(v) * below / level)

    return predictor


def _labels(sde: str, n: int, eps: float) -> tuple[schedules.Process, np.ndarray]:
    """The discrete runs: a process whose times are the labels of the chain of n steps, and all of them as the grid."""
    labels = np.floor(np.linspace(1.0, eps, n) * (n - 1)).astype(int)
    if sde == "vp":
        return schedules.DiscreteVP(np.linspace(0.1 / n, 20.0 / n, n)), np.append(labels.astype(float), -1.0)
    return schedules.EDM(50.0), np.append(np.geomspace(0.01, 50.0, n)[labels], 0.0)


def _score_sde(p: Problem, run: str, n: int, info, data) -> Run | None:
    sde = info["sde"]
    if "ode" in run:
        return rk45_in_single(p, PROCESSES[sde], info["rtol"], info["eps"], info["denoise"])
    transition: Transition | None = None
    if info["continuous"]:
        process, times = PROCESSES[sde], np.append(np.linspace(1.0, info["eps"], n), 0.0)
        transition = {"vp": vp_chain, "subvp": euler, "ve": ve_chain}[sde](n)
    else:
        process, times = _labels(sde, n, info["eps"])
    chain = {} if transition is None else {"transition": transition}
    flow = info["probability_flow"]
    predictors: dict[str, Callable[[], Predictor | None]] = {
        "euler_maruyama": lambda: functools.partial(reverse_diffusion_step, transition=euler(n), flow=flow),
        "reverse_diffusion": lambda: functools.partial(reverse_diffusion_step, flow=flow, **chain),
        "ancestral_sampling": lambda: (
            ve_ancestral(n)
            if sde == "ve" and chain
            else functools.partial(ancestral_step, posterior=sde == "ve", **chain)
        ),
        "none": lambda: None,
    }
    predictor = predictors[info["predictor"]]()
    model, scale = p.model(process), process.prior_std
    corrector = {"corrections": info["n_steps_each"], "snr": info["snr"], "correct_start": True, **chain}
    if info["corrector"] == "langevin":
        return _langevin(p, process, times, model, scale, predictor, corrector)
    plan: Plan
    if info["corrector"] == "ald":
        plan = annealed_langevin(process, times, predictor, **corrector)
    elif predictor is not None:
        plan = predict(process, times, predictor)
    else:
        return None
    return replay(p, plan, model, scale)


def _langevin(p: Problem, process, times, model: Model, scale: float, predictor, corrector) -> Run:
    def run():
        calls = 0

        def counted(x, t):
            nonlocal calls
            calls += 1
            return model(x, t)

        x = predictor_corrector(
            process,
            times,
            counted,
            scale * p.x_T,
            predictor=predictor,
            per_sample=False,
            noise=p.noise.__getitem__,
            dtype=torch.float64,
            **corrector,
        )
        return x, calls

    return run


def rounded(model: Model, process: schedules.Process) -> Model:
    r"""The ε-model for which the slope in t is that of the state rounded to float32, its linear term included.

    The network's output is float32 too. Near t = 1, where :math:`f x` and the network's part of the slope all but
    cancel, that rounding is a good part of what the integrator takes for its error.
    """

    def single(x, t):
        time = float(t[0])
        near = x.float().double()
        weight = float(process.alpha(time) * process.drho(time))
        return model(near, t).float().double() + float(process.dlog_alpha(time)) / weight * (near - x)

    return single


def rk45_in_single(p: Problem, process: schedules.Process, tolerance: float, end: float, last: bool = False) -> Run:
    """RK45 with slopes in float32; ``last``: then the mean of a step of a chain of 1,000 at the end."""
    chain = {"ContinuousVP": vp_chain, "SubVP": euler, "VE": ve_chain}[type(process).__name__](1000)

    def run():
        model = p.model(process)
        x = process.prior_std * p.x_T
        slopes = rounded(model, process)
        found = rk45(process, slopes, x, t_end=end, rtol=tolerance, atol=tolerance, dtype=torch.float64)
        x, calls = found.x, found.nfe
        if last:
            step = reverse_diffusion_step(process, end, process.t_min, chain)
            x = x.float().double()
            x, calls = step.x * x + step.eps * slopes(x, torch.full((len(x),), end, dtype=torch.float64)), calls + 1
        return x, calls

    return run


def in_single_precision(problem: Problem, case: Case, x: torch.Tensor) -> bool:
    """RK45 with the denoising step: the state before that step is kept in float32, and so are the slopes behind it.

    settings.json says so of these runs in a note instead of their ``dtype``. The denoising step itself is exact: from
    the program's own state before it, it is the program's result to the last bits of float64. Two runs of an
    integrator whose slopes are rounded part by rounding errors as soon as two step sizes differ by one bit, so their
    states agree to the precision of float32 and no further: within two units in the last place of the largest number.
    """
    if "ode" not in case.run or "float32" not in case.info.get("note", ""):
        return False
    return float(np.abs(x.numpy() - case.expected).max()) <= 2 * np.finfo(np.float32).eps * np.abs(case.expected).max()


BUILDERS = {"score_sde_pytorch": _score_sde}
EXPLAINED = {"score_sde_pytorch": in_single_precision}
