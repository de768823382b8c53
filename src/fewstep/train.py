r"""Training: the denoiser by noise prediction, and the classifier whose features the metrics use.

What step k does is a function of (seed, k) and of the state left by step k − 1, nothing else: the batch,
its times and its noise come from a generator seeded with (seed, k), and the learning rate is a formula in k. A run
that was interrupted and resumed from its last state therefore ends where an uninterrupted one ends. Where a time is
given instead of a number of steps, the formula is one in the seconds trained so far, which the state remembers too:
two half-hours are one hour.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm import tqdm, trange

from .data import Dataset, to_float
from .errors import UserError
from .files import write_atomically
from .models.protocol import EpsModel, coefficients, normalised
from .schedules import Process

__all__ = [
    "Settings",
    "Training",
    "UnfinishedError",
    "accuracy",
    "crop_and_flip",
    "denoising_error",
    "shift",
    "train_classifier",
    "train_denoiser",
    "training_flops",
]


class UnfinishedError(UserError):
    """A training whose time was cut short; its state is saved, and the same request goes on from there."""


@dataclass(frozen=True)
class Settings:
    """How to train, for a number of steps or for a time.

    Args:
        steps: optimiser steps.
        batch: samples per step (and process).
        lr: peak learning rate; linear warm-up, then half a cosine to zero.
        warmup: steps of the warm-up.
        ema: decay of the moving average of the weights; its first steps decay faster, unless ``ema_warmup`` is off.
        clip: largest norm of the gradient.
        seed: seed of the weights, batches, times and noise.
        save_every: steps between two saved states.
        minutes: training time, instead of ``steps``; all resumed parts together, without compiling.
        ema_warmup: whether the average follows the weights closely at first.
        flip: mirror each image with probability one half.
        fast: compute the network in bfloat16 (autocast), channels last; on a CUDA device compiled too, with a fused
            optimiser.
    """

    steps: int | None = None
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    save_every: int = 500
    minutes: float | None = None
    ema_warmup: bool = True
    flip: bool = False
    fast: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UserError("training lasts a number of steps or of minutes: give one of the two")
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"minutes must be positive, got {self.minutes:g}")
        least = min(self.batch, self.save_every, 1 if self.steps is None else self.steps)
        if least < 1 or self.warmup < 0:
            raise UserError("steps, batch and save_every must be at least 1, warmup at least 0")
        if not (self.lr > 0 and self.clip > 0 and 0 <= self.ema < 1):
            raise UserError("lr and clip must be positive, ema in [0, 1)")

    def spent(self, step: int, seconds: float = 0.0) -> float:
        """The fraction of the training that is done after this many steps or seconds; 1 or more: all of it."""
        if self.steps is not None:
            return step / self.steps
        assert self.minutes is not None
        return seconds / (60 * self.minutes)

    def lr_at(self, step: int, seconds: float = 0.0) -> float:
        """The learning rate of step ``step`` (from 0), when this many seconds have been trained."""
        cosine = math.cos(math.pi * min(1.0, self.spent(step, seconds)))
        return self.lr * min(1.0, (step + 1) / (self.warmup + 1)) * 0.5 * (1 + cosine)


@dataclass
class Training:
    """A trained network and its history.

    Attributes:
        model: the averaged network, in eval mode, on the CPU.
        losses: mean loss of each block of ``block`` steps.
        block: the number of steps in a block.
        seconds: wall time spent in training steps, over all resumed parts.
        steps: how many steps were done, over all resumed parts.
        finished: whether that is all of them; otherwise the next call goes on from the saved state.
    """

    model: nn.Module
    losses: list[float] = field(default_factory=list)
    block: int = 50
    seconds: float = 0.0
    steps: int = 0
    finished: bool = True


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a tuple of integers, such as (seed, step)."""
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def draw_batch(
    images: Tensor, process: Process, batch: int, *key: int, flip: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""A training batch, a function of ``key``: clean images, times uniform on (t_min, t_max], standard normal noise.

    The fourth tensor says which images they are.

    Times are drawn from the continuous axis for discrete processes too: Runge–Kutta stages and fractional grids ask the
    network between its labels. They are on the CPU, images and noise on the device of the images; with ``flip`` each
    image is mirrored with probability one half.
    """
    random, device = generator(*key), images.device
    rows = torch.randint(len(images), (batch,), generator=random)
    t = _times(process, batch, random)
    # Noise is as large as the images: it is drawn where they are.
    source = random if device.type == "cpu" else generator(*key, device=device)
    z = torch.randn((batch, *images.shape[1:]), generator=source, device=device)
    x0 = to_float(images[rows.to(device)])
    return (mirror(x0, random) if flip else x0), t, z, rows


def _times(process: Process, n: int, random: torch.Generator) -> Tensor:
    """Uniform on (t_min, t_max], (n,), float64."""
    return process.t_min + (process.t_max - process.t_min) * (1 - torch.rand(n, generator=random, dtype=torch.float64))


def _labels(labels: Tensor, classes: int, unlabelled: float, *key: int) -> Tensor:
    """The labels of a batch, each replaced by *no class* with this probability, a function of ``key``."""
    without = torch.rand(len(labels), generator=generator(*key, 1)) < unlabelled
    return torch.where(without, classes, labels)


def mirror(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image of a batch as it is, or mirrored left to right with probability one half."""
    coin = torch.rand(len(images), generator=random) < 0.5
    return torch.where(coin.to(images.device)[:, None, None, None], images.flip(-1), images)


def train_denoiser(
    build: Callable[[], nn.Module],
    images: Tensor,
    process: Process,
    settings: Settings,
    state: Path | None = None,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
    limit: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
    *,
    labels: Tensor | None = None,
    unlabelled: float = 0.1,
) -> Training:
    r"""Train an ε-model by :math:`\min E\,\|\varepsilon_\theta(\alpha_t x_0 + \sigma_t z, t) - z\|^2` (DDPM, Eq. 14).

    The network sees states of unit variance (:func:`fewstep.models.protocol.normalised`), as it must where it is used.

    Args:
        build: makes the network; called with torch's generator seeded by ``settings.seed``.
        images: clean samples (N, C, H, W), float32 in [-1, 1], or uint8; they are held on the device.
        process: the diffusion process.
        settings: how to train.
        state: file that keeps the last state (weights, average, optimiser, history; safetensors). If it exists and
            belongs to the same settings (of another time, perhaps), training goes on from it.
        progress: show a progress bar.
        on_step: called after every step with the number of steps done; an exception ends the training there.
        limit: seconds after which this call saves its state and returns, finished or not.
        clock: gives the time in seconds.
        labels: (N,) for a network with ``classes``: it learns each image with its label, and with the label that
            means *no class* with probability ``unlabelled`` (Ho & Salimans 2022, Algorithm 1).
        unlabelled: that probability.

    Returns:
        The averaged network and the losses.

    Raises:
        UserError: if ``state`` cannot be read or written, or belongs to other settings.
    """
    from accelerate import Accelerator
    from accelerate.utils import extract_model_from_parallel
    from diffusers.training_utils import EMAModel

    called = clock()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = build()
    accelerator = Accelerator()
    on_cuda = accelerator.device.type == "cuda"
    if settings.fast:
        network = network.to(memory_format=torch.channels_last)
    fused = True if settings.fast and on_cuda else None
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=0.0, fused=fused)
    model, optimizer = accelerator.prepare(network, optimizer)
    network = extract_model_from_parallel(model)
    average: dict[str, Any] = {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}
    if not settings.ema_warmup:
        average = {"min_decay": settings.ema}
    ema = EMAModel(network.parameters(), decay=settings.ema, foreach=settings.fast, **average)
    ema.to(accelerator.device)
    result = Training(network)
    if state is not None and Path(state).exists():
        result.steps = _restore(Path(state), network, ema, optimizer, result, settings)
    compiling = settings.fast and on_cuda  # the first step does; its time is not training time
    if compiling:
        model = torch.compile(model)

    images = images.to(accelerator.device)
    model.train()
    started = clock() - result.seconds
    running: list[Tensor] = []
    result.finished = settings.spent(result.steps, result.seconds) >= 1
    stop = result.finished
    with tqdm(
        total=settings.steps,
        initial=result.steps,
        desc="train",
        unit="step",
        mininterval=1.0,
        disable=not (progress and accelerator.is_main_process),
    ) as bar:
        while not stop:
            step = result.steps
            for group in optimizer.param_groups:
                group["lr"] = settings.lr_at(step, result.seconds)
            key = (settings.seed, step, accelerator.process_index)
            x0, t, z, rows = draw_batch(images, process, settings.batch, *key, flip=settings.flip)
            given = () if labels is None else (_labels(labels[rows], network.classes, unlabelled, *key).to(x0.device),)
            alpha, sigma = coefficients(process, t, x0)
            x = alpha * x0 + sigma * z
            if settings.fast:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.fast):
                loss = (normalised(model, process)(x, t.to(x), *given) - z).square().mean()
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            ema.step(network.parameters())
            running.append(loss.detach())
            bar.update()
            result.steps = step + 1
            if compiling:
                loss.item()
                started, compiling = clock() - result.seconds, False
            if (step + 1) % result.block == 0 or step + 1 == settings.steps:
                result.losses.append(torch.stack(running).mean().item())
                running.clear()
                # A state is saved only where a block of losses ends, so that the history resumes too.
                result.seconds = clock() - started
                rate = (step + 1) * settings.batch * accelerator.num_processes / result.seconds
                bar.set_postfix(loss=f"{result.losses[-1]:.4f}", images_per_s=f"{rate:.0f}")
                result.finished = settings.spent(step + 1, result.seconds) >= 1
                stop = result.finished or clock() - called >= limit
                due = (step + 1) % max(settings.save_every // result.block * result.block, result.block) == 0
                if state is not None and accelerator.is_main_process and (due or stop):
                    _save(Path(state), step + 1, network, ema, optimizer, result, settings)
            if on_step is not None:
                on_step(step + 1)

    ema.copy_to(network.parameters())
    result.model = network.cpu().eval().requires_grad_(False)
    return result


def training_flops(network: nn.Module, shape: Sequence[int]) -> int:
    """Floating-point operations of a training step per image, forward and backward, counted by torch.

    Args:
        network: an ε-model, or its twin on the device ``meta``, where counting costs nothing.
        shape: (C, H, W) of an image.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device=device), torch.zeros(1, device=device)).square().mean().backward()
    return counter.get_total_flops()


def _save(
    path: Path, step: int, network: nn.Module, ema: Any, optimizer: Any, result: Training, settings: Settings
) -> None:
    """Write everything that the next step depends on."""
    from safetensors.torch import save

    tensors = {f"net.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema.{i}": value for i, value in enumerate(ema.shadow_params)}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{i}.{key}": value for key, value in slots.items()}
    facts = {"step": step, "ema_step": ema.optimization_step, "settings": asdict(settings)}
    facts |= {"losses": result.losses, "seconds": result.seconds}
    blob = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"fewstep": json.dumps(facts)})
    write_atomically(path, lambda temporary: temporary.write_bytes(blob))


def _restore(path: Path, network: nn.Module, ema: Any, optimizer: Any, result: Training, settings: Settings) -> int:
    """Read a state back; the number of steps done."""
    from safetensors import SafetensorError, safe_open

    advice = "delete it to start anew"
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["fewstep"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a training state; {advice}") from None
    if {**facts["settings"], "minutes": settings.minutes} != asdict(settings):  # a longer time goes on from a shorter
        raise UserError(f"training state {path} belongs to other settings; {advice}")
    weights = {key[4:]: value for key, value in tensors.items() if key.startswith("net.")}
    if {key: value.shape for key, value in weights.items()} != {k: v.shape for k, v in network.state_dict().items()}:
        raise UserError(f"training state {path} belongs to another network; {advice}")
    network.load_state_dict(weights)
    for i, shadow in enumerate(ema.shadow_params):
        shadow.copy_(tensors[f"ema.{i}"])
    ema.optimization_step = facts["ema_step"]
    slots: dict[int, dict[str, Tensor]] = {}
    parameters = list(network.parameters())
    for key, value in tensors.items():
        if key.startswith("opt."):
            _, i, name = key.split(".", 2)
            like = parameters[int(i)]
            if value.shape == like.shape:  # in the weight's order of memory, which a fused optimiser asks for
                value = torch.empty_like(like, device="cpu").copy_(value)
            slots.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    result.losses, result.seconds = facts["losses"], facts["seconds"]
    return facts["step"]


@torch.no_grad()
def denoising_error(
    model: EpsModel, images: Tensor, process: Process, times: np.ndarray, seed: int = 0, batch: int = 512
) -> np.ndarray:
    r"""The loss at single noise levels: the mean of :math:`(\varepsilon_\theta(x_t, t) - z)^2` over all images.

    Args:
        model: ε-model.
        images: clean samples (N, C, H, W).
        process: the diffusion process.
        times: the times to measure at, (T,).
        seed: seed of the noise; every time has the same noise.
        batch: samples per model call.

    Returns:
        Mean squared error per element at each time, (T,), float64.
    """
    z = torch.randn(images.shape, generator=generator(seed))
    errors = np.zeros(len(times))
    for i, level in enumerate(times):
        for x0, noise in zip(images.split(batch), z.split(batch), strict=True):
            t = torch.full((len(x0),), float(level), dtype=torch.float64)
            alpha, sigma = coefficients(process, t, x0)
            errors[i] += (model(alpha * x0 + sigma * noise, t.to(x0)) - noise).double().square().sum().item()
    return errors / images.numel()


def shift(images: Tensor, random: torch.Generator) -> Tensor:
    """A batch shifted by up to one pixel, all images alike; black, -1, comes in at the border."""
    down, right = torch.randint(3, (2,), generator=random).tolist()
    height, width = images.shape[2:]
    return pad(images, (1, 1, 1, 1), value=-1.0)[:, :, down : down + height, right : right + width]


def crop_and_flip(images: Tensor, random: torch.Generator, by: int = 4) -> Tensor:
    """Each image shifted by up to ``by`` pixels, reflected at the border, and mirrored with probability one half."""
    (n, channels), (height, width), device = images.shape[:2], images.shape[2:], images.device
    down, right = torch.randint(2 * by + 1, (2, n, 1), generator=random).to(device)
    rows = (torch.arange(height, device=device) + down)[:, None, :, None]
    columns = (torch.arange(width, device=device) + right)[:, None, None, :]
    sample = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return mirror(pad(images, (by, by, by, by), mode="reflect")[sample, channel, rows, columns], random)


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW with a weight decay of 0.01."""
    return torch.optim.AdamW(parameters, weight_decay=1e-2)


def nesterov(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Gradient descent with Nesterov momentum 0.9 and a weight decay of 5e-4."""
    return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, weight_decay=5e-4)


def train_classifier(
    build: Callable[[], nn.Module],
    dataset: Dataset,
    settings: Settings,
    progress: bool = True,
    *,
    augment: Callable[[Tensor, torch.Generator], Tensor] = shift,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adamw,
    smoothing: float = 0.0,
    process: Process | None = None,
    device: torch.device | str = "cpu",
) -> Training:
    """Train a classifier by cross-entropy, on images shifted by up to one pixel unless ``augment`` says otherwise.

    Args:
        build: makes the network; called with torch's generator seeded by ``settings.seed``.
        dataset: images (N, C, H, W) in [-1, 1], or uint8, and labels (N,).
        settings: how to train, for a number of steps; ``ema``, ``clip`` and ``save_every`` are not used.
        progress: show a progress bar.
        augment: changes a batch at random.
        optimizer: makes the optimiser.
        smoothing: the share of each label that is spread over all classes.
        process: for a classifier of noisy images, ``model(x, t)``: each image is brought to a random time of it.
        device: where to train.

    Returns:
        The network, on the CPU, and the losses.
    """
    if settings.steps is None:
        raise UserError("a classifier is trained for a number of steps, not of minutes")
    images, labels = (part.to(device) for part in dataset)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # for the weights and for dropout
        model = build().train().to(device)
        if settings.fast:
            model = model.to(memory_format=torch.channels_last)
        descent = optimizer(model.parameters())
        result = Training(model)
        started = time.perf_counter()
        running: list[Tensor] = []
        with trange(settings.steps, desc="classifier", unit="step", mininterval=1.0, disable=not progress) as bar:
            for step in bar:
                for group in descent.param_groups:
                    group["lr"] = settings.lr_at(step)
                random = generator(settings.seed, step)
                rows = torch.randint(len(images), (settings.batch,), generator=random).to(device)
                x = augment(to_float(images[rows]), random)
                if settings.fast:
                    x = x.contiguous(memory_format=torch.channels_last)
                with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.fast):
                    logits = model(x) if process is None else _noisy(model, x, process, random)
                    loss = cross_entropy(logits, labels[rows], label_smoothing=smoothing)
                descent.zero_grad()
                loss.backward()
                descent.step()
                running.append(loss.detach())
                if len(running) == result.block or step + 1 == settings.steps:
                    result.losses.append(torch.stack(running).double().mean().item())
                    running.clear()
                    bar.set_postfix(loss=f"{result.losses[-1]:.4f}")
    result.seconds, result.steps = time.perf_counter() - started, settings.steps
    model.cpu().eval().requires_grad_(False)
    return result


def _noisy(model: nn.Module, x0: Tensor, process: Process, random: torch.Generator) -> Tensor:
    """What a classifier says of images at random times."""
    t = _times(process, len(x0), random)
    alpha, sigma = coefficients(process, t, x0)
    x = alpha * x0 + sigma * torch.randn(x0.shape, generator=random).to(x0)
    return normalised(model, process)(x, t.to(x))


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, batch: int = 2000) -> float:
    """The fraction of images that a classifier puts into the right class."""
    device = next(model.parameters()).device
    parts = zip(dataset.images.split(batch), dataset.labels.split(batch), strict=True)
    right = sum((model(to_float(x.to(device))).argmax(1).cpu() == y).sum().item() for x, y in parts)
    return right / len(dataset.labels)
