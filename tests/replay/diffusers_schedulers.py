"""The vectors of diffusers' schedulers.

Its samplers on labels hold x at noise levels of a VP process, those on noise levels hold x̄ and scale what the network
sees. Where a noise level is no label's, the network is told the nearest label by a rule of its own: ``timesteps``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.models.protocol import clipped
from fewstep.plan import Plan, Symbol, Tape
from fewstep.solvers import ancestral
from fewstep.solvers import dpm_solver as dpm_module
from fewstep.solvers import unipc as unipc_module
from fewstep.solvers.coefficients import ADAMS_BASHFORTH
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde
from fewstep.solvers.deis import lambda_ab, rho_ab
from fewstep.solvers.dpm_solver import _prediction, _Step, dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.edm import edm_heun
from fewstep.solvers.pndm import f_pndm, ipndm, plms, pseudo_runge_kutta
from fewstep.solvers.score_sde import predict, reverse_diffusion_step
from fewstep.solvers.unipc import unipc

from .problem import DISCRETE, EDM, VP, Case, Problem, Run, Table, replay
from .score_sde import _langevin, euler, ve_chain


class Levels(schedules._VP):
    """A VP process by a list of ρ: times n, n − 1, …, 0 are its entries.

    Where the program repeats the last level, to stand still while its network is called once more, the step is given
    a relative length of 2e-9, since the levels of a grid must fall.
    """

    t_min, t_end = 0.0, 0.0

    def __init__(self, rho: np.ndarray) -> None:
        self.levels, self.t_max = rho.astype(float), float(len(rho) - 1)
        if rho[-1] == rho[-2]:
            self.levels[-1] *= 1.0 - 2e-9

    @property
    def times(self) -> np.ndarray:
        return np.arange(self.t_max, -1.0, -1.0)

    def rho(self, t):
        return self.levels[np.rint(self.t_max - np.asarray(t)).astype(int)]

    def log_alpha(self, t):
        return -0.5 * np.log1p(self.rho(t) ** 2)


class Sine(schedules._VP):
    """σ = sin(πt/2), α = cos(πt/2): the times that IPNDM's scheduler shows its network."""

    t_min, t_end, t_max = 0.0, 0.0, 1.0

    def log_alpha(self, t):
        return np.log(np.cos(0.5 * np.pi * np.asarray(t, dtype=np.float64)))


def _labelled(p: Problem, plan: Plan, labels: Sequence[float], scale: float, bar: bool) -> Run:
    """Runs a plan whose k-th call tells the network the k-th label; ``bar``: its states are x̄."""
    network = p.model(DISCRETE)

    def run() -> tuple[Tensor, int]:
        told = iter(labels)

        def model(x: Tensor, level: Tensor) -> Tensor:
            label = torch.full((len(x),), float(next(told)), dtype=torch.float64)
            return network(x / float(np.hypot(1.0, float(level[0]))) if bar else x, label)

        return replay(p, plan, model, scale)()

    return run


# Samplers on labels: DDPM, DDIM, PNDM


