r"""Records: what was measured, and what made it.

One cell of an experiment (one run of its notebook with one set of parameters) leaves one file,
``data/results/<profile>/<experiment>/<cell>.json``: its provenance and its measurements. A file that does not fit the
schema below is refused with a line that names the file and the field. A notebook writes its record with

.. code-block:: python

    with results.recording(**record_as) as record:
        record.add("frechet_distance", 12.3, 11.9, 12.7, solver="ddim", grid="uniform", nfe=10, samples=1000, seeds=[0])

where ``record_as`` (profile, experiment, cell, parameters, the folder of the records) is handed in by the workflow. A
measurement of many samples is cut into jobs by drawing them through :meth:`Recorder.collect`.
What is to be measured stands in ``workflow/experiments.yml``, which :func:`cells` reads.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import UserError, unknown
from .files import complaint, read_yaml, write_atomically
from .provenance import ROOT, cell_key, device_name, package_versions, revision, weights_of

if TYPE_CHECKING:
    from .shards import Shard

__all__ = [
    "METRICS",
    "RESULTS",
    "TOLERANCE",
    "Cell",
    "Change",
    "Comparison",
    "Experiment",
    "Measurement",
    "Provenance",
    "Record",
    "Recorder",
    "cell_key",
    "cells",
    "compare",
    "is_stale",
    "is_training",
    "load",
    "planned",
    "profiles",
    "read",
    "recording",
    "stale_cells",
    "table",
    "training",
    "why_stale",
    "write",
]

RESULTS = ROOT / "data" / "results"
"""The committed records."""

TRAINING = "train"
"""The experiment that makes weights, or how its name begins (``train_…``) where there are several.

Only ``make train`` and ``make gpu`` run them: the weights are an input of the others.
"""

METRICS: dict[str, str] = {
    "frechet_distance": "Fréchet distance",
    "fid": "FID",
    "kernel_distance": "kernel distance (KID)",
    "precision": "precision",
    "recall": "recall",
    "error": "error to the exact solution",
    "ode_error": "RMS error per pixel to the solution of the network's ODE",
    "feature_error": "mean distance of features to those of the solution of the network's ODE",
    "ideal_error": "RMS error per pixel to the solution of the ideal denoiser's ODE",
    "median_error": "median over the starts of the RMS error per pixel to the solution",
    "same_image": "share of starts that end at the same training image as the solution",
    "level": "noise level ρ",
    "order": "fitted order of convergence",
    "score_error": "error of the score parametrisation",
    "eps_error": "error of the ε parametrisation",
    "extrapolation_error": "error of polynomial extrapolation",
    "relative_error": "relative error of the denoiser",
    "mean_square": "mean square of the predicted noise",
    "distance": "distance to the data",
    "change": "change",
    "sample_difference": "RMS difference per pixel of the samples",
    "loss": "denoising loss",
    "accuracy": "accuracy",
    "pixel_error": "RMS error per pixel",
    "psnr": "PSNR (dB)",
    "diversity": "standard deviation per pixel between samples of one condition",
    "excess": "RMS excess of the pixels over [−1, 1]",
    "recovered": "share of images recovered",
    "seconds": "wall time (s)",
    "bytes": "size (bytes)",
    "peak_bytes": "peak memory (bytes)",
    "likelihood_error": "mean error of the log-density, bits per dimension",
    "bits_error": "error of the mean bits per dimension",
    "bits_per_dimension": "bits per dimension",
    "standard_error": "standard error of the bits per dimension",
    "reconstruction_error": "mean squared reconstruction error per dimension",
    "code_difference": "RMS difference of codes per dimension",
    "images_per_second": "images per second",
    "matrix_rate": "fraction of the card's bfloat16 matrix rate",
    "truth": "whether a statement holds (1) or not (0)",
}
"""What can be measured: the metric's name in the records and in words."""

