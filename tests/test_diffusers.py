"""diffusers' schedulers, run live beside this package's solvers on one exact problem.

Their tables and casts are float32; here their modules see a torch and a NumPy whose float32 is float64, so that what
is left of a difference is a difference of the methods. Step counts are not those of the golden vectors.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.exact import example
from fewstep.plan import Plan
from fewstep.run import sample
from fewstep.schedules import _VP, EDM, Process, linear_vp
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde
from fewstep.solvers.deis import lambda_ab, rho_ab
from fewstep.solvers.dpm_solver import dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.edm import edm_heun
from fewstep.solvers.pndm import f_pndm, ipndm, plms
from fewstep.solvers.unipc import unipc

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # their noise form is marked as deprecated
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]

STEPS = (7, 12, 25, 50)
DISCRETE, SIGMAS = linear_vp(), EDM(sigma_max=1e6)
LABELS = np.arange(1000.0)
START = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NOISE = torch.randn(60, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PATH = "diffusers.schedulers.scheduling_"


class Double:
    """A module whose float32 is float64."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, "float64" if name == "float32" else name)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def theirs(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    n: int,
    network: Callable[[Tensor, Tensor], Tensor],
    config: dict[str, Any],
    step: dict[str, Any],
) -> tuple[Tensor, int]:
    """x_0 and the number of calls of the scheduler ``file:class``."""
    file, kind = name.split(":")
    module = importlib.import_module(PATH + file)
    draws = iter(NOISE)
    for attribute, value in {
        "torch": Double(torch),
        "np": Double(np),
        "randn_tensor": lambda shape, **_: next(draws),
    }.items():
        monkeypatch.setattr(module, attribute, value, raising=False)
    scheduler = getattr(module, kind)(**config)
    scheduler.set_timesteps(n)
    x = START * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        told = torch.full((len(x),), float(t))
        inside = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(inside, told), t, x, **step).prev_sample
    assert x.dtype == torch.float64
    return x, len(scheduler.timesteps)


# The networks: ε at labels; ε at noise levels, whose labels lie between those of the table; EDM's F; v of IPNDM.

MIXTURE = example(DISCRETE)


def label(sigma: Tensor) -> Tensor:
    """The label, a fraction too, at which the table of ρ, joined linearly, has this value."""
    return torch.as_tensor(np.interp(sigma.numpy(), DISCRETE.rho(LABELS), LABELS))


def on_levels(x: Tensor, sigma: Tensor) -> Tensor:
    """ε at the state x̄."""
    return MIXTURE(x / torch.hypot(torch.ones(()), sigma)[:, None], label(sigma))


def edm_network(x: Tensor, told: Tensor) -> Tensor:
    """EDM's F with D = c_skip x + c_out F and σ_data = ½, from its scaled input and ¼ log σ."""
    sigma = torch.exp(4.0 * told)
    total = sigma**2 + 0.25
    x = x * total.sqrt()[:, None]
    denoised = example(SIGMAS).x0(x, sigma)
    return (denoised - (0.25 / total)[:, None] * x) / (0.5 * sigma / total.sqrt())[:, None]


class Sine(_VP):
    """σ = sin(πt/2)."""

    t_min, t_end, t_max = 0.0, 0.0, 1.0

    def log_alpha(self, t):
        return np.log(np.cos(0.5 * np.pi * np.asarray(t, dtype=np.float64)))


SINE = Sine()


def v_network(x: Tensor, t: Tensor) -> Tensor:
    """v = αε − σD."""
    alpha, sigma = np.cos(0.5 * np.pi * float(t[0])), np.sin(0.5 * np.pi * float(t[0]))
    mixture = example(SINE)
    return alpha * mixture(x, t) - sigma * mixture.x0(x, t)


# Ours


