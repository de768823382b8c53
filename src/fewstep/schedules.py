r"""Noise schedules: the functions :math:`\alpha, \sigma` of a diffusion process.

Every process of this book is :math:`x_t = \alpha(t)\,x_0 + \sigma(t)\,z` with :math:`z \sim N(0, I)`.
Two functions of :math:`(\alpha, \sigma)` carry all that a sampler needs,

.. math:: \rho = \sigma/\alpha, \qquad \lambda = \log(\alpha/\sigma) = -\log\rho ,

because in :math:`\bar x = x/\alpha` the probability-flow ODE of *every* schedule is
:math:`d\bar x/d\rho = \varepsilon(x, t)`. All functions here are float64 NumPy, take scalars or arrays, and
know neither a tensor nor a network. Times are those that the network was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "EDM",
    "PROCESSES",
    "VE",
    "BrownianVE",
    "ContinuousVP",
    "DiscreteVP",
    "Process",
    "SubVP",
    "cosine_vp",
    "linear_vp",
    "scaled_linear_vp",
]

Float = NDArray[np.float64]


class Process:
    r"""A diffusion process given by :math:`\log\alpha(t)` and the inverse of :math:`\rho(t)`.

    A subclass supplies :meth:`log_alpha`, :meth:`rho` and :meth:`t_of_rho`; the rest follows.

    Attributes:
        t_min: the clean end of the time axis (:math:`\rho` is smallest there, often zero).
        t_max: the noisy end.
        t_end: where a sampler stops unless told otherwise (``t_min``, but 1e-3 for the continuous VP family,
            whose network is not trained below it).
        prior_std: standard deviation of the start state at ``t_max`` (1 for variance-preserving processes).
    """

    t_min: float
    t_max: float
    t_end: float
    prior_std: float = 1.0

    def log_alpha(self, t: ArrayLike) -> Float:
        r""":math:`\log\alpha(t)`."""
        raise TypeError(f"{type(self).__name__} defines no log_alpha")

    def rho(self, t: ArrayLike) -> Float:
        r""":math:`\rho(t) = \sigma(t)/\alpha(t)`, the noise-to-signal ratio; increasing in t."""
        raise TypeError(f"{type(self).__name__} defines no rho")

    def t_of_rho(self, rho: ArrayLike) -> Float:
        r"""The time at which :math:`\rho(t)` takes this value."""
        raise TypeError(f"{type(self).__name__} defines no t_of_rho")

    def dlog_alpha(self, t: ArrayLike) -> Float:
        r""":math:`d\log\alpha/dt`, the coefficient f(t) of the drift f(t) x of the process (score SDE, Eq. 5)."""
        raise TypeError(f"{type(self).__name__} defines no dlog_alpha")

    def drho(self, t: ArrayLike) -> Float:
        r""":math:`d\rho/dt`; infinite where a VP process is clean."""
        raise TypeError(f"{type(self).__name__} defines no drho")

    def g2(self, t: ArrayLike) -> Float:
        r"""The squared diffusion coefficient :math:`g^2 = d\sigma^2/dt - 2f\sigma^2 = 2\alpha^2\rho\,d\rho/dt`."""
        return 2.0 * self.alpha(t) ** 2 * self.rho(t) * self.drho(t)

    def alpha(self, t: ArrayLike) -> Float:
        r""":math:`\alpha(t)`, the factor of the data (:math:`\sqrt{\bar\alpha_t}` of DDPM)."""
        return np.exp(self.log_alpha(t))

    def sigma(self, t: ArrayLike) -> Float:
        r""":math:`\sigma(t)`, the standard deviation of the noise."""
        return self.rho(t) * self.alpha(t)

    def lambda_(self, t: ArrayLike) -> Float:
        r""":math:`\lambda(t) = \log(\alpha/\sigma)`, half the log signal-to-noise ratio; infinite where σ = 0."""
        with np.errstate(divide="ignore"):
            return -np.log(self.rho(t))

    def t_of_lambda(self, lambda_: ArrayLike) -> Float:
        r"""The time at which :math:`\lambda(t)` takes this value."""
        return self.t_of_rho(np.exp(-np.asarray(lambda_, dtype=np.float64)))


class _VP(Process):
    r"""Variance-preserving: :math:`\alpha^2 + \sigma^2 = 1`, so :math:`\rho = \sqrt{e^{-2\log\alpha} - 1}`."""

    def rho(self, t: ArrayLike) -> Float:
        return np.sqrt(np.expm1(-2.0 * self.log_alpha(t)))

    def drho(self, t: ArrayLike) -> Float:
        rho = self.rho(t)
        with np.errstate(divide="ignore"):
            return -self.dlog_alpha(t) * (1.0 + rho**2) / rho

    def t_of_rho(self, rho: ArrayLike) -> Float:
        return self._t_of_log_alpha(-0.5 * np.log1p(np.square(np.asarray(rho, dtype=np.float64))))

    def _t_of_log_alpha(self, log_alpha: Float) -> Float:
        raise TypeError(f"{type(self).__name__} defines no _t_of_log_alpha")


@dataclass(frozen=True, eq=False)
class DiscreteVP(_VP):
    r"""A variance-preserving chain of N steps (DDPM, Eq. 4): :math:`\bar\alpha_t = \prod_{s \le t}(1 - \beta_s)`.

    Label t = 0 … N−1 carries :math:`\bar\alpha_t`; t = −1 is the clean end, :math:`\bar\alpha_{-1} = 1`.
    Between labels :math:`\log\bar\alpha` is interpolated linearly, on [−1, 0] too.

    Args:
        betas: the variances :math:`\beta_0 … \beta_{N-1}` of the forward steps, each in (0, 1).

    Raises:
        ValueError: if a β is outside (0, 1).
    """

    betas: Float
    t_min: float = field(default=-1.0, init=False)
    t_max: float = field(init=False)
    t_end: float = field(default=-1.0, init=False)

    def __post_init__(self) -> None:
        betas = np.asarray(self.betas, dtype=np.float64)
        if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
            raise ValueError("betas must be a list of numbers strictly between 0 and 1")
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "t_max", float(len(betas) - 1))
        # cumprod, not cumsum of logs: the authors' tables are products, and agreement with them is to the last bits.
        bar = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
        object.__setattr__(self, "_log_alpha", 0.5 * np.log(bar))

    @property
    def n(self) -> int:
        """The number of training steps N."""
        return len(self.betas)

    def log_alpha(self, t: ArrayLike) -> Float:
        labels = np.arange(-1.0, self.n)
        return np.interp(np.asarray(t, dtype=np.float64), labels, self._log_alpha)  # type: ignore[attr-defined]

    def dlog_alpha(self, t: ArrayLike) -> Float:
        # Piecewise constant; at a label it is the slope of the piece below, where a sampler is heading.
        piece = np.clip(np.ceil(np.asarray(t, dtype=np.float64)).astype(int), 0, self.n - 1)
        return 0.5 * np.log1p(-self.betas[piece])

    def _t_of_log_alpha(self, log_alpha: Float) -> Float:
        labels = np.arange(-1.0, self.n)
        return np.interp(log_alpha, self._log_alpha[::-1], labels[::-1])  # type: ignore[attr-defined]


def linear_vp(n: int = 1000, beta_min: float = 1e-4, beta_max: float = 2e-2) -> DiscreteVP:
    """DDPM's schedule: β linear from ``beta_min`` to ``beta_max`` over ``n`` steps (DDPM, §4)."""
    return DiscreteVP(np.linspace(beta_min, beta_max, n))


