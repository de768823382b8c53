r"""The likelihood of data under a network, along its probability-flow ODE (score SDE, §4.3 and App. D.2).

In :math:`\bar x = x/\alpha` the ODE is :math:`d\bar x/d\rho = \varepsilon`, and along a trajectory the density changes
by the divergence of its slope (Chen et al. 2018, Theorem 1),

.. math::

    \frac{d\log\bar p}{d\rho} = -\nabla_{\bar x}\cdot\varepsilon = -\alpha\,\nabla_x\cdot\varepsilon , \qquad
    \log p_0(x_0) = \log p_T(x_T) + d\log\frac{\alpha_T}{\alpha_0} + \int_{\rho_0}^{\rho_T}\alpha\,\nabla_x\cdot
    \varepsilon\;d\rho .

The integral is one more component of the state, whose slope is :math:`\alpha\nabla_x\cdot\varepsilon`: a plan from data
to noise (:func:`fewstep.tasks.encoding.encoder`) applies to it the weights that it has for ε, and an error-controlled
integrator its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import adaptive
from ..errors import UserError, unknown
from ..noise import normal, uniform_bits
from ..plan import Plan
from ..run import Model, sample
from ..schedules import Process
from ..shards import in_batches
from .encoding import check_direction, check_images, data_time, encoder, mirrored

__all__ = [
    "DIVERGENCES",
    "Likelihood",
    "bits_of_images",
    "bits_per_dimension",
    "dequantised",
    "exact_divergence",
    "grey_levels",
    "hutchinson",
    "log_likelihood",
    "log_likelihood_rk45",
    "rademacher",
]

DIVERGENCES = ("exact", "rademacher", "gaussian")
"""How the divergence is computed: by all d derivatives, or by random probes of either law."""


class Likelihood(NamedTuple):
    """Log-densities and what they cost.

    Attributes:
        log_p: natural logarithm of the density at the given states, float64, shape (B,).
        probe_error: standard error of each of them over its probes; NaN where there is one.
        code: the states at the noisy end, shape (B, \\*shape).
        nfe: network calls; each comes with one vector–Jacobian product a probe, or d for the exact divergence.
    """

    log_p: Tensor
    probe_error: Tensor
    code: Tensor
    nfe: int


def rademacher(
    seed: int,
    draw: int,
    ids: Iterable[int] | Tensor,
    shape: Iterable[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Signs ±1 with equal chances, a pure function of (seed, draw, sample, element) as :func:`fewstep.noise.normal`.

    Returns:
        Shape (len(ids), \\*shape).
    """
    shape = list(shape)
    numbers = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.int64).to(device)
    bits = uniform_bits(seed, draw, numbers, math.prod(shape)) & 1
    return (1 - 2 * bits).reshape(len(numbers), *shape).to(dtype)


