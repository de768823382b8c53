"""``fewstep sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from ..files import write_atomically
from .files import _writable, _write_images
from .network import _generate, _on_device
from .options import (
    _plan,
    _setting,
    batch_,
    eta_,
    gamma_,
    grid_,
    model_,
    mu_,
    nfe_,
    profile_,
    seed_,
    solver_,
)


@click.command()
@solver_
@nfe_
@grid_
@profile_
@model_
@click.option("--samples", default=64, type=click.IntRange(1), help="How many samples.")
@seed_
@click.option(
    "--out",
    default="samples.png",
    type=click.Path(path_type=Path),
    help="Image grid (.png) or the samples themselves (.safetensors).",
)
@eta_
@gamma_
@mu_
@click.option("--label", type=int, help="Class to draw, by a network with classes (--model).")
@click.option(
    "--weight", type=float, help="Guidance weight: 0 ignores the class, 1 (the default) is the network given it."
)
@batch_
def sample(
    solver: str,
    nfe: int,
    grid: str | None,
    profile: str,
    model: str | None,
    samples: int,
    seed: int,
    out: Path,
    eta: float | None,
    gamma: float | None,
    mu: float | None,
    label: int | None,
    weight: float | None,
    batch_size: int,
) -> None:
    """Draw samples and write them to a file."""
    setting = _setting(profile, model)
    plan = _plan(setting, solver, nfe, grid, eta=eta, gamma=gamma, mu=mu)
    _writable(out, (".png", ".safetensors"))
    if weight is not None and label is None:
        raise UserError("a guidance weight needs a class to guide to: --label")
    from .. import models

    network: Any = models.load(setting.model)
    if label is not None:
        from ..tasks.guidance import classifier_free

        network = classifier_free(_on_device(network), label, 1.0 if weight is None else weight)
    images = _generate(setting, plan, network, samples, seed, batch_size)
    write_atomically(out, lambda path: _write_images(path, images, out.suffix))
    click.echo(f"{out}: {samples} samples, {solver}, {plan.nfe} network calls, seed {seed}")
