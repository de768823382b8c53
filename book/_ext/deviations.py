"""Where the authors' programs differ from their papers, on the exact problem of ``tests/golden``.

A :class:`Deviation` names a run of a program and computes what the paper's method gives from the same start states and
noises. :func:`measured` is the root mean square of the difference, by number of steps: against the program's own vector
where the folder has one, else against its replay (``tests/replay``), which matches those vectors.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep import exact, grids, schedules
from fewstep.errors import UserError
from fewstep.models.protocol import clipped
from fewstep.plan import Plan
from fewstep.provenance import ROOT
from fewstep.solvers.classical import fon
from fewstep.solvers.coefficients import integrate_d_rho, lagrange
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm
from fewstep.solvers.deis import _adams, rho_ab, rho_rk, t_ab
from fewstep.solvers.dpm_solver import dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.edm import edm_rk
from fewstep.solvers.gradient_estimation import ge
from fewstep.solvers.pndm import f_pndm
from fewstep.solvers.score_sde import euler_maruyama, reverse_diffusion
from fewstep.solvers.unipc import unipc

sys.path.insert(0, str(ROOT / "tests"))

from replay import BUILDERS, Problem  # type: ignore[import-not-found]
from replay.diff_sampler import VP as DIFF_SAMPLER_VP  # type: ignore[import-not-found]
from replay.diffusers_schedulers import _in_lambda  # type: ignore[import-not-found]
from replay.edm import _ablation  # type: ignore[import-not-found]
from replay.problem import DISCRETE, EDM, VP, replay  # type: ignore[import-not-found]

FOLDER = ROOT / "tests" / "golden"
BEYOND = (5, 50)
"""Step counts that are computed with the replay, where the folder has no vector."""


@dataclass
class Paper:
    """The paper's method: a plan, on which process with which model, started from ``scale`` · x_T."""

    plan: Plan
    process: schedules.Process
    scale: float = 1.0
    bar: bool = False
    model: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass
class Deviation:
    """One deviation.

    Attributes:
        program: whose program, as the page calls it.
        what: what differs, in a few words.
        file: the program's file in tests/golden.
        run: the run in which it shows.
        paper: the paper's counterpart from the problem and the number of steps; None or UserError where it has none.
        result: computes the counterpart, where it is not a plan.
        exact: whether the exact solution is what the paper's method approximates.
    """

    program: str
    what: str
    file: str
    run: str
    paper: Callable[[Problem, int], Paper] | None = None
    result: Callable[[Problem, int], Tensor] | None = None
    exact: bool = True


def leading(n: int) -> np.ndarray:
    return np.arange(0, 1000, 1000 // n)[::-1].astype(float)


def _quadratic(n: int) -> np.ndarray:
    times = np.linspace(1.0, 1e-3**0.5, n + 1) ** 2
    times[-1] = 1e-3
    return times


def _karras(n: int) -> np.ndarray:
    return np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n + 1) ** 7


def _rounded(n: int) -> np.ndarray:
    """diffusers' linspace labels of the multistep schedulers, label 0 at the end."""
    return np.round(np.linspace(0, 999, n + 1))[::-1]


def _clean(times: np.ndarray) -> np.ndarray:
    return np.append(times, -1.0)


def _score_sde_times(n: int) -> np.ndarray:
    return np.append(np.linspace(1.0, 1e-3, n), 0.0)


def _per_sample(p: Problem, n: int) -> Tensor:
    """The predictor–corrector with norms of each sample by itself, everything else as in the program."""
    from replay import score_sde

    found = {}
    original = score_sde.predictor_corrector

    def spy(*args: Any, **options: Any) -> Tensor:
        found["x"] = original(*args, **{**options, "per_sample": True})
        return found["x"]

    score_sde.predictor_corrector = spy
    try:
        build("score_sde_pytorch", "vp_cont_reverse_diffusion_langevin", n)()
    finally:
        score_sde.predictor_corrector = original
    return found["x"]


