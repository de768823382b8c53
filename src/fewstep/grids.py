r"""Time grids: where a sampler calls the network.

A grid is a float64 array :math:`t_0 > t_1 > … > t_n`: the sampler starts at :math:`t_0`, takes n steps and ends at
:math:`t_n`. A function here has the signature ``(process, n, *, t_start=None, t_end=None, …)``; unless told otherwise
it runs from ``process.t_max`` to ``process.t_end``.

Rules that space by ρ or λ cannot reach ρ = 0. Where the end is clean (ρ = 0) they place their first n points down to
``t_last``, the smallest time the network knows, and append the end: the last step is then a denoising step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from .errors import UserError, unknown
from .schedules import DiscreteVP, Process, cosine_vp

__all__ = [
    "GRIDS",
    "LEAST_LEVEL",
    "build",
    "check",
    "ddim_quadratic",
    "iddpm",
    "leading",
    "linspace",
    "log_linear",
    "power_rho",
    "power_t",
    "quadratic",
    "rho7",
    "trailing",
    "uniform",
    "uniform_lambda",
    "variance_linear",
    "variance_quadratic",
]

Grid = NDArray[np.float64]

LEAST_LEVEL = 1e-60
"""The least noise level that is not zero: ratios and fourth powers of levels are within the range of float64."""


def check(process: Process, times: Grid) -> Grid:
    """Return ``times`` as float64 if they are a grid of this process.

    Raises:
        UserError: unless there are two or more finite, strictly decreasing times inside [t_min, t_max], whose noise
            levels can be told apart and are positive but for the last: at least :data:`LEAST_LEVEL`.
    """
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2:
        raise UserError(f"a grid needs at least two times, got {times.size}")
    if not np.all(np.isfinite(times)):
        raise UserError("a grid must be finite, got a NaN or an infinity")
    if not np.all(np.diff(times) < 0):
        k = int(np.argmax(np.diff(times) >= 0))
        raise UserError(
            f"a grid must decrease strictly, but t[{k + 1}] = {times[k + 1]:g} follows t[{k}] = {times[k]:g}"
            " (fewer steps, or another grid, would)"
        )
    slack = 1e-9 * (process.t_max - process.t_min)
    if times[0] > process.t_max + slack or times[-1] < process.t_min - slack:
        raise UserError(f"a grid must lie in [{process.t_min:g}, {process.t_max:g}], got [{times[-1]:g}, {times[0]:g}]")
    rho = process.rho(times)
    small = (rho != 0) & (np.abs(rho) < LEAST_LEVEL)
    if np.any(small):
        k = int(np.argmax(small))
        raise UserError(
            f"a noise level is 0 or at least {LEAST_LEVEL:g}, but it is {rho[k]:g} at t[{k}] = {times[k]:g}"
        )
    # A difference of levels must not be all rounding: the weights of multistep methods divide by it.
    apart = rho[1:] < rho[:-1] * (1.0 - 1e-9)
    if not np.all(apart):
        k = int(np.argmin(apart))
        raise UserError(
            f"the noise level must fall from step to step, but it is {rho[k]:g} at t[{k}] = {times[k]:g} and"
            f" {rho[k + 1]:g} at t[{k + 1}] = {times[k + 1]:g} (fewer steps, or another grid, would)"
        )
    return times


def _ends(process: Process, n: int, t_start: float | None, t_end: float | None) -> tuple[float, float]:
    if n < 1:
        raise UserError(f"a grid needs at least one step, got {n}")
    return (process.t_max if t_start is None else t_start), (process.t_end if t_end is None else t_end)


def _by_rho(
    process: Process,
    n: int,
    t_start: float | None,
    t_end: float | None,
    t_last: float | None,
    spacing: Callable[[float, float, int], Grid],
) -> Grid:
    """Points spaced in ρ by ``spacing(rho_start, rho_end, number of points)``, with a clean end appended if needed."""
    start, end = _ends(process, n, t_start, t_end)
    if process.rho(end) > 0:
        inner, tail = spacing(float(process.rho(start)), float(process.rho(end)), n + 1), []
    else:
        if t_last is None:
            t_last = 0.0 if isinstance(process, DiscreteVP) else float(process.t_of_rho(0.002))
        inner, tail = spacing(float(process.rho(start)), float(process.rho(t_last)), n), [end]
    times = np.asarray(process.t_of_rho(inner), dtype=np.float64)
    times[0] = start
    if not tail and n > 0:
        times[-1] = end
    return np.concatenate([times, tail])


def uniform(process: Process, n: int, *, t_start: float | None = None, t_end: float | None = None) -> Grid:
    """n equal steps in t."""
    start, end = _ends(process, n, t_start, t_end)
    return np.linspace(start, end, n + 1)


def power_t(
    process: Process, n: int, *, power: float = 2.0, t_start: float | None = None, t_end: float | None = None
) -> Grid:
    r"""Equal steps in :math:`(t - t_{\min})^{1/p}` (DEIS, App. H.3); p = 1 is uniform, p = 2 quadratic."""
    start, end = _ends(process, n, t_start, t_end)
    if not power > 0:
        raise UserError(f"power must be positive, got {power:g}")
    u = np.linspace((start - process.t_min) ** (1 / power), (end - process.t_min) ** (1 / power), n + 1) ** power
    times = u + process.t_min
    times[0], times[-1] = start, end
    return times


def quadratic(process: Process, n: int, *, t_start: float | None = None, t_end: float | None = None) -> Grid:
    """Equal steps in the square root of t − t_min: dense near the data."""
    return power_t(process, n, power=2.0, t_start=t_start, t_end=t_end)


def power_rho(
    process: Process,
    n: int,
    *,
    power: float = 7.0,
    t_start: float | None = None,
    t_end: float | None = None,
    t_last: float | None = None,
) -> Grid:
    r"""Equal steps in :math:`\rho^{1/p}` (EDM, Eq. 5; there the exponent is called ρ and is 7)."""
    if not power > 0:
        raise UserError(f"power must be positive, got {power:g}")
    return _by_rho(
        process, n, t_start, t_end, t_last, lambda a, b, k: np.linspace(a ** (1 / power), b ** (1 / power), k) ** power
    )


def rho7(process: Process, n: int, *, t_start: float | None = None, t_end: float | None = None) -> Grid:
    """EDM's own grid: :func:`power_rho` with exponent 7."""
    return power_rho(process, n, power=7.0, t_start=t_start, t_end=t_end)


