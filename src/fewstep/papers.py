r"""A number of a paper's table on the paper's network: the samplers that the tables compare, and their FID.

Three kinds of samplers stand in the tables: plans, found by the solver's name; score SDE's predictors and correctors;
and RK45 on the probability-flow ODE. :func:`sampler` makes any of them, :func:`draw` takes its images to the moments of
their Inception features. A plan also draws the latents of a text-to-image network, under guidance.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import adaptive, data, grids, images, inception, run, shards, solvers
from .errors import UserError
from .models.declared import Preprocessing
from .models.protocol import EpsModel, clipped, coefficients
from .models.text_to_image import TextToImage
from .models.zoo import PaperModel
from .noise import normal
from .plan import Plan
from .schedules import DiscreteVP, Process
from .solvers import score_sde
from .tasks.guidance import classifier_free

__all__ = ["Sampler", "draw", "extractor", "mean_square", "reference", "sampler", "statistics"]


class Sampler(NamedTuple):
    """From noise to images.

    Attributes:
        nfe: network calls; None where the sampler chooses them while it runs.
        prior_std: standard deviation of the start states.
        draw: start states (B, \\*shape), their sample numbers and the seed, to images.
    """

    nfe: int | None
    prior_std: float
    draw: Callable[[Tensor, Tensor, int], Tensor]


def sampler(
    model: PaperModel,
    budget: int = 0,
    *,
    solver: str = "",
    grid: str = "uniform",
    grid_options: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
    predictor: str = "",
    snr: float = 0.0,
    tolerance: float = 0.0,
    clip: bool = False,
    captions: Sequence[str] = (),
    guidance: float = 0.0,
) -> Sampler:
    r"""The sampler that these settings name: exactly one of a solver, a predictor or corrector, and a tolerance.

    Args:
        model: the network with its record.
        budget: network calls; not used by RK45. Calls that DDIM's quadratic labels repeat are not made.
        solver: a plan, by a key of :data:`fewstep.solvers.SOLVERS`.
        grid: its time grid, or that of the predictor.
        grid_options: of the grid; of RK45, ``t_end``.
        options: of the solver.
        predictor: a key of :data:`fewstep.solvers.score_sde.PREDICTORS`: as many steps as calls, or half as many if
            there is a corrector (score SDE, Table 1).
        snr: signal-to-noise ratio of a Langevin step at each time; without a predictor, corrections only.
        tolerance: of RK45, relative and absolute, in t; in ρ on a discrete process, whose slope in t jumps at every
            label. It ends with a denoising call.
        clip: clip the denoised value to [−1, 1] at every call.
        captions: the texts of a text-to-image network, one for each sample's number.
        guidance: weight of classifier-free guidance by them; a guided call is one call.

    Raises:
        UserError: for none or several of the three kinds, for captions without a network that takes them or the other
            way round, and as the samplers themselves do.
    """
    if (bool(solver) + bool(predictor or snr) + bool(tolerance)) != 1:
        raise UserError("a sampler is one of: a solver; a predictor, an snr or both; a tolerance")
    if bool(captions) != isinstance(model, TextToImage) or (captions and (clip or not solver)):
        raise UserError(f"{model.record.title}: a text-to-image network takes captions and a solver without clipping")
    process, grid_options, options = model.process, dict(grid_options or {}), dict(options or {})
    eps: EpsModel = clipped(model, process) if clip else model
    if tolerance:
        how: dict[str, Any] = {
            "t_end": grid_options.get("t_end"),
            "rtol": tolerance,
            "atol": tolerance,
            "denoise": True,
        }
        how["in_rho"] = isinstance(process, DiscreteVP)
        return Sampler(None, process.prior_std, lambda x, ids, seed: adaptive.rk45(process, eps, x, **how).x)
    if solver:
        times = _distinct(process, budget) if grid == "ddim-quadratic" else grid
        plan = solvers.build(solver, process, budget, times, grid_options, **options)
        return _of_texts(plan, model, captions, guidance) if isinstance(model, TextToImage) else _planned(plan, eps)
    steps = budget // 2 if predictor and snr else budget
    times = grids.build(grid, process, steps, **grid_options)
    if not snr:
        return _planned(score_sde.predict(process, times, predictor), eps)

    def corrected(x: Tensor, ids: Tensor, seed: int) -> Tensor:
        return adaptive.predictor_corrector(
            process, times, eps, x, predictor=predictor or None, snr=snr, correct_start=True, seed=seed, ids=ids
        )

    return Sampler(2 * steps if predictor else steps, process.prior_std, corrected)


def _distinct(process: Process, n: int) -> grids.Grid:
    """DDIM's quadratic labels, each once: a step between equal labels, as its program takes them, changes nothing."""
    labels = grids.ddim_quadratic(process, n)
    return labels[np.append(True, np.diff(labels) < 0)]


