r"""Problems whose ε is known in closed form, and accurate solutions of their probability-flow ODE.

On them a sampler's error is discretization error alone: nothing was fitted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from .errors import UserError
from .noise import normal
from .plan import Plan
from .run import sample
from .schedules import Process

__all__ = [
    "GaussianMixture",
    "IdealDenoiser",
    "error",
    "example",
    "projection",
    "reference",
    "smoothed_distance",
    "solution",
]


class GaussianMixture:
    r"""Data from :math:`\sum_k w_k N(\mu_k, s^2 I)`; an ε-model that makes no error.

    With :math:`v = \alpha^2 s^2 + \sigma^2` and
    :math:`r_k \propto w_k \exp(-\lVert x - \alpha\mu_k\rVert^2/2v)`,

    .. math:: \varepsilon^*(x, t) = \frac{\sigma}{v}\Bigl(x - \alpha\sum_k r_k\mu_k\Bigr) .

    Args:
        means: shape (K, \*shape).
        std: s, at least 0 (0: a finite set of points).
        process: gives α(t), σ(t).
        weights: K non-negative numbers, normalised here; equal unless given.

    Raises:
        UserError: for a negative ``std`` or weights that do not fit.
    """

    def __init__(self, means: Tensor, std: float, process: Process, weights: Tensor | None = None) -> None:
        if std < 0:
            raise UserError(f"std must not be negative, got {std:g}")
        self.means, self.std, self.process = torch.as_tensor(means), float(std), process
        weights = torch.ones(len(self.means)) if weights is None else torch.as_tensor(weights)
        if weights.shape != (len(self.means),) or (weights < 0).any() or not weights.sum() > 0:
            raise UserError(f"{len(self.means)} non-negative weights are needed, got shape {tuple(weights.shape)}")
        self.weights = weights / weights.sum()

    def _coefficients(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at the times t, each of shape (B, 1), in the dtype of x."""
        times = t.detach().cpu().double().expand(len(x)).numpy()
        alpha, sigma = self.process.alpha(times), self.process.sigma(times)
        return torch.as_tensor(alpha).to(x)[:, None], torch.as_tensor(sigma).to(x)[:, None]

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k + log N(x; α μ_k, v), shape (B, K), and v."""
        flat, means = x.flatten(1), self.means.flatten(1).to(x)
        v = alpha**2 * self.std**2 + sigma**2
        square = (flat**2).sum(1, keepdim=True) - 2 * alpha * (flat @ means.T) + alpha**2 * (means**2).sum(1)
        dim = flat.shape[1]
        return self.weights.to(x).log() - square.clamp_min(0) / (2 * v) - 0.5 * dim * torch.log(2 * torch.pi * v), v

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """ε*(x, t), of the shape of x."""
        alpha, sigma = self._coefficients(x, t)
        log_joint, v = self._log_joint(x, alpha, sigma)
        mean = torch.softmax(log_joint, 1) @ self.means.flatten(1).to(x)
        return (sigma / v * (x.flatten(1) - alpha * mean)).view_as(x)

    def x0(self, x: Tensor, t: Tensor) -> Tensor:
        r"""The ideal denoiser :math:`E[x_0 \mid x_t = x]`."""
        alpha, sigma = self._coefficients(x, t)
        log_joint, v = self._log_joint(x, alpha, sigma)
        mean = torch.softmax(log_joint, 1) @ self.means.flatten(1).to(x)
        return (mean + alpha * self.std**2 / v * (x.flatten(1) - alpha * mean)).view_as(x)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\nabla\log p_t(x) = -\varepsilon^*/\sigma`."""
        alpha, sigma = self._coefficients(x, t)
        log_joint, v = self._log_joint(x, alpha, sigma)
        mean = torch.softmax(log_joint, 1) @ self.means.flatten(1).to(x)
        return ((alpha * mean - x.flatten(1)) / v).view_as(x)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\log p_t(x)`, shape (B,)."""
        return torch.logsumexp(self._log_joint(x, *self._coefficients(x, t))[0], 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points of the data distribution itself, in the dtype of the means."""
        k = torch.multinomial(self.weights.double(), n, replacement=True, generator=generator)
        means = self.means[k]
        return means + self.std * torch.randn(means.shape, dtype=means.dtype, generator=generator)


class IdealDenoiser(GaussianMixture):
    """The ε-model that minimises the training loss on a finite data set: a mixture of points (std 0).

    Args:
        data: shape (n, \\*shape).
        process: gives α(t), σ(t); the model is defined where σ > 0.
    """

    def __init__(self, data: Tensor, process: Process) -> None:
        super().__init__(data, 0.0, process)


def example(process: Process) -> GaussianMixture:
    r"""The mixture of the book's experiments: five components in 4 dimensions, s = 0.3, :math:`\mu_k \sim N(0, 4I)`."""
    return GaussianMixture(2 * normal(0, 0, range(5), (4,), torch.float64), 0.3, process)


def smoothed_distance(data: Tensor, x: Tensor, sigma: float) -> Tensor:
    r"""Half the σ-smoothed squared distance to a finite set (Permenter & Yuan, §4; up to an additive constant):

    .. math:: \tfrac12 d_\sigma^2(x) = -\sigma^2\log\frac1n\sum_i \exp\bigl(-\lVert x - x_i\rVert^2/2\sigma^2\bigr) .

    Its gradient in x is :math:`\sigma\,\varepsilon^*(x, \sigma)`, x minus the ideal denoiser.

    Args:
        data: shape (n, \\*shape).
        x: shape (B, \\*shape), in the coordinates x̄ = x/α.
        sigma: positive.

    Returns:
        Shape (B,).
    """
    if not sigma > 0:
        raise UserError(f"sigma must be positive, got {sigma:g}")
    square = torch.cdist(x.flatten(1), data.flatten(1).to(x), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return -(sigma**2) * (torch.logsumexp(-square / (2 * sigma**2), 1) - np.log(len(data)))


def projection(data: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest point of a finite set and the distance to it: shapes of ``x`` and (B,)."""
    distance, index = torch.cdist(x.flatten(1), data.flatten(1).to(x), compute_mode="donot_use_mm_for_euclid_dist").min(
        1
    )
    return data.to(x)[index], distance


def reference(
    model: Callable[[Tensor, Tensor], Tensor],
    process: Process,
    x: Tensor,
    t_start: float,
    t_end: float,
    *,
    tolerance: float = 1e-12,
    times: np.ndarray | None = None,
) -> Tensor:
    r"""The solution of :math:`d\bar x/d\rho = \varepsilon` to ``tolerance``, by SciPy's DOP853.

    In log ρ down to ρ = 0.01, below that in ρ itself, so that a clean end is reached.

    Args:
        model: an ε-model that accepts float64.
        process: of the model.
        x: the state at ``t_start``, shape (B, \\*shape).
        t_start: where the solution starts.
        t_end: where it ends.
        tolerance: relative and absolute.
        times: if given, the states at these times (decreasing, within the ends) are returned too.

    Returns:
        The state at ``t_end``, float64, shape of x; with ``times`` shape (len(times), \\*x.shape) instead.

    Raises:
        UserError: if the integrator fails.
    """
    asked = np.array([t_end]) if times is None else np.asarray(times, dtype=np.float64)
    start, split = float(process.rho(t_start)), 0.01

    def eps(rho: float, flat: np.ndarray) -> np.ndarray:
        t = float(process.t_of_rho(rho))
        state = torch.as_tensor(flat).view(x.shape) * float(process.alpha(t))
        return model(state, torch.full((len(x),), t, dtype=torch.float64)).double().reshape(-1).numpy()

    def solve(f: Callable[[float, np.ndarray], np.ndarray], a: float, b: float, y: np.ndarray) -> np.ndarray:
        if a == b:
            return y
        # Each asked time ends an integration of its own: the interpolant between steps is less accurate than the steps.
        found = solve_ivp(f, (a, b), y, "DOP853", rtol=tolerance, atol=tolerance)
        if not found.success:
            raise UserError(f"the reference solution failed: {found.message}")
        return found.y[:, -1]

    y = (x.double() / float(process.alpha(t_start))).reshape(-1).numpy()
    states = []
    with torch.no_grad():
        for t, end in zip(asked, process.rho(asked).tolist(), strict=True):
            if start > split:
                middle = max(split, end)
                y = solve(lambda s, v: np.exp(s) * eps(np.exp(s), v), np.log(start), np.log(middle), y)
                start = middle
            y, start = solve(eps, start, end, y), end
            states.append(torch.as_tensor(y.copy()).view(x.shape) * float(process.alpha(t)))
    return states[-1] if times is None else torch.stack(states)


@functools.lru_cache(maxsize=64)
def solution(problem: GaussianMixture, x: Tensor, t_start: float, t_end: float) -> Tensor:
    """Where the probability-flow ODE of a known problem leads; remembered, so leave ``x`` as it is.

    Args:
        problem: gives ε* and the process.
        x: the state at ``t_start``, float64, shape (B, \\*shape).
        t_start: where the solution starts.
        t_end: where it ends; the clean end too.

    Returns:
        The state at ``t_end``, float64, shape of ``x``.
    """
    process = problem.process
    if problem.std > 0 or float(process.rho(t_end)) > 0:
        return reference(problem, process, x, t_start, t_end)
    # Towards ρ = 0 the ε* of a finite set is 0/0. Long before, one point has all the weight: the denoiser returns it.
    near = float(process.t_of_rho(0.01))
    state = reference(problem, process, x, t_start, near, tolerance=1e-8)
    return problem.x0(state, torch.full((len(x),), near, dtype=torch.float64))


def error(plan: Plan, problem: GaussianMixture, x: Tensor) -> float:
    """Root mean square difference between a plan's result and the exact solution, from the same start to the same end.

    Args:
        plan: a deterministic sampler.
        problem: gives ε* and the process.
        x: start states at ``plan.times[0]``, float64, shape (B, \\*shape).
    """
    exact = solution(problem, x, float(plan.times[0]), float(plan.times[-1]))
    return (sample(plan, problem, x, dtype=torch.float64) - exact).square().mean().sqrt().item()
