"""What the claims of ``data/claims.yml`` come to: their checks, evaluated on the records and the tests of a clone.

A check names a test, which must pass for the book to be published, or compares measured numbers, each given by its
address as in the role ``{result}``:

=========== =============================== ==========================================================================
``test``    ``file::name[case]``            the test states the claim
``less``    ``left``, ``right``             the left number is below the right one, or below a bound that is written out
``within``  ``left``, ``right``, ``ratio``  neither number is more than ``ratio`` times the other
``order``   ``of``, ``at_least``            the fitted order of convergence, a quarter of an order allowed
``falling`` ``of``, ``over``                the numbers at an address fall as a coordinate rises
``least``   ``of``, ``at``                  the number at an address where a coordinate has this value is the least
=========== =============================== ==========================================================================

Numbers that differ in their seeds only are one, their mean, whichever cells they come from. Numbers with intervals are
compared by these: where they overlap the check is undecided. An address at which there is nothing is an error, unless a
cell of its experiment is still to be run. ``reported`` names rows of ``data/reported``: the file, then a filter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import guide
import record_tables as tables
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from record_pages import address, rows_of
from record_tables import Row

from fewstep import reported, results
from fewstep.errors import UserError, unknown
from fewstep.files import read_yaml

SLACK = 0.25
"""How far a fitted order may lie below the one that is claimed."""


class Verdict(StrEnum):
    """What came of a check, or of a claim."""

    HOLDS = "holds"
    PART = "holds in part"
    OPEN = "undecided"
    FAILS = "does not hold here"
    NOT_RUN = "not run"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ByTest(_Strict):
    test: str = Field(pattern=r"^tests/test_\w+\.py::test_\w+(\[.+\])?$")


class Less(_Strict):
    kind: Literal["less"]
    left: str
    right: str | float


class Within(_Strict):
    kind: Literal["within"]
    left: str
    right: str
    ratio: float = Field(gt=1, allow_inf_nan=False)


class Order(_Strict):
    kind: Literal["order"]
    of: str
    at_least: int = Field(ge=1)


class Falling(_Strict):
    kind: Literal["falling"]
    of: str
    over: str


class Least(_Strict):
    kind: Literal["least"]
    of: str
    at: str = Field(pattern=r"^\w+=\S+$")


def _kind(check: Any) -> Any:
    if isinstance(check, ByTest) or (isinstance(check, dict) and "test" in check):
        return "test"
    return check.get("kind") if isinstance(check, dict) else getattr(check, "kind", None)


Check = Annotated[
    Annotated[ByTest, Tag("test")]
    | Annotated[Less, Tag("less")]
    | Annotated[Within, Tag("within")]
    | Annotated[Order, Tag("order")]
    | Annotated[Falling, Tag("falling")]
    | Annotated[Least, Tag("least")],
    Discriminator(_kind),
]


class Claim(_Strict):
    """A statement of a paper.

    Attributes:
        id: its name; ``claim-<id>`` is its address in the book.
        paper: the key of the paper in the bibliography.
        where: in the paper.
        claim: the statement, in our words; dollars mark mathematics.
        checks: what decides it; none where nothing does yet.
        reported: the paper's own numbers, as addresses of rows in ``data/reported``.
    """

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    paper: str
    where: str = Field(min_length=1)
    claim: str = Field(min_length=1)
    checks: list[Check] = []
    reported: list[str] = []


class Ledger(_Strict):
    """The content of the file: the papers by key, and their claims."""

    papers: dict[str, str] = Field(min_length=1)
    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Ledger:
        for name, count in Counter(claim.id for claim in self.claims).items():
            if count > 1:
                raise ValueError(f"{count} claims have the id {name!r}")
        for claim in self.claims:
            if claim.paper not in self.papers:
                raise ValueError(f"claim {claim.id}: {unknown('paper', claim.paper, self.papers)}")
        return self


def read(path: Path) -> Ledger:
    """The ledger's file.

    Raises:
        UserError: if it cannot be read or does not fit the schema; the line names the file and the field.
    """
    return read_yaml(path, Ledger)


@dataclass
class Finding:
    """What a check found, and the numbers that say so."""

    check: Check
    verdict: Verdict
    rows: list[Row]


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on several together; those that were not run have no say."""
    run = set(verdicts) - {Verdict.NOT_RUN}
    if not run:
        return Verdict.NOT_RUN
    if len(run) == 1:
        return run.pop()
    return Verdict.PART if run & {Verdict.HOLDS, Verdict.PART} else Verdict.FAILS


def ends(row: Row) -> tuple[float, float]:
    """The interval of a number, a point for one that is exact."""
    return (row["value"], row["value"]) if row["low"] is None else (row["low"], row["high"])


def less(left: Row, right: Row) -> Verdict:
    if ends(left)[1] < ends(right)[0]:
        return Verdict.HOLDS
    return Verdict.FAILS if ends(left)[0] > ends(right)[1] else Verdict.OPEN


def within(left: Row, right: Row, ratio: float) -> Verdict:
    """By the largest and the smallest ratio that the intervals allow; a quotient by what may be zero has no bound."""

    def bounds(a: Row, b: Row) -> tuple[float, float]:
        (low, high), (least, most) = ends(a), ends(b)
        return low / most if most > 0 else 0.0, high / least if least > 0 else math.inf

    (smallest, largest), (smallest_back, largest_back) = bounds(left, right), bounds(right, left)
    if max(largest, largest_back) <= ratio:
        return Verdict.HOLDS
    return Verdict.FAILS if max(smallest, smallest_back) > ratio else Verdict.OPEN


