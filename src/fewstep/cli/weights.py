"""``fewstep train | convert``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import profiles
from .files import check_writable
from .network import config_of
from .options import profile_, seed_


@click.command()
@profile_
@click.option("--steps", default=20_000, type=click.IntRange(1), help="Optimiser steps.")
@click.option("--batch-size", default=128, type=click.IntRange(1), help="Images per step.")
@seed_
@click.option(
    "--out",
    default="checkpoints",
    type=click.Path(path_type=Path),
    help="Checkpoint folder; an interrupted run there goes on.",
)
def train(profile: str, steps: int, batch_size: int, seed: int, out: Path) -> None:
    """Train a profile's network from scratch into a folder of your own (the shipped weights stay as they are)."""
    setting = profiles.get(profile)
    from .. import data, models
    from ..train import Settings, train_denoiser

    config = config_of(setting)
    settings = Settings(steps=steps, batch=batch_size, seed=seed)
    result = train_denoiser(
        lambda: models.UNet(**config),
        data.load(setting.dataset).images,
        setting.process(),
        settings,
        state=out / f"{setting.model}.state.safetensors",
    )
    digest = models.save(setting.model, result.model, "unet", setting.name, out, steps=steps, seed=seed)
    click.echo(f"{out / setting.model}.safetensors: loss {result.losses[-1]:.4f}, SHA-256 {digest[:16]}…")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--layout", required=True, metavar="NAME", help="Format of SOURCE: see 'fewstep list layouts'.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write (.safetensors).")
def convert(source: Path, layout: str, out: Path) -> None:
    """Convert SOURCE, a checkpoint in the format of a paper's program, to safetensors; no code in it is run."""
    check_writable(out, (".safetensors",))
    from ..models import convert as conversion

    found = conversion.convert(source, layout, out)
    which = "averaged weights" if found.averaged else "weights"
    click.echo(f"{out}: {found.architecture}, {found.parameters:,} {which}, SHA-256 {found.sha256}")