def leading(n: int) -> np.ndarray:
    return np.append(np.arange(n)[::-1] * float(1000 // n), -1.0)


def spread(n: int, end: float = -1.0) -> np.ndarray:
    """n of n + 1 rounded labels from 999 to 0, then the end."""
    return np.append(np.round(np.linspace(999, 0, n + 1))[:-1], end)


def levels(n: int) -> np.ndarray:
    return np.append(np.interp(np.linspace(999, 0, n), LABELS, DISCRETE.rho(LABELS)), 0.0)


def lower(order: int) -> Callable[[int], int]:
    """Below 15 steps their multistep solvers lower the order at the end."""
    return lambda n: order if n < 15 else 0


@dataclass
class Case:
    """A scheduler with its settings, and the plan and the start's scale that it amounts to for n steps."""

    name: str
    plan: Callable[[int], Plan]
    config: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    process: Process = DISCRETE
    model: Callable[[Tensor, Tensor], Tensor] = MIXTURE
    theirs: Callable[[Tensor, Tensor], Tensor] = MIXTURE
    scale: Callable[[int], float] = lambda n: 1.0
    steps: tuple[int, ...] = STEPS


def multistep(algorithm: str, order: int, kind: str, end: str) -> Case:
    data, taylor, clean = algorithm.endswith("++"), kind == "heun", end == "zero"

    def plan(n: int) -> Plan:
        times, final = spread(n, -1.0 if clean else 0.0), lower(order)(n)
        if algorithm.startswith("sde"):
            return dpm_solver_multistep(DISCRETE, times, order, data, taylor, final, eta=1.0)
        return dpm_solver_multistep(DISCRETE, times, order, data, taylor, final)

    config = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind, "final_sigmas_type": end}
    return Case("dpmsolver_multistep:DPMSolverMultistepScheduler", plan, config)


def singlestep(algorithm: str, order: int, kind: str) -> Case:
    """Steps of ``order`` whose stages lie on the grid of labels; the last ones of lower order, to end with order 1."""

    def plan(n: int) -> Plan:
        times = spread(n, 0.0)
        orders = [order] * (n // order) + ([n % order] if n % order else [])
        if n % order == 0 and order > 1:
            orders[-1:] = [order - 1, 1]

        def between(process: Process, count: int, t_start: float, t_end: float) -> np.ndarray:
            return times[(times <= t_start) & (times >= t_end)]

        coarse = times[np.cumsum([0, *orders])]
        return dpm_solver_singlestep(DISCRETE, coarse, orders, algorithm == "dpmsolver++", kind == "heun", between)

    config = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind, "final_sigmas_type": "sigma_min"}
    config["lower_order_final"] = True
    return Case("dpmsolver_singlestep:DPMSolverSinglestepScheduler", plan, config)


def unipc_case(order: int, basis: str, data: bool, end: str) -> Case:
    config = {"solver_order": order, "solver_type": basis, "predict_x0": data, "final_sigmas_type": end}
    return Case(
        "unipc_multistep:UniPCMultistepScheduler",
        lambda n: unipc(DISCRETE, spread(n, -1.0 if end == "zero" else 0.0), order, basis, data),
        config,
    )


def level_case(name: str, solver: Callable[[Process, np.ndarray], Plan]) -> Case:
    return Case(
        name,
        lambda n: solver(SIGMAS, levels(n)),
        {"timestep_spacing": "linspace", "beta_start": 1e-4, "beta_end": 2e-2, "beta_schedule": "linear"},
        process=SIGMAS,
        model=on_levels,
        scale=lambda n: float(levels(n)[0]),
    )


def edm_levels(n: int) -> np.ndarray:
    return np.append(np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n) ** 7, 0.0)


def sine_times(n: int) -> np.ndarray:
    """σ = sin²(πu/2), u uniform. The scheduler starts at α = 0, where x̄ does not exist: we start at α = 1e-6."""
    times = 2 / np.pi * np.arcsin(np.sin(0.5 * np.pi * np.linspace(1.0, 0.0, n + 1)) ** 2)
    times[0] = 2 / np.pi * np.arccos(1e-6)
    return times


def v_model(x: Tensor, t: Tensor) -> Tensor:
    """At α = 0 a network that predicts v says no more of ε = σx + αv than that it is x = x/σ."""
    start = float(np.cos(0.5 * np.pi * float(t[0]))) < 1e-5
    return x / float(SINE.sigma(float(t[0]))) if start else example(SINE)(x, t)


FREE, CLEAN = {"clip_sample": False}, {"set_alpha_to_one": True}

