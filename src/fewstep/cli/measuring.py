"""``fewstep evaluate | compare | fid``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click

from .. import profiles
from ..errors import UserError, unknown
from ..plan import difference
from .files import read_tensor
from .network import draw, on_device
from .options import (
    batch_,
    build_plan,
    eta_,
    gamma_,
    given_options,
    grid_,
    model_,
    mu_,
    nfe_,
    profile_,
    profile_with,
    solver_,
)


@click.command()
@solver_
@nfe_
@grid_
@profile_
@model_
@click.option("--samples", default=1000, type=click.IntRange(2), help="How many samples per seed.")
@click.option(
    "--seed", multiple=True, default=(0, 1, 2), type=click.IntRange(0), help="Seed; give two or more for an interval."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of records to write the numbers to.")
@eta_
@gamma_
@mu_
@batch_
def evaluate(
    solver: str,
    nfe: int,
    grid: str | None,
    profile: str,
    model: str | None,
    samples: int,
    seed: tuple[int, ...],
    out: Path | None,
    eta: float | None,
    gamma: float | None,
    mu: float | None,
    batch_size: int,
) -> None:
    """Measure samples against the data: Fréchet and kernel distance, precision and recall."""
    setting = profile_with(profile, model)
    plan = build_plan(setting, solver, nfe, grid, eta=eta, gamma=gamma, mu=mu)
    if out is not None and not out.is_dir():
        raise UserError(f"cannot write records to {out}: it is not a folder")
    if len(seed) < 2:
        raise UserError("an interval needs at least two seeds: --seed 0 --seed 1")
    from .. import metrics, models, results, solvers

    network = models.load(setting.model)
    options = given_options(eta=eta, gamma=gamma, mu=mu)
    where: dict[str, Any] = {"solver": solver, "grid": grid or solvers.get(solver).default_grid, "nfe": plan.nfe}
    made_with = {**where, **options, "model": setting.model, "features": setting.features}
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        record = None
        if out is not None:
            parameters = {**made_with, "samples": samples, "seeds": list(seed)}
            cell = solver if model is None else f"{solver}-{model}"
            record = stack.enter_context(results.recording(setting.name, "frechet", cell, parameters, out=out))
        for one in seed:
            images = draw(setting, plan, network, samples, one, batch_size)
            for metric, value in metrics.evaluate(images, setting.dataset, setting.features).items():
                found.setdefault(metric, []).append(value)
        if record is not None:
            for metric, values in found.items():
                record.add(
                    metric, *metrics.confidence_interval(values), **where, samples=samples, seeds=seed, settings=options
                )
    click.echo(f"{solver} on {where['grid']}, {plan.nfe} network calls, {len(seed)} × {samples} samples")
    for metric, values in found.items():
        mean, low, high = metrics.confidence_interval(values)
        click.echo(f"  {results.METRICS[metric]:24s} {mean:10.4f}   95 % interval [{low:.4f}, {high:.4f}]")


@click.command()
@click.argument("names", nargs=-1, required=True)
@nfe_
@click.option("--grid", default="uniform", metavar="NAME", help="Time grid that all of them use.")
@profile_
def compare(names: tuple[str, ...], nfe: int, grid: str, profile: str) -> None:
    """Compare the solvers NAMES as tables.

    Prints calls, storage slots and the largest difference of the canonical forms; 0 means the same sampler.
    """
    setting = profiles.get(profile)
    if len(names) < 2:
        raise UserError("give at least two solvers to compare")
    plans = [build_plan(setting, name, nfe, grid) for name in names]
    width = max(map(len, names))
    click.echo(f"{'':{width}s}  calls  slots  largest difference to {names[0]}")
    for name, plan in zip(names, plans, strict=True):
        gap = difference(plans[0], plan) / max(1.0, float(abs(plans[0].canonical().C).max()))
        same = "the same sampler" if gap < 1e-12 else "another number of calls" if gap == float("inf") else f"{gap:.3g}"
        click.echo(f"{name:{width}s}  {plan.nfe:5d}  {plan.slots:5d}  {same}")


@click.command()
@click.argument("samples", type=click.Path(path_type=Path))
@click.argument("reference")
@click.option("--split", metavar="TEXT", help="What the reference is, for the record. Default: REFERENCE itself.")
@click.option("--batch-size", default=64, type=click.IntRange(1), help="Images per call of Inception.")
def fid(samples: Path, reference: str, split: str | None, batch_size: int) -> None:
    """FID of SAMPLES (.safetensors or a folder of images) against REFERENCE, with Inception's features.

    REFERENCE is a data set, a folder of images, a .safetensors file, or published statistics (.npz).
    """
    from .. import data, inception
    from .. import images as image_sets

    network = on_device(inception.Inception())

    def images(path: Path) -> Any:
        return read_tensor(path, "samples") if path.suffix == ".safetensors" else image_sets.folder(path)

    given = images(samples)
    against: Any
    if reference in data.DATASETS:
        against = data.load(reference).images
    elif reference.endswith(".npz"):
        against = inception.read_statistics(Path(reference))
    elif Path(reference).exists():
        against = images(Path(reference))
    else:
        raise unknown("data set or file", reference, data.DATASETS)
    found = inception.fid(given, against, split or reference, network, batch=batch_size)
    click.echo(f"FID {found.value:.4f}")
    for name, value in found.protocol.items():
        click.echo(f"  {name:18s} {value}")
