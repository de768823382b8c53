"""Replays of the golden vectors: what the authors' programs computed, by this package's solvers.

``cases(folder)`` yields every vector of the folder with a function that replays it, or None where this package does not
have the sampler yet. Whatever a program does differently from its paper enters as the schedule, the grid or the slope
that it amounts to, never as a switch of a solver.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep import grids, schedules
from fewstep.exact import GaussianMixture
from fewstep.plan import Plan
from fewstep.run import sample
from fewstep.solvers import ancestral
from fewstep.solvers import unipc as unipc_module
from fewstep.solvers.classical import fon, unit_transfer_slope
from fewstep.solvers.coefficients import lagrange
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde
from fewstep.solvers.deis import _adams, rho_ab, rho_rk, t_ab
from fewstep.solvers.dpm_solver import dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.edm import edm_heun
from fewstep.solvers.gradient_estimation import ge
from fewstep.solvers.pndm import f_pndm, ipndm, s_pndm
from fewstep.solvers.unipc import unipc

DISCRETE = schedules.linear_vp()
VP = schedules.ContinuousVP()
WEIGHTS = unipc_module._weights
EDM = schedules.EDM(sigma_max=1e6)  # any noise level: the programs choose their own


class _Table(schedules._VP):
    """A VP process by a table of ᾱ at labels −1, 0, 1, …, looked up by ``rule``."""

    t_min, t_end = -1.0, -1.0

    def __init__(self, alpha_bar: np.ndarray, rule: str) -> None:
        self.alpha_bar, self.rule, self.t_max = alpha_bar, rule, float(len(alpha_bar) - 2)

    def log_alpha(self, t):
        t = np.asarray(t, dtype=np.float64)
        if self.rule == "floor":
            return 0.5 * np.log(self.alpha_bar[np.floor(t).astype(int) + 1])
        return 0.5 * np.log(np.interp(t, np.arange(-1.0, self.t_max + 1), self.alpha_bar))

    def dlog_alpha(self, t):
        piece = np.clip(np.ceil(np.asarray(t, dtype=np.float64)).astype(int), 0, len(self.alpha_bar) - 2)
        return 0.5 * np.diff(self.alpha_bar)[piece] / np.exp(2 * self.log_alpha(t))

    def _t_of_log_alpha(self, log_alpha):
        return np.interp(np.exp(2 * log_alpha), self.alpha_bar[::-1], np.arange(-1.0, self.t_max + 1)[::-1])


@dataclass
class Problem:
    """The mixture of problem.json, its start states and its bank of noise."""

    x_T: Tensor
    noise: Tensor
    means: Tensor
    weights: Tensor
    alpha_bar: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Problem:
        z = np.load(folder / "problem.npz")
        return cls(*(torch.tensor(z[k]) for k in ("x_T", "noise_bank", "means", "weights")), z["alphabar"])

    def model(self, process: schedules.Process, shift: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
        """ε* at label t + shift of ``process``."""
        mixture = GaussianMixture(self.means, 0.3, process, self.weights)
        return lambda x, t: mixture(x, t + shift)


def clipped(
    model: Callable[[Tensor, Tensor], Tensor], process: schedules.Process
) -> Callable[[Tensor, Tensor], Tensor]:
    """The ε-model whose denoised value is clipped to [−1, 1]: clipping belongs to the model, not to the sampler."""

    def clip(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = float(process.alpha(float(t[0]))), float(process.sigma(float(t[0])))
        return (x - alpha * ((x - sigma * model(x, t)) / alpha).clamp(-1, 1)) / sigma

    return clip


@dataclass
class Case:
    """One vector: where it stands, what it should be, and how to compute it."""

    program: str
    run: str
    steps: int
    expected: np.ndarray
    calls: int
    tolerance: float
    replay: Callable[[], tuple[Tensor, int]] | None

    @property
    def name(self) -> str:
        return f"{self.program}/{self.run}/{self.steps}"


Replay = tuple[Plan, Callable[[Tensor, Tensor], Tensor], float, bool]
"""Plan, model, scale of the start state, whether the program returns x̄ = x/α."""


def cases(folder: Path) -> Iterator[Case]:
    """Every finite vector of a folder laid out like tests/golden."""
    settings = json.loads((folder / "settings.json").read_text())
    problem = Problem.load(folder)
    for file in sorted(folder.glob("*.npz")):
        if file.stem == "problem":
            continue
        data = np.load(file)
        runs = settings["repos"].get(file.stem, {}).get("runs", {})
        for key in data.files:
            found = re.fullmatch(r"(.+)__nfe(\d+)__x0", key)
            if not found or not np.isfinite(data[key]).all():
                continue
            run, steps = found[1], int(found[2])
            about = runs.get(run, {})
            fields = {f: data[k] for k in data.files if k.startswith(key[:-2]) and (f := k[len(key) - 2 :])}
            info = {**about.get("settings", {}), **about.get("n", {}).get(str(steps), {})}
            builder = BUILDERS.get(file.stem)
            made = builder(problem, run, steps, info, fields) if builder else None
            single = "f32" in run or info.get("dtype") == "float32" or info.get("precision") == "f32"
            yield Case(
                file.stem,
                run,
                steps,
                data[key],
                int(fields.get("ncalls", steps)),
                1e-4 if single else 1e-9,
                None if made is None else _replay(problem, *made),
            )


def _replay(problem: Problem, plan: Plan, model, scale: float, bar: bool) -> Callable[[], tuple[Tensor, int]]:
    def run() -> tuple[Tensor, int]:
        noise = problem.noise.__getitem__
        x = sample(plan, model, scale * problem.x_T, noise=noise, dtype=torch.float64)
        return (x / float(plan.alpha[-1]) if bar else x), plan.nfe

    return run


def _ddim(p: Problem, run: str, n: int, info: dict[str, Any], data) -> Replay | None:
    labels = np.arange(0, 1000, 1000 // n) if "uniform" in run else np.floor(np.linspace(0, 800**0.5, n) ** 2)
    times = np.append(labels[::-1].astype(float), -1.0)
    plan = ddim(DISCRETE, times, float(run.split("eta")[1])) if "eta" in run else ddpm(DISCRETE, times)
    model = p.model(DISCRETE)
    return plan, clipped(model, DISCRETE) if run.endswith("_clip") else model, 1.0, False


def _pndm(p: Problem, run: str, n: int, info, data) -> Replay | None:
    method, _, variant = run.partition("_")
    solver = {
        "DDIM": ddim,
        "S-PNDM": s_pndm,
        "F-PNDM": f_pndm,
        "FON": lambda process, times: fon(process, times, slope=unit_transfer_slope),
    }.get(method)
    if solver is None:
        return None
    # The program looks its table up at floor(label) + 1, so that label −1 stands at ᾱ_0 and 999 is never used.
    process = _Table(p.alpha_bar, "floor")
    times = np.append(np.arange(0, 1000, 1000 // n)[::-1].astype(float), -1.0)
    return solver(process, times), p.model(DISCRETE, 1.0 if variant.startswith("shift1") else 0.0), 1.0, False


def _riemann(process: schedules.Process, in_rho: bool):
    """DEIS coefficients as the authors integrate them: 10,000 left-hand rectangles."""

    def weights(nodes, t, u):
        tau = np.linspace(t, u, 10_001)[:-1]
        if in_rho:
            edges = np.linspace(process.rho(t), process.rho(u), 10_001)
            return lagrange(process.rho(nodes), edges[:-1]) @ np.diff(edges)
        return lagrange(nodes, tau) @ (process.drho(tau) * (u - t) / 10_000)

    return weights


def _deis(p: Problem, run: str, n: int, info, data) -> Replay | None:
    process, kind = (VP, "cont") if "cont_" in run else (_Table(np.append(1.0, p.alpha_bar), "linear"), "disc")
    end = 1e-3 if kind == "cont" else 0.0
    exact = run.startswith("deis_exact_")
    name = run.removeprefix("deis_exact_").split("_", 1)[1]
    method, _, phase = name.rpartition("_")
    if name == "ipndm":
        method, phase = "ipndm", "t1"
    spacing = {
        "t1": lambda: np.linspace(process.t_max, end, n + 1),
        "t2": lambda: np.linspace(process.t_max**0.5, end**0.5, n + 1) ** 2,
        "log1": lambda: grids.uniform_lambda(process, n, t_end=end),
        "rho7": lambda: grids.power_rho(process, n, power=7.0, t_end=end),
    }.get(phase)
    if spacing is None:
        return None
    times = spacing()
    times[-1] = end
    if method == "ipndm":
        plan = ipndm(process, times)
    elif method.startswith("rho_rk_"):
        tableau = {"1euler": "euler", "2heun": "heun", "3kutta": "kutta3", "3heun": "heun3", "4rk": "rk4"}
        plan = rho_rk(process, times, tableau[method.removeprefix("rho_rk_")])
    else:
        order = int(method[-1])
        if exact:
            plan = (t_ab if method.startswith("t_ab") else rho_ab)(process, times, order)
        else:
            plan = _adams(process, times, order, _riemann(process, method.startswith("rho_ab")))
    return plan, p.model(VP if kind == "cont" else DISCRETE), 1.0, False


def _derived(p: Problem, run: str, n: int, info, data) -> Replay | None:
    if run.startswith("deis_exact_"):
        return _deis(p, run, n, info, data)
    if run.startswith("ab_variable_step_order"):
        times = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n + 1) ** 7
        return rho_ab(EDM, times, int(run[22]) - 1), p.model(EDM), 80.0, False
    if run.startswith("unipc_varycoeff"):
        order = int(re.search(r"order(\d)", run)[1])
        process = DISCRETE
        times = _spacing(process, "logSNR")(process, n, process.t_max, 0.0)
        return unipc(process, times, order, "vary"), p.model(process), 1.0, False
    return None


def _smalldiffusion(p: Problem, run: str, n: int, info, data) -> Replay | None:
    found = re.fullmatch(r"samples_(ddpm|loglinear_([\d.]+)_([\d.]+))_gam([\d.]+)_mu([\d.]+)", run)
    if not found:
        return None
    if found[1] == "ddpm":
        table = np.sqrt(1.0 / p.alpha_bar - 1.0)
    else:
        table = np.logspace(np.log10(float(found[2])), np.log10(float(found[3])), 1000)
    labels = np.append(np.round(1000 * (1 - np.arange(n) / n)).astype(int) - 1, 0)
    sigmas = table[labels]
    return ge(EDM, sigmas, float(found[4]), float(found[5])), p.model(EDM), float(sigmas[0]), False


def _gradient_estimation(p: Problem, run: str, n: int, info, data) -> Replay | None:
    alpha, sigma = info["end"]
    end = np.round(DISCRETE.t_of_rho(sigma / alpha))
    times = np.append(data["timesteps"].astype(float), end)
    model = clipped(p.model(DISCRETE), DISCRETE) if "clip" in run else p.model(DISCRETE)
    return ge(DISCRETE, times, float(re.search(r"gamm?a?([\d.]+)", run)[1])), model, 1.0, True


def _edm(p: Problem, run: str, n: int, info, data) -> Replay | None:
    if not run.startswith("edm_sampler"):
        return None
    i = np.arange(n) / (n - 1)
    sigmas = np.append((80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0.0)
    churn = [
        float(info[k]) if k in info else d
        for k, d in (("S_churn", 0), ("S_min", 0), ("S_max", math.inf), ("S_noise", 1))
    ]
    return edm_heun(EDM, sigmas, *churn), p.model(EDM), 80.0, False


def _k_diffusion(p: Problem, run: str, n: int, info, data) -> Replay | None:
    if run.startswith("dpm_fast"):
        m = n // 3 + 1
        orders = [3] * (m - 2) + [2, 1] if n % 3 == 0 else [3] * (m - 1) + [n % 3]
        return dpm_solver_singlestep(EDM, np.geomspace(80, 0.002, m + 1), orders), p.model(EDM), 80.0, False
    if "sigmas" not in data or "adaptive" in run:
        return None
    sigmas = data["sigmas"].astype(float)
    eta = float(m[1]) if (m := re.search(r"eta(\d)", run)) else 0.0
    solvers: dict[str, Callable[..., Plan]] = {
        "dpmpp_2s_ancestral": lambda q, t: ancestral.dpmpp_2s(q, t, eta),
        "dpmpp_2m_sde_midpoint": lambda q, t: ancestral.dpmpp_2m_sde(q, t, eta),
        "dpmpp_2m_sde_heun": lambda q, t: ancestral.dpmpp_2m_sde(q, t, eta, taylor=True),
        "dpmpp_3m_sde": lambda q, t: ancestral.dpmpp_3m_sde(q, t, eta),
        "dpmpp_sde": lambda q, t: ancestral.dpmpp_sde(q, t, eta),
        "dpmpp_2m": lambda q, t: dpm_solver_multistep(q, t, 2),
        "euler_ancestral": lambda q, t: ddim(q, t, eta),
        "dpm_2_ancestral": lambda q, t: ancestral.dpm2(q, t, eta),
        "dpm_2": ancestral.dpm2,
        "euler": ddim,
        "heun_churn": lambda q, t: edm_heun(q, t, info["s_churn"], info["s_tmin"], info["s_tmax"], info["s_noise"]),
        "heun": edm_heun,
        "lms_order1": lambda q, t: rho_ab(q, t, 0),
        "lms_order2": lambda q, t: rho_ab(q, t, 1),
        "lms_order3": lambda q, t: rho_ab(q, t, 2),
        "lms_order4": lambda q, t: rho_ab(q, t, 3),
    }
    plan = next(solver for name, solver in solvers.items() if run.startswith(name))(EDM, sigmas)
    return plan, p.model(EDM), float(sigmas[0]), False


def _diff_sampler(p: Problem, run: str, n: int, info, data) -> Replay | None:
    found = re.fullmatch(r"(.*)_(polynomial|logsnr|time_uniform)", run)
    name, phase = found[1], found[2]
    if phase == "polynomial":
        sigmas = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n + 1) ** 7
    elif phase == "logsnr":
        sigmas = np.geomspace(80, 0.002, n + 1)
    else:
        # "time_uniform": equal steps of the t of a VP SDE that is fitted to reach 80 at t = 1 and 0.002 at t = 1e-3.
        e, (lo, hi) = 1e-3, np.log1p(np.square([0.002, 80.0]))
        beta_d = 2 * (lo / e - hi) / (e - 1)
        t = np.linspace(1.0, e, n + 1)
        sigmas = np.sqrt(np.expm1(0.5 * beta_d * t**2 + (hi - 0.5 * beta_d) * t))
    order = int(m[1]) if (m := re.search(r"order(\d)", name)) else 1
    lof = 0 if "nolof" in name else 100
    if name == "euler":
        plan = ddim(EDM, sigmas)
    elif name == "heun":
        plan = rho_rk(EDM, sigmas, "heun")
    elif name == "dpm_2":
        plan = ancestral.dpm2(EDM, sigmas)
    elif name.startswith("ipndm_order"):
        plan = ipndm(EDM, sigmas, order)
    elif "_thresh" in name:
        return None
    elif name.startswith("dpm_pp"):
        plan = dpm_solver_multistep(EDM, sigmas, order, "x0" in name, False, lof and order)
    elif name.startswith("unipc"):
        plan = unipc(EDM, sigmas, order, re.search(r"bh\d", name)[0], "x0" in name, lof)
    elif name.startswith("ipndm_v_order2"):
        plan = rho_ab(EDM, sigmas, 1)
    else:
        return None
    return plan, p.model(EDM), 80.0, False


def _diffusers_lambda(p: Problem, run: str, n: int, info, data) -> Replay | None:
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
    return plan, model, scale, False


def _diffusers(p: Problem, run: str, n: int, info, data) -> Replay | None:
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
        return (f_pndm(DISCRETE, times), p.model(DISCRETE), 1.0, False) if n >= 4 else None
    if found[1] == "DDIM":
        return ddim(DISCRETE, times, float(run.split("eta")[1])), p.model(DISCRETE), 1.0, False
    solver = ddpm if "fixed_large" in run else ddpm_beta_tilde
    model = clipped(p.model(DISCRETE), DISCRETE) if run.endswith("_clip") else p.model(DISCRETE)
    return solver(DISCRETE, times), model, 1.0, False


def _spacing(process: schedules.Process, rule: str) -> Callable[..., np.ndarray]:
    """The grid rules of DPM-Solver's program, whose time on labels is (label + 1)/1000."""
    shift, scale = (1.0, 1000.0) if process is DISCRETE else (0.0, 1.0)

    def quadratic(process, n, t_start, t_end):
        return np.linspace(*np.sqrt((np.array([t_start, t_end]) + shift) / scale), n + 1) ** 2 * scale - shift

    return {
        "logSNR": lambda q, n, t_start, t_end: grids.uniform_lambda(q, n, t_start=t_start, t_end=t_end),
        "time_uniform": lambda q, n, t_start, t_end: np.linspace(t_start, t_end, n + 1),
        "time_quadratic": quadratic,
    }[rule]


