r"""Solvers: pure functions (process, time grid, their own keywords) → :class:`~fewstep.plan.Plan`, found by name.

A family is imported when one of its solvers is asked for, so a family's source touches its own solvers only.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import grids
from ..errors import UserError, unknown
from ..plan import Plan
from ..schedules import Process

__all__ = ["ALIASES", "SOLVERS", "Solver", "build", "get"]


@dataclass(frozen=True)
class Solver:
    """A named solver.

    Attributes:
        name: as the command line and the records spell it.
        function: ``module:function`` below ``fewstep.solvers``.
        title: as a table or a legend spells it.
        order: its order of convergence on every smooth grid. A first-order start, or weights of equal steps, cap a
            multistep method at 2; F-PNDM reaches 4 on a grid uniform in ρ, FON on one uniform in t.
        default_grid: the grid that its authors prefer.
        reference: the equation it comes from.
        calls: calls per step.
        extra: calls that n steps need beyond ``calls`` · n (negative where the last steps take fewer).
        min_steps: the smallest number of steps.
        single_last: whether a last step to ρ = 0 takes one call only.
        rules: how it starts and how it ends, in words.
        options: fixed keywords of the function.
    """

    name: str
    function: str
    title: str
    order: int
    default_grid: str
    reference: str
    calls: int = 1
    extra: int = 0
    min_steps: int = 1
    single_last: bool = False
    rules: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module that holds the solver's family."""
        return f"fewstep.solvers.{self.function.split(':')[0]}"

    def load(self) -> Callable[..., Plan]:
        """The solver's function."""
        module, name = self.function.split(":")
        return getattr(importlib.import_module(f".{module}", __package__), name)

    def nfe(self, steps: int, clean_end: bool) -> int:
        """How many calls ``steps`` steps make."""
        if self.single_last and clean_end:
            return self.calls * (steps - 1) + 1 + self.extra
        return self.calls * steps + self.extra

    def steps(self, nfe: int, clean_end: bool) -> int:
        """The largest number of steps whose calls fit into ``nfe``.

        Raises:
            UserError: if not even the smallest number fits.
        """
        least = self.nfe(self.min_steps, clean_end)
        if nfe < least:
            raise UserError(f"{self.name} cannot spend {nfe} network calls: it needs at least {least}")
        steps = self.min_steps
        while self.nfe(steps + 1, clean_end) <= nfe:
            steps += 1
        return steps


FIRST_ORDER = "every step of first order"
RISING = "first order at the start, rising"
DDIM_LAST = "a last step to ρ = 0 is a DDIM step"


