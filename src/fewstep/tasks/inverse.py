r"""Inverse problems: an image from measurements of it, with the network as the projection onto the images.

In the optimization view (Permenter & Yuan 2023) the denoised value :math:`\hat x_0 = \bar x - \rho\,\varepsilon` stands
for the projection of :math:`\bar x` onto the set K of images, and the samplers descend the squared distance to K. Under
measurements :math:`y = A x_0`, or any other constraint C whose projection is known, the denoised value is projected
onto C too,

.. math:: \bar x_{k+1} = \bar x_k - \eta_k\bigl(\bar x_k - P_C(\hat x_0(\bar x_k))\bigr), \qquad
          \eta_k = 1 - \rho_{k+1}/\rho_k \text{ for DDIM} :

with η = 1 projected gradient descent on :math:`\tfrac12 d_K^2` over C. It is a wrapper around the network
(:func:`projected`), so every plan can be run with it; a plan whose last step to ρ = 0 is a DDIM step ends in C.
:func:`posterior` instead adds the gradient of a Gaussian log-likelihood to the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .. import solvers
from ..errors import UserError
from ..models.protocol import EpsModel, coefficients, from_x0
from ..noise import normal
from ..plan import Plan
from ..run import sample
from ..schedules import Process

__all__ = [
    "Projection",
    "denoise",
    "denoised",
    "gradient_step",
    "onto_measurements",
    "posterior",
    "projected",
    "recover",
]

Projection = Callable[[Tensor], Tensor]
"""From samples (B, \\*shape) to samples of the same shape."""


def denoised(model: EpsModel, process: Process) -> Callable[[Tensor, Tensor], Tensor]:
    r"""The denoiser of an ε-model, :math:`\hat x_0(x, t) = (x - \sigma\varepsilon)/\alpha`."""

    def x0(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = coefficients(process, t, x)
        return (x - sigma * model(x, t)) / alpha

    return x0


def projected(model: EpsModel, process: Process, project: Projection) -> EpsModel:
    r"""The ε-model whose denoised value is projected: :math:`\varepsilon' = (x - \alpha P(\hat x_0))/\sigma`.

    With the projection onto :math:`\{A x = y\}` (:func:`onto_measurements`) this is DDNM (Wang et al. 2022);
    with that onto a box it is :func:`fewstep.models.protocol.clipped`.

    Args:
        model: an ε-model.
        process: of the model.
        project: the projection P, or a step towards the constraint (:func:`gradient_step`).
    """
    x0 = denoised(model, process)
    return from_x0(lambda x, t: project(x0(x, t)), process)


def onto_measurements(A: Tensor, y: Tensor) -> Projection:
    r"""The nearest point that has these measurements, :math:`P(x) = x - A^+(Ax - y)`.

    Args:
        A: shape (m, n), for samples of n elements.
        y: the measurements, shape (B, m) or (m,).

    Raises:
        UserError: for shapes that do not fit.
    """
    _check(A, y)
    inverse = torch.linalg.pinv(A.double())

    def project(x: Tensor) -> Tensor:
        flat = _flat(x, A)
        return (flat - (flat @ A.to(x).T - y.to(x)) @ inverse.to(x).T).view_as(x)

    return project


def gradient_step(A: Tensor, y: Tensor, step: float) -> Projection:
    r"""A step of gradient descent on :math:`\tfrac12\lVert Ax - y\rVert^2`, for measurements with noise.

    .. math:: x \mapsto x - \eta A^T(Ax - y) .

    Between two denoising steps it makes a plan the plug-and-play forward–backward iteration, with the network in the
    place of the proximal operator.

    Args:
        A: shape (m, n), for samples of n elements.
        y: the measurements, shape (B, m) or (m,).
        step: η, positive; the iteration is stable below 2 over the largest eigenvalue of :math:`A^T A`.

    Raises:
        UserError: for a step that is not positive and finite, or shapes that do not fit.
    """
    _check(A, y)
    if not 0.0 < step < float("inf"):
        raise UserError(f"step must be positive and finite, got {step:g}")

    def move(x: Tensor) -> Tensor:
        flat = _flat(x, A)
        return (flat - step * (flat @ A.to(x).T - y.to(x)) @ A.to(x)).view_as(x)

    return move


def posterior(
    model: EpsModel,
    process: Process,
    measure: Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    variance: Callable[[Tensor], Tensor] = lambda rho: rho**2 / (1.0 + rho**2),
    weight: float = 1.0,
) -> EpsModel:
    r"""Posterior sampling by the gradient of a likelihood through the network (DPS, Chung et al. 2023).

    With :math:`p_t(y \mid x) \approx N(y;\, A\hat x_0(x, t),\, r^2(\rho))`,

    .. math:: \tilde\varepsilon = \varepsilon
              + w\,\sigma_t\,\nabla_x\,\frac{\lVert y - A\hat x_0(x, t)\rVert^2}{2\,r^2(\rho_t)} .

    The default :math:`r^2 = \rho^2/(1 + \rho^2)` (ΠGDM, Song et al. 2023) is the variance of a pixel given x for data
    of unit variance. With the right variance the result is the exact score given y where the data are Gaussian and the
    measurements independent given x. DPS replaces :math:`w/2r^2` by a constant over the norm of the residual.

    Args:
        model: an ε-model, differentiable in x; one call and one backward pass for each call of the plan.
        process: of the model.
        measure: A, a differentiable function of samples (B, \*shape).
        y: what was measured: the shape of ``measure``'s result.
        variance: :math:`r^2` of ρ, shape (B, 1) to (B, 1); noise of the measurement is added here.
        weight: w, at least 0.

    Raises:
        UserError: for a negative weight; when called, if ``y`` has another shape than the measurements.
    """
    if not 0.0 <= weight < float("inf"):
        raise UserError(f"the weight must not be negative, got {weight:g}")

    def eps(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = coefficients(process, t, x)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            output = model(at, t)
            found = measure((at - sigma * output) / alpha)
            if found.shape != y.shape and found.shape[1:] != y.shape:
                raise UserError(f"measurements have the shape {tuple(found.shape)}; y has {tuple(y.shape)}")
            square = (found - y.to(found)).flatten(1).square().sum(1, keepdim=True)
            spread = variance((sigma / alpha).reshape(-1, 1))
            (gradient,) = torch.autograd.grad((square / (2.0 * spread)).sum(), at)
        return output.detach() + weight * sigma * gradient

    return eps


def recover(
    plan: Plan,
    model: EpsModel,
    process: Process,
    project: Projection,
    shape: Iterable[int],
    ids: Iterable[int],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Samples that satisfy a constraint: the plan from noise, with the denoised values projected.

    Args:
        plan: the sampler; where it ends at ρ = 0 by a DDIM step, and P is a projection, the result satisfies the
            constraint to rounding.
        model: an ε-model.
        process: of the model.
        project: see :func:`projected`; it gets all samples at once.
        shape: of one sample.
        ids: the sample numbers.
        seed: of all noise.
        dtype: of the states.
        device: of the model.

    Returns:
        A tensor of shape ``(len(ids), *shape)`` on the CPU.
    """
    numbers = torch.as_tensor(list(ids), dtype=torch.int64)
    x = plan.prior_std * normal(seed, 0, numbers, list(shape), dtype, device)
    constrained = projected(model, process, project)
    return sample(plan, constrained, x, seed=seed, ids=numbers, dtype=dtype).cpu()