_EXACT = (1e-6, 1e-12)
_NETWORK = (0.03, 1e-3)
TOLERANCE: dict[str, tuple[float, float] | None] = {
    "frechet_distance": _NETWORK,
    "fid": _NETWORK,
    "kernel_distance": _NETWORK,
    "precision": (0.0, 0.02),
    "recall": (0.0, 0.02),
    "error": _EXACT,
    "ode_error": _NETWORK,
    "feature_error": _NETWORK,
    "ideal_error": (0.1, 1e-3),
    "median_error": _NETWORK,
    "same_image": (0.0, 0.05),
    "level": _NETWORK,
    "order": (0.0, 1e-3),
    "score_error": _EXACT,
    "eps_error": _EXACT,
    "extrapolation_error": _EXACT,
    "relative_error": _NETWORK,
    "mean_square": _NETWORK,
    "distance": _NETWORK,
    "change": None,
    "sample_difference": None,
    "loss": (0.05, 0.0),
    "accuracy": (0.0, 0.02),
    "pixel_error": _NETWORK,
    "psnr": (0.0, 0.3),
    "diversity": _NETWORK,
    "excess": _NETWORK,
    "recovered": (0.0, 0.02),
    "seconds": None,
    "bytes": (0.0, 64.0),
    "peak_bytes": None,
    "likelihood_error": _NETWORK,
    "bits_error": _NETWORK,
    "bits_per_dimension": _NETWORK,
    "standard_error": (0.05, 1e-3),
    "reconstruction_error": (0.05, 1e-5),
    "code_difference": _NETWORK,
    "images_per_second": None,
    "matrix_rate": None,
    "truth": (0.0, 0.0),
}
"""How far a number may move, (relative, absolute), when its cell is executed again; None: not compared.

Float64 computations repeat to rounding (another processor's or BLAS's last bits, amplified by the steps): 1e-6, with an
absolute floor where an error reaches rounding itself. Float32 networks differ in the order of their sums between
machines, and a Fréchet distance of samples passes that on: 3 %. Counts over samples (precision, recall) may move by
a few samples; so may the starts that end at another training image, and the error with them. A shard states its
seconds in its header, whose length moves with their digits: 64 bytes. What rounding to fewer bits changes is not
compared, since it depends on the processor; nor are wall times, rates and memory.
"""

Number = Annotated[float, Field(allow_inf_nan=False)]
Setting = str | bool | int | Number
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Measurement(_Strict):
    """One number, where it stands and its 95 % interval; what does not apply to it is None."""

    metric: str
    value: Number
    low: Number | None = None
    high: Number | None = None
    solver: str | None = None
    grid: str | None = None
    nfe: int | None = Field(default=None, ge=0, description="number of model calls, counted by the plan")
    samples: int | None = Field(default=None, ge=1)
    seeds: list[int] = []
    settings: dict[str, Setting] = {}

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        return metric

    @field_validator("settings")
    @classmethod
    def _no_coordinate(cls, settings: dict[str, Setting]) -> dict[str, Setting]:
        taken = sorted({*Measurement.model_fields, "profile", "experiment", "cell"} & set(settings))
        if taken:
            raise ValueError(f"{taken[0]!r} is a field of the record already; another name is needed")
        return settings

    @model_validator(mode="after")
    def _interval(self) -> Measurement:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval needs both low and high")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        return self

    @property
    def coordinates(self) -> dict[str, Any]:
        """All that tells this measurement from the others of its record: everything but value and interval."""
        plain = {name: getattr(self, name) for name in ("metric", "solver", "grid", "nfe", "samples")}
        return {**plain, "seeds": tuple(self.seeds), **self.settings}


class Provenance(_Strict):
    """What made a record."""

    profile: Name
    experiment: Name
    cell: Name
    parameters: dict[str, Any]
    key: str
    weights: dict[str, str]
    feature_net: str | None
    device: str
    python: str
    packages: dict[str, str]
    revision: str | None
    dirty: bool | None
    started: str
    wall_s: Number