def _table() -> dict[str, Solver]:
    rows = [
        Solver("ddpm", "ddpm:ddpm", "DDPM", 1, "uniform", "DDPM, Algorithm 2", rules="no noise in a step to ρ = 0"),
        Solver(
            "ddpm-beta-tilde",
            "ddpm:ddpm_beta_tilde",
            "DDPM (β̃)",
            1,
            "uniform",
            "DDPM, Algorithm 2 and Eq. 7",
            rules="no noise in a step to ρ = 0",
        ),
        Solver("ddim", "ddim:ddim", "DDIM", 1, "quadratic", "DDIM, Eq. 12", rules=FIRST_ORDER),
        Solver("euler", "classical:euler", "Euler", 1, "quadratic", "score SDE, Eq. 13", rules=FIRST_ORDER),
        Solver(
            "rk4",
            "classical:rk4",
            "RK4",
            4,
            "quadratic",
            "score SDE, Eq. 13",
            calls=4,
            single_last=True,
            rules="each step for itself; a last step to ρ = 0 is an Euler step",
        ),
        Solver(
            "fon",
            "classical:fon",
            "FON",
            2,
            "uniform",
            "PNDM, §3.2",
            extra=9,
            min_steps=4,
            rules="three Runge–Kutta steps, then four slopes with the weights of equal steps in t",
        ),
        Solver(
            "pndm-s",
            "pndm:s_pndm",
            "S-PNDM",
            2,
            "uniform",
            "PNDM, App. A.3",
            extra=1,
            min_steps=2,
            rules="an improved Euler step, then the weights of equal steps in ρ",
        ),
        Solver(
            "pndm-f",
            "pndm:f_pndm",
            "F-PNDM",
            2,
            "uniform",
            "PNDM, Algorithm 2",
            extra=9,
            min_steps=4,
            rules="three pseudo Runge–Kutta steps, then the weights of equal steps in ρ",
        ),
        Solver(
            "pndm-prk",
            "pndm:pseudo_runge_kutta",
            "pseudo RK",
            2,
            "uniform",
            "PNDM, Eq. 13",
            calls=4,
            single_last=True,
            rules=f"each step for itself; {DDIM_LAST}",
        ),
        Solver("ei-score", "deis:ei_score", "EI, score form", 1, "quadratic", "DEIS, Eq. 8", rules=FIRST_ORDER),
        Solver("ei-eps", "deis:ei_eps", "EI, ε form", 1, "quadratic", "DEIS, Eq. 11", rules=FIRST_ORDER),
        Solver(
            "ge",
            "gradient_estimation:ge",
            "gradient estimation",
            1,
            "log-linear",
            "Permenter & Yuan, Algorithm 2",
            rules="a DDIM step, then two outputs",
        ),
        Solver(
            "edm-heun",
            "edm:edm_heun",
            "EDM Heun",
            2,
            "rho7",
            "EDM, Algorithm 1",
            calls=2,
            single_last=True,
            rules=f"each step for itself; {DDIM_LAST}",
        ),
    ]
    rows += [
        Solver(
            f"ipndm-{k}",
            "pndm:ipndm",
            f"iPNDM-{k}",
            min(k, 2),
            "uniform",
            "DEIS, App. H.2",
            rules=f"{RISING}; the weights of equal steps in ρ" if k > 1 else FIRST_ORDER,
            options={"order": k},
        )
        for k in (1, 2, 3, 4)
    ]
    rows += [
        Solver(
            f"deis-{short}ab{k}",
            f"deis:{function}",
            f"{title}AB{k}-DEIS",
            min(k + 1, 2),
            "quadratic",
            reference,
            rules=RISING if k else FIRST_ORDER,
            options={"order": k},
        )
        for short, function, title, reference in (
            ("t", "t_ab", "t", "DEIS, Eq. 14"),
            ("rho", "rho_ab", "ρ", "DEIS, Prop. 3"),
            ("lambda", "lambda_ab", "λ", "diffusers' DEIS"),
        )
        for k in (0, 1, 2, 3)
        if k or short != "lambda"
    ]
    rows += [
        Solver(
            f"deis-rhork-{method}",
            "deis:rho_rk",
            f"ρRK-{title}",
            order,
            "rho7",
            "DEIS, Eq. 17",
            calls=calls,
            single_last=True,
            rules=f"each step for itself; {DDIM_LAST}",
            options={"method": method},
        )
        for method, title, order, calls in (
            ("midpoint", "midpoint", 2, 2),
            ("heun", "Heun", 2, 2),
            ("kutta3", "Kutta3", 3, 3),
            ("heun3", "Heun3", 3, 3),
            ("rk4", "RK4", 4, 4),
        )
    ]
    rows += [
        Solver(
            f"{name}-{k}{'s' if data else ''}",
            "dpm_solver:dpm_solver_singlestep",
            title.format(k),
            k,
            "uniform-lambda",
            reference,
            calls=k,
            single_last=True,
            rules=f"each step for itself; {DDIM_LAST}",
            options={"orders": k, "data": data},
        )
        for name, data, title, reference in (
            ("dpm-solver", False, "DPM-Solver-{}", "DPM-Solver, Algorithms 1 and 2"),
            ("dpmpp", True, "DPM-Solver++({}S)", "DPM-Solver++, Algorithm 1"),
        )
        for k in (2, 3)
    ]
    rows += [
        Solver(
            "dpm-solver-fast",
            "dpm_solver:dpm_solver_fast",
            "DPM-Solver-fast",
            2,
            "uniform-lambda",
            "DPM-Solver, §3.4",
            calls=3,
            extra=-3,
            min_steps=2,
            rules="third-order steps, then lower ones that spend up to two calls more; a step to ρ = 0 takes one",
        )
    ]
    rows += [
        Solver(
            f"{name}-{k}m",
            "dpm_solver:dpm_solver_multistep",
            title.format(k),
            2,
            "uniform-lambda",
            reference,
            rules=f"{RISING}; {DDIM_LAST}",
            options={"order": k, "data": data},
        )
        for name, data, title, reference in (
            ("dpm-solver", False, "DPM-Solver({}M)", "DPM-Solver++, Algorithm 2, with ε"),
            ("dpmpp", True, "DPM-Solver++({}M)", "DPM-Solver++, Algorithm 2"),
        )
        for k in (2, 3)
    ]
    rows += [
        Solver(
            f"unipc-{k}",
            "unipc:unipc",
            f"UniPC-{k}",
            order,
            "uniform-lambda",
            "UniPC, Algorithms 1 and 2",
            rules=f"{RISING}; the order falls again over the last steps, the last is not corrected",
            options={"order": k},
        )
        for k, order in ((1, 2), (2, 2), (3, 2), (4, 2))
    ]
    rows += [
        Solver(
            "dpm2",
            "ancestral:dpm2",
            "DPM-2",
            2,
            "rho7",
            "k-diffusion",
            calls=2,
            single_last=True,
            rules=f"each step for itself; {DDIM_LAST}",
        ),
        Solver(
            "dpm2-ancestral",
            "ancestral:dpm2",
            "DPM-2 ancestral",
            1,
            "rho7",
            "k-diffusion",
            calls=2,
            single_last=True,
            rules="no noise in a step to ρ = 0",
            options={"eta": 1.0},
        ),
        Solver(
            "dpmpp-2s-ancestral",
            "ancestral:dpmpp_2s",
            "DPM++ 2S ancestral",
            1,
            "rho7",
            "k-diffusion",
            calls=2,
            single_last=True,
            rules="no noise in a step to ρ = 0",
            options={"eta": 1.0},
        ),
        Solver(
            "dpmpp-sde",
            "ancestral:dpmpp_sde",
            "DPM++ SDE",
            1,
            "rho7",
            "k-diffusion",
            calls=2,
            single_last=True,
            rules=f"each step for itself; {DDIM_LAST}",
        ),
        Solver(
            "dpmpp-2m-sde",
            "dpm_solver:dpm_solver_multistep",
            "SDE-DPM-Solver++(2M)",
            1,
            "rho7",
            "DPM-Solver++, SDE form",
            rules=f"{RISING}; {DDIM_LAST}",
            options={"order": 2, "eta": 1.0},
        ),
        Solver(
            "dpmpp-3m-sde",
            "dpm_solver:dpm_solver_multistep",
            "SDE-DPM-Solver++(3M)",
            1,
            "rho7",
            "k-diffusion",
            rules=f"{RISING}; {DDIM_LAST}",
            options={"order": 3, "taylor": True, "eta": 1.0},
        ),
    ]
    rows += [
        Solver(
            "plms",
            "pndm:plms",
            "PLMS",
            2,
            "uniform",
            "latent diffusion",
            extra=1,
            min_steps=2,
            rules="a pseudo improved-Euler step, then rising; the weights of equal steps in ρ",
        ),
        Solver(
            "sde-dpm-solver-2m",
            "dpm_solver:dpm_solver_multistep",
            "SDE-DPM-Solver(2M)",
            1,
            "uniform-lambda",
            "DPM-Solver++, SDE form with ε",
            rules=f"{RISING}; {DDIM_LAST}",
            options={"order": 2, "data": False, "eta": 1.0},
        ),
        Solver(
            "euler-maruyama",
            "score_sde:euler_maruyama",
            "Euler–Maruyama",
            1,
            "quadratic",
            "score SDE, Eq. 6",
            rules="the last step without noise",
        ),
        Solver(
            "ancestral",
            "score_sde:ancestral",
            "ancestral",
            1,
            "uniform",
            "score SDE, Eq. 4",
            rules="the last step without noise",
        ),
        Solver(
            "reverse-diffusion",
            "score_sde:reverse_diffusion",
            "reverse diffusion",
            1,
            "quadratic",
            "score SDE, Eq. 46",
            rules="the last step without noise",
        ),
        Solver(
            "reverse-diffusion-ode",
            "score_sde:reverse_diffusion",
            "reverse diffusion, ODE",
            1,
            "quadratic",
            "score SDE, Eq. 46",
            rules=FIRST_ORDER,
            options={"flow": True},
        ),
        Solver(
            "quasi-taylor",
            "ito_taylor:quasi_taylor",
            "quasi-Taylor",
            1,
            "rho7",
            "Tachibana et al.",
            rules=f"each step for itself; {DDIM_LAST}",
        ),
        Solver(
            "analytic-ddpm",
            "analytic_dpm:analytic_dpm",
            "Analytic-DDPM",
            1,
            "uniform",
            "Analytic-DPM, Theorem 1",
            rules="no noise in a step to ρ = 0; by default the variance of standard normal data",
            options={"eta": 1.0},
        ),
        Solver(
            "analytic-ddim",
            "analytic_dpm:analytic_dpm",
            "Analytic-DDIM",
            1,
            "uniform",
            "Analytic-DPM, Theorem 1",
            rules="no noise in a step to ρ = 0; by default the variance of standard normal data",
            options={"eta": 0.0},
        ),
        Solver(
            "ito-taylor",
            "ito_taylor:ito_taylor",
            "Itô–Taylor",
            1,
            "rho7",
            "Tachibana et al.",
            rules="no noise in a step to ρ = 0",
        ),
    ]
    return {row.name: row for row in rows}


