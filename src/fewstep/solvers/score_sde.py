r"""Samplers of score SDE (Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021), as tables.

Over a step from t down to u < t the forward process is one Gaussian transition,

.. math:: x_t = a\,x_u + \sqrt v\,z, \qquad a = \alpha_t/\alpha_u, \qquad v = \alpha_t^2(\rho_t^2 - \rho_u^2) .

For VP on DDPM's labels that is :math:`a = \sqrt{1 - \beta}`, :math:`v = \beta`; for VE :math:`a = 1`,
:math:`v = \sigma_t^2 - \sigma_u^2`. A :data:`Transition` gives (a, v), a :data:`Predictor` turns it into one step back
by the score :math:`s = -\varepsilon/\sigma_t`, and :func:`predict` runs a predictor along a grid. The paper's
predictors differ in two choices only:

- the transition: the exact one above, or that of an Euler–Maruyama step of the forward SDE, for which the reverse
  diffusion sampler *is* Euler–Maruyama on the reverse SDE;
- the way back: :math:`x_t - (a - 1)x_t + v s` (reverse diffusion), or :math:`(x_t + v s)/a` (ancestral).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError, unknown
from ..grids import Grid, check
from ..plan import Plan, Symbol, Tape
from ..schedules import Process

__all__ = [
    "PREDICTORS",
    "Predictor",
    "Step",
    "Transition",
    "ancestral",
    "ancestral_step",
    "annealed_langevin",
    "euler_maruyama",
    "euler_transition",
    "exact_transition",
    "find_predictor",
    "predict",
    "reverse_diffusion",
    "reverse_diffusion_step",
]

Transition = Callable[[Process, float, float], tuple[float, float]]
r"""``transition(process, t, u)``: a and v of the forward transition :math:`x_t = a x_u + \sqrt v z` from u to t."""


@dataclass(frozen=True)
class Step:
    """One step of a predictor: x_u = x · x_t + eps · ε(x_t, t) + noise · z.

    Attributes:
        x: the weight of the state.
        eps: the weight of the network's output.
        noise: the standard deviation of the fresh noise; None for a deterministic predictor, which draws none.
    """

    x: float
    eps: float
    noise: float | None


Predictor = Callable[[Process, float, float], Step]
"""``predictor(process, t, u)``: the step from t down to u."""


def exact_transition(process: Process, t: float, u: float) -> tuple[float, float]:
    r"""The process's own transition: :math:`a = \alpha_t/\alpha_u`, :math:`v = \alpha_t^2(\rho_t^2 - \rho_u^2)`."""
    alpha, rho_t, rho_u = float(process.alpha(t)), float(process.rho(t)), float(process.rho(u))
    return alpha / float(process.alpha(u)), alpha**2 * (rho_t - rho_u) * (rho_t + rho_u)


def euler_transition(process: Process, t: float, u: float) -> tuple[float, float]:
    r"""An Euler–Maruyama step of the forward SDE with f and g taken at t: :math:`a = 1 + f h`, :math:`v = g^2 h`."""
    h = t - u
    return 1.0 + h * float(process.dlog_alpha(t)), h * float(process.g2(t))


def reverse_diffusion_step(
    process: Process, t: float, u: float, transition: Transition = exact_transition, flow: bool = False
) -> Step:
    r"""The step of :func:`reverse_diffusion`: :math:`x_u = (2 - a)\,x_t - (v/\sigma_t)\,\varepsilon + \sqrt v\,z`."""
    a, v = transition(process, t, u)
    score = -v / float(process.sigma(t))
    return Step(2.0 - a, 0.5 * score, None) if flow else Step(2.0 - a, score, math.sqrt(v))


def ancestral_step(
    process: Process, t: float, u: float, transition: Transition = exact_transition, posterior: bool = False
) -> Step:
    r"""The step of :func:`ancestral`: :math:`x_u = (x_t - (v/\sigma_t)\,\varepsilon)/a` plus noise."""
    a, v = transition(process, t, u)
    if a == 0.0:
        raise UserError(f"the transition to t = {t:g} keeps nothing of the state: an ancestral step divides by zero")
    share = 1.0 if not posterior else max(0.0, 1.0 - v / float(process.sigma(t)) ** 2) / a**2
    return Step(1.0 / a, -v / (a * float(process.sigma(t))), math.sqrt(v * share))


