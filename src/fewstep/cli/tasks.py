"""``fewstep likelihood | encode | inpaint | recover``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .. import profiles
from ..errors import UserError, unknown
from .files import check_writable, read_images, read_tensor, write_images
from .network import config_of, device, on_device
from .options import batch_, build_plan, grid_, images_, profile_, seed_, solver_


@click.command()
@click.option("--solver", default="deis-rhork-kutta3", metavar="NAME", help="A deterministic solver, or rk45.")
@click.option("--nfe", default=36, help="Budget of network calls; rk45 has none.")
@grid_
@profile_
@images_
@click.option("--samples", default=100, type=click.IntRange(2), help="How many images.")
@click.option("--divergence", default="rademacher", metavar="NAME", help="exact, rademacher or gaussian.")
@click.option("--probes", default=1, type=click.IntRange(1), help="Random probes per image.")
@click.option("--tolerance", default=1e-5, help="Of rk45, relative and absolute.")
@click.option("--rho-data", type=float, help="Noise level of the density. Default: that of the dequantisation.")
@seed_
@batch_
def likelihood(
    solver: str,
    nfe: int,
    grid: str | None,
    profile: str,
    images: Path | None,
    samples: int,
    divergence: str,
    probes: int,
    tolerance: float,
    rho_data: float | None,
    seed: int,
    batch_size: int,
) -> None:
    """Bits per dimension of images under the profile's network, by its probability-flow ODE."""
    setting = profiles.get(profile)
    from .. import data, models
    from ..tasks.likelihood import bits_of_images, grey_levels

    everything = data.load(setting.dataset).images
    found, calls = bits_of_images(
        setting.process(),
        models.load(setting.model),
        read_images(images, samples, lambda: everything),
        grey_levels(everything),
        solver=solver,
        nfe=nfe,
        grid=grid,
        tolerance=tolerance,
        rho_data=rho_data,
        divergence=divergence,
        probes=probes,
        seed=seed,
        batch_size=batch_size,
    )
    error = float(found.std()) / len(found) ** 0.5
    how = "" if divergence == "exact" else f", {probes} {divergence} probe{'s' * (probes > 1)} each"
    click.echo(f"{float(found.mean()):.4f} bits per dimension, standard error {error:.4f} ({len(found)} images{how})")
    click.echo(f"{solver}, {calls} network calls")


@click.command()
@solver_
@click.option("--nfe", default=50, help="Budget of network calls in each direction.")
@grid_
@profile_
@images_
@click.option("--samples", default=16, type=click.IntRange(1), help="How many images.")
@click.option("--interpolate", type=click.IntRange(2), metavar="N", help="N×N images between the first four instead.")
@click.option(
    "--out",
    default="reconstructions.png",
    type=click.Path(path_type=Path),
    help="Images above their reconstructions (.png), or with the codes (.safetensors).",
)
@batch_
def encode(
    solver: str,
    nfe: int,
    grid: str | None,
    profile: str,
    images: Path | None,
    samples: int,
    interpolate: int | None,
    out: Path,
    batch_size: int,
) -> None:
    """Encode images as noise, decode them again, and measure the difference."""
    setting = profiles.get(profile)
    from ..tasks import encoding

    there, back = (make(solver, setting.process(), nfe, grid) for make in (encoding.encoder, encoding.decoder))
    check_writable(out, (".png", ".safetensors"))
    from .. import data, models

    model = models.load(setting.model)
    given = read_images(images, 4 if interpolate else samples, lambda: data.load(setting.dataset).images)
    codes = encoding.encode(there, model, given, batch_size=batch_size)
    if interpolate:
        codes = encoding.interpolation_grid(codes, interpolate)
    found = encoding.decode(back, model, codes, batch_size=batch_size)
    write_images(out, found, above=None if interpolate else given, columns=interpolate, codes=codes.contiguous())
    click.echo(f"{out}: {len(found)} images, {solver}, {there.nfe} + {back.nfe} network calls")
    if not interpolate:
        error = float(encoding.reconstruction_error(given, found).mean())
        click.echo(f"mean squared error per dimension, of [0, 1]: {error:.3g}")


MASKS = ("upper", "lower", "left", "right")