def scaled_linear_vp(n: int = 1000, beta_min: float = 8.5e-4, beta_max: float = 1.2e-2) -> DiscreteVP:
    """Latent diffusion's schedule: √β linear over ``n`` steps."""
    return DiscreteVP(np.linspace(beta_min**0.5, beta_max**0.5, n) ** 2)


def cosine_vp(n: int = 1000, s: float = 8e-3, beta_cap: float = 0.999) -> DiscreteVP:
    r"""The cosine schedule (iDDPM, Eq. 17) :math:`\bar\alpha(u) \propto \cos^2(\frac{u+s}{1+s}\frac\pi2)`; β capped."""
    bar = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2) ** 2
    return DiscreteVP(np.minimum(1.0 - bar[1:] / bar[:-1], beta_cap))


@dataclass(frozen=True)
class ContinuousVP(_VP):
    r"""The VP SDE (score SDE, Eq. 11; its App. C, Eq. 33), t in [0, 1].

    .. math:: \log\alpha(t) = -\tfrac14 t^2(\beta_{\max} - \beta_{\min}) - \tfrac12 t\beta_{\min}.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(default=1.0, init=False)
    t_end: float = field(default=1e-3, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError("0 < beta_min <= beta_max is needed")

    def log_alpha(self, t: ArrayLike) -> Float:
        t = np.asarray(t, dtype=np.float64)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def dlog_alpha(self, t: ArrayLike) -> Float:
        return -0.5 * (self.beta_min + np.asarray(t, dtype=np.float64) * (self.beta_max - self.beta_min))

    def _t_of_log_alpha(self, log_alpha: Float) -> Float:
        # The root of t²(βmax−βmin)/4 + tβmin/2 + log α = 0, in the form that does not cancel near t = 0.
        b, d = self.beta_min, self.beta_max - self.beta_min
        return -4.0 * log_alpha / (b + np.sqrt(b * b - 4.0 * d * log_alpha))


@dataclass(frozen=True)
class SubVP(ContinuousVP):
    r"""The sub-VP SDE (score SDE, Eq. 12): α as in VP, :math:`\sigma = 1 - \alpha^2`."""

    def rho(self, t: ArrayLike) -> Float:
        log_alpha = self.log_alpha(t)
        return -np.expm1(2.0 * log_alpha) * np.exp(-log_alpha)

    def drho(self, t: ArrayLike) -> Float:
        log_alpha = self.log_alpha(t)
        return -self.dlog_alpha(t) * (np.exp(-log_alpha) + np.exp(log_alpha))

    def t_of_rho(self, rho: ArrayLike) -> Float:
        # ρ = (1 − α²)/α, hence α = (√(ρ² + 4) − ρ)/2 and log α = −asinh(ρ/2).
        return self._t_of_log_alpha(-np.arcsinh(np.asarray(rho, dtype=np.float64) / 2.0))


class _Unscaled(Process):
    r"""Variance-exploding: :math:`\alpha = 1`, so :math:`\rho = \sigma`."""

    def log_alpha(self, t: ArrayLike) -> Float:
        return np.zeros_like(np.asarray(t, dtype=np.float64))

    def dlog_alpha(self, t: ArrayLike) -> Float:
        return np.zeros_like(np.asarray(t, dtype=np.float64))


@dataclass(frozen=True)
class VE(_Unscaled):
    r"""The VE SDE (score SDE, Eq. 9 and App. C), t in [0, 1].

    :math:`\alpha = 1` and :math:`\sigma = \sigma_{\min}(\sigma_{\max}/\sigma_{\min})^t`.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(default=1.0, init=False)
    t_end: float = field(default=0.0, init=False)
    prior_std: float = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError("0 < sigma_min < sigma_max is needed")
        object.__setattr__(self, "prior_std", self.sigma_max)

    def rho(self, t: ArrayLike) -> Float:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** np.asarray(t, dtype=np.float64)

    def drho(self, t: ArrayLike) -> Float:
        return self.rho(t) * np.log(self.sigma_max / self.sigma_min)

    def t_of_rho(self, rho: ArrayLike) -> Float:
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(rho, dtype=np.float64) / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(_Unscaled):
    r"""EDM's process (EDM, Table 1): α = 1 and the time *is* the noise level, σ(t) = t."""

    sigma_max: float = 80.0
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(init=False)
    t_end: float = field(default=0.0, init=False)
    prior_std: float = field(init=False)

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise ValueError("sigma_max must be positive")
        object.__setattr__(self, "t_max", self.sigma_max)
        object.__setattr__(self, "prior_std", self.sigma_max)

    def rho(self, t: ArrayLike) -> Float:
        return np.asarray(t, dtype=np.float64)

    def drho(self, t: ArrayLike) -> Float:
        return np.ones_like(np.asarray(t, dtype=np.float64))

    def t_of_rho(self, rho: ArrayLike) -> Float:
        return np.asarray(rho, dtype=np.float64)