DEVIATIONS: dict[str, Deviation] = {
    "pndm-label": Deviation(
        "PNDM",
        "state and network one label apart",
        "pndm",
        "F-PNDM_asis",
        lambda p, n: Paper(f_pndm(DISCRETE, np.append(leading(n), -1.0) + 1.0), DISCRETE),
    ),
    "pndm-fon": Deviation(
        "PNDM",
        "FON's slope is a step of one label",
        "pndm",
        "FON_shift1",
        lambda p, n: Paper(fon(DISCRETE, np.append(leading(n), -1.0) + 1.0), DISCRETE),
    ),
    "deis-rectangles": Deviation(
        "DEIS",
        "coefficients by 10,000 rectangles",
        "deis",
        "cont_t_ab_order3_t2",
        lambda p, n: Paper(t_ab(VP, _quadratic(n), 3), VP),
    ),
    "deis-table": Deviation(
        "DEIS",
        "ᾱ interpolated between labels, not its logarithm",
        "deis",
        "disc_rho_rk_3kutta_t1",
        lambda p, n: Paper(rho_rk(DISCRETE, np.linspace(999.0, 0.0, n + 1), "kutta3"), DISCRETE),
    ),
    "dpm-solver-finish": Deviation(
        "DPM-Solver",
        "order falls at the end below 10 steps",
        "dpm-solver",
        "disc_dpmsolver++_multistep_order3_logSNR_dpmsolver",
        lambda p, n: Paper(dpm_solver_multistep(DISCRETE, grids.uniform_lambda(DISCRETE, n, t_end=0.0), 3), DISCRETE),
    ),
    "unipc-vary": Deviation(
        "UniPC",
        "the corrector with varying coefficients drops terms",
        "unipc",
        "disc_data_prediction_vary_coeff_order3_logSNR",
        lambda p, n: Paper(unipc(DISCRETE, grids.uniform_lambda(DISCRETE, n, t_end=0.0), 3, "vary"), DISCRETE),
    ),
    "score-sde-chain": Deviation(
        "score SDE",
        "β from the number of sampling steps",
        "score_sde_pytorch",
        "vp_cont_reverse_diffusion_none",
        lambda p, n: Paper(reverse_diffusion(VP, _score_sde_times(n)), VP),
        exact=False,
    ),
    "score-sde-euler": Deviation(
        "score SDE",
        "n steps of 1/n between n times",
        "score_sde_pytorch",
        "vp_cont_euler_maruyama_none",
        lambda p, n: Paper(euler_maruyama(VP, _score_sde_times(n)), VP),
        exact=False,
    ),
    "score-sde-norms": Deviation(
        "score SDE",
        "Langevin steps by the batch's norms",
        "score_sde_pytorch",
        "vp_cont_reverse_diffusion_langevin",
        result=_per_sample,
        exact=False,
    ),
    "analytic-clip": Deviation(
        "Analytic-DPM",
        "x̂₀ is clipped, its ε is not",
        "analytic-dpm",
        "ddim_naive_eta0_clamp",
        lambda p, n: Paper(
            ddim(DISCRETE, _clean(np.round(np.arange(n) * 999 / (n - 1))[::-1])),
            DISCRETE,
            model=clipped(p.model(DISCRETE), DISCRETE),
        ),
        exact=False,
    ),
    "edm-rounding": Deviation(
        "EDM",
        "churn by what rounding leaves",
        "edm",
        "ablation_heun_edm_vp_vp_alpha1",
        lambda p, n: _edm_ablation(n),
    ),
    "fastdpm-single": Deviation(
        "FastDPM",
        "VAR's weights in single precision",
        "fastdpm",
        "VAR_linear_kappa0",
        result=lambda p, n: build("fastdpm", "VAR_linear_kappa0", n)()[0],
        exact=False,
    ),
    "ge-end": Deviation(
        "gradient estimation",
        "the last noise level of the schedule is ignored",
        "gradient-estimation-sampler",
        "GEScheduler_Linear_gamma2.0_f64",
        lambda p, n: _ge_log_linear(n),
    ),
    "ge-clip": Deviation(
        "gradient estimation",
        "x̂₀ is clipped by default",
        "gradient-estimation-sampler",
        "GEScheduler_Linear_gamma2.0_clipdefault",
        lambda p, n: _as_run("gradient-estimation-sampler", "GEScheduler_Linear_gamma2.0_f64", n),
    ),
    "diff-sampler-ipndm-v": Deviation(
        "diff-sampler",
        "variable-step iPNDM with wrong weights",
        "diff-sampler",
        "ipndm_v_order4_polynomial",
        lambda p, n: Paper(rho_ab(EDM, _karras(n), 3), EDM, 80.0),
    ),
    "diff-sampler-threshold": Deviation(
        "diff-sampler",
        "dynamic thresholding of x̂₀ by default",
        "diff-sampler",
        "dpm_pp_order3_x0_thresh_polynomial",
        lambda p, n: Paper(dpm_solver_multistep(EDM, _karras(n), 3, True, False, 3), EDM, 80.0),
    ),
    "diff-sampler-tab": Deviation(
        "diff-sampler",
        "tAB by 10,000 values from end to end",
        "diff-sampler",
        "deis_tab_order4_polynomial",
        lambda p, n: _tab_of_diff_sampler(n),
    ),
    "diffusers-end": Deviation(
        "diffusers",
        "DDIM may end at ᾱ of label 0 instead of 1",
        "diffusers",
        "DDIM_leading_alpha1False_off0_eta0.0",
        lambda p, n: Paper(ddim(DISCRETE, _clean(leading(n))), DISCRETE),
    ),
    "diffusers-linspace": Deviation(
        "diffusers",
        "linspace labels with another spacing's successor",
        "diffusers",
        "DDIM_linspace_alpha1True_off0_eta0.0",
        lambda p, n: Paper(ddim(DISCRETE, grids.linspace(DISCRETE, n)), DISCRETE),
    ),
    "diffusers-noise": Deviation(
        "diffusers",
        "DDPM adds noise to the result",
        "diffusers",
        "DDPM_trailing_fixed_large",
        lambda p, n: Paper(ddpm(DISCRETE, grids.trailing(DISCRETE, n)), DISCRETE),
        exact=False,
    ),
    "diffusers-deis": Deviation(
        "diffusers",
        "DEIS takes ε for a polynomial in λ",
        "diffusers",
        "DEIS_order3_linspace_nolof",
        lambda p, n: Paper(t_ab(DISCRETE, _rounded(n), 2), DISCRETE),
    ),
    "diffusers-finish": Deviation(
        "diffusers",
        "order falls at the end below 15 steps",
        "diffusers",
        "DPMmulti_dpmsolver++_order3_midpoint_linspace_sigma_min",
        lambda p, n: Paper(dpm_solver_multistep(DISCRETE, _rounded(n), 3), DISCRETE),
    ),
    "diffusers-stages": Deviation(
        "diffusers",
        "stages of a single step lie on the labels",
        "diffusers",
        "DPMsingle_dpmsolver++_order2_midpoint_sigma_min",
        lambda p, n: _singlestep(n),
    ),
    "diffusers-sign": Deviation(
        "diffusers",
        "a sign in third-order SDE-DPM-Solver++",
        "diffusers",
        "DPMmulti_sde-dpmsolver++_order3_midpoint_linspace_sigma_min",
        result=lambda p, n: _without_the_slip(n),
        exact=False,
    ),
}
"""All deviations by key, in the order of the page."""