class Record(_Strict):
    """The content of one file."""

    schema_version: Literal[1] = 1
    provenance: Provenance
    measurements: list[Measurement] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Record:
        seen = set()
        for measurement in self.measurements:
            place = _key(measurement.coordinates)
            if place in seen:
                raise ValueError(f"two measurements at {_words(measurement.coordinates)}")
            seen.add(place)
        return self

    @property
    def name(self) -> str:
        """``profile/experiment/cell``."""
        return f"{self.provenance.profile}/{self.provenance.experiment}/{self.provenance.cell}"


def _key(coordinates: Mapping[str, Any]) -> str:
    """Coordinates as one text; a computed one (a noise level) may differ in its last bits between machines."""
    rounded = {
        name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in coordinates.items()
    }
    return json.dumps(rounded, sort_keys=True)


def _words(coordinates: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in coordinates.items() if value not in (None, ()))


# --- files ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> Record:
    """One record from its file.

    Raises:
        UserError: if the file cannot be read or does not fit the schema; the line names the file and the field.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {complaint(error)}; a record as `make experiments` writes it is needed") from None


def write(record: Record, folder: Path = RESULTS) -> Path:
    """Writes a record to its place in a folder of records; the file appears whole or not at all.

    Raises:
        UserError: if it cannot be written (no space, no right).
    """
    where = record.provenance
    path = folder / where.profile / where.experiment / f"{where.cell}.json"
    text = json.dumps(record.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def load(profile: str, experiment: str, folder: Path = RESULTS) -> list[Record]:
    """All records of one experiment, by cell name; empty where none was made.

    Raises:
        UserError: if a file does not fit the schema, or lies where another record belongs.
    """
    records = []
    for path in sorted((folder / profile / experiment).glob("*.json")):
        record = read(path)
        if record.name != f"{profile}/{experiment}/{path.stem}":
            raise UserError(f"{path}: provenance: says {record.name}; a record's file is named by its provenance")
        records.append(record)
    return records


def table(records: Iterable[Record], **filters: Any) -> list[dict[str, Any]]:
    """Flat rows, one per measurement: profile, experiment, cell, the coordinates and settings, value, low, high.

    A filter keeps the rows whose column has this value, or one of these when a list, tuple or set is given.

    Raises:
        UserError: if no row has a column that is filtered by.
    """
    rows = []
    for record in records:
        where = {name: getattr(record.provenance, name) for name in ("profile", "experiment", "cell")}
        for measurement in record.measurements:
            rows.append({**where, **measurement.model_dump(exclude={"settings"}), **measurement.settings})
    for column, wanted in filters.items():
        if rows and not any(column in row for row in rows):
            raise unknown("column", column, {name for row in rows for name in row})
        allowed = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        rows = [row for row in rows if row.get(column) in allowed]
    return rows


# --- writing a record ----------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Collects the measurements of one cell.

    Attributes:
        measurements: what was added so far.
        scratch: the folder that keeps the shards of the cell until its record is written; None: they are not kept.
        part: (k, n): this job draws the k-th of n ranges of the samples, and measures nothing.
        pieces: a job that draws all keeps a set of samples in so many ranges, one after the other.
    """

    measurements: list[Measurement] = field(default_factory=list)
    scratch: Path | None = None
    part: tuple[int, int] | None = None
    pieces: int = 1

    def collect(self, name: str, samples: int, draw: Callable[[range], Shard]) -> Shard | None:
        """The shard of the samples 0 … ``samples`` − 1: ranges that lie in ``scratch``, ``draw`` for the others.

        What is drawn is kept in ``scratch``, so that a killed job goes on where it was, and so that several jobs share
        the work: the shard is the same, up to rounding, whoever drew which range.

        Args:
            name: of this set of samples, different for each in the cell.
            samples: how many.
            draw: makes the shard of a range of sample numbers.

        Returns:
            The shard; None in a job that draws one part only.
        """
        if self.scratch is None:
            return draw(range(samples))
        from . import shards  # here, not above: it needs torch, and those who only read records do not

        folder = self.scratch / name

        def kept(numbers: range) -> Shard:
            path = folder / f"{numbers.start}-{numbers.stop}.safetensors"
            with contextlib.suppress(UserError):  # missing, or no shard: it is made anew
                return shards.load(path)
            shards.save(draw(numbers), path)
            return shards.load(path)

        if self.part is not None:
            k, n = self.part
            numbers = range(samples * k // n, samples * (k + 1) // n)
            if numbers:
                kept(numbers)
            return None
        found = [range(*map(int, path.stem.split("-"))) for path in folder.glob("[0-9]*.safetensors")]
        ranges: list[range] = []
        done, most = 0, -(-samples // self.pieces)
        for numbers in [*sorted(found, key=lambda numbers: numbers.start), range(samples, samples)]:
            while done < numbers.start <= samples:
                ranges.append(range(done, min(done + most, numbers.start)))
                done = ranges[-1].stop
            if numbers and numbers.start == done and numbers.stop <= samples:
                ranges.append(numbers)
                done = numbers.stop
        return shards.merge(kept(numbers) for numbers in ranges)

    def add(
        self,
        metric: str,
        value: float,
        low: float | None = None,
        high: float | None = None,
        *,
        solver: str | None = None,
        grid: str | None = None,
        nfe: int | None = None,
        samples: int | None = None,
        seeds: Sequence[int] = (),
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        """Adds one number. NumPy and torch scalars are taken as Python's.

        Raises:
            UserError: if the number is not finite, the interval is half given, or the metric is not in :data:`METRICS`.
        """
        values = {
            "metric": metric,
            **{name: _plain(number) for name, number in (("value", value), ("low", low), ("high", high))},
            "solver": solver,
            "grid": grid,
            "nfe": _plain(nfe),
            "samples": _plain(samples),
            "seeds": [_plain(seed) for seed in seeds],
            "settings": {name: _plain(setting) for name, setting in (settings or {}).items()},
        }
        try:
            self.measurements.append(Measurement.model_validate(values))
        except ValidationError as error:
            raise UserError(f"measurement of {metric} ({solver}, nfe={nfe}): {complaint(error)}") from None


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


@contextlib.contextmanager
def recording(
    profile: str,
    experiment: str,
    cell: str,
    parameters: Mapping[str, Any],
    *,
    out: Path | str | None = None,
    scratch: Path | str | None = None,
    part: Sequence[int] | None = None,
    pieces: int | None = None,
    device: str = "cpu",
) -> Iterator[Recorder]:
    """Collects measurements and writes their record when the block ends well; an exception leaves no file.

    Args:
        profile: on what (``digits``); with ``experiment`` and ``cell`` it names the file.
        experiment: the notebook's name.
        cell: the name of this run of the notebook.
        parameters: what the run was made with, as in ``workflow/experiments.yml``; they and the code make its key.
        out: folder of records; the committed ones by default.
        scratch: where the shards of the cell are kept (:meth:`Recorder.collect`); removed when the record is written.
        part: (k, n): draw the k-th of n ranges of the samples only, and write no record.
        pieces: keep each set of samples in so many ranges, so that less is lost when the job ends before its time.
        device: torch's name of the device that the numbers are computed on.

    Raises:
        UserError: if nothing was measured, two measurements have the same coordinates, or the file cannot be written.
    """
    key = cell_key(experiment, parameters)  # before the block: the code that runs is the code that was imported
    weights = weights_of(parameters)
    commit, dirty = revision()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()
    recorder = Recorder(
        scratch=Path(scratch) if scratch else None, part=(part[0], part[1]) if part else None, pieces=pieces or 1
    )
    yield recorder
    if part:
        return
    if not recorder.measurements:
        raise UserError(f"{profile}/{experiment}/{cell} measured nothing; a record needs at least one measurement")
    seconds = time.perf_counter() - clock
    if is_training(experiment):
        seconds = sum(m.value for m in recorder.measurements if m.metric == "seconds")
        weights = made_by(recorder.measurements)
    try:
        provenance = Provenance(
            profile=profile,
            experiment=experiment,
            cell=cell,
            parameters=dict(parameters),
            key=key,
            weights=weights,
            feature_net=parameters.get("features"),
            device=device_name(device),
            python=platform.python_version(),
            packages=package_versions(),
            revision=commit,
            dirty=dirty,
            started=started,
            wall_s=round(seconds, 3),
        )
        record = Record(provenance=provenance, measurements=recorder.measurements)
    except ValidationError as error:
        raise UserError(f"{profile}/{experiment}/{cell}: {complaint(error)}") from None
    write(record, Path(out) if out else RESULTS)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


# --- what is to be measured ----------------------------------------------------------------------------------------


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


class Experiment(_Strict):
    """A notebook and its runs. How its work is spread changes no number, and no key.

    Attributes:
        parameters: what all its cells share.
        cells: parameters of each cell.
        shards: into how many jobs a cell's samples are cut; None if the notebook does not draw by
            :meth:`Recorder.collect`.
        gpu: whether a job takes a GPU where there is one.
        first: ``make gpu`` runs so many of its cells in their place, the others after all other experiments; None: all.
        timed: whether it measures the time of the machine that runs it, which no other run gives again.
    """

    parameters: dict[str, Any] = {}
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


def is_stale(record: Record, root: Path = ROOT) -> bool:
    """Whether what makes this record has changed since it was made."""
    return why_stale(record, root) is not None


# --- comparing -----------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A number that moved, or that only one side has (the other is None)."""

    record: str
    coordinates: dict[str, Any]
    field: str
    old: float | None
    new: float | None

    def __str__(self) -> str:
        what = f"{self.record} {_words(self.coordinates)} {self.field}:"
        if self.new is None:
            return f"{what} {self.old:.9g} → missing"
        if self.old is None:
            return f"{what} missing → {self.new:.9g}"
        relative, absolute = TOLERANCE[self.coordinates["metric"]] or (math.inf, math.inf)
        return f"{what} {self.old:.9g} → {self.new:.9g} (tolerance {relative:g} relative, {absolute:g} absolute)"


@dataclass(frozen=True)
class Comparison:
    """How many numbers were compared, and those that moved."""

    compared: int
    changes: list[Change]


def compare(committed: Iterable[Record], fresh: Iterable[Record]) -> Comparison:
    """Compares every number of two sets of records, intervals too, within the :data:`TOLERANCE` of its metric."""
    old, new = _numbers(committed), _numbers(fresh)
    changes = []
    for place in [*old, *(place for place in new if place not in old)]:
        name, coordinates, which = (old.get(place) or new[place])[:3]
        before = old[place][3] if place in old else None
        after = new[place][3] if place in new else None
        relative, absolute = TOLERANCE[coordinates["metric"]] or (math.inf, math.inf)
        if before is None or after is None or not math.isclose(before, after, rel_tol=relative, abs_tol=absolute):
            changes.append(Change(name, coordinates, which, before, after))
    return Comparison(len(old.keys() | new.keys()), changes)


def _numbers(records: Iterable[Record]) -> dict[str, tuple[str, dict[str, Any], str, float]]:
    found = {}
    for record in records:
        for measurement in record.measurements:
            if TOLERANCE[measurement.metric] is None:
                continue
            coordinates = measurement.coordinates
            for which in ("value", "low", "high"):
                number = getattr(measurement, which)
                if number is not None:
                    place = _key({"record": record.name, "field": which, **coordinates})
                    found[place] = (record.name, coordinates, which, number)
    return found
