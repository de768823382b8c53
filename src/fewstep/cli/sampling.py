"""``fewstep sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from .files import check_writable, write_images
from .network import draw, on_device
from .options import (
    batch_,
    build_plan,
    eta_,
    gamma_,
    grid_,
    model_,
    mu_,
    nfe_,
    profile_,
    profile_with,
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
    setting = profile_with(profile, model)
    plan = build_plan(setting, solver, nfe, grid, eta=eta, gamma=gamma, mu=mu)
    check_writable(out, (".png", ".safetensors"))
    if weight is not None and label is None:
        raise UserError("a guidance weight needs a class to guide to: --label")
    from .. import models

    network: Any = models.load(setting.model)
    if label is not None:
        from ..tasks.guidance import classifier_free

        network = classifier_free(on_device(network), label, 1.0 if weight is None else weight)
    images = draw(setting, plan, network, samples, seed, batch_size)
    write_images(out, images)
    click.echo(f"{out}: {samples} samples, {solver}, {plan.nfe} network calls, seed {seed}")
