"""The command line: ``fewstep list | sample | evaluate | train | compare | likelihood | encode |
inpaint | recover | convert | fid``.

A user's mistake gets one line on standard error and exit status 2, and leaves no file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from .. import grids, profiles, schedules, solvers
from ..errors import UserError, unknown
from ..files import write_atomically
from ..plan import Plan, difference

CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


# Options that several commands share.
solver_ = click.option("--solver", default="ddim", metavar="NAME", help="Solver: see 'fewstep list solvers'.")
nfe_ = click.option("--nfe", default=10, help="Budget of network calls; the solver takes as many steps as fit.")
grid_ = click.option("--grid", metavar="NAME", help="Time grid: see 'fewstep list grids'. Default: the solver's own.")
profile_ = click.option(
    "--profile", default="digits", metavar="NAME", help="Data, network and process: see 'fewstep list profiles'."
)
model_ = click.option(
    "--model",
    metavar="NAME",
    help="Network in data/checkpoints, on the process that it was trained on. Default: the profile's.",
)
eta_ = click.option("--eta", type=float, help="DDIM's η, 0 (deterministic) to 1.")
gamma_ = click.option("--gamma", type=float, help="Gradient estimation's γ; 1 is DDIM.")
mu_ = click.option("--mu", type=float, help="Gradient estimation's noise level μ, 0 to below 1.")
seed_ = click.option("--seed", default=0, type=click.IntRange(0), help="Seed of the noise.")
batch_ = click.option(
    "--batch-size", default=256, type=click.IntRange(1), help="Samples per network call; changes no sample."
)


def _also(solver: str) -> str:
    names = [alias for alias, name in solvers.ALIASES.items() if name == solver]
    return f"; also {', '.join(names)}" if names else ""


KINDS = {
    "solvers": lambda: [
        (s.name, f"{s.title}; order {s.order}, on {s.default_grid} by default ({s.reference}){_also(s.name)}")
        for s in solvers.SOLVERS.values()
    ],
    "grids": lambda: [(name, _first_line(function)) for name, function in grids.GRIDS.items()],
    "processes": lambda: [(name, _first_line(make)) for name, make in schedules.PROCESSES.items()],
    "layouts": lambda: [(name, layout.title) for name, layout in _layouts().items()],
    "models": lambda: [(name, f"{record.title} ({record.licence})") for name, record in _paper_models().items()],
    "profiles": lambda: [
        (p.name, f"data {p.dataset}, network {p.model}, features {p.features}") for p in profiles.PROFILES.values()
    ],
}
"""What ``fewstep list`` lists."""


def _layouts() -> Any:
    from ..models.convert import LAYOUTS  # here, not above: it imports torch

    return LAYOUTS


def _paper_models() -> Any:
    from ..models import zoo

    return zoo.records()


def _first_line(thing: Any) -> str:
    """The first sentence of a docstring, without its markup."""
    text = " ".join((thing.__doc__ or "").split("\n\n")[0].split())
    for mark in (":math:", ":func:", ":data:", "`"):
        text = text.replace(mark, "")
    return text


def _options(**given: float | None) -> dict[str, float]:
    """The solver options that were given."""
    return {name: value for name, value in given.items() if value is not None}


def _plan(profile: profiles.Profile, solver: str, nfe: int, grid: str | None, **options: float | None) -> Plan:
    given: dict[str, Any] = _options(**options)
    return solvers.build(solver, profile.process(), nfe, grid, **given)


def _setting(profile: str, model: str | None) -> profiles.Profile:
    """The profile, with another network and its process where one is named."""
    setting = profiles.get(profile)
    if model is None:
        return setting
    from .. import models

    networks = {Path(file).stem: entry for file, entry in models.manifest().items() if entry["kind"] == "unet"}
    if model not in networks:
        raise unknown("network", model, networks)
    process: Any = schedules.PROCESSES.get(networks[model].get("trained", {}).get("process"))
    if process is None:
        raise UserError(
            f"the manifest does not say on which process {model} was trained; its 'trained' needs a 'process', one of "
            f"{', '.join(schedules.PROCESSES)}"
        )
    return dataclasses.replace(setting, model=model, process=process)


def _writable(out: Path, suffixes: Iterable[str]) -> None:
    """Refuse an output file before the work, not after it."""
    if out.suffix not in suffixes:
        raise UserError(f"cannot write {out}: its name must end in {' or '.join(suffixes)}")
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UserError(f"cannot write {out}: no right to write there, choose another place")


@click.group(context_settings=CONTEXT)
def app() -> None:
    """Few-step diffusion sampling: draw, measure and compare samples of any solver."""


@app.command("list")
@click.argument("kind", required=False)
def list_(kind: str | None) -> None:
    """List what there is: KIND is solvers, grids, processes, layouts, models or profiles (default: all of them)."""
    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    for name in [kind] if kind else KINDS:
        rows = KINDS[name]()
        width = max(len(row[0]) for row in rows)
        if kind is None:
            click.echo(f"{name}:")
        for row in rows:
            click.echo(f"{'' if kind else '  '}{row[0]:{width}s}  {row[1]}")


@app.command()
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


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _on_device(model: Any) -> Any:
    return model.to(_device())


def _generate(setting: profiles.Profile, plan: Plan, model: Any, samples: int, seed: int, batch_size: int) -> Any:
    from .. import models
    from ..run import generate

    shape = models.manifest()[f"{setting.model}.safetensors"]["config"]["shape"]  # asks for no images
    if hasattr(model, "to"):  # a wrapper's network is there already
        model = _on_device(model)
    model = models.normalised(model, setting.process())
    return generate(
        plan, model, shape, range(samples), seed=seed, batch_size=batch_size, device=_device(), progress=True
    )


def _write_images(path: Path, images: Any, suffix: str, columns: int = 0) -> None:
    if suffix == ".safetensors":
        from safetensors.torch import save

        path.write_bytes(save({"samples": images.contiguous()}))
        return
    from PIL import Image
    from torchvision.utils import make_grid

    from ..data import to_uint8

    columns = columns or max(1, round(len(images) ** 0.5))
    # Small images are enlarged by whole pixels, so that a viewer shows what there is.
    scale = max(1, 64 // images.shape[-1])
    pixels = to_uint8(images).repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    picture = make_grid(pixels, nrow=columns, padding=2, pad_value=255)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path, format="PNG")


@app.command()
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
    setting = _setting(profile, model)
    plan = _plan(setting, solver, nfe, grid, eta=eta, gamma=gamma, mu=mu)
    if out is not None and not out.is_dir():
        raise UserError(f"cannot write records to {out}: it is not a folder")
    if len(seed) < 2:
        raise UserError("an interval needs at least two seeds: --seed 0 --seed 1")
    from .. import metrics, models, results

    network = models.load(setting.model)
    options = _options(eta=eta, gamma=gamma, mu=mu)
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
            images = _generate(setting, plan, network, samples, one, batch_size)
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


@app.command()
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

    config = models.manifest()[f"{setting.model}.safetensors"]["config"]
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


@app.command()
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
    plans = [_plan(setting, name, nfe, grid) for name in names]
    width = max(map(len, names))
    click.echo(f"{'':{width}s}  calls  slots  largest difference to {names[0]}")
    for name, plan in zip(names, plans, strict=True):
        gap = difference(plans[0], plan) / max(1.0, float(abs(plans[0].canonical().C).max()))
        same = "the same sampler" if gap < 1e-12 else "another number of calls" if gap == float("inf") else f"{gap:.3g}"
        click.echo(f"{name:{width}s}  {plan.nfe:5d}  {plan.slots:5d}  {same}")


images_ = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Images in [-1, 1], as 'fewstep sample' writes them (.safetensors). Default: the profile's data.",
)


def _images(path: Path | None, samples: int, default: Any) -> Any:
    """The first ``samples`` images of a file, or of the data set, which ``default`` loads."""
    return (default() if path is None else _tensor(path, "samples").float())[:samples]


def _tensor(path: Path, name: str) -> Any:
    """The tensor of this name in a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(path.read_bytes())
    except (OSError, SafetensorError):
        raise UserError(f"cannot read {path}: a safetensors file with a tensor {name!r} is needed") from None
    if name not in found:
        raise UserError(f"{path} has no tensor {name!r}, only {', '.join(sorted(found)) or 'nothing'}")
    return found[name]


