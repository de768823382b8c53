"""The ledger of the papers' claims: ``data/claims.yml`` beside the tests and the records that check them.

::

    ```{claims}
    ```

    ```{claims}
    :paper: liu2022pndm
    ```

Without a paper the directive counts outcomes by paper; with one it shows a table of that paper's claims. A claim's
outcome is computed from its checks when the page is read. A check names a test, which must pass for the book to be
published, or compares measured numbers, each given by its address as in the role ``{result}``:

=========== =============================== ==========================================================================
``test``    ``file::name[case]``            the test states the claim
``less``    ``left``, ``right``             the left number is below the right one, or below a bound that is written out
``within``  ``left``, ``right``, ``ratio``  neither number is more than ``ratio`` times the other
``order``   ``of``, ``at_least``            the fitted order of convergence, a quarter of an order allowed
``falling`` ``of``, ``over``                the numbers at an address fall as a coordinate rises
``least``   ``of``, ``at``                  the number at an address where a coordinate has this value is the least
=========== =============================== ==========================================================================

Numbers that differ in their seeds only are one, their mean, whichever cells they come from. Numbers with intervals are
compared by these: where they overlap the check is undecided. An address at which there is nothing fails the build,
unless a cell of its experiment is still to be run. ``reported`` names rows of ``data/reported``: the file, then a
filter.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import guide
import record_tables as tables
from docutils import nodes
from docutils.parsers.rst import directives
from guide import Content
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from record_tables import Row
from records import _Table, address, command, notes, provenance, rows_of
from sphinx import addnodes
from sphinx.application import Sphinx

from fewstep import reported, results
from fewstep.errors import UserError, unknown
from fewstep.files import read_yaml

FILE = Path("data") / "claims.yml"

SLACK = 0.25
"""How far a fitted order may lie below the one that is claimed."""

PROBLEMS = {
    "exact_error": "mixture",
    **dict.fromkeys(("frechet", "fd_cifar", "denoiser_error", "predictor_corrector"), "network"),
}
"""On what an experiment measures whose numbers do not say it; otherwise the name of the cell does."""

PROBLEM_NAMES = {
    "mixture": "Gaussian mixture",
    "ideal": "ideal denoiser",
    "digits": "ideal denoiser",
    "digits-unet": "network",
}


class Verdict(StrEnum):
    """What came of a check, or of a claim."""

    HOLDS = "holds"
    PART = "holds in part"
    OPEN = "undecided"
    FAILS = "does not hold here"
    NOT_RUN = "not run"


# --- the file ------------------------------------------------------------------------------------------------------


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


# --- outcomes ------------------------------------------------------------------------------------------------------


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


# --- the page ------------------------------------------------------------------------------------------------------


def words(row: Row, names: Iterable[str]) -> str:
    """Coordinates of a number as text."""
    found = []
    for name in names:
        value = row.get(name)
        if value in (None, ""):
            continue
        if name in ("nfe", "budget"):
            found.append(f"{value} calls")
        elif name in ("solver", "grid", "problem", "process", "cell"):
            found.append(tables.label(name, value))
        else:
            found.append(f"{tables.head(name)} = {tables.label(name, value)}")
    return ", ".join(found)


def problem(row: Row) -> str:
    """On what a number was measured."""
    name = row.get("problem") or PROBLEMS.get(row["experiment"]) or row.get("of") or row["cell"]
    return PROBLEM_NAMES.get(name, name)


def coordinates(rows: list[Row]) -> tuple[list[str], list[str]]:
    """The coordinates that numbers share and those in which they differ."""
    hidden = {*tables.NOT_COORDINATES, "samples", "theory", "fit_from", "problem"} - {"cell"}
    if any(row.get("nfe") is not None for row in rows):
        hidden.add("budget")
    names = dict.fromkeys(["solver", "grid", "nfe", *(name for row in rows for name in row)])
    shown = [name for name in names if name not in hidden and any(row.get(name) is not None for row in rows)]
    apart = [name for name in shown if len({json.dumps(row.get(name)) for row in rows}) > 1]
    # A cell is named only where nothing else tells its numbers apart.
    apart = [name for name in apart if name != "cell"] or apart
    return [name for name in shown if name not in apart and name != "cell"], apart


def planned(places: Sequence[str | float]) -> str:
    """What a check that was not run would compare."""
    wanted = [address(text)[2] for text in places if isinstance(text, str)]
    rows = [{name: "|".join(values) for name, values in filters.items()} for filters in wanted]
    common, apart = coordinates(rows)
    parts = [words(rows[0], common), " against ".join(filter(None, (words(row, apart) for row in rows)))]
    return "".join(f", {part}" for part in parts if part)


def with_formulas(text: str) -> Content:
    """Plain text with ``$formulas$``."""
    parts = text.split("$")
    return [nodes.math(part, part) if k % 2 else nodes.Text(part) for k, part in enumerate(parts) if part]


def marked(verdict: Verdict) -> nodes.inline:
    return nodes.inline("", str(verdict), classes=["verdict", verdict.name.lower().replace("_", "-")])


def outcome(findings: list[Finding]) -> Content:
    """A claim's verdict, and how many of its checks it stands on, if not on all."""
    run = sum(finding.verdict is not Verdict.NOT_RUN for finding in findings)
    content: Content = [marked(combine(finding.verdict for finding in findings))]
    if 0 < run < len(findings):
        content.append(nodes.inline("", f" {run} of {len(findings)} checks run", classes=["source"]))
    return content