SOLVERS: dict[str, Solver] = _table()
"""All solvers by name."""

ALIASES = {
    "euler-ancestral": "ddpm-beta-tilde",
    "edm-euler": "ddim",
    "edm-midpoint": "deis-rhork-midpoint",
    "distance-descent": "ddim",
    "dpm-solver-1": "ddim",
    "dpm-solver-1m": "ddim",
    "dpmpp-1": "ddim",
    "dpmpp-1m": "ddim",
    "deis-rhork-euler": "ddim",
    "deis-lambdaab0": "ddim",
    "ipndm-v-1": "ddim",
    "lms-1": "ddim",
    "lms-2": "deis-rhoab1",
    "lms-3": "deis-rhoab2",
    "lms-4": "deis-rhoab3",
    "ipndm-v-2": "deis-rhoab1",
    "ipndm-v-3": "deis-rhoab2",
    "ipndm-v-4": "deis-rhoab3",
}
"""Other names of the same tables: k-diffusion's LMS and variable-step iPNDM are variable-step Adams–Bashforth in ρ."""


ADAPTIVE = {
    "rk45": "rk45",
    "dpm-solver-adaptive": "dpm_solver_adaptive",
    "predictor-corrector": "predictor_corrector",
}
"""Samplers that are no plans, and their functions in :mod:`fewstep.adaptive`."""


