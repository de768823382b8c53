"""What is to be measured: the cells of ``workflow/experiments.yml``, and which of them no record stands for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ..errors import UserError, unknown
from ..files import read_yaml
from ..provenance import ROOT, cell_key, weights_of
from .files import RESULTS, read
from .record import Measurement, Name, Record, Strict

__all__ = [
    "TRAINING",
    "Cell",
    "Experiment",
    "Profiles",
    "cells",
    "is_training",
    "made_by",
    "planned",
    "profiles",
    "stale_cells",
    "training",
    "why_stale",
]

TRAINING = "train"
"""The experiment that makes weights, or how its name begins (``train_…``) where there are several.

Only ``make train`` and ``make gpu`` run them: the weights are an input of the others.
"""


@dataclass(frozen=True)
class Cell:
    """One run of an experiment's notebook; ``shards``, ``gpu`` and ``timed`` as in :class:`Experiment`."""

    profile: str
    experiment: str
    name: str
    parameters: dict[str, Any]
    shards: int | None = None
    gpu: bool = False
    timed: bool = False

    def path(self, folder: Path = RESULTS) -> Path:
        """The file of its record."""
        return folder / self.profile / self.experiment / f"{self.name}.json"

    def key(self, root: Path = ROOT) -> str:
        """Its key as the code stands now (:func:`fewstep.provenance.cell_key`)."""
        return cell_key(self.experiment, self.parameters, root)

    def scratch(self, root: Path = ROOT) -> Path:
        """The folder that keeps its shards until its record is written; code that has changed never meets old ones."""
        return root / "_build" / "shards" / self.profile / self.experiment / f"{self.name}.{self.key(root)[:12]}"


class Experiment(Strict):
    """A notebook and its runs. How its work is spread changes no number, and no key.

    Attributes:
        parameters: what all its cells share.
        cells: parameters of each cell.
        shards: into how many jobs a cell's samples are cut; None if the notebook does not draw by
            :meth:`~fewstep.results.recorder.Recorder.collect`.
        gpu: whether a job takes a GPU where there is one.
        first: ``make gpu`` runs so many of its cells in their place, the others after all other experiments; None: all.
        timed: whether it measures the time of the machine that runs it, which no other run gives again.
    """

    parameters: dict[str, Any] = Field(default={})
    cells: dict[Name, dict[str, Any]] = Field(min_length=1)
    shards: int | None = Field(default=None, ge=1)
    gpu: bool = False
    timed: bool = False
    first: int | None = Field(default=None, ge=1)


def planned(root: Path = ROOT) -> dict[str, dict[str, Experiment]]:
    """What is to be measured, from ``workflow/experiments.yml``: profile → experiment → what it holds.

    The cells' parameters are complete: those of the experiment are in them.

    Raises:
        UserError: if the file does not fit its schema.
    """
    path = root / "workflow" / "experiments.yml"
    return _planned(path, path.stat().st_mtime_ns if path.exists() else 0)


Profiles = Annotated[
    dict[Name, dict[Name, Experiment]],
    # `shared` is a place for YAML anchors.
    BeforeValidator(
        lambda found: {k: v for k, v in found.items() if k != "shared"} if isinstance(found, dict) else found
    ),
]


@functools.cache
def _planned(path: Path, changed_ns: int) -> dict[str, dict[str, Experiment]]:
    return {
        profile: {
            name: experiment.model_copy(
                update={"cells": {cell: {**experiment.parameters, **own} for cell, own in experiment.cells.items()}}
            )
            for name, experiment in experiments.items()
        }
        for profile, experiments in read_yaml(path, Profiles).items()
    }


def profiles(root: Path = ROOT) -> list[str]:
    """The profiles that have cells, in the order of ``workflow/experiments.yml``."""
    return [profile for profile, experiments in planned(root).items() if experiments]