def _planned(plan: Plan, eps: EpsModel) -> Sampler:
    return Sampler(plan.nfe, plan.prior_std, lambda x, ids, seed: run.sample(plan, eps, x, seed=seed, ids=ids))


def _of_texts(plan: Plan, model: TextToImage, captions: Sequence[str], guidance: float) -> Sampler:
    def draw(x: Tensor, ids: Tensor, seed: int) -> Tensor:
        numbers = ids.tolist()
        if max(numbers) >= len(captions):
            raise UserError(f"sample {max(numbers)} has no caption, there are {len(captions)}")
        texts = model.texts([captions[i] for i in numbers])
        eps = classifier_free(texts, torch.arange(len(numbers)), guidance)
        return model.decode(run.sample(plan, eps, x, seed=seed, ids=ids))

    return Sampler(plan.nfe, plan.prior_std, draw)


@torch.no_grad()
def mean_square(model: PaperModel, known: Tensor, times: np.ndarray, batch: int = 500) -> np.ndarray:
    r""":math:`E\lVert\varepsilon(x_t, t)\rVert^2/d` at given times, over images and noise (Analytic-DPM, Eq. 8).

    Args:
        model: the network.
        known: images of its data set, (N, C, H, W) in [−1, 1].
        times: (K,).
        batch: images at a time, as long as the memory suffices.
    """
    device = next(model.parameters()).device

    def work(first: int, last: int) -> Tensor:
        x0, found = known[first:last].to(device), []
        for k, t in enumerate(times):
            at = torch.full((len(x0),), float(t), device=device)
            alpha, sigma = coefficients(model.process, at, x0)
            z = normal(0, k, range(first, last), x0.shape[1:], x0.dtype, device)
            found.append(model(alpha * x0 + sigma * z, at).double().square().flatten(1).sum(1))
        return torch.stack(found, 1)

    squares = torch.cat(list(shards.in_batches(work, 0, len(known), batch)))
    return squares.sum(0).cpu().numpy() / known.numel()


def extractor(device: torch.device | str = "cpu") -> inception.Inception:
    """Inception on a device, once per process.

    Raises:
        UserError: as :class:`fewstep.inception.Inception`.
    """
    return _extractor(inception.weights_file(), str(device))


@functools.cache
def _extractor(path: Path, device: str) -> inception.Inception:
    return inception.Inception(path).to(device)


def reference(how: Preprocessing, network: inception.Inception) -> inception.Statistics:
    """Statistics of a network's data set: published ones where ``FEWSTEP_IMAGES`` has them, else of the images there.

    The published file is named like the set's folder (:data:`fewstep.images.SETS`; ``cifar10``), with ``.npz``.

    Raises:
        UserError: if the images are not there, or the file does not hold statistics.
    """
    place = Path(os.environ.get(images.VARIABLE) or images.CACHE)
    published = place / f"{images.SETS.get(how.dataset, 'cifar10')}.npz"
    if published.is_file():
        return inception.read_statistics(published)
    return inception.statistics(images.load(how), network, cache=inception.CACHE)


def draw(
    one: Sampler,
    shape: tuple[int, ...],
    network: inception.Inception,
    numbers: range,
    *,
    seed: int = 0,
    batch: int = 500,
    device: torch.device | str = "cpu",
) -> shards.Shard:
    """Draw the samples with these numbers, quantise them to 8 bits and take the moments of their Inception features.

    Args:
        one: the sampler, its network on the device.
        shape: of an image.
        network: Inception, on the device.
        numbers: which samples, without gaps.
        seed: of all noise.
        batch: samples at a time, as long as the memory suffices.
        device: where to compute.
    """

    def work(first: int, last: int) -> Tensor:
        ids = torch.arange(first, last)
        x = one.prior_std * normal(seed, 0, ids, shape, torch.float32, device)
        return network(data.to_uint8(one.draw(x, ids, seed)))

    moments: shards.Moments | None = None
    for found in shards.in_batches(work, numbers.start, numbers.stop, batch):
        part = shards.Moments.of(found)
        moments = part if moments is None else moments + part
    if moments is None:
        raise UserError(f"no samples to draw: {numbers}")
    moments = shards.Moments(moments.n, moments.total.cpu(), moments.outer.cpu())
    return shards.Shard(numbers.start, numbers.stop, moments, torch.empty(0, len(moments.total)))


def statistics(shard: shards.Shard) -> inception.Statistics:
    """Mean and covariance of all samples of a shard."""
    moments = shard.moments
    return inception.Statistics(moments.mean.numpy(), moments.covariance.numpy(), moments.n, "samples")