PREDICTORS: dict[str, Predictor] = {
    "euler-maruyama": functools.partial(reverse_diffusion_step, transition=euler_transition),
    "euler-maruyama-flow": functools.partial(reverse_diffusion_step, transition=euler_transition, flow=True),
    "reverse-diffusion": reverse_diffusion_step,
    "reverse-diffusion-flow": functools.partial(reverse_diffusion_step, flow=True),
    "ancestral": ancestral_step,
    "ancestral-posterior": functools.partial(ancestral_step, posterior=True),
}
"""Predictors by name."""


def find_predictor(predictor: Predictor | str) -> Predictor:
    """The predictor of this name; a function is returned as it is.

    Raises:
        UserError: for a name that is not in :data:`PREDICTORS`.
    """
    if not isinstance(predictor, str):
        return predictor
    if predictor not in PREDICTORS:
        raise unknown("predictor", predictor, PREDICTORS)
    return PREDICTORS[predictor]


def predict(process: Process, times: Grid, predictor: Predictor | str, denoise: bool = True) -> Plan:
    """The plan that takes one step of ``predictor`` from each time of the grid to the next.

    Args:
        predictor: gives the weights of a step; a function or a name in :data:`PREDICTORS`.
        denoise: return the mean of the last step, without its noise (the authors' samplers do); otherwise the result
            is a noisy state at ``times[-1]`` like all others.
    """
    times, predictor = check(process, times), find_predictor(predictor)
    tape = Tape(process, times[0])
    x = float(process.alpha(times[0])) * tape.x
    for i, t in enumerate(times[:-1].tolist()):
        x = _step(tape, process, x, t, predictor(process, t, float(times[i + 1])), denoise and i == len(times) - 2)
    return tape.plan(x / float(process.alpha(times[-1])), times[-1])


def _eval(tape: Tape, process: Process, x: Symbol, t: float) -> tuple[Symbol, Symbol]:
    """ε at the state x, and the state as the tape now names it."""
    alpha = float(process.alpha(t))
    bar = x / alpha
    e = tape.eval(bar, t)
    return alpha * bar, e


def _step(tape: Tape, process: Process, x: Symbol, t: float, step: Step, mean: bool) -> Symbol:
    x, e = _eval(tape, process, x, t)
    x = step.x * x + step.eps * e
    if step.noise is None:
        return x
    z = tape.noise()
    return x if mean else x + step.noise * z


def reverse_diffusion(
    process: Process,
    times: Grid,
    transition: Transition = exact_transition,
    flow: bool = False,
    denoise: bool = True,
) -> Plan:
    r"""Reverse diffusion: the reverse SDE discretised as the forward chain is (score SDE, Eq. 46).

    .. math:: x_u = x_t - (a - 1)\,x_t + v\,s(x_t, t) + \sqrt v\,z .

    On DDPM's labels the state's weight is :math:`2 - \sqrt{1 - \beta}`. For VE (a = 1) a step is that of
    :func:`~fewstep.solvers.ddpm.ddpm`, whose mean and variance these are, but for the last step's noise, which
    ``denoise`` leaves out and DDPM adds unless ρ = 0 there.

    Args:
        transition: the forward transition of the chain; the process's own unless given.
        flow: discretise the probability-flow ODE instead: half the score, no noise.
        denoise: return the mean of the last step.
    """
    return predict(process, times, functools.partial(reverse_diffusion_step, transition=transition, flow=flow), denoise)


def euler_maruyama(process: Process, times: Grid, flow: bool = False, denoise: bool = True) -> Plan:
    r"""Euler–Maruyama on the reverse SDE (score SDE, Eq. 6):

    .. math:: x_u = x_t - h\,\bigl(f(t)\,x_t - g(t)^2 s(x_t, t)\bigr) + g(t)\sqrt h\,z, \qquad h = t - u .

    It is :func:`reverse_diffusion` with :func:`euler_transition`. With ``flow`` it is Euler's method on the
    probability-flow ODE, :func:`fewstep.solvers.classical.euler`.

    Args:
        flow: half the score, no noise.
        denoise: return the mean of the last step.
    """
    return reverse_diffusion(process, times, euler_transition, flow, denoise)