def uniform_lambda(
    process: Process,
    n: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    t_last: float | None = None,
) -> Grid:
    r"""Equal steps in λ = −log ρ (DPM-Solver, §3.4)."""
    return _by_rho(process, n, t_start, t_end, t_last, np.geomspace)


def log_linear(
    process: Process,
    n: int,
    *,
    rho_start: float = 40.0,
    rho_last: float = 0.06,
    t_end: float | None = None,
) -> Grid:
    r"""Permenter & Yuan's schedule: n levels σ = ρ in geometric progression, then the end of the process.

    The defaults 40 and 0.06 are those of their CIFAR-10 experiment. It is a uniform-λ grid whose two ends are free.

    Raises:
        UserError: unless ``rho_start`` > ``rho_last`` > ρ(t_end), and both lie on the process.
    """
    _, end = _ends(process, n, None, t_end)
    top = float(process.rho(process.t_max))
    if not float(process.rho(end)) < rho_last < rho_start <= top * (1 + 1e-12):
        raise UserError(
            f"log-linear needs rho(t_end) = {float(process.rho(end)):g} < rho_last < rho_start <= {top:g},"
            f" got rho_last = {rho_last:g}, rho_start = {rho_start:g}"
        )
    return np.concatenate([process.t_of_rho(np.geomspace(rho_start, rho_last, n)), [end]])


def iddpm(
    process: Process,
    n: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    t_last: float | None = None,
    s: float = 8e-3,
    beta_cap: float = 0.999,
) -> Grid:
    r"""The noise levels of iDDPM, n of them evenly by index (EDM, Table 1, column iDDPM), then the end of the process.

    The levels :math:`u_j` of EDM's recursion, with :math:`C_2` = ``s`` and :math:`C_1` = 1 − ``beta_cap``, are those
    of the cosine schedule at its 1,000 labels. With L of them between ``t_start`` and ``t_last``, step i is at number
    :math:`\lfloor i (L-1)/(n-1) + 1/2 \rfloor`.

    Raises:
        UserError: for more steps than levels.
    """
    start, end = _ends(process, n, t_start, t_end)
    if t_last is None:
        t_last = 0.0 if isinstance(process, DiscreteVP) else float(process.t_of_rho(0.002))
    bottom, top = max(float(process.rho(t_last)), float(process.rho(end))), float(process.rho(start))
    levels = cosine_vp(1000, s, beta_cap).rho(np.arange(999.0, -1.0, -1.0))
    levels = levels[(bottom <= levels) & (levels <= top)]
    if n > len(levels):
        raise UserError(f"grid 'iddpm' has {len(levels)} levels between these ends, got {n} steps")
    picks = np.floor(np.linspace(0.0, len(levels) - 1.0, n) + 0.5).astype(int)
    return np.concatenate([process.t_of_rho(levels[picks]), [end]])


def _labels(process: Process, n: int, name: str) -> int:
    if not isinstance(process, DiscreteVP):
        raise UserError(f"grid {name!r} picks labels of a discrete process; use 'uniform' for a continuous one")
    if not 1 <= n <= process.n:
        raise UserError(f"grid {name!r} takes 1 to {process.n} steps, got {n}")
    return process.n