def _mask(name: str, shape: Sequence[int]) -> Any:
    """The half of the image that is known, or the tensor ``mask`` of a file."""
    import torch

    if name in MASKS:
        mask = torch.zeros(1, *shape[1:])
        half = [size // 2 for size in shape[1:]]
        rows = {"upper": slice(half[0]), "lower": slice(half[0], None)}.get(name, slice(None))
        columns = {"left": slice(half[1]), "right": slice(half[1], None)}.get(name, slice(None))
        mask[:, rows, columns] = 1
        return mask
    if not name.endswith(".safetensors"):
        raise unknown("mask", name, MASKS)
    return read_tensor(Path(name), "mask")


@click.command()
@solver_
@click.option("--nfe", default=50, help="Budget of network calls.")
@grid_
@profile_
@images_
@click.option("--samples", default=8, type=click.IntRange(1), help="How many images.")
@click.option("--completions", default=4, type=click.IntRange(1), help="Completions of each.")
@click.option(
    "--mask",
    default="upper",
    metavar="NAME|FILE",
    help="What is known: upper, lower, left, right or a .safetensors file.",
)
@click.option("--colorize", is_flag=True, help="Known is the grey image, unknown its colours; no mask.")
@click.option("--repeats", type=click.IntRange(1), help="Take each step of DDIM so many times (RePaint).")
@seed_
@click.option(
    "--out",
    default="completions.png",
    type=click.Path(path_type=Path),
    help="The known parts above their completions (.png), or the completions (.safetensors).",
)
@batch_
def inpaint(
    solver: str,
    nfe: int,
    grid: str | None,
    profile: str,
    images: Path | None,
    samples: int,
    completions: int,
    mask: str,
    colorize: bool,
    repeats: int | None,
    seed: int,
    out: Path,
    batch_size: int,
) -> None:
    """Draw the unknown part of images, or their colours; the known part is kept."""
    setting = profiles.get(profile)
    process = setting.process()
    from .. import grids, solvers
    from ..tasks import inpainting

    if repeats is None:
        plan = build_plan(setting, solver, nfe, grid)
    elif solver != "ddim":
        raise UserError(f"--repeats takes the steps of ddim several times, not those of {solver}")
    elif nfe < repeats:
        raise UserError(f"{repeats} repeats of a step need at least {repeats} network calls, --nfe gives {nfe}")
    else:
        times = grids.build(grid or solvers.get(solver).default_grid, process, nfe // repeats)
        plan = inpainting.resampled(process, times, repeats)
    check_writable(out, (".png", ".safetensors"))
    import torch

    from .. import data, models

    shape = config_of(setting)["shape"]
    if colorize and shape[0] != 3:
        raise UserError(f"the network of profile {profile} draws images of {shape[0]} channel; colours need three")
    given = read_images(images, samples, lambda: data.load(setting.dataset).images)
    inpainting.check_images(given)
    if list(given.shape[1:]) != shape:
        raise UserError(f"images of shape {tuple(shape)} are needed, got {tuple(given.shape[1:])}")
    model, many = on_device(models.load(setting.model)), given.repeat(completions, 1, 1, 1)
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": device()}
    if colorize:
        shown = given.mean(1, keepdim=True)
        drawn = inpainting.colorize(plan, model, shown.repeat(completions, 1, 1, 1), **options)
        shown = shown.expand(given.shape)
    else:
        known = inpainting.check_mask(_mask(mask, shape), given)
        drawn = inpainting.inpaint(plan, model, many, known.expand(given.shape).repeat(completions, 1, 1, 1), **options)
        shown = torch.where(known, given, torch.zeros(()))
    write_images(out, drawn, above=shown)
    spread = (
        f", standard deviation between completions {float(drawn.unflatten(0, (completions, -1)).std(0).mean()):.3f}"
    )
    click.echo(
        f"{out}: {completions} completions of {len(given)} images, {solver}, {plan.nfe} network calls, seed {seed}"
        + (spread if completions > 1 else "")
    )


@click.command()
@solver_
@click.option("--nfe", default=20, help="Budget of network calls.")
@grid_
@profile_
@images_
@click.option("--samples", default=16, type=click.IntRange(1), help="How many images.")
@click.option("--measurements", type=click.IntRange(1), help="Recover them from so many random measurements.")
@click.option("--sigma", type=float, help="Recover them from noise of this standard deviation.")
@seed_
@click.option(
    "--out",
    default="recovered.png",
    type=click.Path(path_type=Path),
    help="The images above the recovered ones (.png), or the recovered ones (.safetensors).",
)
def recover(
    solver: str,
    nfe: int,
    grid: str | None,
    profile: str,
    images: Path | None,
    samples: int,
    measurements: int | None,
    sigma: float | None,
    seed: int,
    out: Path,
) -> None:
    """Recover images from few random measurements or from noise, with the network as the projection onto images."""
    setting = profiles.get(profile)
    process = setting.process()
    if (measurements is None) == (sigma is None):
        raise UserError("say what is measured: --measurements M or --sigma S, one of the two")
    plan = build_plan(setting, solver, nfe, grid)
    check_writable(out, (".png", ".safetensors"))
    import torch

    from .. import data, models, solvers
    from ..noise import normal
    from ..tasks import inverse
    from ..tasks.inpainting import check_images

    given = read_images(images, samples, lambda: data.load(setting.dataset).images)
    check_images(given)
    model = models.load(setting.model)
    if measurements is not None:
        pixels = given[0].numel()
        if measurements > pixels:
            raise UserError(f"an image has {pixels} elements; --measurements must not be more, got {measurements}")
        A = torch.linalg.qr(normal(seed, 1, range(pixels), (measurements,), torch.float64)).Q.T
        project = inverse.onto_measurements(A, given.flatten(1).double() @ A.T)
        found = inverse.recover(plan, model, process, project, given.shape[1:], range(len(given)), seed=seed)
        what = f"{measurements} measurements of {pixels} elements"
    else:
        assert sigma is not None
        noisy = given + sigma * normal(seed, 1, range(len(given)), given.shape[1:])
        found = inverse.denoise(model, process, noisy, sigma, nfe, solver, grid or solvers.get(solver).default_grid)
        what = f"noise of {sigma:g}"
    write_images(out, found, above=given)
    error = float((found - given).square().mean().sqrt())
    click.echo(f"{out}: {len(given)} images from {what}, RMS error per pixel {error:.4f} ({solver}, {plan.nfe} calls)")