class ClaimsDirective(_Table):
    """The claims of one paper, or the outcomes of all of them counted."""

    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        "paper": directives.unchanged_required,
        "caption": directives.unchanged,
        "name": directives.unchanged,
    }

    def content_nodes(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.root / FILE))
        self.env.note_dependency(__file__)
        ledger = read(self.root / FILE)
        checker: Checker = self.env.temp_data.setdefault("claims", Checker(self.root))  # one for all tables of the page
        if "paper" not in self.options:
            return self.counts(ledger, checker)
        paper = self.options["paper"]
        if paper not in ledger.papers:
            raise unknown("paper", paper, ledger.papers)
        claims = [claim for claim in ledger.claims if claim.paper == paper]
        top = ["claim, and where it is made", "outcome", "what checks it, and the numbers", "reported"]
        content = [self.line(claim, checker) for claim in claims]
        caption = self.options.get("caption", f"Claims of {ledger.papers[paper]}")
        table = tables.build_table(caption, top, content, 1)
        table["classes"] = ["results", "guide", "claims"]
        found: list[nodes.Node] = [self.place(table)]
        used = [
            row for claim in claims for finding in checker.findings(claim) for row in finding.rows if "metric" in row
        ]
        return found + self.sources(checker, used)

    def counts(self, ledger: Ledger, checker: Checker) -> list[nodes.Node]:
        content: list[list[Content]] = []
        total: Counter[Verdict] = Counter()
        for paper, title in ledger.papers.items():
            found = Counter(checker.outcome(claim) for claim in ledger.claims if claim.paper == paper)
            total += found
            content.append(self.count_line(title, found))
        content.append(self.count_line("all", total))
        self.depend(checker)
        top = ["paper", "claims", *Verdict]
        table = tables.build_table(self.options.get("caption", "Outcomes by paper"), top, content, 1)
        return [self.place(table)]

    @staticmethod
    def count_line(title: str, found: Counter[Verdict]) -> list[Content]:
        return [[nodes.Text(title)], *([nodes.Text(str(n))] for n in (found.total(), *(found[v] for v in Verdict)))]

    def depend(self, checker: Checker) -> None:
        """The page is written anew when a record or a test that it has read changes."""
        seen = notes(self.env).seen.get(self.env.docname, {})
        for place in checker.read:
            if "/".join(place) not in seen:
                self.records(*place)
        for path in checker.files:
            self.env.note_dependency(str(path))

    def line(self, claim: Claim, checker: Checker) -> list[Content]:
        findings = checker.findings(claim)
        label = f"claim-{claim.id}"
        text = nodes.inline("", "", *with_formulas(claim.claim), ids=[label])
        self.env.domains["std"].note_hyperlink_target(label, self.env.docname, label, claim.claim.replace("$", ""))
        checks = nodes.bullet_list(classes=["checks"])
        for finding in findings:
            checks += nodes.list_item("", nodes.paragraph("", "", *self.check(claim, finding)))
        reported = nodes.bullet_list(classes=["checks"])
        for row in checker.reported(claim):
            reported += nodes.list_item("", nodes.paragraph(text=printed(row)))
        nothing: Content = [nodes.inline("", "–", classes=["none"])]
        return [
            [text, nodes.inline("", f" {claim.where}", classes=["source"])],
            outcome(findings),
            [checks] if findings else [nodes.inline("", "nothing yet", classes=["none"])],
            [reported] if claim.reported else nothing,
        ]

    def check(self, claim: Claim, finding: Finding) -> Content:
        check = finding.check
        if isinstance(check, ByTest):
            path, _, name = check.test.partition("::")
            name, bracket, case = name.partition("[")
            case = f" ({case.removesuffix(']')})" if bracket else ""
            return [nodes.Text("test: "), guide.to_test(path, name, self.env.docname), nodes.Text(case)]
        places = [check.left, check.right] if isinstance(check, Less | Within) else [check.of]
        profile, experiment, _ = address(str(places[0]))
        if not finding.rows:
            run = nodes.literal(text=command(profile, experiment, self.root))
            content = [nodes.Text(f"{profile}, {experiment.replace('_', ' ')}{planned(places)}: "), run]
        else:
            on = nodes.Text(f", {problem(finding.rows[0])}")
            content = [self.to_results(profile, experiment), on, *self.numbers(claim, finding)]
        return [*content, nodes.Text(" "), marked(finding.verdict)]

    def to_results(self, profile: str, experiment: str) -> nodes.Node:
        link = addnodes.pending_xref(
            "", refdomain="std", reftype="ref", reftarget=f"results-{profile}-{experiment}", refdoc=self.env.docname,
            refexplicit=True, refwarn=True,
        )  # fmt: skip
        link += nodes.inline("", f"{profile}, {experiment.replace('_', ' ')}")
        return link

    def numbers(self, claim: Claim, finding: Finding) -> Content:
        """The numbers of a finding: what they share, then each with what sets it apart."""
        rows, check = finding.rows, finding.check
        measured = [row for row in rows if "metric" in row]
        common, apart = coordinates(measured)
        shared = words(rows[0], common)
        metric = results.METRICS[rows[0]["metric"]]
        content: Content = [nodes.Text(f"{f', {shared}' if shared else ''}; {metric}: ")]
        if isinstance(check, Order):
            content[-1] = nodes.Text(f"{f', {shared}' if shared else ''}; claimed {check.at_least}, fitted ")
        for k, row in enumerate(rows):
            if k:
                content.append(nodes.Text("; least of the others: " if isinstance(check, Least) else ", "))
            name = words(row, apart)
            if "metric" not in row:
                content.append(nodes.Text(f"bound {row['value']:g}"))
                continue
            shown = tables.shown(row, 3)
            if row["stale"]:
                notes(self.env).stale.add((self.env.docname, f"claim {claim.id}"))
                content += [nodes.inline("", shown, classes=["stale"]), nodes.superscript(text="†")]
            else:
                content.append(nodes.inline("", shown, classes=["result"]))
            if name:
                content.append(nodes.Text(f" ({name})"))
        return content

    def sources(self, checker: Checker, used: list[Row]) -> list[nodes.Node]:
        """Where the numbers under a table come from, folded away, and what is stale among them."""
        self.depend(checker)
        found: list[nodes.Node] = []
        for (profile, experiment), (records, _) in checker.read.items():
            rows = [row for row in used if (row["profile"], row["experiment"]) == (profile, experiment)]
            if rows:
                cells = {cell for row in rows for cell in row.get("cells", [row["cell"]])}
                line = provenance([record for record in records if record.provenance.cell in cells], rows, self.root)
                line.insert(0, nodes.Text(f"{experiment.replace('_', ' ')}: "))
                found.append(line)
        if found:
            opening = "<details class='results'><summary>Where these numbers come from</summary>"
            found = [nodes.raw("", opening, format="html"), *found, nodes.raw("", "</details>", format="html")]
        for reason in dict.fromkeys(filter(None, (row["stale"] for row in used))):
            found.append(nodes.paragraph(text=f"† stale: {reason}; to be measured again", classes=["stale-note"]))
        return found


def printed(row: Row) -> str:
    """A row of ``data/reported`` in one line."""
    value = row["value"] + (f" ± {float(row['std']):g}" if row["std"] else "")
    what = [tables.spelled(row["sampler"]) or row["model"], f"{row['nfe']} calls" if row["nfe"] else ""]
    return f"{', '.join(filter(None, [*what, row['dataset'].strip('-')]))}: {row['metric']} {value}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("records")
    app.setup_extension("guide")
    app.add_directive("claims", ClaimsDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
