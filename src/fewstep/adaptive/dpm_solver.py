r"""DPM-Solver with adaptive steps (Lu et al. 2022, "DPM-Solver", Appendix C).

Each step is taken twice, by a method and by one of the next lower order that shares its calls; their difference
estimates the error, and a controller accepts or rejects the step and chooses the next one, in
:math:`\lambda = -\log\rho`. Where the steps end up depends on the model's outputs: this is no fixed table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..grids import check
from ..run import Model
from ..schedules import DiscreteVP, Process
from ..solvers.dpm_solver import _Step

__all__ = ["PID", "Adaptive", "Controller", "Elementary", "dpm_solver_adaptive", "largest_rms", "rms"]


@dataclass(frozen=True)
class Adaptive:
    """What an adaptive sampler returns.

    Attributes:
        x: the samples, shape ``(B, *shape)``.
        nfe: how many calls of the network were made, for the whole batch.
        times: the times at which steps began and ended, the rejected ones left out.
        rejected: how many steps were rejected.
    """

    x: Tensor
    nfe: int
    times: tuple[float, ...]
    rejected: int


class Controller(Protocol):
    """Decides on a step by its error, in units of the tolerance."""

    def __call__(self, error: float) -> tuple[bool, float]:
        """Whether the step is accepted, and by what the step size is multiplied."""
        ...


class Elementary:
    r"""The elementary controller (DPM-Solver, App. C): accept where E <= 1; :math:`h \leftarrow \theta h E^{-1/p}`.

    Args:
        order: p, the order of the higher method.
        safety: θ.
    """

    def __init__(self, order: int, safety: float = 0.9) -> None:
        self.order, self.safety = order, safety

    def __call__(self, error: float) -> tuple[bool, float]:
        return error <= 1.0, self.safety * error ** (-1.0 / self.order) if error > 0 else math.inf


class PID:
    r"""A PID controller on the log of the error (Söderlind 2003), as k-diffusion uses it.

    With :math:`e_n = 1/E_n` of this step and of the two accepted before it,

    .. math::

        f = e_n^{(k_P + k_I + k_D)/p}\,e_{n-1}^{-(k_P + 2k_D)/p}\,e_{n-2}^{k_D/p}, \qquad
        h \leftarrow h\,(1 + \arctan(f - 1)) ,

    and the step is accepted where this factor is at least ``accept``. The arctangent keeps the factor below 2.6.

    Args:
        order: p, the order of the higher method.
        proportional: :math:`k_P`.
        integral: :math:`k_I`.
        derivative: :math:`k_D`.
        accept: the smallest factor with which a step is accepted.
    """

    def __init__(
        self,
        order: int,
        proportional: float = 0.0,
        integral: float = 1.0,
        derivative: float = 0.0,
        accept: float = 0.81,
    ) -> None:
        self.powers = (
            (proportional + integral + derivative) / order,
            -(proportional + 2.0 * derivative) / order,
            derivative / order,
        )
        self.accept = accept
        self.past: tuple[float, float] | None = None

    def __call__(self, error: float) -> tuple[bool, float]:
        now = 1.0 / (error + 1e-8)
        past = self.past or (now, now)
        factor = math.prod(e**b for e, b in zip((now, *past), self.powers, strict=True))
        factor = 1.0 + math.atan(factor - 1.0)
        accepted = factor >= self.accept
        self.past = (now, past[0]) if accepted else past
        return accepted, factor


def largest_rms(error: Tensor) -> float:
    """The root mean square over each sample's elements, of the worst sample: every sample meets the tolerance."""
    return float(error.flatten(1).square().mean(1).sqrt().max())


def rms(error: Tensor) -> float:
    """The root mean square over the whole batch."""
    return float(error.square().mean().sqrt())


