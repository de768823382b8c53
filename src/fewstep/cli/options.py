"""Options that several commands share, and what they stand for: a profile and a plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from .. import profiles, schedules
from ..errors import UserError, unknown
from ..plan import Plan

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
images_ = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Images in [-1, 1], as 'fewstep sample' writes them (.safetensors). Default: the profile's data.",
)


def given_options(**options: float | None) -> dict[str, float]:
    """The solver options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def build_plan(setting: profiles.Profile, solver: str, nfe: int, grid: str | None, **options: float | None) -> Plan:
    """The solver's plan on the profile's process.

    Args:
        setting: the profile.
        solver: its name.
        nfe: budget of network calls.
        grid: name of the time grid; None: the solver's own.
        options: of the solver; those that are None were not given.

    Raises:
        UserError: if a name is unknown, the budget too small, or an option not the solver's or out of range.
    """
    from .. import solvers

    given: dict[str, Any] = given_options(**options)
    return solvers.build(solver, setting.process(), nfe, grid, **given)


def profile_with(profile: str, model: str | None) -> profiles.Profile:
    """The profile, with another network and its process where one is named.

    Raises:
        UserError: if there is no such profile or network, or nothing says on which process it was trained.
    """
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
