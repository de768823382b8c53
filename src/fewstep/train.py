r"""Training: the denoiser by noise prediction, and the classifier whose features the metrics use.

What step k does is a function of (seed, k) and of the state left by step k − 1, nothing else: the batch,
its times and its noise come from a generator seeded with (seed, k), and the learning rate is a formula in k. A run
that was interrupted and resumed from its last state therefore ends where an uninterrupted one ends.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import trange

from .data import Dataset
from .errors import UserError
from .files import write_atomically
from .models.protocol import EpsModel, coefficients
from .schedules import Process

__all__ = ["Settings", "Training", "accuracy", "denoising_error", "train_classifier", "train_denoiser"]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        steps: optimiser steps.
        batch: samples per step (and process).
        lr: peak learning rate of AdamW; linear warm-up, then half a cosine to zero.
        warmup: steps of the warm-up.
        ema: decay of the moving average of the weights; its first steps decay faster.
        clip: largest norm of the gradient.
        seed: seed of the weights, batches, times and noise.
        save_every: steps between two saved states.
    """

    steps: int
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    save_every: int = 500

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.save_every) < 1 or self.warmup < 0:
            raise UserError("steps, batch and save_every must be at least 1, warmup at least 0")
        if not (self.lr > 0 and self.clip > 0 and 0 <= self.ema < 1):
            raise UserError("lr and clip must be positive, ema in [0, 1)")

    def lr_at(self, step: int) -> float:
        """The learning rate of step ``step`` (from 0)."""
        return self.lr * min(1.0, (step + 1) / (self.warmup + 1)) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass
class Training:
    """A trained network and its history.

    Attributes:
        model: the averaged network, in eval mode, on the CPU.
        losses: mean loss of each block of ``block`` steps.
        block: the number of steps in a block.
        seconds: wall time spent in training steps, over all resumed parts.
    """

    model: nn.Module
    losses: list[float] = field(default_factory=list)
    block: int = 50
    seconds: float = 0.0


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of integers, such as (seed, step)."""
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw_batch(images: Tensor, process: Process, batch: int, *key: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""A training batch, a function of ``key``: clean images, times uniform on (t_min, t_max], standard normal noise.

    Times are drawn from the continuous axis for discrete processes too: Runge–Kutta stages and fractional grids ask the
    network between its labels.
    """
    random = generator(*key)
    rows = torch.randint(len(images), (batch,), generator=random)
    u = 1 - torch.rand(batch, generator=random, dtype=torch.float64)
    t = process.t_min + (process.t_max - process.t_min) * u
    z = torch.randn((batch, *images.shape[1:]), generator=random)
    return images[rows], t, z