def _labels(run: str, n: int) -> np.ndarray:
    offset = float(m[1]) if (m := re.search(r"off(\d)", run)) else 0.0
    rules: dict[str, Callable[[], np.ndarray]] = {
        "leading": lambda: np.arange(n)[::-1] * (1000 // n) + offset,
        "trailing": lambda: np.round(np.arange(1000, 0, -1000 / n)) - 1.0,
        "linspace": lambda: np.round(np.linspace(0, 999, n))[::-1],
    }
    return rules[re.search("|".join(rules), run)[0]]().astype(float)  # type: ignore[index]


def _table(p: Problem, run: str) -> schedules.Process:
    """``set_alpha_to_one = False`` is the schedule whose end, label −1, has the level of label 0."""
    return Table(np.append(p.alpha_bar[0], p.alpha_bar), "linear") if "alpha1False" in run else DISCRETE


def _idle(run: Run) -> Run:
    """The program goes on for one step from a level to itself: one more call, of weight zero."""

    def longer() -> tuple[Tensor, int]:
        x, calls = run()
        return x, calls + 1

    return longer


def _consistent(labels: np.ndarray, stride: int) -> bool:
    """Whether the label "``stride`` before", to which the program moves, is the one it calls next."""
    return bool(np.all(labels[:-1] - stride == labels[1:]))


def _on_labels(p: Problem, run: str, n: int, info, data) -> Run | None:
    labels, stride, process = _labels(run, n), 1000 // n, _table(p, run)
    if run.startswith("DDPM"):
        solver = ddpm if "fixed_large" in run else ddpm_beta_tilde
        model = clipped(p.model(DISCRETE), DISCRETE) if run.endswith("_clip") else p.model(DISCRETE)
        return replay(p, solver(DISCRETE, np.append(labels, -1.0)), model)
    end = max(labels[-1] - stride, -1.0) if _consistent(labels, stride) else -1.0
    times = np.append(labels, end)
    still = labels[-1] == 0.0 and process is not DISCRETE
    if still:
        times = times[:-1]
    if run.startswith("DDIM"):
        plan = ddim(process, times, float(run.split("eta")[1]))
    elif "skipprkTrue" in run:
        plan = plms(process, times)
    elif len(times) == 4:  # F-PNDM's start alone
        plan = pseudo_runge_kutta(process, times)
    else:
        plan = f_pndm(process, times)
    exact = replay(p, plan, p.model(DISCRETE))
    return _idle(exact) if still else exact


class _Paired:
    """A program that moves by ``stride`` labels and then calls the network at a label which may be another one.

    States are x, not x̄: what was computed for one level is handed on as it is for another.
    """

    def __init__(self, process: schedules.Process, labels: np.ndarray, stride: int) -> None:
        self.process, self.labels, self.stride = process, labels.tolist(), stride
        self.tape = Tape(process, labels[0])
        self.x = self.alpha(labels[0]) * self.tape.x

    def alpha(self, t: float) -> float:
        return float(self.process.alpha(max(t, -1.0)))

    def call(self, x: Symbol, t: float) -> Symbol:
        return self.tape.eval(x / self.alpha(t), t)

    def move(self, x: Symbol, t: float, u: float, e: Symbol, eta: float = 0.0) -> Symbol:
        rho_t, rho_u = self.process.rho([max(t, -1.0), max(u, -1.0)]).tolist()
        up = eta * rho_u * np.sqrt(1.0 - (rho_u / rho_t) ** 2)
        bar = x / self.alpha(t) + (np.sqrt(rho_u**2 - up**2) - rho_t) * e
        return self.alpha(u) * (bar + up * self.tape.noise() if eta > 0 else bar)

    def plan(self) -> Plan:
        end = max(self.labels[-1] - self.stride, -1.0)
        return self.tape.plan(self.x / self.alpha(end), end)

    def ddim(self, eta: float) -> Plan:
        for t in self.labels:
            self.x = self.move(self.x, t, t - self.stride, self.call(self.x, t), eta)
        return self.plan()

    def plms(self) -> Plan:
        t, u = self.labels[:2]
        history = [self.call(self.x, t)]
        ahead = self.call(self.move(self.x, t, t - self.stride, history[0]), u)
        self.x = self.move(self.x, u + self.stride, u, 0.5 * (history[0] + ahead))
        return self.multistep(self.labels[1:], history)

    def f_pndm(self) -> Plan:
        half, history = self.stride // 2, []
        for t, u in zip(self.labels[:3], self.labels[1:4], strict=True):
            m = u + half
            e1 = self.call(self.x, t)
            e2 = self.call(self.move(self.x, t, t - half, e1), m)
            e3 = self.call(self.move(self.x, t, m, e2), m)
            e4 = self.call(self.move(self.x, t, u, e3), u)
            self.x = self.move(self.x, t, u, (e1 + 2.0 * e2 + 2.0 * e3 + e4) / 6.0)
            history.insert(0, e1)
        return self.multistep(self.labels[3:], history)

    def multistep(self, labels: list[float], history: list[Symbol]) -> Plan:
        for t in labels:
            history = [self.call(self.x, t), *history[:3]]
            weights = ADAMS_BASHFORTH[len(history) - 1]
            e = sum((w * e for w, e in zip(weights, history, strict=True)), Symbol({}))
            self.x = self.move(self.x, t, t - self.stride, e)
        return self.plan()


def _mispaired(p: Problem, run: str, n: int, info, data) -> Run | None:
    """DDIM and PNDM move by ⌊1000/n⌋ labels, whatever the distance to the label at which they call next.

    With ``linspace`` labels, and with ``trailing`` ones if n does not divide 1000, a state at noise level t − ⌊1000/n⌋
    is then given to the network, and to the next step, as one at the level of another label: no sampler of the
    papers, on any grid, does that. Over a ``linspace`` run the slips add up to 999 − (n − 1)⌊1000/n⌋ labels. PNDM's
    first Runge–Kutta stage has the same slip for an odd ⌊1000/n⌋. Ours has the labels of the run, and each step ends
    where the next begins. Here the program's own pairing is followed.
    """
    labels, stride = _labels(run, n), 1000 // n
    if not run.startswith(("DDIM", "PNDM")) or (
        _consistent(labels, stride) and ("skipprkFalse" not in run or stride % 2 == 0)
    ):
        return None
    program = _Paired(_table(p, run), labels, stride)
    if run.startswith("DDIM"):
        plan = program.ddim(float(run.split("eta")[1]))
    else:
        plan = program.plms() if "skipprkTrue" in run else program.f_pndm()
    return replay(p, plan, p.model(DISCRETE))


def _noise_on_the_result(p: Problem, run: str, n: int, info, data) -> Run | None:
    """diffusers' DDPM adds noise whenever its label is positive, even in the step to ᾱ = 1.

    DDPM's Algorithm 2 has z = 0 there: where the last label is not 0, the result with the larger variance is ours plus
    √β z.
    """
    if not run.startswith("DDPM") or "fixed_large" not in run or _labels(run, n)[-1] == 0.0:
        return None
    exact = _on_labels(p, run, n, info, data)

    def noisy() -> tuple[Tensor, int]:
        x, calls = exact()
        return x + float(DISCRETE.sigma(_labels(run, n)[-1])) * p.noise[n - 1], calls

    return noisy


# Solvers in λ: DEIS, DPM-Solver, UniPC


def _in_lambda(p: Problem, run: str, n: int, info, data) -> Run | None:
    config = info["config"]
    if config.get("use_karras_sigmas") or config.get("use_lu_lambdas"):
        # The noise levels are exact, the labels told to the network are rounded to integers.
        process = Levels(data["sigmas"].astype(float))
        return _labelled(p, _lambda_plan(run, n, config, process, process.times), data["timesteps"], 1.0, False)
    end = -1.0 if config.get("final_sigmas_type") == "zero" else 0.0
    times = np.append(data["scheduler_timesteps"].astype(float), end)
    return replay(p, _lambda_plan(run, n, config, DISCRETE, times), p.model(DISCRETE))


def _lambda_plan(run: str, n: int, config, process: schedules.Process, times: np.ndarray) -> Plan:
    order, kind, lower = config["solver_order"], config.get("solver_type"), config["lower_order_final"]
    if run.startswith("UniPC"):
        skip = config["disable_corrector"] not in ("[]", [])
        return _unipc(process, times, order, kind, config["predict_x0"], 100 if lower else 0, skip)
    # Below 15 steps the program lowers the order at the end; ``euler_at_final`` lowers the last step only.
    final = order if lower and len(times) <= 15 else int(config.get("euler_at_final", False))
    if run.startswith("DEIS"):
        return lambda_ab(process, times, order - 1, final)
    algorithm, taylor = config["algorithm_type"], kind == "heun"
    if run.startswith("DPMsingle"):
        return _single(process, times, config)
    data = algorithm.endswith("++")
    if algorithm.startswith("sde"):
        return dpm_solver_multistep(process, times, order, data, taylor, final, eta=1.0)
    return dpm_solver_multistep(process, times, order, data, taylor, final)


def _unipc(process, times, order: int, basis: str, data: bool, final: int, skip: bool) -> Plan:
    """UniPC; ``skip``: its first step is not corrected."""
    solve, corrections = unipc_module._weights, []

    def weights(basis: str, step, r: list[float]) -> np.ndarray:
        if skip and r and r[-1] == 1.0:
            corrections.append(r)
            if len(corrections) == 1:
                return np.zeros(len(r))
        return solve(basis, step, r)

    unipc_module._weights = weights
    try:
        return unipc(process, times, order, basis, data, final)
    finally:
        unipc_module._weights = solve


def _single(process, times, config) -> Plan:
    """The singlestep scheduler: the stages of a step lie on the grid of n labels, not at fixed fractions of h in λ."""
    n, order, clean = len(times) - 1, config["solver_order"], config["final_sigmas_type"] == "zero"
    data, taylor = config["algorithm_type"] == "dpmsolver++", config["solver_type"] == "heun"
    orders = [order] * (n // order) + [n % order] * (n % order > 0)
    if order > 1 and n % order == 0 and (config["lower_order_final"] or clean):
        orders = [*orders[:-1], order - 1, 1]
    if clean and orders[-1] == 2:  # a step to ρ = 0 has order 1
        orders = [*orders[:-1], 1, 1]

    def between(process, count: int, t_start: float, t_end: float) -> np.ndarray:
        return times[(times <= t_start) & (times >= t_end)]

    if order < 3 or taylor:
        return dpm_solver_singlestep(process, times[np.cumsum([0, *orders])], orders, data, taylor, between)
    return _midpoint_stages(process, times, orders, data)


def _midpoint_stages(process, times, orders: list[int], data: bool) -> Plan:
    """Singlestep DPM-Solver-3 whose second stage is a step of DPM-Solver-2's midpoint rule, where the paper has φ₂."""
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x, i = tape.x, 0
    for order in orders:
        m0 = _prediction(data, x, rho[i], tape.eval(x, times[i]))
        steps, y, d = [_Step(data, rho[i], rho[i + j]) for j in range(1, order + 1)], x, Symbol({})
        for j, step in enumerate(steps, start=1):
            y = step.linear(x) + step.weight(0) * m0
            if j == 2:
                y = y + (0.5 * step.weight(0) * step.h / steps[0].h) * d
            elif j == 3:
                y = y + (step.weight(1) / steps[1].h) * d
            if j < order:
                d = _prediction(data, y, rho[i + j], tape.eval(y, times[i + j])) - m0
        x, i = y, i + order
    return tape.plan(x, times[-1])


class _Slipped(dpm_module._Step):
    """The step of the program's third-order SDE-DPM-Solver++, with −½ for ½ in the weight of its second difference."""

    def weight(self, k: int) -> float:
        return super().weight(k) - (self.h**2 if k == 2 else 0.0)


def _sign_of_the_curvature(p: Problem, run: str, n: int, info, data) -> Run | None:
    """SDE-DPM-Solver++ of order 3 subtracts ½ in the weight of its second difference D₂, where ½ must be added.

    With h' = 2h the weight of D₂, in units of h, is ½ − (h' − 1 + e^{−h'})/h'², which vanishes with h like h'/6, and is
    k-diffusion's. The program's −½ − … tends to −1, so that it is off by −D₂ = O(h²) in every step: of first order
    in effect. Here our solver is given that weight.
    """
    if not run.startswith("DPMmulti_sde-dpmsolver++_order3"):
        return None
    original = dpm_module._Step
    dpm_module._Step = _Slipped  # type: ignore[misc]
    try:
        return _in_lambda(p, run, n, info, data)
    finally:
        dpm_module._Step = original  # type: ignore[misc]


# Samplers on noise levels


def _on_levels(p: Problem, run: str, n: int, info, data) -> Run:
    sigmas = data["sigmas"].astype(float)
    if not run.startswith(("Euler", "LMS")):  # the two-stage ones list each level twice
        sigmas = np.append(sigmas[np.append(True, np.diff(sigmas) < 0) & (sigmas > 0)], 0.0)
    solvers: dict[str, Callable[..., Plan]] = {
        "EulerAncestral": lambda q, t: ddim(q, t, 1.0),
        "Euler": ddim,
        "Heun": edm_heun,
        "LMS": lambda q, t: rho_ab(q, t, 3),
        "KDPM2Ancestral": lambda q, t: ancestral.dpm2(q, t, 1.0),
        "KDPM2": ancestral.dpm2,
    }
    plan = next(solver for name, solver in solvers.items() if run.startswith(name))(EDM, sigmas)
    scale = float(np.hypot(1.0, sigmas[0])) if "leading" in run else float(sigmas[0])
    return _labelled(p, plan, data["timesteps"], scale, True)


def _edm(p: Problem, run: str, n: int, info, data) -> Run:
    """EDM's schedulers; the start state is scaled for a process with data of variance 1."""
    sigmas, config = data["sigmas"].astype(float), info["config"]
    if run.startswith("EDMEuler"):
        plan = ddim(EDM, sigmas)
    else:
        order = int(config["solver_order"])
        final = order if config["lower_order_final"] in ("True", True) and n < 15 else 0
        taylor = config["solver_type"] == "heun"
        plan = dpm_solver_multistep(EDM, sigmas, order, config["algorithm_type"] == "dpmsolver++", taylor, final)
    return replay(p, plan, p.model(EDM), float(np.hypot(1.0, sigmas[0])))


def _ipndm(p: Problem, run: str, n: int, info, data) -> Run:
    """IPNDM's scheduler starts at α = 0, where x̄ = x/α does not exist, with a network that predicts v.

    At α = 0 its ε = σx + αv is x, whatever v is, and the denoised value (x − σε)/α is taken to be 0: the first step
    loses α₁ E[x₀]. It is iPNDM on the program's own levels σ = sin²(πu/2) from a start with a very small α, with
    ε = x/σ told at the first call.
    """
    levels = np.sin(0.5 * np.pi * np.linspace(1.0, 0.0, n + 1)) ** 2
    times = 2.0 / np.pi * np.arcsin(levels)
    times[0] = 2.0 / np.pi * np.arccos(1e-6)
    process = Sine()
    network, sigma = p.model(process), float(process.sigma(times[0]))

    def model(x: Tensor, t: Tensor) -> Tensor:
        return x / sigma if float(t[0]) == times[0] else network(x, t)

    return replay(p, ipndm(process, times, 4), model)


def _score_sde(p: Problem, run: str, n: int, info, data) -> Run:
    """The two schedulers of score SDE, whose choices are those of the authors' program: see that module.

    VE takes noise levels of a table of n, scores at those of n times down to 1e-5, and a Langevin step with batch-mean
    norms before each predictor's step; VP is Euler–Maruyama with steps of 1/n.
    """
    if run.startswith("ScoreSdeVp"):
        step = functools.partial(reverse_diffusion_step, transition=euler(n))
        return replay(p, predict(VP, np.append(np.linspace(1.0, 1e-3, n), 0.0), step), p.model(VP))
    process, chain = schedules.VE(info["sigma_min"], info["sigma_max"]), ve_chain(n)
    times = np.append(np.linspace(1.0, info["sampling_eps"], n), 0.0)
    step = functools.partial(reverse_diffusion_step, transition=chain)
    if not info["correct_steps"]:
        return replay(p, predict(process, times, step), p.model(process), process.prior_std)
    corrector = {"corrections": info["correct_steps"], "snr": info["snr"], "correct_start": True, "transition": chain}
    return _langevin(p, process, times, p.model(process), process.prior_std, step, corrector)


_FAMILIES = {
    ("DDPM", "DDIM", "PNDM"): _on_labels,
    ("DEIS", "DPMmulti", "DPMsingle", "UniPC"): _in_lambda,
    ("Euler", "Heun", "LMS", "KDPM2"): _on_levels,
    ("EDM",): _edm,
    ("IPNDM",): _ipndm,
    ("ScoreSde",): _score_sde,
}


def _diffusers(p: Problem, run: str, n: int, info, data) -> Run | None:
    for names, family in _FAMILIES.items():
        if run.startswith(names):
            return family(p, run, n, info, data)
    return None


def as_programmed(p: Problem, run: str, n: int, info, data) -> Run | None:
    """What the program computes where it is no sampler of the papers; None where the builder gives that."""
    for slip in (_mispaired, _noise_on_the_result, _sign_of_the_curvature):
        if (made := slip(p, run, n, info, data)) is not None:
            return made
    return None


def _explained(p: Problem, case: Case, x: Tensor) -> bool:
    """Whether the vector is that of :func:`as_programmed`, whose parts say what the program does instead."""
    slip = as_programmed(p, case.run, case.steps, case.info, case.data)
    if slip is None:
        return False
    found, calls = slip()
    error = np.abs(found.numpy() - case.expected).max() / np.abs(case.expected).max()
    return bool(error < case.tolerance) and calls == case.calls


BUILDERS = {"diffusers": _diffusers}
EXPLAINED = {"diffusers": _explained}
