r"""What measurements cost: model calls of a record, how time grows, and operations of the tables that the papers print.

The time of one table cell on w workers, cut into k shards, is

.. math:: T(w, k) = t_0 + \frac{n\,c}{w} + k\,t_m + t_d ,

with n images of c seconds each, :math:`t_0` for what every worker does before its first image, :math:`t_m` to read and
add one shard and :math:`t_d` for the distance. The first and the last two terms do not shrink with w: the law of
Amdahl (1967), :math:`T(w) = T_s + T_p/w`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field

from .errors import UserError, unknown
from .files import read_yaml
from .provenance import ROOT
from .results import METRICS, Measurement, Record, load

__all__ = [
    "ALONG",
    "Draw",
    "Network",
    "Operations",
    "Profile",
    "Share",
    "Table",
    "Work",
    "amdahl",
    "calls",
    "draws",
    "linear",
    "operations",
    "profile",
    "rk45_calls",
    "shard_bytes",
    "table_work",
    "wall_seconds",
]

ALONG = frozenset({"t", "sigma", "step", "clock"})
"""Settings that name a place within one run of a sampler, or a clock: measurements apart in these share their calls."""


# --- what was measured ---------------------------------------------------------------------------------------------


class Draw(NamedTuple):
    """Images that one run of a sampler drew."""

    nfe: int
    images: int


def draws(record: Record, metric: str | None = None) -> list[Draw]:
    """The runs of samplers behind a record, each once, however many metrics were computed from it.

    A run is what a measurement with an NFE and a number of samples states; calls that stand in no measurement (to
    estimate a variance, to solve an ODE for reference) are not counted.

    Args:
        record: of any experiment.
        metric: only the runs with this metric.

    Raises:
        UserError: for an unknown metric.
    """
    if metric is not None and metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    found: dict[str, Draw] = {}
    for m in record.measurements:
        if m.nfe is None or m.samples is None or metric not in (None, m.metric):
            continue
        where = {name: value for name, value in m.coordinates.items() if name not in ALONG and name != "metric"}
        found[json.dumps(where, sort_keys=True)] = Draw(m.nfe, m.samples * _seeds(m))
    return list(found.values())


def _seeds(measurement: Measurement) -> int:
    return max(1, len(measurement.seeds))


def calls(record: Record) -> int:
    """Model calls of a record, Σ nfe · samples · seeds over its :func:`draws`; one call is one image."""
    return sum(draw.nfe * draw.images for draw in draws(record))


def linear(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Intercept a and slope b of y = a + b x with the least squared *relative* error, for values over decades.

    Raises:
        UserError: for fewer than two different x, or a y that is not positive.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(set(x.tolist())) < 2 or (y <= 0).any():
        raise UserError(f"a line needs two different x and positive y, got x = {x.tolist()}, y = {y.tolist()}")
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(len(x)), rcond=None)
    return float(a), float(b)


class Share(NamedTuple):
    r""":math:`T(w) = T_s + T_p/w`: seconds that stay serial, and those that workers share."""

    serial: float
    parallel: float

    @property
    def fraction(self) -> float:
        r"""The serial share of the time of one worker, :math:`T_s/(T_s + T_p)`."""
        return self.serial / (self.serial + self.parallel)

    def seconds(self, workers: ArrayLike) -> np.ndarray:
        """T(w)."""
        return self.serial + self.parallel / np.asarray(workers, float)


def amdahl(seconds: Mapping[int, float]) -> Share:
    """The law of Amdahl through measured times, by number of workers.

    Rounding and noise of the clock may make the serial part slightly negative; it is not hidden.

    Raises:
        UserError: for fewer than two different numbers of workers.
    """
    return Share(*linear([1 / workers for workers in seconds], list(seconds.values())))


def shard_bytes(features: int, kept: int = 0) -> int:
    r"""Bytes of the numbers in one shard: :math:`8(F + F^2)` for the moments and 8F for each kept row."""
    return 8 * (features + features**2 + kept * features)


# --- what the papers' tables ask for -------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Strict):
    """A network by its architecture."""

    title: str
    kind: Literal["unet", "text-unet", "decoder", "inception"]
    config: dict[str, Any] = {}
    shape: list[int]
    text: list[int] = Field(default=[], description="shape of the text that a text-unet attends to")
    source: str
    assumption: str = ""


class Table(_Strict):
    """A table of a paper: the rows at hand (``file``, ``where``), or a table of ours in place of rows not at hand."""

    paper: str
    title: str
    network: str
    file: str | None = None
    where: dict[str, str | list[str]] = {}
    experiment: str | None = Field(default=None, description="of profile digits, as wide as which this is counted")
    cells: list[str] = []
    samples: int = 50_000
    runs: int = 1
    calls: int | Literal["rk45"] | None = Field(default=None, description="per image, where the rows state none")
    more_calls: int = Field(default=0, description="per image, beyond those that the rows state")
    passes: int = Field(default=1, description="forward passes that one call costs")
    scored: bool = True
    decoder: str | None = None
    note: str = ""


class Profile(_Strict):
    """The content of ``data/cost/paper.yml``."""

    matrix_rate: float = Field(gt=0, description="bfloat16 operations per second of the GPU")
    matrix_rate_source: str
    fractions: list[float]
    gpus: list[int]
    tolerance: float = Field(description="of RK45, for tables that ask for it")
    scorer: str
    networks: dict[str, Network]
    tables: list[Table]


def profile(root: Path = ROOT) -> Profile:
    """The tables of the profile ``paper`` and the networks that they are about.

    Raises:
        UserError: if ``data/cost/paper.yml`` does not fit its schema or names a network that it does not describe.
    """
    path = root / "data" / "cost" / "paper.yml"
    found: Profile = read_yaml(path, Profile)
    for name in [found.scorer, *(name for table in found.tables for name in (table.network, table.decoder) if name)]:
        if name not in found.networks:
            raise unknown(f"network in {path}", name, found.networks)
    return found


class Operations(NamedTuple):
    """Of one forward pass on one image: floating-point operations of products and convolutions, and the parameters."""

    flops: int
    parameters: int


def operations(network: Network) -> Operations:
    """Counted by torch on a network without weights (device ``meta``); a multiplication and an addition are two."""
    import diffusers
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from torchvision.models import inception_v3

    with torch.device("meta"):
        image, time = torch.zeros(1, *network.shape), torch.zeros(1)
        inputs: tuple[torch.Tensor, ...] = (image, time)
        made: Any  # diffusers' classes are no modules in the eyes of a type checker
        if network.kind == "unet":
            made = diffusers.UNet2DModel(**network.config)
        elif network.kind == "text-unet":
            made = diffusers.UNet2DConditionModel(**network.config)
            inputs = (image, time, torch.zeros(1, *network.text))
        elif network.kind == "decoder":
            made = diffusers.AutoencoderKL(**network.config)
            made, inputs = made.decoder, (image,)
        else:
            made, inputs = inception_v3(aux_logits=False, init_weights=False).eval(), (image,)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            made(*inputs)
    return Operations(counter.get_total_flops(), sum(weight.numel() for weight in made.parameters()))


def rk45_calls(tolerance: float) -> int:
    """Calls that RK45 makes on the exact example with the continuous VP process, from t = 1 to 1e-3.

    A network's own ODE may ask for more or fewer.
    """
    import torch

    from . import exact, noise, schedules
    from .adaptive import rk45

    law = schedules.ContinuousVP()
    problem = exact.example(law)
    start = noise.normal(1, 0, range(16), (4,), torch.float64)
    return rk45(law, problem, start, t_end=1e-3, rtol=tolerance, atol=tolerance, dtype=torch.float64).nfe


class Work(NamedTuple):
    """What a table costs."""

    cells: int
    calls_per_image: int
    images: int
    calls: int
    flops: float


def table_work(table: Table, of: Profile, counted: Mapping[str, Operations], root: Path = ROOT) -> Work:
    """Calls and operations of a table.

    Args:
        table: which.
        of: the profile that it is in.
        counted: :func:`operations` of the profile's networks, by name.
        root: the clone that holds the reported rows and the records.

    Returns:
        The number of cells, the sum of their calls per image, all images, all calls of the network (one call is one
        image), and all operations, those of decoding and of the features included.

    Raises:
        UserError: if no row is there, or a row states no NFE and the table no calls.
    """
    per_image = [n + table.more_calls for n in _calls_of_cells(table, of, root)]
    per_cell = table.samples * table.runs
    once = counted[of.scorer].flops if table.scored else 0
    once += counted[table.decoder].flops if table.decoder else 0
    flops = sum(per_image) * table.passes * counted[table.network].flops + len(per_image) * once
    return Work(
        len(per_image), sum(per_image), len(per_image) * per_cell, sum(per_image) * per_cell, float(flops) * per_cell
    )


def _calls_of_cells(table: Table, of: Profile, root: Path) -> list[int]:
    """Calls per image of each cell of a table, without ``more_calls``."""
    if table.experiment is not None:
        records = load("digits", table.experiment, root / "data" / "results")
        records = [record for record in records if not table.cells or record.provenance.cell in table.cells]
        found = [draw.nfe for record in records for draw in draws(record, "frechet_distance")]
    elif table.file is not None:
        found = [_calls_of_row(row, table, of) for row in _rows(table, table.file, root)]
    else:
        raise UserError(f"{table.title}: a file of reported rows or an experiment is needed")
    if not found:
        raise UserError(f"{table.paper}, {table.title}: no cell of this kind")
    return found


def _rows(table: Table, file: str, root: Path) -> Iterable[dict[str, str]]:
    folder = root / "data" / "reported"
    path = folder / f"{file}.csv"
    if not path.exists():
        raise unknown("file of data/reported", file, (other.stem for other in folder.glob("*.csv")))
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for column, wanted in table.where.items():
        allowed = [wanted] if isinstance(wanted, str) else wanted
        if rows and column not in rows[0]:
            raise unknown(f"column of {file}", column, rows[0])
        rows = [row for row in rows if row[column] in allowed]
    return rows


def _calls_of_row(row: Mapping[str, str], table: Table, of: Profile) -> int:
    if row["nfe"].isdigit():
        return int(row["nfe"])
    if table.calls is None:
        raise UserError(f"{table.title}: the row {row['sampler']!r} states no NFE; the table needs 'calls'")
    return rk45_calls(of.tolerance) if table.calls == "rk45" else table.calls


def wall_seconds(flops: float, rate: float, gpus: int, cells: int, serial: float, shard: float) -> float:
    r"""Time of a profile whose cells are cut into as many shards as there are GPUs,

    .. math:: T(G) = \frac{W}{G\,r} + C\,(t_s + G\,t_m) .

    Args:
        flops: W, all operations.
        rate: r, operations per second of one GPU on these networks.
        gpus: G.
        cells: C.
        serial: :math:`t_s`, seconds per cell that do not shrink: start of the shards' processes (all at once) and the
            distance.
        shard: :math:`t_m`, seconds to read and add one shard.
    """
    return flops / (gpus * rate) + cells * (serial + gpus * shard)