@torch.no_grad()
def dpm_solver_adaptive(
    process: Process,
    model: Model,
    x: Tensor,
    order: int = 3,
    data: bool = False,
    *,
    atol: float = 0.0078,
    rtol: float = 0.05,
    h: float = 0.05,
    controller: Controller | None = None,
    norm: Callable[[Tensor], float] = largest_rms,
    t_start: float | None = None,
    t_end: float | None = None,
    t_last: float | None = None,
    max_steps: int = 10_000,
    dtype: torch.dtype = torch.float32,
) -> Adaptive:
    r"""DPM-Solver-12 and DPM-Solver-23 (DPM-Solver, App. C), and with ``data`` the same pairs of DPM-Solver++.

    From :math:`\lambda` to :math:`\lambda + h` both methods of the pair are applied: orders 1 and 2, with a stage at
    h/2, or orders 2 and 3, with stages at h/3 and 2h/3. The error of the step is

    .. math::

        E = \Bigl\lVert\frac{x_{high} - x_{low}}{\delta}\Bigr\rVert, \qquad
        \delta = \max\bigl(\mathrm{atol}, \mathrm{rtol}\max(|x_{low}|, |x_{low}^{prev}|)\bigr) .

    An accepted step goes on from :math:`x_{high}`. A rejected one is tried again from the same ε, and costs ``order``
    − 1 calls. All samples take the same steps, so that a sample depends on its batch. Where the process ends clean
    (ρ = 0) the last step, from ``t_last``, is a DDIM step with one call.

    Args:
        process: of the model.
        model: an ε-model.
        x: start states at ``t_start``, shape ``(B, *shape)``.
        order: 2 or 3, of the higher method of the pair.
        data: expand the denoised data instead of ε.
        atol: absolute tolerance; 0.0078 is one grey level of 256 in [−1, 1].
        rtol: relative tolerance.
        h: the first step in λ.
        controller: of the step size; :class:`Elementary` unless given. A new one for each call: it may remember.
        norm: of the weighted error, :func:`largest_rms` or :func:`rms`.
        t_start: where ``x`` is; ``process.t_max`` unless given.
        t_end: where to end; ``process.t_end`` unless given.
        t_last: where the last step to a clean end starts; the smallest time that the network knows unless given.
        max_steps: how many steps to try at most.
        dtype: of states and combinations.

    Raises:
        UserError: for another order, tolerances or a first step that are not positive, an error that is not finite, or
            more than ``max_steps`` steps; unless ``t_start`` > ``t_last`` > ``t_end``.
    """
    if order not in (2, 3):
        raise UserError(f"adaptive DPM-Solver has orders 2 and 3, got {order}")
    if not (atol > 0 and rtol >= 0 and h > 0):
        raise UserError(f"atol and h must be positive and rtol not negative, got {atol:g}, {h:g} and {rtol:g}")
    start = process.t_max if t_start is None else t_start
    end = process.t_end if t_end is None else t_end
    last = end
    if float(process.rho(end)) == 0.0:
        smallest = 0.0 if isinstance(process, DiscreteVP) else float(process.t_of_rho(0.002))
        last = smallest if t_last is None else t_last
    check(process, np.array([start, last] if last == end else [start, last, end]))
    controller = Elementary(order) if controller is None else controller
    calls, rejected, times = 0, 0, [start]

    def eps(y: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return model(y, torch.full((len(y),), t, dtype=dtype, device=y.device)).to(dtype)

    x = x.to(dtype)
    previous, t, e = x, start, None
    while t != last:
        if len(times) - 1 + rejected >= max_steps:
            raise UserError(f"no end after {max_steps} steps, at t = {t:g}: tolerances this small need more max_steps")
        if e is None:
            e = eps(x, t)
        left = float(process.lambda_(last) - process.lambda_(t))
        # Nothing shorter than 1e-5 is left over for another step.
        u = last if left - h < 1e-5 else float(process.t_of_lambda(process.lambda_(t) + h))
        h = min(h, left)
        low, high = _pair(process, eps, x, e, t, u, order, data)
        delta = (rtol * torch.maximum(low.abs(), previous.abs())).clamp(min=atol)
        error = norm((high - low) / delta)
        if not math.isfinite(error):
            raise UserError(f"the error of the step from t = {t:g} to {u:g} is not finite")
        accepted, factor = controller(error)
        if accepted:
            x, previous, t, e = high, low, u, None
            times.append(u)
        else:
            rejected += 1
        h *= factor
    if last != end:
        (a, b), (c, d) = process.alpha([last, end]), process.rho([last, end])
        x = b * (x / a + (d - c) * eps(x, last))
        times.append(end)
    return Adaptive(x, calls, tuple(times), rejected)


def _pair(
    process: Process,
    eps: Callable[[Tensor, float], Tensor],
    x: Tensor,
    e: Tensor,
    t: float,
    u: float,
    order: int,
    data: bool,
) -> tuple[Tensor, Tensor]:
    """One step by the methods of order ``order`` − 1 and ``order``, with the weights of ``dpm_solver_singlestep``."""
    lam = float(process.lambda_(t))
    h = float(process.lambda_(u)) - lam
    inner = [float(process.t_of_lambda(lam + r * h)) for r in np.arange(1, order) / order]
    nodes = [t, *inner, u]
    alpha, rho = process.alpha(nodes).tolist(), process.rho(nodes).tolist()
    start = x / alpha[0]
    steps = [_Step(data, rho[0], r) for r in rho[1:]]
    m0 = start - rho[0] * e if data else e

    def reach(k: int) -> Tensor:
        """The first-order step to node k."""
        step = steps[k - 1]
        return (step.rho / step.rho_t if data else 1.0) * start + step.weight(0) * m0

    def change(y: Tensor, k: int) -> Tensor:
        """The prediction at node k less that at the start."""
        ek = eps(alpha[k] * y, nodes[k])
        return (y - rho[k] * ek if data else ek) - m0

    first, whole = reach(order), steps[-1]
    d1 = change(reach(1), 1)
    second = first + 0.5 * order * whole.weight(0) * d1
    if order == 2:
        return alpha[-1] * first, alpha[-1] * second
    d2 = change(reach(2) + 3.0 / h * steps[1].weight(1) * d1, 2)
    third = first + 1.5 / h * whole.weight(1) * d2
    return alpha[-1] * second, alpha[-1] * third