CASES = {
    "ddim": Case("ddim:DDIMScheduler", lambda n: ddim(DISCRETE, leading(n)), FREE),
    "ddim-eta": Case("ddim:DDIMScheduler", lambda n: ddim(DISCRETE, leading(n), 0.7), FREE, step={"eta": 0.7}),
    "ddpm": Case("ddpm:DDPMScheduler", lambda n: ddpm(DISCRETE, leading(n)), FREE | {"variance_type": "fixed_large"}),
    "ddpm-small": Case("ddpm:DDPMScheduler", lambda n: ddpm_beta_tilde(DISCRETE, leading(n)), FREE),
    "pndm": Case(
        "pndm:PNDMScheduler", lambda n: f_pndm(DISCRETE, leading(n)), {"set_alpha_to_one": True}, steps=(7, 15, 25)
    ),
    "pndm-skip-prk": Case("pndm:PNDMScheduler", lambda n: plms(DISCRETE, leading(n)), CLEAN | {"skip_prk_steps": True}),
    "ipndm": Case(
        "ipndm:IPNDMScheduler", lambda n: ipndm(SINE, sine_times(n)), process=SINE, model=v_model, theirs=v_network
    ),
    "heun": level_case("heun_discrete:HeunDiscreteScheduler", edm_heun),
    "euler": level_case("euler_discrete:EulerDiscreteScheduler", ddim),
    "euler-ancestral": level_case(
        "euler_ancestral_discrete:EulerAncestralDiscreteScheduler", lambda q, t: ddim(q, t, 1.0)
    ),
    "lms": level_case("lms_discrete:LMSDiscreteScheduler", lambda q, t: rho_ab(q, t, 3)),
    "edm-euler": Case(
        "edm_euler:EDMEulerScheduler",
        lambda n: ddim(SIGMAS, edm_levels(n)),
        process=SIGMAS,
        model=example(SIGMAS),
        theirs=edm_network,
        scale=lambda n: float(np.hypot(80.0, 1.0)),
    ),
    "edm-dpm-2m": Case(
        "edm_dpmsolver_multistep:EDMDPMSolverMultistepScheduler",
        lambda n: dpm_solver_multistep(SIGMAS, edm_levels(n), 2, final=lower(2)(n)),
        process=SIGMAS,
        model=example(SIGMAS),
        theirs=edm_network,
        scale=lambda n: float(np.hypot(80.0, 1.0)),
    ),
}
CASES |= {
    f"deis-{k}": Case(
        "deis_multistep:DEISMultistepScheduler",
        lambda n, k=k: lambda_ab(DISCRETE, spread(n, 0.0), k - 1, lower(k)(n)),
        {"solver_order": k},
    )
    for k in (1, 2, 3)
}
CASES |= {
    f"{algorithm}-{order}{kind[0]}-{end}": multistep(algorithm, order, kind, end)
    for algorithm, order, kind, end in [
        ("dpmsolver++", 1, "midpoint", "zero"),
        ("dpmsolver++", 2, "midpoint", "zero"),
        ("dpmsolver++", 2, "heun", "sigma_min"),
        ("dpmsolver++", 3, "midpoint", "zero"),
        ("dpmsolver", 2, "midpoint", "sigma_min"),
        ("dpmsolver", 3, "heun", "sigma_min"),
        ("sde-dpmsolver++", 1, "midpoint", "sigma_min"),
        ("sde-dpmsolver++", 2, "midpoint", "zero"),
        ("sde-dpmsolver++", 2, "heun", "sigma_min"),
        ("sde-dpmsolver", 1, "midpoint", "sigma_min"),
        ("sde-dpmsolver", 2, "midpoint", "sigma_min"),
        ("sde-dpmsolver", 2, "heun", "sigma_min"),
    ]
}
CASES |= {
    f"single-{algorithm}-{order}{kind[0]}": singlestep(algorithm, order, kind)
    for algorithm, order, kind in [
        ("dpmsolver++", 2, "midpoint"),
        ("dpmsolver++", 3, "heun"),
        ("dpmsolver", 1, "midpoint"),
        ("dpmsolver", 2, "heun"),
        ("dpmsolver", 3, "heun"),
    ]
}
CASES |= {
    f"unipc-{order}-{basis}-{'data' if data else 'noise'}-{end}": unipc_case(order, basis, data, end)
    for order, basis, data, end in [
        (1, "bh2", True, "zero"),
        (2, "bh1", True, "sigma_min"),
        (2, "bh2", True, "zero"),
        (3, "bh2", True, "zero"),
        (3, "bh1", False, "sigma_min"),
    ]
}


@pytest.mark.parametrize(("name", "n"), [(name, n) for name, case in CASES.items() for n in case.steps])
def test_same_as_diffusers(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    expected, calls = theirs(monkeypatch, case.name, n, case.theirs, case.config, case.step)
    plan = case.plan(n)
    x = sample(plan, case.model, case.scale(n) * START, noise=NOISE.__getitem__, dtype=torch.float64)
    assert plan.nfe == calls
    assert float((x - expected).abs().max() / expected.abs().max()) < 1e-9
