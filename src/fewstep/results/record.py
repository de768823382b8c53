"""The record of one cell: its provenance and its measurements, and what can be measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..errors import unknown

__all__ = ["METRICS", "TOLERANCE", "Measurement", "Name", "Number", "Provenance", "Record", "Setting"]

METRICS: dict[str, str] = {
    "frechet_distance": "Fréchet distance",
    "fid": "FID",
    "kernel_distance": "kernel distance (KID)",
    "precision": "precision",
    "recall": "recall",
    "error": "error to the exact solution",
    "ode_error": "RMS error per pixel to the solution of the network's ODE",
    "feature_error": "mean distance of features to those of the solution of the network's ODE",
    "ideal_error": "RMS error per pixel, ideal denoiser",
    "median_error": "median over the starts of the RMS error per pixel",
    "same_image": "share of starts on the right image",
    "level": "noise level ρ from which the denoised image is the last one",
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
compared, since it depends on the processor; nor are wall times, rates and memory. For the same reason a number of the
samples of a network in bfloat16 may move by half the width of its interval too: between two kinds of processor the ends
of such intervals moved by up to a fifth of that.
"""

Number = Annotated[float, Field(allow_inf_nan=False)]
Setting = str | bool | int | Number
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Strict(BaseModel):
    """A schema: a field that it does not name is an error, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Measurement(Strict):
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


class Provenance(Strict):
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


class Record(Strict):
    """The content of one file."""

    schema_version: Literal[1] = 1
    provenance: Provenance
    measurements: list[Measurement] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Record:
        seen = set()
        for measurement in self.measurements:
            place = key_of(measurement.coordinates)
            if place in seen:
                raise ValueError(f"two measurements at {words_of(measurement.coordinates)}")
            seen.add(place)
        return self

    @property
    def name(self) -> str:
        """``profile/experiment/cell``."""
        return f"{self.provenance.profile}/{self.provenance.experiment}/{self.provenance.cell}"


def key_of(coordinates: Mapping[str, Any]) -> str:
    """Coordinates as one text; a computed one (a noise level) may differ in its last bits between machines."""
    rounded = {
        name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in coordinates.items()
    }
    return json.dumps(rounded, sort_keys=True)


def words_of(coordinates: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in coordinates.items() if value not in (None, ()))