def exact_divergence(model: Model, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    r"""ε and its divergence :math:`\sum_i \partial\varepsilon_i/\partial x_i`, by d vector–Jacobian products.

    Returns:
        ε of the shape of ``x``, and shape (B, 1).
    """
    x, eps = _differentiable(model, x, t)
    d = x[0].numel()
    total = x.new_zeros(len(x))
    for i, axis in enumerate(torch.eye(d, dtype=x.dtype, device=x.device)):
        (row,) = torch.autograd.grad(eps, x, axis.expand(len(x), d).reshape(x.shape), retain_graph=i < d - 1)
        total += row.flatten(1)[:, i]
    return eps.detach(), total[:, None]


def hutchinson(model: Model, x: Tensor, t: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    r"""ε and estimates :math:`v^{\mathsf T}(\partial\varepsilon/\partial x)\,v` of its divergence (Hutchinson 1990).

    They are unbiased for every law of v with :math:`E[v v^{\mathsf T}] = I`.

    Args:
        model: an ε-model.
        x: shape (B, \*shape).
        t: shape (B,).
        probes: the v, shape (n, B, \*shape).

    Returns:
        ε of the shape of ``x``, and shape (B, n).
    """
    x, eps = _differentiable(model, x, t)
    found = []
    for k, v in enumerate(probes):
        (product,) = torch.autograd.grad(eps, x, v, retain_graph=k < len(probes) - 1)
        found.append((product * v).flatten(1).sum(1))
    return eps.detach(), torch.stack(found, 1)


def _differentiable(model: Model, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The input as a leaf, and ε with the graph that leads to it."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        eps = model(x, t)
    if eps.shape != x.shape:
        raise UserError(f"the model returned shape {tuple(eps.shape)}; that of its input, {tuple(x.shape)}, is needed")
    if not eps.requires_grad:
        raise UserError("the model's output has no gradient: a likelihood needs one that runs without torch.no_grad")
    return x, eps


Divergence = Callable[[Model, Tensor, Tensor], tuple[Tensor, Tensor]]


def _divergence(kind: str, probes: int, seed: int, ids: Iterable[int] | Tensor | None, x: Tensor) -> Divergence:
    """The estimator of that name; its probes belong to the samples and stay the same along a trajectory."""
    if kind not in DIVERGENCES:
        raise unknown("divergence", kind, DIVERGENCES)
    if probes < 1:
        raise UserError(f"at least one probe is needed, got {probes}")
    if kind == "exact":
        return exact_divergence
    numbers = torch.arange(len(x)) if ids is None else torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids))
    draw = rademacher if kind == "rademacher" else normal
    vectors = torch.stack([draw(seed, k, numbers, x.shape[1:], x.dtype, x.device) for k in range(probes)])
    return lambda model, y, t: hutchinson(model, y, t, vectors)


def _augmented(process: Process, model: Model, divergence: Divergence, x: Tensor) -> Model:
    r"""The ε-model of the state (x, α y): ε, and the slope :math:`\alpha\nabla_x\cdot\varepsilon` of every y."""
    d = x[0].numel()

    def eps(state: Tensor, t: Tensor) -> Tensor:
        y = state[:, :d].to(x.dtype).view(x.shape)
        e, trace = divergence(model, y, t.to(x.dtype))
        return torch.cat([e.flatten(1).to(state), float(process.alpha(t[0].item())) * trace.to(state)], 1)

    return eps


def _finish(
    process: Process,
    state: Tensor,
    x: Tensor,
    ends: tuple[float, float],
    log_prior: Callable[[Tensor], Tensor] | None,
    nfe: int,
) -> Likelihood:
    """The densities from the augmented state at the noisy end."""
    d = x[0].numel()
    alpha, last = (float(a) for a in process.alpha(list(ends)))
    code = state[:, :d].reshape(x.shape)
    if log_prior is None:
        std = process.prior_std
        prior = -0.5 * (state[:, :d] / std).square().sum(1) - d * math.log(std * math.sqrt(2.0 * math.pi))
    else:
        prior = log_prior(code).to(state)
    each = prior[:, None] + d * math.log(last / alpha) + state[:, d:] / last
    n = each.shape[1]
    error = each.std(1) / math.sqrt(n) if n > 1 else torch.full_like(prior, math.nan)
    return Likelihood(each.mean(1), error, code, nfe)


def _start(x: Tensor, components: int) -> Tensor:
    if x.ndim < 2 or not len(x) or not torch.isfinite(x).all():
        raise UserError(f"a batch of finite states is needed, got shape {tuple(x.shape)}")
    flat = x.flatten(1).double()
    return torch.cat([flat, flat.new_zeros(len(x), components)], 1)


def log_likelihood(
    process: Process,
    plan: Plan,
    model: Model,
    x: Tensor,
    *,
    divergence: str = "exact",
    probes: int = 1,
    seed: int = 0,
    ids: Iterable[int] | Tensor | None = None,
    log_prior: Callable[[Tensor], Tensor] | None = None,
) -> Likelihood:
    r"""Log-densities by a plan, which integrates the divergence with its own weights.

    Args:
        process: of the model.
        plan: from data to noise, deterministic: :func:`fewstep.tasks.encoding.encoder`.
        model: an ε-model, differentiable in x; it is called in the dtype of ``x``, all sums are float64.
        x: states at ``plan.times[0]``, shape (B, \*shape). For images, α times the image (and :math:`d\log\alpha` added
            to the result gives the density of the image itself).
        divergence: a name in :data:`DIVERGENCES`.
        probes: random vectors per sample.
        seed: of the probes.
        ids: the sample numbers of the batch, 0 … B − 1 unless given; sample i has the same probes in any batch.
        log_prior: log-density at ``plan.times[-1]`` of states (B, \*shape), returning (B,); unless given that of
            :math:`N(0, s^2 I)` with s = ``process.prior_std``, which is the process's own only up to what data is left
            in its noise.

    Raises:
        UserError: for a stochastic plan or one from noise to data, an unknown divergence, a model without a gradient.
    """
    check_direction(plan, rising=True)
    estimate = _divergence(divergence, probes, seed, ids, x)
    start = _start(x, 1 if divergence == "exact" else probes)
    state = sample(plan, _augmented(process, model, estimate, x), start, dtype=torch.float64)
    return _finish(process, state, x, (float(plan.times[0]), float(plan.times[-1])), log_prior, plan.nfe)


def log_likelihood_rk45(
    process: Process,
    model: Model,
    x: Tensor,
    *,
    t_data: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    in_rho: bool = False,
    divergence: str = "exact",
    probes: int = 1,
    seed: int = 0,
    ids: Iterable[int] | Tensor | None = None,
    log_prior: Callable[[Tensor], Tensor] | None = None,
) -> Likelihood:
    r"""Log-densities by :func:`fewstep.adaptive.rk45`, from ``t_data`` to ``process.t_max`` (score SDE, App. D.2).

    Its error control sees the divergence's component too, and the whole batch as one ODE.

    Args:
        process: of the model.
        model: as of :func:`log_likelihood`.
        x: states at ``t_data``, shape (B, \*shape).
        t_data: where ``x`` is; :func:`fewstep.tasks.encoding.data_time` unless given.
        rtol: relative tolerance.
        atol: absolute tolerance.
        in_rho: integrate in ρ, where the linear term is gone and the slope is finite at clean data too; False: in t.
        divergence: as of :func:`log_likelihood`, like the arguments after it.

    Raises:
        UserError: as :func:`log_likelihood` and :func:`fewstep.adaptive.rk45`.
    """
    first = data_time(process) if t_data is None else t_data
    if not in_rho and not math.isfinite(float(process.drho(first))):
        raise UserError(f"the slope in t is infinite at t = {first:g}: start later, or integrate in rho")
    eps = _augmented(process, model, _divergence(divergence, probes, seed, ids, x), x)
    found = adaptive.rk45(
        mirrored(process),
        lambda state, s: -eps(state, -s),
        _start(x, 1 if divergence == "exact" else probes),
        t_start=-first,
        t_end=-process.t_max,
        rtol=rtol,
        atol=atol,
        in_rho=in_rho,
        dtype=torch.float64,
    )
    return _finish(process, found.x, x, (first, process.t_max), log_prior, found.nfe)


def grey_levels(images: Tensor) -> int:
    """How many equally spaced grey levels in [−1, 1] a data set has: 256 for 8-bit images, 17 for the digits.

    Raises:
        UserError: if the images' values do not lie on such levels.
    """
    values = torch.unique(images.double())
    gap = float(values.diff().min()) if len(values) > 1 else 0.0
    n = round(2.0 / gap) + 1 if gap > 1e-4 else 0
    places = (values + 1.0) * (n - 1) / 2.0
    if n < 2 or (places - places.round()).abs().max() > 1e-3 or values[0] < -1 - 1e-6 or values[-1] > 1 + 1e-6:
        raise UserError("the images are not quantised: bits per dimension need equally spaced grey levels in [-1, 1]")
    return n


def dequantised(
    images: Tensor, levels: int = 256, *, seed: int = 0, ids: Iterable[int] | Tensor | None = None
) -> Tensor:
    r"""Images with uniform noise over the width :math:`\delta = 2/(\mathrm{levels} - 1)` of a grey level.

    :math:`x + \delta(u - \tfrac12)`; a level in the middle of its own cell.

    Args:
        images: shape (B, \*shape), quantised, in [−1, 1].
        levels: number of grey levels from −1 to 1.
        seed: of the noise, a pure function of (seed, sample, element).
        ids: the sample numbers, 0 … B − 1 unless given.

    Raises:
        UserError: for images that do not lie on these levels.
    """
    places = (images.double() + 1.0) * (levels - 1) / 2.0
    if not (places - places.round()).abs().max() <= 1e-3:
        raise UserError(f"the images are not quantised to {levels} grey levels from -1 to 1, as this data set is")
    numbers = torch.arange(len(images)) if ids is None else torch.as_tensor(ids if isinstance(ids, Tensor) else [*ids])
    bits = uniform_bits(seed, 2**32 - 1, numbers, images[0].numel()).to(images.device)
    u = (bits.double() + 0.5) * 2.0**-32
    return images + (2.0 / (levels - 1) * (u - 0.5)).view(images.shape).to(images)


def bits_per_dimension(log_p: Tensor, d: int, levels: int = 256) -> Tensor:
    r"""Bits per dimension of quantised images from log-densities of their :func:`dequantised` ones (Theis et al. 2016).

    With :math:`\delta = 2/(\mathrm{levels} - 1)`, :math:`-(\log p/d + \log\delta)/\log 2`: by Jensen's inequality at
    least, in the mean, what a code of the quantised images would need under the model's mass in each cell.

    Args:
        log_p: of images in [−1, 1], shape (B,).
        d: dimensions of an image.
        levels: number of grey levels from −1 to 1.
    """
    return -(log_p / d + math.log(2.0 / (levels - 1))) / math.log(2.0)


def bits_of_images(
    process: Process,
    model: Model,
    images: Tensor,
    levels: int = 256,
    *,
    solver: str = "deis-rhork-kutta3",
    nfe: int = 36,
    grid: str | None = None,
    tolerance: float = 1e-5,
    rho_data: float | None = None,
    divergence: str = "rademacher",
    probes: int = 1,
    seed: int = 0,
    batch_size: int = 256,
) -> tuple[Tensor, int]:
    r"""Bits per dimension of quantised images: dequantised, encoded, summed up.

    Their mean over images is an upper bound of the expected code length; over probes it is unbiased.

    Args:
        process: of the model.
        model: an ε-model.
        images: shape (B, \*shape), on the grey levels, in [−1, 1].
        levels: number of grey levels from −1 to 1.
        solver: a deterministic solver, or ``rk45`` (in ρ).
        nfe: its budget of calls; not used by ``rk45``.
        grid: its grid; the solver's own unless given.
        tolerance: of ``rk45``, relative and absolute.
        rho_data: the noise level ρ at which the network's density is asked. Unless given that of the dequantisation,
            :math:`\delta/\sqrt{12}` with δ the width of a level, or the smallest one that the network knows: below, it
            would meet images that it was not trained on.
        divergence: a name in :data:`DIVERGENCES`.
        probes: random vectors per image.
        seed: of the dequantisation and of the probes.
        batch_size: images per network call, as long as the memory suffices; with ``rk45``, also how many share their
            steps.

    Returns:
        The bits of each image, shape (B,), and the number of network calls (the largest of any batch).

    Raises:
        UserError: for images of another shape, outside [−1, 1] or not quantised; otherwise as :func:`log_likelihood`.
    """
    check_images(images, model)
    level = 2.0 / (levels - 1) / math.sqrt(12.0) if rho_data is None else rho_data
    if not (level > 0 and level < float(process.rho(process.t_max))):
        raise UserError(f"rho_data must lie between 0 and {float(process.rho(process.t_max)):g}, got {level:g}")
    t_data = max(data_time(process), float(process.t_of_rho(level)))
    alpha = float(process.alpha(t_data))
    noisy = alpha * dequantised(images, levels, seed=seed)
    plan = None if solver == "rk45" else encoder(solver, process, nfe, grid, t_data=t_data)
    d = images[0].numel()
    calls: list[int] = []

    def work(start: int, stop: int) -> Tensor:
        x = noisy[start:stop]
        how: dict[str, Any] = {"divergence": divergence, "probes": probes, "seed": seed, "ids": range(start, stop)}
        if plan is None:
            error: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "in_rho": True}
            given = log_likelihood_rk45(process, model, x, t_data=t_data, **error, **how)
        else:
            given = log_likelihood(process, plan, model, x, **how)
        calls.append(given.nfe)
        return bits_per_dimension(given.log_p + d * math.log(alpha), d, levels).cpu()

    return torch.cat(list(in_batches(work, 0, len(images), batch_size))), max(calls)