def get(name: str) -> Solver:
    """The solver called ``name``, by its own name or an alias; UserError with the nearest names if there is none."""
    name = ALIASES.get(name, name)
    if name in ADAPTIVE:
        raise UserError(
            f"{name} has no table, since it chooses its calls while it runs; call fewstep.adaptive.{ADAPTIVE[name]}"
        )
    if name not in SOLVERS:
        raise unknown("solver", name, [*SOLVERS, *ALIASES])
    return SOLVERS[name]


def build(
    name: str,
    process: Process,
    nfe: int,
    grid: str | grids.Grid | None = None,
    grid_options: Mapping[str, float] | None = None,
    **options: Any,
) -> Plan:
    """The plan of a solver that spends at most ``nfe`` network calls.

    ``nfe`` is a budget: the plan takes the largest number of steps whose calls fit; ``plan.nfe`` says what it spends.

    Args:
        name: a key of :data:`SOLVERS`.
        process: the diffusion process of the network.
        nfe: the budget of network calls.
        grid: a name in :data:`fewstep.grids.GRIDS` (default: the solver's own), or the times themselves.
        grid_options: keywords of the grid function.
        options: keywords of the solver, such as ``eta`` or ``gamma``.

    Raises:
        UserError: for unknown names or options, values out of range, and budgets that the solver cannot spend.
    """
    solver = get(name)
    function = solver.load()
    parameters = list(inspect.signature(function).parameters)[2:]
    allowed = set(parameters) - {"nfe"} - set(solver.options)
    for option in options:
        if option not in allowed:
            raise (
                unknown(f"option of {name}", option, allowed)
                if allowed
                else UserError(f"{name} takes no option {option!r}")
            )
    if isinstance(grid, str) or grid is None:
        grid = solver.default_grid if grid is None else grid
        options_of_grid = dict(grid_options or {})
        end = float(options_of_grid.get("t_end", process.t_end))
        steps = solver.steps(nfe, clean_end=float(process.rho(end)) == 0.0)
        times = grids.build(grid, process, steps, **options_of_grid)
    else:
        times = grids.check(process, grid)
        needed = solver.nfe(len(times) - 1, clean_end=float(process.rho(times[-1])) == 0.0)
        if needed > nfe:
            raise UserError(f"{name} on this grid makes {needed} network calls, more than {nfe}")
    if "nfe" in parameters:  # a solver that chooses its orders by the budget
        options["nfe"] = nfe
    return function(process, times, **solver.options, **options)
