"""``fewstep train | convert | pin``."""

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


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--again", is_flag=True, help="Also those that are pinned, to what is there now.")
def pin(names: tuple[str, ...], again: bool) -> None:
    """Pin networks in data/models.lock.json, to the commit and the SHA-256 of weights that the hub states.

    NAMEs are those of 'fewstep list models', default all networks of the hub; one of a converted file is pinned to its
    content. No weights are fetched.
    """
    from ..models import pins, zoo

    before = pins.read()
    found = zoo.pin(names, again=again)
    for name, one in found.items():
        click.echo(f"{name}: {one}{', as before' if before.get(name) == one else ''}")
    if any(before.get(name) != one for name, one in found.items()):
        click.echo(f"now git commit {pins.FILE}")
