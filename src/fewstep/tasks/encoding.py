r"""Images as codes: the probability-flow ODE from data to noise, and back (DDIM §4.3 and §5.4; score SDE, App. D.4).

A deterministic plan falls along :math:`\rho` and turns noise into an image. An :func:`encoder` is the same method on
the same times in the other order: it rises along :math:`\rho` and turns an image into noise, its *code*. Decoding the
code returns the image up to the discretization error of both.

Images enter and leave as :math:`\bar x = x/\alpha` at the noise level where the plans end; no network knows less noise.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .. import grids, solvers
from ..errors import UserError
from ..grids import Grid
from ..plan import Plan, Term
from ..run import Model, sample
from ..schedules import DiscreteVP, Float, Process
from ..solvers.deis import rho_ab, rho_rk

__all__ = [
    "Mirrored",
    "check_images",
    "data_time",
    "decode",
    "decoder",
    "encode",
    "encoder",
    "interpolation_grid",
    "mirrored",
    "reconstruction_error",
    "slerp",
]

ONE_WAY = {
    "rk4",
    "pndm-prk",
    "deis-lambdaab1",
    "deis-lambdaab2",
    "deis-lambdaab3",
    "dpm-solver-fast",
    "dpm2",
    "quasi-taylor",
}
"""Solvers that decide by the sign of ρ, or take logs or roots of it, and of which there is no other form here."""

TWINS: dict[str, tuple[Callable[..., Plan], dict[str, Any]]] = {
    "ddim": (rho_ab, {"order": 0}),
    "edm-heun": (rho_rk, {"method": "heun"}),
}
"""The same table by a program that takes no roots of ρ and asks for no positive one."""


class Mirrored(Process):
    r"""The same process with its clock reversed, s = −t, and its noise renamed: :math:`\sigma \to -\sigma`.

    Since :math:`x = \alpha x_0 + \sigma z = \alpha x_0 + (-\sigma)(-z)`, the level :math:`-\sigma(t)` and the noise
    :math:`-z` describe the same states; in s that level rises as every process's does. A solver on a grid that falls in
    s therefore goes from data to noise, and its ε is the network's :math:`-\varepsilon`.
    """

    def __init__(self, process: Process) -> None:
        ends = {"t_min": -process.t_max, "t_max": -process.t_min, "t_end": -process.t_max}
        for name, value in {"process": process, "prior_std": process.prior_std, **ends}.items():
            object.__setattr__(self, name, value)  # a discrete process is frozen

    process: Process

    def log_alpha(self, t: ArrayLike) -> Float:
        return self.process.log_alpha(np.negative(t))

    def rho(self, t: ArrayLike) -> Float:
        return -self.process.rho(np.negative(t))

    def t_of_rho(self, rho: ArrayLike) -> Float:
        return -self.process.t_of_rho(np.negative(rho))

    def dlog_alpha(self, t: ArrayLike) -> Float:
        return -self.process.dlog_alpha(np.negative(t))

    def drho(self, t: ArrayLike) -> Float:
        return self.process.drho(np.negative(t))


class _MirroredDiscrete(Mirrored, DiscreteVP):
    """Its labels are s = 1 − N … 1, and quadrature (tAB) stops at each of them as it does on the process itself."""

    def dlog_alpha(self, t: ArrayLike) -> Float:
        return -self.process.dlog_alpha(self._ahead(t))

    def drho(self, t: ArrayLike) -> Float:
        return self.process.drho(self._ahead(t))

    def _ahead(self, t: ArrayLike) -> Float:
        # At a label the slope is that of the piece above, where a sampler is heading here.
        return np.minimum(np.nextafter(np.negative(t), np.inf), self.process.t_max)


class _Swapped(Mirrored):
    r"""The process with s = −t whose data is the noise: :math:`\alpha \leftrightarrow \sigma, x_0 \leftrightarrow z`.

    Here :math:`\rho \to 1/\rho` is positive and falls, as rules in λ = −log ρ need it, and the prediction of ε becomes
    that of the data: DPM-Solver on this process is DPM-Solver++ on the other one, and vice versa.
    """

    def log_alpha(self, t: ArrayLike) -> Float:
        return np.log(self.process.sigma(np.negative(t)))

    def rho(self, t: ArrayLike) -> Float:
        return 1.0 / self.process.rho(np.negative(t))

    def t_of_rho(self, rho: ArrayLike) -> Float:
        return -self.process.t_of_rho(1.0 / np.asarray(rho, dtype=np.float64))


def mirrored(process: Process) -> Mirrored:
    """The process seen from the data: see :class:`Mirrored`."""
    return _MirroredDiscrete(process) if isinstance(process, DiscreteVP) else Mirrored(process)


def data_time(process: Process) -> float:
    """Where images enter: the smallest time that the network knows (label 0, or t_end, but not below ρ = 0.002)."""
    if isinstance(process, DiscreteVP):
        return 0.0
    return process.t_end if process.rho(process.t_end) > 0 else float(process.t_of_rho(0.002))


def _times(
    solver: solvers.Solver,
    process: Process,
    nfe: int,
    grid: str | Grid | None,
    t_data: float | None,
    options: Mapping[str, float] | None,
) -> Grid:
    if not (grid is None or isinstance(grid, str)):
        return grids.check(process, grid)
    name = solver.default_grid if grid is None else grid
    if name in grids.GRIDS and "t_end" not in inspect.signature(grids.GRIDS[name]).parameters:
        raise UserError(
            f"grid {name!r} ends at clean data, where no network was trained; one such as 'uniform' does not"
        )
    end = data_time(process) if t_data is None else t_data
    steps = solver.steps(nfe, clean_end=float(process.rho(end)) == 0.0)
    return grids.build(name, process, steps, **{**(options or {}), "t_end": end})


def decoder(
    name: str,
    process: Process,
    nfe: int,
    grid: str | Grid | None = None,
    *,
    t_data: float | None = None,
    grid_options: Mapping[str, float] | None = None,
    **options: Any,
) -> Plan:
    """The plan from noise to data of a deterministic solver that spends at most ``nfe`` calls.

    Args:
        name: a key of :data:`fewstep.solvers.SOLVERS`.
        process: of the network.
        nfe: the budget of network calls.
        grid: a name in :data:`fewstep.grids.GRIDS` (default: the solver's own), or the falling times themselves.
        t_data: where a named grid ends; :func:`data_time` unless given.
        grid_options: keywords of the grid function.
        options: keywords of the solver.

    Raises:
        UserError: as :func:`fewstep.solvers.build`, and for a solver that injects noise.
    """
    solver = solvers.get(name)
    times = _times(solver, process, nfe, grid, t_data, grid_options)
    plan = solvers.build(name, process, nfe, times, **options)
    if plan.stochastic:
        raise UserError(f"{name} injects noise and has no way back; a deterministic solver such as ddim is needed")
    return plan


def encoder(
    name: str,
    process: Process,
    nfe: int,
    grid: str | Grid | None = None,
    *,
    t_data: float | None = None,
    grid_options: Mapping[str, float] | None = None,
    **options: Any,
) -> Plan:
    r"""The plan from data to noise: the method and the times of :func:`decoder`, in the other order.

    For DDIM a step is :math:`\bar x_u = \bar x_t + (\rho_u - \rho_t)\,\varepsilon_t` with
    :math:`\rho_u > \rho_t` (DDIM, Eq. 14). The solver itself writes the table, on the process as it looks from the data
    (:class:`Mirrored`), so that a method keeps its order. The arguments are those of :func:`decoder`; ``prior_std`` of
    the plan is the standard deviation of the codes.

    Raises:
        UserError: as :func:`decoder`, and for the few solvers that cannot be reversed.
    """
    decoder(name, process, nfe, grid, t_data=t_data, grid_options=grid_options, **options)  # what it refuses
    solver = solvers.get(name)
    if solver.name in ONE_WAY:
        raise UserError(f"{name} runs from noise to data only; ddim, deis-tab3 or deis-rhork-kutta3 run both ways")
    times = -_times(solver, process, nfe, grid, t_data, grid_options)[::-1]
    function, keywords = TWINS.get(solver.name, (solver.load(), {**solver.options, **options}))
    parameters = inspect.signature(function).parameters
    if "data" not in parameters:
        return _renamed(function(mirrored(process), times, **keywords), process, _noise)
    if float(process.rho(-times[0])) == 0.0:
        raise UserError(f"{name} works in log ρ and cannot leave clean data, where ρ = 0; t_data must be a later time")
    keywords["data"] = not keywords.get("data", parameters["data"].default)
    return _renamed(function(_Swapped(process), times, **keywords), process, _data)


def _noise(alpha: float, sigma: float) -> tuple[float, float]:
    """The mirrored process's ε as weights of the state and of the network's ε."""
    return 0.0, -1.0


def _data(alpha: float, sigma: float) -> tuple[float, float]:
    """The swapped process's ε: the denoised value (x − σ ε)/α."""
    return 1.0 / alpha, -sigma / alpha


def _renamed(plan: Plan, process: Process, meaning: Callable[[float, float], tuple[float, float]]) -> Plan:
    """A plan of a reversed process in the times and the ε of the process itself."""
    times = -plan.times + 0.0  # no negative zero
    alpha, sigma = process.alpha(times), process.sigma(times)
    states = []
    for terms in plan.states:
        found: dict[Term, float] = {}
        for (kind, index), weight in terms.items():
            if kind != "e":
                found[kind, index] = found.get((kind, index), 0.0) + weight
                continue
            of_state, of_eps = meaning(float(alpha[index]), float(sigma[index]))
            found["e", index] = weight * of_eps
            if of_state:
                state = ("x", plan.inputs[index])
                found[state] = found.get(state, 0.0) + weight * of_state
        states.append(found)
    return Plan(times, alpha, sigma, plan.inputs, tuple(states), plan.draws, process.prior_std)


def check_images(images: Tensor, model: Model | None = None) -> Tensor:
    """The images, if they are a batch of finite numbers in [−1, 1] of the shape that the model states.

    Raises:
        UserError: otherwise.
    """
    shape = (getattr(model, "config", None) or {}).get("shape")
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise UserError(f"images of shape {tuple(images.shape[1:])} do not fit; this network takes {tuple(shape)}")
    if images.ndim < 2 or not len(images):
        raise UserError(f"a batch of images is needed, got shape {tuple(images.shape)}")
    worst = float(images.abs().max())
    if not worst <= 1.0 + 1e-6:
        raise UserError(f"images must lie in [-1, 1], got a value of magnitude {worst:g}")
    return images


def check_direction(plan: Plan, rising: bool) -> None:
    """UserError unless the plan is deterministic and goes towards noise (``rising``), or towards data."""
    if plan.stochastic:
        raise UserError("the plan injects noise and encodes nothing; a deterministic solver such as ddim is needed")
    rho = plan.sigma[[0, -1]] / plan.alpha[[0, -1]]
    if (rho[1] > rho[0]) != rising:
        need, make = ("data to noise", "encoder") if rising else ("noise to data", "decoder")
        raise UserError(
            f"a plan from {need} is needed, this one goes from ρ = {rho[0]:g} to {rho[1]:g}: build it with {make}()"
        )


def encode(
    plan: Plan, model: Model, images: Tensor, *, dtype: torch.dtype = torch.float32, batch_size: int = 256
) -> Tensor:
    """The codes of images: states at ``plan.times[-1]``, shape of ``images``.

    Args:
        plan: from :func:`encoder`.
        model: an ε-model.
        images: shape (B, \\*shape), in [−1, 1].
        dtype: of states and combinations.
        batch_size: images per network call.

    Raises:
        UserError: for images of another shape or outside [−1, 1], a stochastic plan, or one from noise to data.
    """
    check_direction(plan, rising=True)
    states = float(plan.alpha[0]) * check_images(images, model)
    return torch.cat([sample(plan, model, part, dtype=dtype) for part in states.split(batch_size)])


def decode(
    plan: Plan, model: Model, codes: Tensor, *, dtype: torch.dtype = torch.float32, batch_size: int = 256
) -> Tensor:
    r"""The images :math:`\bar x = x/\alpha` of codes, shape of ``codes``.

    Args:
        plan: from :func:`decoder`, or any deterministic plan from noise to data.
        model: an ε-model.
        codes: shape (B, \*shape), at ``plan.times[0]``.
        dtype: of states and combinations.
        batch_size: images per network call.

    Raises:
        UserError: for a stochastic plan, or one from data to noise.
    """
    check_direction(plan, rising=False)
    found = torch.cat([sample(plan, model, part, dtype=dtype) for part in codes.split(batch_size)])
    return found / float(plan.alpha[-1])


def reconstruction_error(images: Tensor, found: Tensor) -> Tensor:
    r"""The mean squared difference per dimension of each image, in units where images fill [0, 1] (DDIM, Table 2).

    For images in [−1, 1] that is :math:`\lVert x - x'\rVert^2/4d`. Shape (B,).
    """
    return ((images - found) / 2.0).flatten(1).square().mean(1)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    r"""Spherical interpolation of each pair of codes (DDIM, Eq. 67), which keeps the length that noise has:

    .. math:: \frac{\sin((1 - w)\theta)}{\sin\theta}\,a + \frac{\sin(w\theta)}{\sin\theta}\,b, \qquad
              \cos\theta = \frac{a\cdot b}{\lVert a\rVert\,\lVert b\rVert} .

    Where a and b point the same way it is the linear one, its limit.

    Args:
        a: shape (B, \*shape); the result at ``weight`` 0.
        b: as ``a``; the result at 1.
        weight: w.

    Raises:
        UserError: for codes of different shapes, or two in opposite directions, between which there is no one path.
    """
    if a.shape != b.shape:
        raise UserError(f"codes of one shape are needed, got {tuple(a.shape)} and {tuple(b.shape)}")
    one, two = (c.double().flatten(1) / c.double().flatten(1).norm(dim=1, keepdim=True) for c in (a, b))
    # atan2 of chords, not acos: exact where the angle is small.
    theta = 2.0 * torch.atan2((one - two).norm(dim=1), (one + two).norm(dim=1))
    if (theta > math.pi - 1e-6).any():
        raise UserError("two codes point in opposite directions: there is no one path between them")
    near = theta < 1e-9
    sine = torch.where(near, 1.0, theta.sin())
    first = torch.where(near, 1.0 - weight, ((1.0 - weight) * theta).sin() / sine)
    second = torch.where(near, weight, (weight * theta).sin() / sine)
    shape = (-1,) + (1,) * (a.ndim - 1)
    return first.to(a).view(shape) * a + second.to(b).view(shape) * b


def interpolation_grid(corners: Tensor, n: int) -> Tensor:
    """An n×n grid between four codes: two sides by :func:`slerp`, then :func:`slerp` between the sides, row by row.

    Args:
        corners: upper left, upper right, lower left, lower right; shape (4, \\*shape).
        n: points per side, at least 2.

    Returns:
        Shape (n², \\*shape).
    """
    if len(corners) != 4 or n < 2:
        raise UserError(f"four corners and at least 2 points per side are needed, got {len(corners)} and {n}")
    a, b, c, d = corners.split(1)
    weights = np.linspace(0.0, 1.0, n).tolist()
    sides = [(slerp(a, c, w), slerp(b, d, w)) for w in weights]
    return torch.cat([slerp(left, right, w) for left, right in sides for w in weights])