def _lambda_setting(run: str) -> tuple[schedules.Process, Callable[..., np.ndarray], float, int]:
    """Process, grid rule, end and order of a run of DPM-Solver's or UniPC's program."""
    process, end = (DISCRETE, 0.0) if run.startswith("disc") else (VP, 1e-3)
    rule = re.search(r"time_uniform|logSNR|time_quadratic", run)[0]
    return process, _spacing(process, rule), end, int(re.search(r"order(\d)", run)[1])


def _singlestep_orders(n: int, order: int) -> list[int]:
    """How the programs spend n calls on singlestep methods of order up to ``order``."""
    if order == 3:
        k = n // 3 + 1
        return [3] * (k - 2) + [2, 1] if n % 3 == 0 else [3] * (k - 1) + [n % 3]
    return [order] * (n // order) + [1] * (n % order)


def _dpm_solver(p: Problem, run: str, n: int, info, data) -> Replay | None:
    if "adaptive" in run or "denoise0" in run or "f32" in run:
        return None
    process, grid, end, order = _lambda_setting(run)
    options = {"data": "dpmsolver++" in run, "taylor": "taylor" in run}
    times = grid(process, n, process.t_max, end)
    if "multistep" in run:
        final = order if "nolof" not in run and n < 10 else 0
        plan = dpm_solver_multistep(process, times, order, final=final, **options)
    else:
        orders = [order] * (n // order) if "fixed" in run else _singlestep_orders(n, order)
        if "fixed" in run or "logSNR" in run:
            times = grid(process, len(orders), process.t_max, end)
        else:
            times = times[np.cumsum([0, *orders])]
        plan = dpm_solver_singlestep(process, times, orders, spacing=grid, **options)
    return plan, p.model(process), 1.0, False


def _stale(basis: str, step, r: list[float]) -> np.ndarray:
    """The varying-coefficient corrector as the program has it, first order in effect.

    All differences but the newest lack the last equation, and the newest takes it with the row before.
    """
    if not r or r[-1] != 1.0:
        return WEIGHTS(basis, step, r)
    k = np.arange(len(r))
    phi = unipc_module._moments(-step.h if step.data else step.h, len(r)) / np.cumprod(k + 1.0)
    A = np.linalg.inv(np.array(r)[:, None] ** k / np.cumprod(k + 1.0))
    weights = np.append(phi[:-1] @ A[:-1, :-1], phi[-1] * A[max(len(r) - 2, 0), -1])
    return (-1.0 if step.data else -step.rho) * weights


def _unipc(p: Problem, run: str, n: int, info, data) -> Replay | None:
    process, grid, end, order = _lambda_setting(run)
    basis = re.search(r"bh1|bh2|vary", run)[0]
    times = grid(process, n, process.t_max, end)
    with pytest.MonkeyPatch.context() as patch:
        if basis == "vary":
            patch.setattr(unipc_module, "_weights", _stale)
        plan = unipc(process, times, order, basis, "data" in run, 0 if "nolof" in run else 100)
    return plan, p.model(process), 1.0, False


def _fastdpm(p: Problem, run: str, n: int, info, data) -> Replay | None:
    if run == "STD":
        return ddpm_beta_tilde(DISCRETE, np.arange(999.0, -2.0, -1.0)), p.model(DISCRETE), 1.0, False
    found = re.fullmatch(r"STEP_(linear|quadratic)_kappa([\d.]+)", run)
    if not found:
        return None
    labels = np.arange(n) * 999 / (n - 1) if found[1] == "linear" else np.linspace(0, 800**0.5, n) ** 2
    times = np.append(np.floor(labels + 1e-9)[::-1], -1.0)
    return ddim(DISCRETE, times, float(found[2])), p.model(DISCRETE), 1.0, False


def _analytic_dpm(p: Problem, run: str, n: int, info, data) -> Replay | None:
    found = re.fullmatch(r"(ddim_naive_eta([01])|ddpm_naive_(small|large))_(no)?clamp", run)
    if not found or (found[2] and not found[4]):
        return None  # its clamped DDIM keeps the ε that belongs to the unclamped x̂0: no ε-model says both
    times = np.append(np.round(np.arange(n) * 999 / (n - 1))[::-1], -1.0)
    if found[2]:
        plan = ddim(DISCRETE, times, float(found[2]))
    else:
        plan = (ddpm if found[3] == "large" else ddpm_beta_tilde)(DISCRETE, times)
    model = p.model(DISCRETE)
    return plan, model if found[4] else clipped(model, DISCRETE), 1.0, False


BUILDERS: dict[str, Callable[..., Replay | None]] = {
    "analytic-dpm": _analytic_dpm,
    "ddim": _ddim,
    "fastdpm": _fastdpm,
    "dpm-solver": _dpm_solver,
    "unipc": _unipc,
    "pndm": _pndm,
    "deis": _deis,
    "derived_not_upstream": _derived,
    "smalldiffusion": _smalldiffusion,
    "gradient-estimation-sampler": _gradient_estimation,
    "edm": _edm,
    "k-diffusion": _k_diffusion,
    "diff-sampler": _diff_sampler,
    "diffusers": _diffusers,
}
