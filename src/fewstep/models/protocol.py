r"""What a sampler asks of a network, and how networks that predict something else answer it.

With :math:`x = \alpha x_0 + \sigma z`, knowing :math:`x` and one of :math:`x_0`, :math:`z`,
:math:`v = \alpha z - \sigma x_0` or the score :math:`-z/\sigma` gives all the others. The samplers ask for
:math:`\varepsilon`, the prediction of :math:`z`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..schedules import Process

__all__ = ["EpsModel", "clipped", "coefficients", "from_score", "from_v", "from_x0", "normalised", "thresholded"]


class EpsModel(Protocol):
    r"""A prediction of the noise, :math:`\varepsilon(x, t) \approx E[z \mid x_t = x]`."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in ``x`` (B, \\*shape) at the times ``t`` (B,), floats as in training; same shape as ``x``."""
        ...


def coefficients(process: Process, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\alpha(t), \sigma(t)` of shape (B, 1, …, 1), from float64, in the dtype and device of ``like``."""
    times = t.detach().to("cpu", torch.float64).numpy()
    shape = (-1,) + (1,) * (like.ndim - 1)
    alpha, sigma = (torch.from_numpy(f(times)).to(like).reshape(shape) for f in (process.alpha, process.sigma))
    return alpha, sigma


def from_x0(model: Callable[[Tensor, Tensor], Tensor], process: Process) -> EpsModel:
    r"""ε from the predicted clean sample (DDIM, Eq. 9): :math:`\varepsilon = (x - \alpha x_0)/\sigma`; not at σ = 0."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = coefficients(process, t, x)
        return (x - alpha * model(x, t)) / sigma

    return eps


def from_v(model: Callable[[Tensor, Tensor], Tensor], process: Process) -> EpsModel:
    r"""ε from a prediction of :math:`v = \alpha z - \sigma x_0` (Salimans & Ho 2022, §4).

    Since :math:`\alpha v + \sigma x = (\alpha^2 + \sigma^2) z`, :math:`\varepsilon = \alpha v + \sigma x` where the
    variance is preserved; the division by :math:`\alpha^2 + \sigma^2` makes it right for every process.
    """

    def eps(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = coefficients(process, t, x)
        return (alpha * model(x, t) + sigma * x) / (alpha**2 + sigma**2)

    return eps


def from_score(model: Callable[[Tensor, Tensor], Tensor], process: Process) -> EpsModel:
    r"""ε from the score :math:`s = \nabla_x \log p_t(x)`: :math:`\varepsilon = -\sigma s` (score SDE, Eq. 7)."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        _, sigma = coefficients(process, t, x)
        return -sigma * model(x, t)

    return eps


def normalised(model: EpsModel, process: Process) -> EpsModel:
    r"""The ε-model of a network whose input has unit variance whatever the process: ``model(x / √(α² + σ²), t)``.

    What a network is trained and used through where states grow with the noise, as those of the variance-exploding
    process do (EDM, §5, whose :math:`c_\mathrm{in}` this is for data of unit variance). For variance-preserving
    processes it is the network itself. Labels and other arguments are handed on.
    """
    ends = np.array([process.t_max, 0.5 * (process.t_min + process.t_max)])
    if np.allclose(process.alpha(ends) ** 2 + process.sigma(ends) ** 2, 1.0, rtol=0.0, atol=1e-12):
        return model

    def eps(x: Tensor, t: Tensor, *arguments: Any) -> Tensor:
        alpha, sigma = coefficients(process, t, x)
        return model(x / torch.hypot(alpha, sigma), t, *arguments)

    return eps


def clipped(model: EpsModel, process: Process, bound: float = 1.0) -> EpsModel:
    r"""The ε-model whose denoised value is clipped to [−bound, bound] (DDPM, App. B, where pixels lie in [−1, 1]).

    .. math::

        \hat x_0 = (x - \sigma\varepsilon)/\alpha, \qquad
        \varepsilon' = (x - \alpha\,\mathrm{clip}(\hat x_0))/\sigma .
    """

    def clip(x0: Tensor) -> Tensor:
        return x0.clamp(-bound, bound)

    return _denoised(model, process, clip)


def thresholded(model: EpsModel, process: Process, quantile: float = 0.995) -> EpsModel:
    r"""The ε-model with dynamic thresholding (Saharia et al. 2022, Imagen, §2.3).

    With s the quantile of :math:`|\hat x_0|` over a sample's own elements, at least 1, the denoised value becomes
    :math:`\mathrm{clip}(\hat x_0, -s, s)/s`. It changes data that legitimately lies outside [−1, 1].
    """

    def threshold(x0: Tensor) -> Tensor:
        flat = x0.abs().flatten(1)
        s = torch.quantile(flat, quantile, dim=1).clamp(min=1.0).reshape((-1,) + (1,) * (x0.ndim - 1))
        return x0.clamp(-s, s) / s

    return _denoised(model, process, threshold)


def _denoised(model: EpsModel, process: Process, change: Callable[[Tensor], Tensor]) -> EpsModel:
    """The ε-model whose denoised value is ``change`` of the model's; not at σ = 0."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = coefficients(process, t, x)
        return (x - alpha * change((x - sigma * model(x, t)) / alpha)) / sigma

    return eps
