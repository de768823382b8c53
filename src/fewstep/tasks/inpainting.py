r"""Inpainting and colorization: part of an image is known, and the sampler draws the rest (score SDE, §5 and App. I.2).

Before every network call at time t the known part of the state is replaced by the known image at that noise level,

.. math:: x \leftarrow m \odot (\alpha_t x_{\mathrm{known}} + \sigma_t z) + (1 - m) \odot x , \qquad z \sim N(0, I) ,

and at the end by the known image itself: a hook of the executor, for any plan. The network sees the known part through
its noisy version only, so the result is approximately, not exactly, distributed as the unknown part given the known
one. It is exact where the two are independent. Going back to the noise level of a step and denoising again
(:func:`resampled`) brings the two into agreement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..errors import UserError
from ..grids import Grid, check
from ..noise import normal
from ..plan import Plan, Tape
from ..run import Hook, Model, sample
from ..schedules import Process

__all__ = ["DRAWS", "GREY", "check_images", "check_mask", "colorize", "inpaint", "psnr", "replacement", "resampled"]

DRAWS = 2**31
"""The number of the first noise of :func:`replacement`; a plan counts its own from 1 (:func:`fewstep.noise.normal`)."""

GREY = torch.tensor(
    [
        [1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)],
        [1 / math.sqrt(2), -1 / math.sqrt(2), 0.0],
        [1 / math.sqrt(6), 1 / math.sqrt(6), -2 / math.sqrt(6)],
    ],
    dtype=torch.float64,
)
"""An orthonormal basis of the colours whose first direction is grey (score SDE, App. I.3, with another second and
third): white noise stays white in it, so the grey part can be replaced by itself."""


def replacement(
    plan: Plan,
    known: Tensor,
    mask: Tensor,
    *,
    basis: Tensor | None = None,
    seed: int = 0,
    ids: Iterable[int] | Tensor | None = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Hook:
    """The hook that replaces the known part of a state, for a run of this plan.

    Args:
        plan: the plan that is run with the hook.
        known: the known values, shape ``(B, *shape)``; where the mask is 0 they are not used.
        mask: 1 where known, 0 elsewhere; of the shape of ``known``, of one sample, or of one channel of one sample.
        basis: an orthonormal matrix (C, C) that acts on the channels; the mask then says which of the new channels are
            known. The pixels' own channels by default.
        seed: of the noise.
        ids: the sample numbers of the batch, 0 … B − 1 unless given: the same as the executor's.
        noise: replaces the counter-based noise: a function from the number of the call to a tensor like ``known``.

    Raises:
        UserError: for a mask of another shape or with values other than 0 and 1.
    """
    where = check_mask(mask, known)
    numbers = torch.arange(len(known)) if ids is None else torch.as_tensor(ids)
    clean = _mix(known, basis)

    def hook(k: int, x: Tensor, t: float) -> Tensor:
        target = clean.to(x)
        if k < plan.nfe:
            z = normal(seed, DRAWS + k, numbers, x.shape[1:], x.dtype, x.device) if noise is None else noise(k).to(x)
            target = float(plan.alpha[k]) * target + float(plan.sigma[k]) * z
        state = torch.where(where.to(x.device), target, _mix(x, basis))
        return state if basis is None else _mix(state, basis.T)

    return hook


def _mix(x: Tensor, basis: Tensor | None) -> Tensor:
    return x if basis is None else torch.einsum("dc,bc...->bd...", basis.to(x), x)


def resampled(process: Process, times: Grid, repeats: int = 10, eta: float = 1.0) -> Plan:
    r"""DDIM in which every step is taken several times (RePaint, Algorithm 1, with jumps of one step).

    After a step from t to u the state goes back, :math:`\bar x \leftarrow \bar x + \sqrt{\rho_t^2 - \rho_u^2}\,z`, and
    the step is taken again, with the known part replaced anew. It makes ``repeats`` calls for each step of the grid.

    Args:
        repeats: how often each step is taken, at least 1; 1 is DDIM.
        eta: DDIM's η; 1 is the ancestral step of RePaint.

    Raises:
        UserError: unless repeats >= 1 and 0 <= eta <= 1.
    """
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, got {repeats}")
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta must lie in [0, 1], got {eta:g}")
    times = check(process, times)
    rho = process.rho(times).tolist()
    tape = Tape(process, times[0])
    x = tape.x
    for i in range(len(times) - 1):
        s = eta * rho[i + 1] * math.sqrt(1.0 - (rho[i + 1] / rho[i]) ** 2)
        for repeat in range(repeats):
            if repeat > 0:
                x = x + math.sqrt(rho[i] ** 2 - rho[i + 1] ** 2) * tape.noise()
            e = tape.eval(x, times[i])
            x = x + (math.sqrt(rho[i + 1] ** 2 - s**2) - rho[i]) * e
            if s > 0:
                x = x + s * tape.noise()
    return tape.plan(x, times[-1])


def inpaint(
    plan: Plan,
    model: Model,
    images: Tensor,
    mask: Tensor,
    *,
    seed: int = 0,
    ids: Iterable[int] | None = None,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the unknown part of images; the known part comes back as it is.

    To get several completions of one image, repeat it: sample i of a seed is the same in any batch.

    Args:
        plan: the sampler.
        model: an ε-model.
        images: shape (B, C, H, W), in [-1, 1]; where the mask is 0 they are not used.
        mask: 1 where known, 0 elsewhere; shape (B, C, H, W), (C, H, W) or (1, H, W).
        seed: of all noise.
        ids: the sample numbers, 0 … B − 1 unless given.
        batch_size: samples per network call.
        dtype: of the states.
        device: of the model.

    Returns:
        A tensor of the shape of ``images`` on the CPU.

    Raises:
        UserError: for values outside [-1, 1], or a mask that does not fit.
    """
    check_images(images)
    return _draw(plan, model, images, check_mask(mask, images), None, seed, ids, batch_size, dtype, device)