def train_denoiser(
    build: Callable[[], nn.Module],
    images: Tensor,
    process: Process,
    settings: Settings,
    state: Path | None = None,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> Training:
    r"""Train an ε-model by :math:`\min E\,\|\varepsilon_\theta(\alpha_t x_0 + \sigma_t z, t) - z\|^2` (DDPM, Eq. 14).

    Args:
        build: makes the network; called with torch's generator seeded by ``settings.seed``.
        images: clean samples (N, C, H, W), float32, in [-1, 1].
        process: the diffusion process.
        settings: how to train.
        state: file that keeps the last state (weights, average, optimiser, history; safetensors). If it exists and
            belongs to the same settings, training goes on from it.
        progress: show a progress bar.
        on_step: called after every step with the number of steps done; an exception ends the training there.

    Returns:
        The averaged network and the losses.

    Raises:
        UserError: if ``state`` cannot be read or written, or belongs to other settings.
    """
    from accelerate import Accelerator
    from accelerate.utils import extract_model_from_parallel
    from diffusers.training_utils import EMAModel

    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = build()
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=0.0)
    model, optimizer = accelerator.prepare(network, optimizer)
    network = extract_model_from_parallel(model)
    ema = EMAModel(network.parameters(), decay=settings.ema, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    ema.to(accelerator.device)
    result = Training(network)
    done = 0
    if state is not None and Path(state).exists():
        done = _restore(Path(state), network, ema, optimizer, result, settings)

    model.train()
    started = time.perf_counter() - result.seconds
    running: list[Tensor] = []
    with trange(
        settings.steps,
        initial=done,
        desc="train",
        unit="step",
        mininterval=1.0,
        disable=not (progress and accelerator.is_main_process),
    ) as bar:
        for step in range(done, settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr_at(step)
            x0, t, z = draw_batch(images, process, settings.batch, settings.seed, step, accelerator.process_index)
            alpha, sigma = coefficients(process, t, x0)
            x = (alpha * x0 + sigma * z).to(accelerator.device)
            loss = (model(x, t.to(x)) - z.to(accelerator.device)).square().mean()
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            ema.step(network.parameters())
            running.append(loss.detach())
            bar.update()
            if (step + 1) % result.block == 0 or step + 1 == settings.steps:
                result.losses.append(torch.stack(running).mean().item())
                running.clear()
                bar.set_postfix(loss=f"{result.losses[-1]:.4f}")
                # A state is saved only where a block of losses ends, so that the history resumes too.
                result.seconds = time.perf_counter() - started
                due = (step + 1) % max(settings.save_every // result.block * result.block, result.block) == 0
                if state is not None and accelerator.is_main_process and (due or step + 1 == settings.steps):
                    _save(Path(state), step + 1, network, ema, optimizer, result, settings)
            if on_step is not None:
                on_step(step + 1)

    ema.copy_to(network.parameters())
    result.model = network.cpu().eval().requires_grad_(False)
    return result


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
    if facts["settings"] != asdict(settings):
        raise UserError(f"training state {path} belongs to other settings; {advice}")
    weights = {key[4:]: value for key, value in tensors.items() if key.startswith("net.")}
    if {key: value.shape for key, value in weights.items()} != {k: v.shape for k, v in network.state_dict().items()}:
        raise UserError(f"training state {path} belongs to another network; {advice}")
    network.load_state_dict(weights)
    for i, shadow in enumerate(ema.shadow_params):
        shadow.copy_(tensors[f"ema.{i}"])
    ema.optimization_step = facts["ema_step"]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("opt."):
            _, i, name = key.split(".", 2)
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


def train_classifier(
    build: Callable[[], nn.Module], dataset: Dataset, settings: Settings, progress: bool = True
) -> Training:
    """Train a classifier by cross-entropy, on images shifted by up to one pixel (with the border's level drawn in).

    Args:
        build: makes the network; called with torch's generator seeded by ``settings.seed``.
        dataset: images (N, C, H, W) in [-1, 1] and labels (N,).
        settings: how to train; ``ema`` and ``save_every`` are not used.
        progress: show a progress bar.

    Returns:
        The network and the losses.
    """
    from torch.nn.functional import pad

    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # for the weights and for dropout
        model = build().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=1e-2)
        result = Training(model)
        started = time.perf_counter()
        running: list[float] = []
        with trange(settings.steps, desc="classifier", unit="step", mininterval=1.0, disable=not progress) as bar:
            for step in bar:
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr_at(step)
                random = generator(settings.seed, step)
                rows = torch.randint(len(dataset.images), (settings.batch,), generator=random)
                down, right = torch.randint(3, (2,), generator=random).tolist()
                height, width = dataset.images.shape[2:]
                shifted = pad(dataset.images[rows], (1, 1, 1, 1), value=-1.0)
                shifted = shifted[:, :, down : down + height, right : right + width]
                loss = cross_entropy(model(shifted), dataset.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                running.append(loss.item())
                if len(running) == result.block or step + 1 == settings.steps:
                    result.losses.append(float(np.mean(running)))
                    running.clear()
                    bar.set_postfix(loss=f"{result.losses[-1]:.4f}")
    result.seconds = time.perf_counter() - started
    model.eval().requires_grad_(False)
    return result


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset) -> float:
    """The fraction of images that a classifier puts into the right class."""
    return (model(dataset.images).argmax(1) == dataset.labels).double().mean().item()