def leading(process: Process, n: int, *, offset: int = 0) -> Grid:
    r"""Labels :math:`k\lfloor N/n\rfloor` + ``offset``, k = n−1 … 0, then the clean end (DDIM, App. D.2, "linear")."""
    big = _labels(process, n, "leading")
    return np.concatenate([np.arange(n)[::-1] * (big // n) + float(offset), [-1.0]])


def linspace(process: Process, n: int) -> Grid:
    """n labels rounded from equal spacing over 0 … N−1, then the clean end."""
    big = _labels(process, n, "linspace")
    return np.concatenate([np.round(np.linspace(0, big - 1, n))[::-1], [-1.0]])


def trailing(process: Process, n: int) -> Grid:
    r"""Labels :math:`\mathrm{round}(N - kN/n) - 1`, k = 0 … n−1, then the clean end: starts at the very last label."""
    big = _labels(process, n, "trailing")
    return np.concatenate([np.round(big - np.arange(n) * (big / n)) - 1.0, [-1.0]])


def ddim_quadratic(process: Process, n: int) -> Grid:
    r"""DDIM's quadratic labels (DDIM, App. D.2), which start at 0.8 N, then the clean end.

    The labels are :math:`\lfloor(\sqrt{0.8N}\,k/(n-1))^2\rfloor` for k = n−1 … 0.
    """
    big = _labels(process, n, "ddim-quadratic")
    if n < 2:
        raise UserError("grid 'ddim-quadratic' needs at least 2 steps")
    labels = np.floor(np.linspace(0, np.sqrt(0.8 * big), n) ** 2)
    return np.concatenate([labels[::-1], [-1.0]])


def _variances(start: float, end: float, k: int, power: float) -> Grid:
    """k levels ρ from ``start`` down to ``end``, whose forward variances are η₀(1 + cj)^power."""
    first = end**2 / (1.0 + end**2)
    j = np.arange(k)

    def log_bar(c: float) -> Grid:
        return np.cumsum(np.log1p(-first * (1.0 + c * j) ** power))

    if k == 1:
        return np.array([start])
    target = -np.log1p(start**2)
    if not log_bar(0.0)[-1] > target:
        raise UserError(f"a grid by growing variances takes fewer than {k} levels between these ends")
    # The largest variance stays below 1.
    top = (1.0 - 1e-15) * (first ** (-1.0 / power) - 1.0) / (k - 1)
    c = brentq(lambda c: log_bar(c)[-1] - target, 0.0, top, xtol=1e-15 * top)
    return np.sqrt(np.expm1(-log_bar(c)))[::-1]


def variance_linear(
    process: Process,
    n: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    t_last: float | None = None,
) -> Grid:
    r"""Forward variances in arithmetic progression: a short diffusion of DDPM's own kind (FastDPM's VAR, linear).

    The levels are those of a variance-preserving chain of few steps,

    .. math:: \frac{1}{1 + \rho_j^2} = \prod_{i \le j}(1 - \eta_i), \qquad \eta_i = \eta_0\,(1 + c\,i)^p, \qquad p = 1,

    whose first variance is that of the smallest level and whose last level is the start; this fixes c. On
    :func:`~fewstep.schedules.linear_vp` with all N steps the grid is the labels themselves.

    Raises:
        UserError: for more levels than growing variances allow.
    """
    return _by_rho(process, n, t_start, t_end, t_last, lambda a, b, k: _variances(a, b, k, 1.0))


def variance_quadratic(
    process: Process,
    n: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    t_last: float | None = None,
) -> Grid:
    r"""Forward variances growing as squares (FastDPM's VAR, quadratic): :func:`variance_linear` with p = 2."""
    return _by_rho(process, n, t_start, t_end, t_last, lambda a, b, k: _variances(a, b, k, 2.0))


GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "power-t": power_t,
    "rho7": rho7,
    "power-rho": power_rho,
    "uniform-lambda": uniform_lambda,
    "log-linear": log_linear,
    "iddpm": iddpm,
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
    "ddim-quadratic": ddim_quadratic,
    "variance-linear": variance_linear,
    "variance-quadratic": variance_quadratic,
}
"""Grid functions by name."""


def build(name: str, process: Process, n: int, **options: float) -> Grid:
    """The grid called ``name`` with n steps.

    Raises:
        UserError: for an unknown name, an option the grid does not have, or a grid that does not decrease strictly.
    """
    if name not in GRIDS:
        raise unknown("grid", name, GRIDS)
    try:
        times = GRIDS[name](process, n, **options)
    except TypeError as error:
        raise UserError(f"grid {name!r}: {error}") from None
    return check(process, times)