def denoise(
    model: EpsModel,
    process: Process,
    noisy: Tensor,
    sigma: float,
    nfe: int = 1,
    solver: str = "ddim",
    grid: str = "rho7",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Images from :math:`x_0 + \sigma z`: the plan of a solver that starts at this noise level.

    One call of DDIM gives the network's estimate of the mean of :math:`x_0` given the noisy image, the least squared
    error; more calls lead along the probability-flow ODE towards one image, the projection of the optimization view.

    Args:
        model: an ε-model.
        process: of the model.
        noisy: shape (B, \*shape).
        sigma: the noise's standard deviation, within the process's range of ρ.
        nfe: budget of network calls.
        solver: a deterministic one.
        grid: a key of :data:`fewstep.grids.GRIDS`.
        dtype: of the states.

    Raises:
        UserError: for a noise level outside the range, or a solver that injects noise or cannot spend the budget.
    """
    low, high = abs(float(process.rho(process.t_end))), float(process.rho(process.t_max))  # at the clean end −0
    if not low < sigma <= high:
        raise UserError(f"sigma must lie in ({low:g}, {high:g}], the noise levels of this process; got {sigma:g}")
    start = float(process.t_of_rho(sigma))
    plan = solvers.build(solver, process, nfe, grid, {"t_start": start})
    if plan.stochastic:
        raise UserError(f"{solver} injects noise; denoising needs a deterministic solver, such as ddim")
    return sample(plan, model, float(process.alpha(start)) * noisy, dtype=dtype)


def _check(A: Tensor, y: Tensor) -> None:
    if A.ndim != 2 or y.ndim not in (1, 2) or y.shape[-1] != len(A):
        shapes = f"{tuple(A.shape)} and {tuple(y.shape)}"
        raise UserError(f"A of shape (m, n) and y of shape (B, m) are needed, got {shapes}")


def _flat(x: Tensor, A: Tensor) -> Tensor:
    flat = x.flatten(1)
    if flat.shape[1] != A.shape[1]:
        raise UserError(f"A measures samples of {A.shape[1]} elements; these have {flat.shape[1]}")
    return flat
