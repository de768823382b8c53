"""The vectors of diff-sampler."""

from __future__ import annotations

import re

import numpy as np

from fewstep import grids
from fewstep.models.protocol import thresholded
from fewstep.solvers import ancestral
from fewstep.solvers.coefficients import adams_bashforth, lagrange
from fewstep.solvers.ddim import ddim
from fewstep.solvers.deis import _adams, rho_ab, rho_rk
from fewstep.solvers.dpm_solver import dpm_solver_multistep
from fewstep.solvers.pndm import ipndm
from fewstep.solvers.unipc import unipc

from .edm import fitted_vp
from .problem import EDM, Problem, Run, replay

VP = fitted_vp(0.002, 80.0, 1e-3)
"""The clock of "time_uniform" and of tAB: a VP SDE that reaches 80 at t = 1 and 0.002 at t = 1e-3."""


def _rectangles(nodes, rho_t, rho_u):
    """tAB weights as the program integrates them: 10,000 values from end to end, each times a 10,000th of the step.

    The first step, with nothing to extrapolate, is exact.
    """
    if len(nodes) == 1:
        return np.array([rho_u - rho_t])
    t, u = VP.t_of_rho([rho_t, rho_u])
    tau = np.linspace(t, u, 10_000)
    return lagrange(VP.t_of_rho(nodes), tau) @ (VP.drho(tau) * (u - t) / 10_000)


def _misplaced(nodes, rho_t, rho_u):
    r"""The weights of ``ipndm_v``: Adams–Bashforth's in Newton's form, but for three slips above order 2.

    With the step h and the steps h₁, h₂, h₃ before it, let :math:`a = \frac{h}{3(h + h_1)}`,
    :math:`b = \frac{h(h + h_1)}{h_1(h_1 + h_2)}`, :math:`c = (1 - \frac{h}{2(h + h_1)})\frac{h}{6(h + h_1 + h_2)}`.

    1. The second difference weighs (1 − ab)/2 instead of (1 − a)b/2: the misplaced parenthesis.
    2. The third weighs (1 − a)/2 + c instead of (1 − a)/2 − c, times its own ratio.
    3. The oldest output enters the third with h₁/h₂ for h₂/h₃, so that the weights no longer sum to h.

    With any of them the order is 2 on a smooth grid; with 3 a grid of uneven ratios is not even consistent.
    """
    if len(nodes) < 3:
        return adams_bashforth(nodes, rho_t, rho_u)
    h, h1, h2, *older = np.diff([*nodes[::-1], rho_u])[::-1]
    a, b = h / (3 * (h + h1)), h * (h + h1) / (h1 * (h1 + h2))
    weights = np.zeros(len(nodes))
    weights[:2] += [1 + h / (2 * h1), -h / (2 * h1)]
    weights[:3] += (1 - a * b) / 2 * np.array([1, -1 - h1 / h2, h1 / h2])
    if older:
        h3 = older[0]
        c = (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
        ratio = h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
        q = h1 * (h1 + h2) / (h2 * (h2 + h3))
        weights += (
            ((1 - a) / 2 + c) * ratio * np.array([1, -1 - h1 / h2 - q, h1 / h2 + q * (1 + h2 / h3), -q * h1 / h2])
        )
    return h * weights


def _diff_sampler(p: Problem, run: str, n: int, info, data) -> Run | None:
    found = re.fullmatch(r"(.*)_(polynomial|logsnr|time_uniform)", run)
    name, phase = found[1], found[2]
    if phase == "polynomial":
        sigmas = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n + 1) ** 7
    elif phase == "logsnr":
        sigmas = np.geomspace(80, 0.002, n + 1)
    else:
        sigmas = VP.rho(grids.uniform(VP, n, t_end=1e-3))
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
    elif name.startswith("dpm_pp"):
        plan = dpm_solver_multistep(EDM, sigmas, order, "x0" in name, False, lof and order)
    elif name.startswith("unipc"):
        plan = unipc(EDM, sigmas, order, re.search(r"bh\d", name)[0], "x0" in name, lof)
    elif name.startswith("deis_rhoab"):
        plan = rho_ab(EDM, sigmas, order - 1)
    elif name.startswith("deis_tab"):
        plan = _adams(EDM, sigmas, order - 1, _rectangles)
    elif name.startswith("ipndm_v"):
        plan = _adams(EDM, sigmas, order - 1, _misplaced)
    else:
        return None
    model = p.model(EDM)
    return replay(p, plan, thresholded(model, EDM) if "_thresh" in name else model, 80.0)


BUILDERS = {"diff-sampler": _diff_sampler}
