"""What is looked at before the first cell of a run: whether it can succeed, and what it will take.

:func:`look_ahead` compares the parameters of every cell with its notebook, the weights with their manifest and the data
with what the package reads, and estimates disk, memory and time. What it finds wrong are lines, one per problem; the
rest is a table. It writes nothing but what it fetches and what networks are pinned to, and executes nothing of a
profile or a notebook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import shutil
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import schema

from fewstep import results
from fewstep.errors import UserError, unknown
from fewstep.provenance import ROOT, WEIGHTS

# --- weights and data ----------------------------------------------------------------------------------------------


def _named(cells: Iterable[results.Cell], *parameters: str) -> list[str]:
    """The values of these parameters in the cells."""
    return sorted(
        {schema.complete(cell)[name] for cell in cells for name in parameters if schema.complete(cell).get(name)}
    )


def wrong_weights(cells: Iterable[results.Cell]) -> list[str]:
    """Which checkpoints of the cells are missing or not what the manifest says, a line for each.

    A file that the manifest gives a URL for may be missing: the first cell fetches it, and compares its hash.
    """
    found = []
    entries = schema.manifest()
    for name in _named(cells, *WEIGHTS):
        if name not in entries:
            found.append(str(unknown("weights", name, entries)))
            continue
        entry = entries[name]
        for file, digest in entry.get("shards", {f"{name}.safetensors": entry["sha256"]}).items():
            path = schema.CHECKPOINTS / file
            if "url" in entry and not path.exists():
                continue
            with contextlib.suppress(OSError), open(path, "rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() == digest:
                    continue
            from fewstep.models import checkpoints  # here, not above: it needs torch, which takes seconds

            try:  # says what is wrong with it
                checkpoints.load(name)
            except UserError as error:
                found.append(str(error))
            break
    return found


def wrong_data(cells: Iterable[results.Cell]) -> list[str]:
    """Which data sets of the cells are not there, a line for each; large ones are looked at, not read.

    The digits come with scikit-learn. CIFAR-10 is fetched by the first cell where ``FEWSTEP_DATA`` names no folder.
    """
    found = []
    place = os.environ.get("FEWSTEP_DATA")
    for name in _named(cells, "dataset", "test"):
        if not (name.startswith("cifar10") and place):
            continue
        from fewstep import cifar  # here, not above: it needs torch, which takes seconds

        part = "test" if name.endswith("-test") else "train"
        try:
            if any(Path(place).glob("*.webp")):
                cifar.strips(Path(place), part, per_class=1)
            elif not any(path.is_dir() for path in Path(place).glob("*")):
                cifar.load(part)  # says what is wrong with the folder
        except UserError as error:
            found.append(f"dataset {name}: {error}")
    return found


def wrong_networks(cells: Iterable[results.Cell]) -> list[str]:
    """Which of the papers' networks, their data sets and Inception are not at hand, a line for each.

    What the hub or torch-fidelity's releases have is fetched here, once: the jobs of a cell would all ask for it.
    """
    names = _named(cells, "network")
    if not names:
        return []
    from fewstep import images, inception  # here, not above: they need torch, which takes seconds
    from fewstep.models import declared, zoo

    known = declared.records()
    tries: list[Callable[[], object]] = [functools.partial(zoo.load, name) for name in names]
    if any(cell.experiment == "fid" for cell in cells):
        tries.append(inception.weights_file)
    fid = {known[name].preprocessing for name in _named((c for c in cells if c.experiment == "fid"), "network")}
    tries += [functools.partial(images.load, how) for how in fid if how.dataset != "CIFAR-10"]
    tries += [lambda: images.captions(1)] if any(how.dataset == "COCO" for how in fid) else []
    found = []
    for attempt in tries:
        try:
            attempt()
        except UserError as error:
            found.append(str(error))
    return found


# --- what a cell takes ---------------------------------------------------------------------------------------------

MIB = 2**20
PROCESS = 1_000 * MIB
"""Memory of a cell before it computes: its kernel with PyTorch, diffusers and torch-fidelity, and papermill."""

KEPT = MIB // 2
"""Disk for a record and an executed notebook with its figures."""

MAPS = 16
"""Maps of the first level's width that a network holds at a time."""

START = 10.0
"""Seconds until a notebook's clock starts: its kernel, its imports."""


@dataclass(frozen=True)
class Need:
    """What a cell takes; estimates.

    Attributes:
        cell: which.
        evaluations: images through the network, calls times samples; 0 if its parameters do not say.
        memory: bytes of the machine's memory.
        gpu: bytes of a GPU's memory; 0 without one.
        least_gpu: as much of it as one image at a time would need.
        disk: bytes that stay, and that its shards take until its record is written.
        seconds: None where nothing like it has run.
        source: what the seconds are taken from.
    """

    cell: results.Cell
    evaluations: float
    memory: float
    gpu: float
    least_gpu: float
    disk: tuple[float, float]
    seconds: float | None
    source: str