def colorize(
    plan: Plan,
    model: Model,
    grey: Tensor,
    *,
    seed: int = 0,
    ids: Iterable[int] | None = None,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the colours of grey images (score SDE, App. I.3): the mean of the three channels is known.

    Args:
        grey: shape (B, 1, H, W), in [-1, 1].

    Returns:
        A tensor (B, 3, H, W) on the CPU; the other arguments and the errors are those of :func:`inpaint`.

    Raises:
        UserError: for values outside [-1, 1] or another shape.
    """
    check_images(grey)
    if grey.shape[1] != 1:
        raise UserError(f"grey images have one channel, shape (B, 1, H, W); got shape {tuple(grey.shape)}")
    images = grey.expand(-1, 3, -1, -1)
    mask = torch.zeros(images.shape[1:])
    mask[0] = 1
    return _draw(plan, model, images, check_mask(mask, images), GREY, seed, ids, batch_size, dtype, device)


def _draw(
    plan: Plan,
    model: Model,
    images: Tensor,
    mask: Tensor,
    basis: Tensor | None,
    seed: int,
    ids: Iterable[int] | None,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    numbers = torch.arange(len(images)) if ids is None else torch.as_tensor(list(ids), dtype=torch.int64)
    if len(numbers) != len(images):
        raise UserError(f"{len(numbers)} sample numbers do not fit {len(images)} images: one for each is needed")
    drawn = []
    for part in torch.arange(len(images)).split(batch_size):
        known, where = images[part].to(device), mask.expand(images.shape)[part].to(device)
        hook = replacement(plan, known, where, basis=basis, seed=seed, ids=numbers[part])
        x = plan.prior_std * normal(seed, 0, numbers[part], images.shape[1:], dtype, device)
        drawn.append(sample(plan, model, x, seed=seed, ids=numbers[part], dtype=dtype, hook=hook).cpu())
    return torch.cat(drawn)


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of images in [-1, 1].

    Raises:
        UserError: with the shape or the range that was found.
    """
    if images.ndim != 4 or not len(images):
        raise UserError(f"images of shape (B, C, H, W) are needed, got shape {tuple(images.shape)}")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1.0 and high <= 1.0):
        raise UserError(f"an image's values must lie in [-1, 1], got values from {low:g} to {high:g}")


def check_mask(mask: Tensor, images: Tensor) -> Tensor:
    """The mask as booleans that broadcast against the images.

    Raises:
        UserError: for another shape or other values than 0 and 1.
    """
    shape = tuple(images.shape)
    if tuple(mask.shape) not in (shape, shape[1:], (1, *shape[2:])):
        raise UserError(f"a mask of shape {shape[1:]} is needed (or one for each image), got shape {tuple(mask.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise UserError("a mask's values must be 0 (unknown) or 1 (known)")
    return mask.bool()


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Peak signal-to-noise ratio of images in [-1, 1], :math:`10\log_{10}(4/\mathrm{MSE})` in dB, shape (B,).

    Args:
        a: shape (B, C, H, W).
        b: of the same shape.
        mask: the pixels that count (1), as for :func:`inpaint`; all by default.

    Returns:
        Infinite for equal images.
    """
    counts = torch.ones_like(a) if mask is None else check_mask(mask, a).expand(a.shape).to(a)
    square = ((a - b).square() * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)
    return 10.0 * torch.log10(4.0 / square)
