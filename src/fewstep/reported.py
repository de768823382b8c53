"""What the papers report and which cell of profile ``paper`` reproduces it: the rows of ``data/reported``, row by row.

``data/reported/reproduced.yml`` says for each cell which rows it reproduces, and for each other row of the same files
why none does. :func:`numbers` joins the two, :func:`ours` finds what was measured, :func:`gpu_hours` the cost.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from . import cost, results
from .errors import UserError, unknown
from .files import read_yaml
from .provenance import ROOT

__all__ = [
    "METRICS",
    "Coverage",
    "LeftOut",
    "NotAtHand",
    "Number",
    "Reproduced",
    "Rows",
    "Target",
    "budgets",
    "coverage",
    "gpu_hours",
    "numbers",
    "ours",
    "read",
    "rows",
    "unreported",
    "verdict",
]

PROFILE = "paper"
METRICS = {"fid": "fid", "bits": "bits_per_dimension"}
"""What the experiments of the profile measure."""
DIVERGENCE = 3
"""Forward passes that a call with Hutchinson's estimate of the divergence costs."""
AGREES = 0.05
"""Largest relative difference of numbers that agree: other ports of Inception and references move FID by percents."""
GUIDED = 2
"""Forward passes of a call under classifier-free guidance."""
DECODER = "stable-diffusion-decoder"
"""What makes images of latents, in ``data/cost/paper.yml``."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rows(_Strict):
    """Rows of a file, chosen by their columns, and how many network calls they stand for."""

    file: str
    where: dict[str, str | list[str]]
    more_calls: int = Field(default=0, description="beyond the number that the rows state")
    calls: int | None = Field(default=None, description="where the rows state none")


class Reproduced(_Strict):
    """The rows that a cell reproduces, and in what it differs from the paper."""

    rows: list[Rows] = Field(min_length=1)
    differs: str = ""


class LeftOut(_Strict):
    """Rows that no cell reproduces."""

    rows: list[Rows] = Field(min_length=1)
    reason: str


class NotAtHand(_Strict):
    """A table of which ``data/reported`` has no row, the cells that measure what it compares, or why there are none."""

    table: str
    cells: list[str]
    reason: str = ""

    @model_validator(mode="after")
    def _either(self) -> NotAtHand:
        if bool(self.cells) == bool(self.reason):
            raise ValueError(f"{self.table}: cells or a reason are needed, not both")
        return self


class Coverage(_Strict):
    """The content of ``data/reported/reproduced.yml``; cells by ``experiment/name``."""

    cells: dict[str, Reproduced]
    left_out: list[LeftOut]
    not_at_hand: list[NotAtHand]


class Target(NamedTuple):
    """One number of a cell: its budget of calls, None where the sampler chooses, and in what the cell differs."""

    cell: results.Cell
    budget: int | None
    differs: str


class Number(NamedTuple):
    """One reported number.

    Attributes:
        file: of ``data/reported``, without ``.csv``.
        line: of the file, the first row is 0.
        row: its columns.
        targets: what reproduces it.
        reason: why nothing does, if so.
    """

    file: str
    line: int
    row: dict[str, str]
    targets: list[Target]
    reason: str


def coverage(root: Path = ROOT) -> Coverage:
    """What is reproduced.

    Raises:
        UserError: if ``data/reported/reproduced.yml`` does not fit its schema.
    """
    return read_yaml(root / "data" / "reported" / "reproduced.yml", Coverage)


def rows(chosen: Rows, root: Path = ROOT) -> list[tuple[int, dict[str, str]]]:
    """The rows that are chosen, with their places in the file.

    Raises:
        UserError: if there is no such file or column, or no such row.
    """
    found = read(chosen.file, root)
    for column, wanted in chosen.where.items():
        if column not in found[0]:
            raise unknown(f"column of {chosen.file}", column, found[0])
        allowed = [wanted] if isinstance(wanted, str) else wanted
        for value in allowed:
            if all(row[column] != value for row in found):
                raise unknown(f"{column} in {chosen.file}", value, {row[column] for row in found})
    kept = [
        (line, row)
        for line, row in enumerate(found)
        if all(row[name] in ([want] if isinstance(want, str) else want) for name, want in chosen.where.items())
    ]
    if not kept:
        raise UserError(f"{chosen.file} has no row with {chosen.where}")
    return kept


def read(file: str, root: Path = ROOT) -> list[dict[str, str]]:
    """All rows of a file of ``data/reported``, named without ``.csv``.

    Raises:
        UserError: if there is no such file.
    """
    folder = root / "data" / "reported"
    path = folder / f"{file}.csv"
    if not path.exists():
        raise unknown("file of data/reported", file, (other.stem for other in folder.glob("*.csv")))
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _calls(chosen: Rows, row: dict[str, str]) -> int | None:
    return int(row["nfe"]) + chosen.more_calls if row["nfe"].isdigit() else chosen.calls


def budgets(cell: results.Cell) -> set[int | None]:
    """The numbers of calls that a cell measures; None where its sampler chooses them."""
    if cell.parameters.get("tolerance"):
        return {None}
    one = cell.parameters.get("budget")
    return set(cell.parameters["budgets"]) if one is None else {one}


def numbers(root: Path = ROOT) -> list[Number]:
    """Every row of every file that is named, in the order of the files, with what reproduces it or why nothing does.

    Raises:
        UserError: if a cell or row that it names does not exist, the budgets of a cell are not the calls of its
            rows, or a row has no cell and no reason, or both.
    """
    given, cells = coverage(root), _cells(root)
    targets: dict[tuple[str, int], list[Target]] = {}
    for name, one in given.cells.items():
        if name not in cells:
            raise unknown(f"cell of profile {PROFILE}", name, cells)
        known = budgets(cells[name])
        wanted = set()
        for chosen in one.rows:
            for line, row in rows(chosen, root):
                calls = _calls(chosen, row)
                wanted.add(calls)
                targets.setdefault((chosen.file, line), []).append(Target(cells[name], calls, one.differs))
        if wanted != known:
            raise UserError(f"{name} measures at {_some(known)} calls, its rows are at {_some(wanted)}")
    without_rows = {name for table in given.not_at_hand for name in table.cells}
    for name in cells.keys() - given.cells.keys() - without_rows:
        raise UserError(f"data/reported/reproduced.yml does not say which rows {name} reproduces")
    reasons: dict[tuple[str, int], str] = {}
    for left in given.left_out:
        for chosen in left.rows:
            reasons |= {(chosen.file, line): left.reason for line, _ in rows(chosen, root)}
    found = []
    for file in dict.fromkeys(file for file, _ in [*targets, *reasons]):
        for line, row in enumerate(read(file, root)):
            place = (file, line)
            if (place in targets) == (place in reasons):
                what = "a cell and a reason" if place in targets else "no cell and no reason"
                raise UserError(f"{file}: row {line + 1}, {row['table']}, {row['sampler']} at {row['nfe']}, has {what}")
            found.append(Number(file, line, row, targets.get(place, []), reasons.get(place, "")))
    return found


def unreported(root: Path = ROOT) -> list[tuple[NotAtHand, list[Target]]]:
    """The tables of which no row is at hand, with what their cells measure, in the order of the plan.

    Raises:
        UserError: if a cell does not exist.
    """
    cells = _cells(root)
    found = []
    for table in coverage(root).not_at_hand:
        for name in table.cells:
            if name not in cells:
                raise unknown(f"cell of profile {PROFILE}", name, cells)
        chosen = [cells[name] for name in table.cells]
        calls = [(cell, budget) for cell in chosen for budget in sorted(budgets(cell), key=lambda one: one or 0)]
        found.append((table, [Target(cell, budget, "") for cell, budget in calls]))
    return found


def _cells(root: Path) -> dict[str, results.Cell]:
    return {f"{cell.experiment}/{cell.name}": cell for cell in results.cells(PROFILE, root=root)}


def _some(calls: Iterable[int | None]) -> str:
    return ", ".join(str(one) for one in sorted(calls, key=lambda one: one or 0))


def ours(target: Target, root: Path = ROOT) -> dict[str, Any] | None:
    """The measurement that reproduces a number, as a row of :func:`fewstep.results.files.table`; None if there is none.

    ``stale`` says why it no longer is what the code would measure; None if it is.
    """
    path = target.cell.path(root / "data" / "results")
    if not path.exists():
        return None
    record = results.read(path)
    found = results.table([record], metric=METRICS[target.cell.experiment])
    row = next((row for row in found if target.budget is None or row["budget"] == target.budget), None)
    return None if row is None else {**row, "stale": results.why_stale(record, root)}


def verdict(number: Number, row: dict[str, Any]) -> str:
    """``agrees``, ``higher`` or ``lower``: a measurement, as :func:`ours` gives it, beside the reported number.

    They agree if they differ by at most :data:`AGREES`, or if their intervals meet; the reported one is ± two of its
    standard deviations.
    """
    theirs, spread = float(number.row["value"]), 2 * float(number.row["std"] or 0)
    low, high = (row["value"] if row[end] is None else row[end] for end in ("low", "high"))
    if abs(row["value"] - theirs) <= AGREES * abs(theirs) or (low <= theirs + spread and high >= theirs - spread):
        return "agrees"
    return "higher" if row["value"] > theirs else "lower"


# --- what it takes -------------------------------------------------------------------------------------------------


@functools.cache
def _flops(network: str, root: Path) -> tuple[int, int]:
    """Operations of one call on one image, counted without weights, and those that make the image of its latent."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from .models import declared

    record = declared.record_of(network, root)
    built: Any = declared.build(record.architecture, record.config, empty=True)
    x, t = torch.zeros(1, *record.shape, device="meta"), torch.zeros(1, device="meta")
    known = cost.profile(root).networks
    with_texts = record.architecture == declared.TEXT_TO_IMAGE
    text = [torch.zeros(1, *known["stable-diffusion"].text, device="meta")] if with_texts else []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(x, t, *text)
    return counter.get_total_flops(), cost.operations(known[DECODER]).flops if with_texts else 0


@functools.cache
def _rate(root: Path) -> tuple[float, int, int]:
    """Operations per second of the GPU at the middle fraction, those of an image's features, and RK45's calls."""
    known = cost.profile(root)
    fraction = sorted(known.fractions)[len(known.fractions) // 2]
    scorer = cost.operations(known.networks[known.scorer]).flops
    return fraction * known.matrix_rate, scorer, cost.rk45_calls(known.tolerance)


def gpu_hours(target: Target, root: Path = ROOT) -> float:
    """Hours of one GPU, estimated as on the page *Cost*: operations at the middle fraction of its matrix rate."""
    rate, scorer, adaptive = _rate(root)
    given = target.cell.parameters
    one, decoder = _flops(given["network"], root)
    calls = adaptive if target.budget is None else target.budget
    calls *= GUIDED if given.get("weight") else 1
    likelihood = target.cell.experiment == "bits"
    per_image = calls * one * DIVERGENCE if likelihood else calls * one + decoder + scorer
    images = given.get("samples", 10_000) * len(given.get("seeds", [0]))
    return images * per_image / rate / 3600