def _numbers(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _count(value: Any) -> int:
    """How many values a parameter stands for: those of a list, the grids of all solvers, or one."""
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return max(len(value), 1) if isinstance(value, list | tuple) else 1


def sets_of_samples(parameters: Mapping[str, Any]) -> int:
    """Sets of samples: solvers × grids × processes × γ × predictors × guidance weights × budgets × seeds."""
    own_grids = isinstance(parameters.get("solvers"), dict)
    names = ["solvers", "processes", "gammas", "predictors", "weights", "budgets", "seeds"]
    names += [] if own_grids else ["grids"]
    return math.prod(_count(parameters[name]) for name in names if name in parameters)


def work(cell: results.Cell) -> float:
    """Images through the network: over all sets of samples, calls times samples; 0 if the parameters do not say.

    A reference solution counts too, with that of half as many calls to which it is compared.
    """
    parameters = schema.complete(cell)
    budgets = _numbers(next((parameters[name] for name in ("budgets", "budget", "calls") if name in parameters), 0))
    sets = sets_of_samples(parameters) / _count(parameters.get("budgets"))
    calls = sets * sum(budgets) + 1.5 * parameters.get("reference_calls", 0)
    return float(calls * sum(_numbers(parameters.get("samples", 0))))


def largest_piece(cell: results.Cell) -> float:
    """The largest fraction of a cell's work that must be done without a break: a range of a set of its samples."""
    whole, parameters = work(cell), schema.complete(cell)
    if cell.shards is None or not whole:
        return 1.0
    return max(_numbers(parameters["budgets"])) * parameters["samples"] / cell.shards / whole


def forecast(
    cell: results.Cell,
    seen: Sequence[tuple[results.Cell, float]],
    typical: Callable[[Sequence[float]], float] = statistics.median,
) -> float | None:
    """Seconds that a cell will take, from the cells of its experiment that have run; None if none has.

    Args:
        cell: the cell.
        seen: cells and the seconds that they took.
        typical: the rate, in seconds per image through the network, that is taken of all of them.
    """
    same = [(other, seconds) for other, seconds in seen if other.experiment == cell.experiment]
    rates = [seconds / work(other) for other, seconds in same if work(other)]
    if rates and work(cell):
        return typical(rates) * work(cell)
    return max((seconds for _, seconds in same), default=None)


@dataclass(frozen=True)
class Past:
    """A cell that has run: with which parameters, how long, and whether on a GPU."""

    cell: results.Cell
    seconds: float
    cuda: bool


def past(cells: Sequence[results.Cell], folders: Iterable[Path]) -> list[Past]:
    """What the records of these cells say, current or stale; of several folders the first that has a record counts.

    A record is left out if its parameters no longer fit its notebook.
    """
    found: dict[str, Past] = {}
    for folder in folders:
        for cell in cells:
            if cell.path(folder).exists():
                record = results.read(cell.path(folder))
                where = record.provenance
                then = results.Cell(where.profile, where.experiment, where.cell, where.parameters)
                if not schema.mistakes([then]):
                    seconds = where.wall_s
                    if cell.shards is not None:  # other jobs may have drawn the samples; its measurements say how long
                        seconds = max(seconds, sum(m.value for m in record.measurements if m.metric == "seconds"))
                    found.setdefault(record.name, Past(then, seconds, where.device.endswith("(cuda)")))
    return list(found.values())


def duration(cell: results.Cell, seen: Iterable[Past], cuda: bool) -> tuple[float | None, str]:
    """Seconds that a cell will take and what that is taken from: its own last record, or those of its experiment.

    A record counts if it was made on a GPU where the cell will be (``cuda``), and on a processor where not.
    """
    alike = [(one.cell, one.seconds) for one in seen if one.cuda == cuda]
    own = [(then, seconds) for then, seconds in alike if (then.experiment, then.name) == (cell.experiment, cell.name)]
    guess = forecast(cell, own or alike)
    if guess is None:
        return None, "unknown until the first cells have run"
    return guess + START, "its last record" if own else f"records of {cell.experiment}"


def need(cell: results.Cell, seen: Iterable[Past], entries: Mapping[str, Any], cuda: bool) -> Need:
    r"""Estimates for one cell.

    With w the bytes of its weights, B the images at a time, :math:`C_1` the width of a network's first level, P the
    pixels of a map of it, s bytes per number (4 of the ε-network, 8 of the feature network, which runs in float64), N
    the images of the data set and D the numbers of an image, n samples, K kept feature rows of length F,

    .. math::

        \text{memory} &= \text{PROCESS} + 4 w + \max(16\, s\, B\, C_1 P) + 2 \cdot 4 N D + 8 F (n + K), \\
        \text{shards} &= \text{sets} \cdot 8 F\, (K + \text{shards} \cdot (F + 1)).

    On a GPU its memory takes the weights and the maps.
    """
    parameters = schema.complete(cell)
    on_gpu = cuda and cell.gpu
    samples = max(_numbers(parameters.get("samples", 0)))
    batch = min(parameters.get("batch", 512), max(samples, 1))
    weights, maps, length = 0.0, 0.0, 0
    for name in WEIGHTS:
        entry = entries.get(parameters.get(name, ""))
        if entry is None:
            continue
        config = entry["config"]
        weights += sum(_size(file) for file in entry.get("shards", [f"{parameters[name]}.safetensors"]))
        width = next((config[key][0] for key in ("channels", "widths") if key in config), config.get("width", 0))
        maps = max(maps, MAPS * (8 if name == "features" else 4) * width * math.prod(config["shape"][1:]))
        if name == "features":
            length = config["widths"][-1] if "widths" in config else config["features"]
    keep = min(parameters.get("keep", samples), samples)
    images = 2 * 4 * math.prod(schema.IMAGES.get(parameters.get("dataset", ""), (0,)))
    shards = 0.0
    if cell.shards is not None:
        shards = sets_of_samples(parameters) * 8 * length * (keep + cell.shards * (length + 1))
    seconds, source = duration(cell, seen, on_gpu)
    return Need(
        cell=cell,
        evaluations=work(cell),
        memory=PROCESS + images + 8 * length * (samples + keep) + (0 if on_gpu else 4 * weights + batch * maps),
        gpu=4 * weights + batch * maps if on_gpu else 0,
        least_gpu=4 * weights + maps if on_gpu else 0,
        disk=(KEPT, shards),
        seconds=seconds,
        source=source,
    )


def _size(file: str) -> int:
    path = schema.CHECKPOINTS / file
    return path.stat().st_size if path.exists() else 0


# --- the whole -----------------------------------------------------------------------------------------------------


def _in_words(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{math.ceil(size / MIB)} MiB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@dataclass(frozen=True)
class Outlook:
    """What is known before a run.

    Attributes:
        planned: how many cells the profile has.
        needs: of each cell that is to be run.
        problems: what is wrong, a line each; then nothing may be started.
        jobs: how many at a time.
        memory: free bytes of the machine; None if its cells run elsewhere.
        disk: free bytes where records and shards go.
        gpu: the GPU's name and its bytes, or None.
        checked: names of the weights and data sets that were looked at.
    """

    planned: int
    needs: list[Need]
    problems: list[str]
    jobs: int
    memory: float | None = None
    disk: float = 0.0
    gpu: tuple[str, float] | None = None
    checked: tuple[str, ...] = ()

    @property
    def cells(self) -> list[results.Cell]:
        """The cells that are to be run."""
        return [need.cell for need in self.needs]

    def at_once(self, sizes: Iterable[float]) -> float:
        """The sum of as many of the largest as run at a time."""
        return sum(sorted(sizes, reverse=True)[: self.jobs])

    @property
    def needed_memory(self) -> float:
        """Bytes for as many cells as run at a time."""
        return self.at_once(need.memory for need in self.needs for _ in range(need.cell.shards or 1))

    @property
    def needed_disk(self) -> float:
        """Bytes for all records and notebooks, and for the shards of the cells that run at a time."""
        return sum(need.disk[0] for need in self.needs) + self.at_once(need.disk[1] for need in self.needs)

    @property
    def seconds(self) -> float | None:
        """Of the whole run: the sum over the jobs, but no less than the longest job; None if nothing is known."""
        known = [(need.seconds, need.cell.shards or 1) for need in self.needs if need.seconds is not None]
        if not known:
            return None
        return max(sum(seconds for seconds, _ in known) / self.jobs, *(seconds / parts for seconds, parts in known))

    def __str__(self) -> str:
        """The table, and below it what it was compared with."""
        from tabulate import tabulate

        with_gpu = any(need.gpu for need in self.needs)
        rows = [
            [
                f"{need.cell.experiment}/{need.cell.name}",
                f"{need.evaluations:,.0f}" if need.evaluations else "",
                _in_words(need.memory),
                *([_in_words(need.gpu)] if with_gpu else []),
                _in_words(sum(need.disk)),
                "?" if need.seconds is None else _time(need.seconds),
                need.source,
            ]
            for need in self.needs
        ]
        unknown_ones = sum(need.seconds is None for need in self.needs)
        total = "?" if self.seconds is None else f"{_time(self.seconds)}{' + ?' if unknown_ones else ''}"
        largest = [_in_words(max(need.gpu for need in self.needs))] if with_gpu else []
        rows.append(
            [
                f"all, {self.jobs} {'jobs' if self.jobs > 1 else 'job'} at a time",
                f"{sum(need.evaluations for need in self.needs):,.0f}",
                _in_words(self.needed_memory),
                *largest,
                _in_words(self.needed_disk),
                total,
                "the bar refines it as cells end",
            ]
        )
        free = ["free", "", "?" if self.memory is None else _in_words(self.memory)]
        rows.append([*free, *([_in_words(self.gpu[1])] if with_gpu and self.gpu else []), _in_words(self.disk), "", ""])
        heads = [
            "cell",
            "samples × calls",
            "memory",
            *(["GPU memory"] if with_gpu else []),
            "disk",
            "time",
            "time from",
        ]
        right = ("left", *["right"] * (len(heads) - 2), "left")
        text = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=right)
        if self.checked:
            text += f"\nlooked at and whole: {', '.join(self.checked)}"
        return f"estimates for {len(self.needs)} of {self.planned} cells\n{text}"


def _there(folder: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _gpu() -> tuple[str, float] | None:
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return found.name, found.total_memory


def look_ahead(
    profile: str,
    jobs: int,
    out: Path = results.RESULTS,
    *,
    shards: int | None = None,
    every: bool = False,
    here: bool = True,
    only: Collection[str] = (),
) -> Outlook:
    """All checks and estimates for the cells of a profile that are to be run.

    Args:
        profile: which.
        jobs: how many jobs at a time.
        out: folder of records.
        shards: into how many jobs each cell that can be cut is cut, if not as many as the plan says.
        every: all cells are to be run but those that measure times, not only those whose record in ``out`` is missing
            or stale.
        here: whether they run on this machine; if not, its memory says nothing.
        only: names of cells, ``experiment/cell``, if not all are wanted.

    Raises:
        UserError: if the profile, or a record that is there, cannot be read.
    """
    import psutil

    planned = results.cells(profile, timed=not every, only=only)
    schema.manifest()
    wrong = schema.mistakes(planned)
    if wrong:
        return Outlook(len(planned), [], wrong, jobs)
    cells = planned if every else results.stale_cells(profile, out, only=only)
    cells = [dataclasses.replace(cell, shards=shards) if shards and cell.shards else cell for cell in cells]
    wrong = [*wrong_weights(cells), *wrong_data(cells), *wrong_networks(cells)]
    places = (Path(out), ROOT / "_build")
    if cells:
        for folder in places:
            if not os.access(_there(folder), os.W_OK | os.X_OK):
                wrong.append(f"{folder} cannot be written to; a folder with rights is needed")
    if wrong or not cells:
        return Outlook(len(planned), [], wrong, jobs)
    gpu = _gpu() if any(cell.gpu for cell in cells) else None
    seen = past(planned, dict.fromkeys((Path(out), results.RESULTS)))
    entries = schema.manifest()
    outlook = Outlook(
        planned=len(planned),
        needs=[need(cell, seen, entries, gpu is not None) for cell in cells],
        problems=wrong,
        jobs=jobs,
        memory=psutil.virtual_memory().available if here else None,
        disk=min(shutil.disk_usage(_there(folder)).free for folder in places),
        gpu=gpu,
        checked=tuple(sorted(_named(cells, *WEIGHTS, "dataset", "test"))),
    )
    if outlook.memory is not None and outlook.needed_memory > outlook.memory:
        takes, free = _in_words(outlook.needed_memory), _in_words(outlook.memory)
        fit = int(outlook.memory // max(one.memory for one in outlook.needs))
        right = f"JOBS={fit} fits" if fit else "more is needed"
        wrong.append(f"{jobs} jobs at a time take about {takes} of memory, {free} are free; {right}")
    if outlook.needed_disk > outlook.disk:
        takes, free = _in_words(outlook.needed_disk), _in_words(outlook.disk)
        wrong.append(f"the run takes about {takes} of disk, {free} are free; more room is needed in {ROOT}")
    for one in outlook.needs:
        if gpu is not None and one.least_gpu > gpu[1]:
            where = f"{profile}/{one.cell.experiment}/{one.cell.name}"
            takes, free = _in_words(one.least_gpu), _in_words(gpu[1])
            wrong.append(f"{where} takes {takes} of GPU memory for one image at a time; the {gpu[0]} has {free}")
    return outlook