def cells(
    profile: str,
    experiment: str | None = None,
    root: Path = ROOT,
    *,
    timed: bool = True,
    only: Collection[str] = (),
) -> list[Cell]:
    """The cells of a profile, training left out, or those of one of its experiments, from ``workflow/experiments.yml``.

    Args:
        profile: which.
        experiment: one of the profile's, training too.
        root: of the project.
        timed: whether those are among them that measure the time of a machine.
        only: names of cells, ``experiment/cell``, if not all are wanted.

    Raises:
        UserError: if the file does not fit its schema, or has no such profile or experiment.
    """
    experiments = planned(root).get(profile)
    if not experiments:
        raise UserError(f"profile {profile!r} has no cells; profiles that have: {', '.join(profiles(root)) or 'none'}")
    if experiment is not None and experiment not in experiments:
        raise unknown(f"experiment of profile {profile}", experiment, experiments)
    wanted = [experiment] if experiment else [name for name in experiments if not is_training(name)]
    found = [
        Cell(profile, name, cell, parameters, one.shards, one.gpu, one.timed)
        for name, one in experiments.items()
        if name in wanted and (timed or not one.timed)
        for cell, parameters in one.cells.items()
    ]
    names = [f"{cell.experiment}/{cell.name}" for cell in found]
    for name in only:
        of, _, one = name.partition("/")
        if not timed and of in wanted and experiments[of].timed and one in experiments[of].cells:
            raise UserError(f"{name} measures the time of a machine, which no other run gives again")
        if name not in names:
            raise unknown(f"cell of profile {profile}", name, names)
    return [cell for cell, name in zip(found, names, strict=True) if not only or name in only]


def is_training(experiment: str) -> bool:
    """Whether an experiment makes weights."""
    return experiment == TRAINING or experiment.startswith(f"{TRAINING}_")


def made_by(measurements: Iterable[Measurement], root: Path = ROOT) -> dict[str, str]:
    """SHA-256, from the checkpoints' manifest, of the networks whose training took the seconds that were measured."""
    found: dict[str, str] = {}
    for name in sorted({str(m.settings.get("network")) for m in measurements if m.metric == "seconds"}):
        with contextlib.suppress(UserError):  # of a training by hand, whose weights lie elsewhere
            found |= weights_of({"model": name}, root)
    return found


def training(profile: str, root: Path = ROOT) -> list[str]:
    """The experiments of a profile that make its weights."""
    return [name for name in planned(root).get(profile, {}) if is_training(name)]


def stale_cells(
    profile: str,
    folder: Path | str = RESULTS,
    root: Path = ROOT,
    *,
    timed: bool = True,
    only: Collection[str] = (),
) -> list[Cell]:
    """The cells of a profile whose record is missing from a folder, or was made by something else than stands here now.

    The arguments are those of :func:`cells`.

    Raises:
        UserError: as :func:`cells` and :func:`read` do.
    """
    stale = []
    for cell in cells(profile, root=root, timed=timed, only=only):
        key, path = cell.key(root), cell.path(Path(folder))
        if not path.exists() or read(path).provenance.key != key:
            stale.append(cell)
    return stale


def why_stale(record: Record, root: Path = ROOT) -> str | None:
    """Why a record no longer says what the code would measure, in words; None if it does.

    A record of a training tells of weights: it holds as long as these are the ones that are shipped.
    """
    where = record.provenance
    experiment = planned(root).get(where.profile, {}).get(where.experiment)
    parameters = experiment.cells.get(where.cell) if experiment else None
    if parameters is None:
        return "workflow/experiments.yml has no such cell any more"
    if parameters != where.parameters:
        return "its parameters have changed since"
    if is_training(where.experiment):
        same = where.weights and where.weights == made_by(record.measurements, root)
        return None if same else "its networks are not the ones that are shipped"
    try:
        key = cell_key(where.experiment, where.parameters, root)
    except UserError as error:
        return str(error)
    return None if key == where.key else "its notebook, code or weights have changed since"