class Checker:
    """Evaluates checks on the records and the tests of a clone.

    Attributes:
        read: records and rows of the experiments that were asked for; each is read once.
        files: the other files that were asked for.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: dict[tuple[str, str], tuple[list[results.Record], list[Row]]] = {}
        self.files: set[Path] = set()

    @cached_property
    def planned(self) -> dict[str, dict[str, results.Experiment]]:
        return results.planned(self.root)

    def experiment(self, profile: str, experiment: str) -> tuple[list[results.Record], list[Row]]:
        if (profile, experiment) not in self.read:
            records = results.load(profile, experiment, self.root / "data" / "results")
            self.read[profile, experiment] = records, rows_of(records, self.root)
        return self.read[profile, experiment]

    def rows(self, text: str) -> list[Row]:
        """The numbers at an address; none where a cell of the experiment has no record and no other has them.

        Raises:
            UserError: if there are none although all cells were run, or no such experiment is planned.
        """
        profile, experiment, filters = address(text)
        if profile not in self.planned:
            raise unknown("profile", profile, self.planned)
        if experiment not in self.planned[profile]:
            raise unknown(f"experiment of profile {profile}", experiment, self.planned[profile])
        records, rows = self.experiment(profile, experiment)
        missing = set(self.planned[profile][experiment].cells) - {record.provenance.cell for record in records}
        try:
            return tables.pool(tables.choose(rows, filters))
        except UserError as error:
            if missing:
                return []
            raise UserError(f"{text}: {error}") from None

    def number(self, text: str | float) -> list[Row]:
        """The one number at an address, or none that is still to be measured; a bound is itself."""
        if isinstance(text, float):
            return [{"value": text, "low": None, "high": None, "stale": None}]
        rows = self.rows(text)
        try:
            return [tables.single(rows)] if rows else []
        except UserError as error:
            raise UserError(f"{text}: {error}") from None

    def find(self, check: Check) -> Finding:
        """What a check finds.

        Raises:
            UserError: if it names a test or a number that does not exist.
        """
        if isinstance(check, ByTest):
            path, _, name = check.test.partition("::")
            file = self.root / path
            known = guide.test_functions(file) if file.exists() else {}
            self.files.add(file)
            if name.partition("[")[0] not in known:
                raise unknown(f"test of {path}", name.partition("[")[0], known)
            return Finding(check, Verdict.HOLDS, [])
        if isinstance(check, Less | Within):
            left, right = self.number(check.left), self.number(check.right)
            if not left or not right:
                return Finding(check, Verdict.NOT_RUN, [])
            pair = left[0], right[0]
            verdict = less(*pair) if isinstance(check, Less) else within(*pair, check.ratio)
            return Finding(check, verdict, list(pair))
        if isinstance(check, Order):
            rows = self.number(check.of)
            if not rows:
                return Finding(check, Verdict.NOT_RUN, [])
            if rows[0]["metric"] != "order":
                raise UserError(f"{check.of}: its metric is {rows[0]['metric']}; an order needs metric=order")
            reached = rows[0]["value"] >= check.at_least - SLACK
            return Finding(check, Verdict.HOLDS if reached else Verdict.FAILS, rows)
        rows = self.rows(check.of)
        if not rows:
            return Finding(check, Verdict.NOT_RUN, [])
        if isinstance(check, Falling):
            rows = self.line(rows, check.of, check.over)
            return Finding(check, combine(less(after, before) for before, after in pairwise(rows)), rows)
        name, _, value = check.at.partition("=")
        rows = self.line(rows, check.of, name)
        there = tables.choose(rows, {name: [value]})[0]
        others = [row for row in rows if row is not there]
        verdicts = {less(there, other) for other in others}
        verdict = next(v for v in (Verdict.FAILS, Verdict.OPEN, Verdict.HOLDS) if v in verdicts)
        return Finding(check, verdict, [there, min(others, key=lambda row: row["value"])])

    @staticmethod
    def line(rows: list[Row], text: str, over: str) -> list[Row]:
        """At least two rows that differ in one coordinate, in its order."""
        tables.choose(rows, {over: [str(row.get(over)) for row in rows]})
        rows = sorted(rows, key=lambda row: row[over])
        if len(rows) < 2 or any(a[over] == b[over] for a, b in pairwise(rows)):
            raise UserError(f"{text}: {len(rows)} numbers; one for each of several values of {over} is needed")
        return rows

    def findings(self, claim: Claim) -> list[Finding]:
        """What the checks of a claim find; an error names the claim."""
        try:
            return [self.find(check) for check in claim.checks]
        except UserError as error:
            raise UserError(f"claim {claim.id}: {error}") from None

    def outcome(self, claim: Claim) -> Verdict:
        return combine(found.verdict for found in self.findings(claim))

    def reported(self, claim: Claim) -> list[Row]:
        """The rows of ``data/reported`` that a claim names.

        Raises:
            UserError: if a file or a row is not there.
        """
        found = []
        for text in claim.reported:
            name, _, filters = text.partition(" ")
            self.files.add(self.root / "data" / "reported" / f"{name}.csv")
            try:
                rows: list[Row] = [dict(row) for row in reported.read(name, self.root)]
                found += tables.choose(rows, tables.parse_filter(filters))
            except UserError as error:
                raise UserError(f"claim {claim.id}: {text}: {error}") from None
        return found