def ancestral(
    process: Process,
    times: Grid,
    transition: Transition = exact_transition,
    posterior: bool = False,
    denoise: bool = True,
) -> Plan:
    r"""Ancestral sampling (score SDE, Eq. 4 for VP; Eq. 47 for VE, with ``posterior``).

    .. math:: x_u = \frac{x_t + v\,s(x_t, t)}{a} + \sqrt w\,z, \qquad w = v \text{ or } v\,\sigma_u^2/\sigma_t^2 .

    With the exact transition the mean is, in :math:`\bar x`, that of DDPM,
    :math:`\bar x_t + (\rho_u^2/\rho_t - \rho_t)\varepsilon`, for every process. On a grid with a clean end these are
    the tables of :func:`~fewstep.solvers.ddpm.ddpm` and, with ``posterior``,
    :func:`~fewstep.solvers.ddpm.ddpm_beta_tilde`.

    Args:
        transition: the forward transition of the chain; the process's own unless given.
        posterior: the variance of :math:`q(x_u \mid x_t, x_0)` instead of the transition's; the paper takes it for VE.
        denoise: return the mean of the last step.

    Raises:
        UserError: if a is zero.
    """
    return predict(
        process, times, functools.partial(ancestral_step, transition=transition, posterior=posterior), denoise
    )


def annealed_langevin(
    process: Process,
    times: Grid,
    predictor: Predictor | str | None = None,
    corrections: int = 1,
    snr: float = 0.16,
    transition: Transition = exact_transition,
    correct_start: bool = False,
    denoise: bool = True,
) -> Plan:
    r"""Annealed Langevin dynamics as corrector, its step size fixed in advance (Song & Ermon 2019, Algorithm 1).

    At every time t of the grid at which the predictor starts, ``corrections`` times

    .. math:: x \leftarrow x + \delta\,s(x, t) + \sqrt{2\delta}\,z, \qquad \delta = 2\,a^2\,(r\,\sigma_t)^2 ,

    then a step of the predictor. The Langevin corrector (:mod:`fewstep.adaptive`) has :math:`\lVert z\rVert/\lVert
    s\rVert` in the place of :math:`\sigma_t`, which is its expected size; with σ the sampler remains a table. Its own
    error does not vanish with the number of steps: where a variance is v, it settles at :math:`v/(1 - \delta/2v)`.

    Args:
        predictor: the step from each time to the next, a function or a name in :data:`PREDICTORS`; None: the state
            stays as it is.
        corrections: Langevin steps at each time, at least 1.
        snr: r.
        transition: gives a; the process's own unless given.
        correct_start: correct the start state too, which has the right distribution already (the authors' program
            does; in the paper's Algorithm 1 a corrector follows a predictor). Without a predictor it always is.
        denoise: return the mean of the predictor's last step.

    Raises:
        UserError: for fewer than one correction or an snr that is not positive.
    """
    check_corrector(corrections, snr)
    times, predictor = check(process, times), predictor if predictor is None else find_predictor(predictor)
    tape = Tape(process, times[0])
    x = float(process.alpha(times[0])) * tape.x
    for i, (t, u) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        if i > 0 or correct_start or predictor is None:
            sigma = float(process.sigma(t))
            size = 2.0 * (transition(process, t, u)[0] * snr * sigma) ** 2
            for _ in range(corrections):
                x = _step(tape, process, x, t, Step(1.0, -size / sigma, math.sqrt(2.0 * size)), mean=False)
        if predictor is not None:
            x = _step(tape, process, x, t, predictor(process, t, u), denoise and i == len(times) - 2)
    return tape.plan(x / float(process.alpha(times[-1])), times[-1])


def check_corrector(corrections: int, snr: float) -> None:
    """Raise UserError unless there is a correction and its signal-to-noise ratio is positive."""
    if corrections < 1 or not snr > 0:
        raise UserError(f"at least 1 correction and an snr above 0 are needed, got {corrections} and {snr:g}")