@app.command()
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
        _images(images, samples, lambda: everything),
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


@app.command()
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
    _writable(out, (".png", ".safetensors"))
    import torch

    from .. import data, models

    model = models.load(setting.model)
    given = _images(images, 4 if interpolate else samples, lambda: data.load(setting.dataset).images)
    codes = encoding.encode(there, model, given, batch_size=batch_size)
    if interpolate:
        codes = encoding.interpolation_grid(codes, interpolate)
    found = encoding.decode(back, model, codes, batch_size=batch_size)
    shown, columns = (found, interpolate) if interpolate else (torch.cat([given, found]), len(found))
    if out.suffix == ".safetensors":
        from safetensors.torch import save

        blob = save({"samples": found.contiguous(), "codes": codes.contiguous()})
        write_atomically(out, lambda path: path.write_bytes(blob))
    else:
        write_atomically(out, lambda path: _write_images(path, shown, out.suffix, columns))
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
    return _tensor(Path(name), "mask")


@app.command()
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
    from ..tasks import inpainting

    if repeats is None:
        plan = _plan(setting, solver, nfe, grid)
    elif solver != "ddim":
        raise UserError(f"--repeats takes the steps of ddim several times, not those of {solver}")
    elif nfe < repeats:
        raise UserError(f"{repeats} repeats of a step need at least {repeats} network calls, --nfe gives {nfe}")
    else:
        times = grids.build(grid or solvers.get(solver).default_grid, process, nfe // repeats)
        plan = inpainting.resampled(process, times, repeats)
    _writable(out, (".png", ".safetensors"))
    import torch

    from .. import data, models

    shape = models.manifest()[f"{setting.model}.safetensors"]["config"]["shape"]
    if colorize and shape[0] != 3:
        raise UserError(f"the network of profile {profile} draws images of {shape[0]} channel; colours need three")
    given = _images(images, samples, lambda: data.load(setting.dataset).images)
    inpainting.check_images(given)
    if list(given.shape[1:]) != shape:
        raise UserError(f"images of shape {tuple(shape)} are needed, got {tuple(given.shape[1:])}")
    model, many = _on_device(models.load(setting.model)), given.repeat(completions, 1, 1, 1)
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": _device()}
    if colorize:
        shown = given.mean(1, keepdim=True)
        drawn = inpainting.colorize(plan, model, shown.repeat(completions, 1, 1, 1), **options)
        shown = shown.expand(given.shape)
    else:
        known = inpainting.check_mask(_mask(mask, shape), given)
        drawn = inpainting.inpaint(plan, model, many, known.expand(given.shape).repeat(completions, 1, 1, 1), **options)
        shown = torch.where(known, given, torch.zeros(()))
    result = drawn if out.suffix == ".safetensors" else torch.cat([shown, drawn])
    write_atomically(out, lambda path: _write_images(path, result, out.suffix, columns=len(given)))
    spread = (
        f", standard deviation between completions {float(drawn.unflatten(0, (completions, -1)).std(0).mean()):.3f}"
    )
    click.echo(
        f"{out}: {completions} completions of {len(given)} images, {solver}, {plan.nfe} network calls, seed {seed}"
        + (spread if completions > 1 else "")
    )


@app.command()
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
    plan = _plan(setting, solver, nfe, grid)
    _writable(out, (".png", ".safetensors"))
    import torch

    from .. import data, models
    from ..noise import normal
    from ..tasks import inverse
    from ..tasks.inpainting import check_images

    given = _images(images, samples, lambda: data.load(setting.dataset).images)
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
    result = found if out.suffix == ".safetensors" else torch.cat([given, found])
    write_atomically(out, lambda path: _write_images(path, result, out.suffix, columns=len(given)))
    error = float((found - given).square().mean().sqrt())
    click.echo(f"{out}: {len(given)} images from {what}, RMS error per pixel {error:.4f} ({solver}, {plan.nfe} calls)")


@app.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--layout", required=True, metavar="NAME", help="Format of SOURCE: see 'fewstep list layouts'.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write (.safetensors).")
def convert(source: Path, layout: str, out: Path) -> None:
    """Convert SOURCE, a checkpoint in the format of a paper's program, to safetensors; no code in it is run."""
    _writable(out, (".safetensors",))
    from ..models import convert as conversion

    found = conversion.convert(source, layout, out)
    which = "averaged weights" if found.averaged else "weights"
    click.echo(f"{out}: {found.architecture}, {found.parameters:,} {which}, SHA-256 {found.sha256}")


@app.command()
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

    network = _on_device(inception.Inception())

    def images(path: Path) -> Any:
        return _tensor(path, "samples") if path.suffix == ".safetensors" else image_sets.folder(path)

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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 0, with 2 after a user's mistake, with 130 when interrupted."""
    try:
        sys.exit(app.main(args=arguments, prog_name="fewstep", standalone_mode=False) or 0)
    except UserError as error:
        message = str(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        message = error.format_message()
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    click.echo(f"fewstep: {' '.join(message.split())}", err=True)
    sys.exit(2)