def _singlestep(n: int) -> Paper:
    """The program's orders on the labels at which its steps begin, with stages at half of each step in λ."""
    orders = [2] * (n // 2) + [1] * (n % 2)
    if n % 2 == 0:
        orders = [*orders[:-1], 1, 1]
    times = np.append(
        _data("diffusers", DEVIATIONS["diffusers-stages"].run, n)["scheduler_timesteps"].astype(float), 0.0
    )
    return Paper(dpm_solver_singlestep(DISCRETE, times[np.cumsum([0, *orders])], orders, data=True), DISCRETE)


def _without_the_slip(n: int) -> Tensor:
    run = DEVIATIONS["diffusers-sign"].run
    made = _in_lambda(problem(), run, n, _about("diffusers", run, n), _data("diffusers", run, n))
    return made()[0]


def _edm_ablation(n: int) -> Paper:
    info = _about("edm", "ablation_heun_edm_vp_vp_alpha1", n)
    sigmas, clock, order, alpha = _ablation("ablation_heun_edm_vp_vp_alpha1", n, info)
    return Paper(edm_rk(EDM, sigmas, order, alpha, clock), EDM, float(sigmas[0]))


def _ge_log_linear(n: int) -> Paper:
    """The paper's log-linear schedule: n levels from 40 down to 0.06, then 0, on the labels nearest above."""
    table = DISCRETE.rho(np.arange(1000.0))
    labels = np.searchsorted(table, np.geomspace(40.0, 0.06, n)).astype(float)
    return Paper(ge(DISCRETE, np.append(labels, 0.0), 2.0), DISCRETE, bar=True)


def _tab_of_diff_sampler(n: int) -> Paper:
    """tAB3 in the time of the program's fitted VP process, with exact integrals; in VE coordinates."""

    def weights(nodes: np.ndarray, a: float, b: float) -> np.ndarray:
        t, u = (float(DIFF_SAMPLER_VP.t_of_rho(r)) for r in (a, b))
        return integrate_d_rho(DIFF_SAMPLER_VP, lambda s: lagrange(DIFF_SAMPLER_VP.t_of_rho(nodes), s), t, u)

    return Paper(_adams(EDM, _karras(n), 3, weights), EDM, 80.0)


def _as_run(file: str, run: str, n: int) -> Paper:
    """The plan of another run of the program, by its vector's labels."""
    data, info = _data(file, run, n), _about(file, run, n)
    alpha, sigma = info["end"]
    times = np.append(data["timesteps"].astype(float), np.round(DISCRETE.t_of_rho(sigma / alpha)))
    return Paper(ge(DISCRETE, times, 2.0), DISCRETE, bar=True)


# --- vectors -------------------------------------------------------------------------------------------------------


@functools.cache
def problem() -> Problem:
    return Problem.load(FOLDER)


@functools.cache
def _settings() -> dict[str, Any]:
    return json.loads((FOLDER / "settings.json").read_text())["repos"]


@functools.cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{file}.npz") as data:
        return {key: data[key] for key in data.files}


def _about(file: str, run: str, n: int) -> dict[str, Any]:
    about = _settings()[file]["runs"].get(run, {})
    return {**about.get("settings", {}), **about.get("n", {}).get(str(n), {})}


def _data(file: str, run: str, n: int) -> dict[str, np.ndarray]:
    """The arrays of one vector by field; KeyError if the folder does not have it."""
    found = {}
    for key, value in _arrays(file).items():
        name, _, field = key.partition("__nfe")
        count, _, field = field.partition("__")
        if name == run and int(count) == n:
            found[field] = value
    if "x0" not in found:
        raise KeyError(f"{file}/{run}/{n}")
    return found


def build(file: str, run: str, n: int) -> Callable[[], tuple[Tensor, int]]:
    """The replay of a run; KeyError where it needs more than the run's name."""
    try:
        data = _data(file, run, n)
    except KeyError:
        data = {}
    made = BUILDERS[file](problem(), run, n, _about(file, run, n), data)
    if made is None:
        raise KeyError(f"{file}/{run}/{n}")
    return made


def theirs(deviation: Deviation, n: int) -> np.ndarray | None:
    """What the program computes in n steps; None where that is not known."""
    try:
        return _data(deviation.file, deviation.run, n)["x0"]
    except KeyError:
        pass
    if not replayed(deviation.file, deviation.run):
        return None
    try:
        return build(deviation.file, deviation.run, n)()[0].numpy()
    except (KeyError, TypeError, UserError, ValueError, IndexError, ZeroDivisionError):
        return None  # the replay needs what settings.json or the vector says of this count, or the program fails there


@functools.cache
def replayed(file: str, run: str) -> bool:
    """Whether the replay gives the program's own vectors, to 1e-8: some are explained instead."""
    for key, expected in _arrays(file).items():
        name, _, rest = key.partition("__nfe")
        count, _, field = rest.partition("__")
        if name == run and field == "x0" and 0 < int(count) <= 100 and np.isfinite(expected).all():
            x = build(file, run, int(count))()[0].numpy()
            if not np.abs(x - expected).max() < 1e-8 * np.abs(expected).max():
                return False
    return True


def ours(deviation: Deviation, n: int) -> tuple[Tensor, Paper | None]:
    """What the paper's method computes in n steps."""
    if deviation.result is not None:
        return deviation.result(problem(), n), None
    assert deviation.paper is not None
    paper = deviation.paper(problem(), n)
    model = paper.model or problem().model(paper.process)
    return replay(problem(), paper.plan, model, paper.scale, paper.bar)()[0], paper


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def counts(deviation: Deviation) -> list[int]:
    """The step counts of the folder's vectors up to 100, and those of :data:`BEYOND`."""
    found = {
        int(key.partition("__nfe")[2][:2]) for key in _arrays(deviation.file) if key.startswith(f"{deviation.run}__nfe")
    }
    return sorted({n for n in found if 0 < n <= 100} | set(BEYOND))


@dataclass
class Sizes:
    """By number of steps: the difference between program and paper, and the error of each; NaN where not finite."""

    difference: dict[int, float]
    paper: dict[int, float]
    program: dict[int, float]


@functools.cache
def measured(key: str) -> Sizes:
    """The sizes of a deviation; the errors are empty where there is no exact solution to compare with."""
    deviation, found = DEVIATIONS[key], Sizes({}, {}, {})
    for n in counts(deviation):
        expected = theirs(deviation, n)
        if expected is None:
            continue
        if not np.isfinite(expected).all():
            found.difference[n] = float("nan")
            continue
        try:
            x, paper = ours(deviation, n)
        except (UserError, KeyError):
            continue
        found.difference[n] = rms(x.numpy() - expected)
        if deviation.exact and paper is not None:
            start, end = float(paper.plan.times[0]), float(paper.plan.times[-1])
            truth = _truth(paper.process, paper.scale, start, end)
            truth = truth / float(paper.process.alpha(end)) if paper.bar else truth
            found.paper[n], found.program[n] = rms(x.numpy() - truth), rms(expected - truth)
    return found


_SOLVED: dict[tuple[Any, ...], np.ndarray] = {}


def _truth(process: schedules.Process, scale: float, start: float, end: float) -> np.ndarray:
    """The exact solution from scale · x_T at ``start``."""
    key = (id(process), scale, start, end)
    if key not in _SOLVED:
        x = scale * problem().x_T
        _SOLVED[key] = exact.reference(problem().model(process), process, x, start, end, tolerance=1e-9).numpy()
    return _SOLVED[key]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in DEVIATIONS:
        parts = measured(name)
        print(
            name, *({n: f"{v:.2g}" for n, v in part.items()} for part in (parts.difference, parts.paper, parts.program))
        )
