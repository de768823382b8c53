r"""The probability-flow ODE by an error-controlled Runge–Kutta method (score SDE, §4.3 and App. D)."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ..errors import UserError
from ..grids import check
from ..run import Model
from ..schedules import Process
from .dpm_solver import Adaptive

__all__ = ["rk45"]


@torch.no_grad()
def rk45(
    process: Process,
    model: Model,
    x: Tensor,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    denoise: bool = False,
    in_rho: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Adaptive:
    r"""The method of Dormand & Prince (SciPy's RK45) on the probability-flow ODE in t (score SDE, Eq. 13):

    .. math:: \frac{dx}{dt} = f(t)\,x - \tfrac12 g(t)^2 s(x, t) = f(t)\,x + \alpha\dot\rho\,\varepsilon(x, t) .

    The whole batch is one ODE: the error that chooses the steps is a mean over all samples, so that a sample depends
    on its batch-mates to within the tolerance. Integrate samples one by one where that matters.

    Args:
        process: the network's.
        model: an ε-model.
        x: start states at ``t_start``, shape ``(B, *shape)``.
        t_start: ``process.t_max`` unless given.
        t_end: ``process.t_end`` unless given; the slope in t must be finite there.
        rtol: relative tolerance.
        atol: absolute tolerance.
        denoise: one more call at ``t_end`` and return the denoised value :math:`(x - \sigma\varepsilon)/\alpha`
            (Tweedie's formula), a sample at the clean end.
        in_rho: integrate :math:`d\bar x/d\rho = \varepsilon` instead, where the linear term is gone.
        dtype: of what the network sees, and of the result; the integrator itself is float64.

    Returns:
        The samples, the number of network calls, and the times of the accepted steps.

    Raises:
        UserError: for a tolerance that is not positive, an infinite slope at ``t_end``, a network output that is not
            finite, or if the integrator fails.
    """
    if not (rtol > 0 and atol > 0):
        raise UserError(f"rtol and atol must be positive, got {rtol:g} and {atol:g}")
    start = process.t_max if t_start is None else t_start
    start, end = check(process, np.array([start, process.t_end if t_end is None else t_end])).tolist()
    if not in_rho and not math.isfinite(float(process.drho(end))):
        raise UserError(
            f"the slope in t is infinite at t_end = {end:g}: stop earlier (denoise=True finishes), or integrate in rho"
        )
    calls = 0

    def eps(flat: np.ndarray, t: float) -> np.ndarray:
        nonlocal calls
        calls += 1
        state = torch.as_tensor(flat).view(x.shape).to(x.device, dtype)
        out = model(state, torch.full((len(x),), t, dtype=dtype, device=x.device))
        if not torch.isfinite(out).all():  # the integrator would shorten its step for ever
            raise UserError(f"the model returned a value that is not finite at call {calls - 1} (t = {t:g})")
        return out.double().cpu().numpy().reshape(-1)

    def in_t(t: float, flat: np.ndarray) -> np.ndarray:
        weight = float(process.alpha(t) * process.drho(t))
        return float(process.dlog_alpha(t)) * flat + weight * eps(flat, t)

    def of_rho(rho: float, flat: np.ndarray) -> np.ndarray:
        t = float(process.t_of_rho(rho))
        return eps(float(process.alpha(t)) * flat, t)

    state = x.double().cpu().numpy().reshape(-1)
    if in_rho:
        state = state / float(process.alpha(start))
    span = tuple(float(process.rho(t)) for t in (start, end)) if in_rho else (start, end)
    found = solve_ivp(of_rho if in_rho else in_t, span, state, "RK45", rtol=rtol, atol=atol)
    if not found.success:
        raise UserError(f"the integrator failed: {found.message}")
    state = found.y[:, -1] * (float(process.alpha(end)) if in_rho else 1.0)
    times = np.array([start, *process.t_of_rho(found.t[1:-1]), end]) if in_rho else found.t
    # Two calls choose the first step, and every step attempted takes six.
    rejected = (calls - 2) // 6 - (len(times) - 1)
    if denoise:
        state = (state - float(process.sigma(end)) * eps(state, end)) / float(process.alpha(end))
    return Adaptive(torch.as_tensor(state).view(x.shape).to(x.device, dtype), calls, tuple(times.tolist()), rejected)