@dataclass(frozen=True)
class BrownianVE(_Unscaled):
    r"""EDM's form of VE (EDM, Table 1): α = 1 and :math:`\sigma(t) = \sqrt t`, data plus Brownian motion at time t.

    Its noise levels are those of :class:`VE`; only the clock differs, and with it what a Runge-Kutta method in t does.
    """

    sigma_max: float = 100.0
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(init=False)
    t_end: float = field(default=0.0, init=False)
    prior_std: float = field(init=False)

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise ValueError("sigma_max must be positive")
        object.__setattr__(self, "t_max", self.sigma_max**2)
        object.__setattr__(self, "prior_std", self.sigma_max)

    def rho(self, t: ArrayLike) -> Float:
        return np.sqrt(np.asarray(t, dtype=np.float64))

    def drho(self, t: ArrayLike) -> Float:
        with np.errstate(divide="ignore"):
            return 0.5 / np.sqrt(np.asarray(t, dtype=np.float64))

    def t_of_rho(self, rho: ArrayLike) -> Float:
        return np.square(np.asarray(rho, dtype=np.float64))


PROCESSES = {
    "linear": linear_vp,
    "scaled-linear": scaled_linear_vp,
    "cosine": cosine_vp,
    "vp": ContinuousVP,
    "sub-vp": SubVP,
    "ve": VE,
    "brownian": BrownianVE,
    "edm": EDM,
}
"""Process constructors by name."""
