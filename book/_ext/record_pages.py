"""What pages that show records have in common.

Where numbers come from stands under them, with the command that measures them again; numbers whose making has changed
since are struck through; a page is read anew when a record on it changes or becomes stale; and where a cell is still to
be run, its place says so.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import record_tables as tables
from docutils import nodes
from docutils.parsers.rst import directives
from record_tables import Absent, Row
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from fewstep import reported, results
from fewstep.errors import UserError, unknown

logger = logging.getLogger(__name__)


def state(folder: Path, root: Path) -> str:
    """A digest of the record files of one experiment and of their being stale."""
    found = [
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest(), results.why_stale(results.read(path), root))
        for path in sorted(folder.glob("*.json"))
    ]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


@dataclass
class Notes:
    """What the environment remembers: the records that each page has seen, and what is stale on it."""

    seen: dict[str, dict[str, str]] = field(default_factory=dict)
    stale: set[tuple[str, str]] = field(default_factory=set)


def notes(env: Any) -> Notes:
    """The notes of an environment."""
    return env.records


class Records:
    """What roles and directives share: the records they read, and that the page depends on them."""

    env: Any
    config: Any

    @property
    def root(self) -> Path:
        return Path(self.config.records_root)

    def records(self, profile: str, experiment: str) -> list[results.Record]:
        """The records of an experiment; the page is read again when they change.

        Raises:
            UserError: if there is no such experiment.
        """
        folder = self.root / "data" / "results" / profile / experiment
        plan = results.planned(self.root)
        if not folder.is_dir():
            if profile not in plan:
                raise unknown("profile", profile, plan)
            known = {name for experiments in plan.values() for name in experiments}
            if experiment not in known:
                raise unknown("experiment", experiment, known)
        found = results.load(profile, experiment, self.root / "data" / "results")
        for record in found:
            self.env.note_dependency(str(folder / f"{record.provenance.cell}.json"))
        seen = notes(self.env).seen.setdefault(self.env.docname, {})
        seen[f"{profile}/{experiment}"] = state(folder, self.root)
        return found

    def origins(self, records: list[results.Record], rows: list[Row], mark: str = "") -> list[nodes.Node]:
        """Where numbers come from, and a line for each reason why some of them are stale."""
        found: list[nodes.Node] = [provenance(records, rows, self.root)]
        for reason in dict.fromkeys(filter(None, (row["stale"] for row in rows))):
            found.append(nodes.paragraph(text=f"{mark}stale: {reason}; to be measured again", classes=["stale-note"]))
            notes(self.env).stale.add((self.env.docname, f"{rows[0]['profile']}/{rows[0]['experiment']}"))
        return found

    def fail(self, what: str, error: Exception, line: int | None) -> ExtensionError:
        where = f"{self.env.doc2path(self.env.docname)}{f':{line}' if line else ''}"
        return ExtensionError(f"{where}: {what}: {error}")


def rows_of(records: Iterable[results.Record], root: Path) -> list[Row]:
    """Rows as :func:`fewstep.results.files.table` gives them, and in each why it is stale."""
    rows = []
    for record in records:
        stale = results.why_stale(record, root)  # once: it reads what made the record
        rows += [{**row, "stale": stale} for row in results.table([record])]
    return rows


def address(text: str) -> tuple[str, str, dict[str, list[str]]]:
    """Profile, experiment and filters of ``profile/experiment name=value "name=a b"``, or with ``/cell`` after it.

    Raises:
        UserError: if the first word is neither, or another one is not ``name=value``.
    """
    name, _, words = " ".join(text.split()).partition(" ")
    profile, _, rest = name.partition("/")
    experiment, *cell = rest.split("/")
    if not profile or not experiment or len(cell) > 1:
        raise UserError("profile/experiment or profile/experiment/cell is needed first")
    filters = tables.parse_filter(words, " ")
    return profile, experiment, {"cell": cell, **filters} if cell else filters


def command(profile: str, experiment: str | None, root: Path) -> str:
    """What runs an experiment that was not run, or all of a profile."""
    plan = results.planned(root).get(profile, {})
    chosen = [plan[experiment]] if experiment in plan else list(plan.values())
    # `make gpu` trains and measures within minutes; the papers' tables take days.
    if profile != reported.PROFILE and chosen and all(found.gpu for found in chosen):
        return "make gpu"
    return f"make {'train' if results.is_training(experiment or '') else 'experiments'} PROFILE={profile}"


def command_again(made: list[results.Provenance], root: Path) -> str:
    """What measures exactly these cells of an experiment anew; of more than two, the whole experiment."""
    profile, experiment = made[0].profile, made[0].experiment
    if results.is_training(experiment):
        return command(profile, experiment, root)
    names = list(dict.fromkeys(f"{experiment}/{p.cell}" for p in made))
    wanted = experiment if len(names) > 2 else " ".join(names)
    return f"make experiments PROFILE={profile} CELL={shlex.quote(wanted)} FORCE=1"


def origin(records: list[results.Record], rows: list[Row], root: Path) -> tuple[str, str]:
    """Where numbers come from, in one line, and the command that makes them again."""
    made = [record.provenance for record in records]
    revisions = [f"{(p.revision or 'unknown')[:8]}{'+' if p.dirty else ''}" for p in made]
    weights = [f"{name} {digest[:8]}" for p in made for name, digest in p.weights.items()]
    features = [p.feature_net for p in made if p.feature_net]
    samples = sorted({row["samples"] for row in rows if row["samples"] is not None})
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    days = sorted({p.started[:10] for p in made})
    seconds = sum(p.wall_s for p in made)
    parts = [
        f"profile {made[0].profile}",
        tables.some(p.device for p in made),
        f"revision {tables.some(revisions)}",
        f"weights {tables.some(weights)}" if weights else "no trained weights",
        f"features of {tables.some(features)}" if features else "",
        f"samples {tables.some(samples)}" if samples else "",
        f"seeds {tables.some(seeds, 6)}" if seeds else "",
        " to ".join(dict.fromkeys([days[0], days[-1]])),
        f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
    ]
    return " · ".join(filter(None, parts)), command_again(made, root)


def provenance(records: list[results.Record], rows: list[Row], root: Path) -> nodes.paragraph:
    """:func:`origin` as the line under a table."""
    text, again = origin(records, rows, root)
    return nodes.paragraph("", f"{text} · ", nodes.literal(text=again), classes=["provenance"])


class Directive(SphinxDirective, Records):
    """A directive whose mistakes fail the build; what a cell that was not run would show is no mistake."""

    def run(self) -> list[nodes.Node]:
        try:
            return self.content_nodes()
        except UserError as error:
            if isinstance(error, Absent) and (content := self.to_come()):
                return content
            raise self.fail(f"{self.name} {' '.join(self.arguments)}".strip(), error, self.lineno) from None

    def to_come(self) -> list[nodes.Node]:
        """What stands in the place of numbers that are still to be measured; nothing if none are."""
        return []

    @abstractmethod
    def content_nodes(self) -> list[nodes.Node]:
        """What the directive puts on the page."""


class Table(Directive):
    """A directive that shows numbers in a table, or says what to run where they were not measured."""

    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        "rows": directives.unchanged,
        "columns": directives.unchanged,
        "metric": directives.unchanged,
        "filter": directives.unchanged,
        "digits": directives.positive_int,
        "caption": directives.unchanged,
        "name": directives.unchanged,
    }

    def names(self, option: str) -> list[str]:
        return [name.strip() for name in self.options.get(option, "").split(",") if name.strip()]

    def to_come(self) -> list[nodes.Node]:
        profile, _, experiment = "".join(self.arguments[:1]).partition("/")
        found = results.planned(self.root).get(profile, {}).get(experiment)
        if found is None:
            return []
        measured = {record.provenance.cell for record in self.records(profile, experiment)}
        return [self.not_run(profile, experiment)] if set(found.cells) - measured else []

    def place(self, table: nodes.table) -> nodes.table:
        if "name" in self.options:
            self.add_name(table)
        return table

    def measured(self, records: list[results.Record], rows: list[Row]) -> list[nodes.Node]:
        """A table of measured numbers of one metric, the line on where they come from, and what is stale among them."""
        metric, place = rows[0]["metric"], f"{rows[0]['profile']}/{rows[0]['experiment']}"
        used = {row["cell"] for row in rows}
        rows = tables.pool(rows)
        by, column = tables.layout(rows, self.names("rows"), self.options.get("columns"))
        lines, columns, cells = tables.pivot(rows, by, column)
        top = [tables.head(name) for name in by]
        top += [column_head(column, value) if column else results.METRICS[metric] for value in columns]
        content = []
        for line in lines:
            texts = [[nodes.Text(tables.label(name, value))] for name, value in zip(by, line, strict=True)]
            for value in columns:
                row = cells.get((line, value))
                texts.append([nodes.Text("–")] if row is None else self.cell(row, "budget" in (column, *by)))
            content.append(texts)
        caption = self.options.get("caption") or f"{tables.capital(results.METRICS[metric])} ({place})"
        records = [record for record in records if record.provenance.cell in used]
        return [tables.build_table(caption, top, content, len(by)), *self.origins(records, rows, "† ")]

    def not_run(self, profile: str, experiment: str | None = None) -> nodes.paragraph:
        """What stands in a table's place where nothing was measured, or not yet what it shows."""
        begun = " to its end" if experiment and self.records(profile, experiment) else ""
        what = [nodes.Text("Experiment "), nodes.literal(text=experiment), nodes.Text(" of profile ")]
        what = [*(what if experiment else [nodes.Text("Profile ")]), nodes.literal(text=profile)]
        said = nodes.Text(f" was not run{begun}: ")
        why = nodes.emphasis("", "", *what, said, nodes.literal(text=command(profile, experiment, self.root)))
        if "caption" not in self.options:
            return nodes.paragraph("", "", why, classes=["not-run"])
        caption, _ = self.state.inline_text(self.options["caption"].rstrip("."), self.lineno)
        return nodes.paragraph("", "", *caption, nodes.Text(". "), why, classes=["not-run"])

    def cell(self, row: Row, by_budget: bool) -> list[nodes.Node]:
        text = tables.shown(row, self.options.get("digits", 3))
        found: list[nodes.Node] = [nodes.Text(text)]
        if row["stale"]:
            found = [nodes.inline("", text, classes=["stale"]), nodes.superscript(text="†")]
        if by_budget and row.get("nfe") not in (None, row.get("budget")):
            found.append(nodes.inline("", f" at {row['nfe']}", classes=["nfe"]))
        return found


def column_head(column: str, value: Any) -> str:
    """What stands above a column: a sampler's name says what it is."""
    return tables.label(column, value) if column == "solver" else f"{tables.head(column)} {tables.label(column, value)}"


def start(app: Sphinx) -> None:
    """Adds the style sheet, and the notes to an environment that has none."""
    app.config.html_static_path.append(str(Path(__file__).parent / "static"))
    env: Any = app.env
    if not hasattr(env, "records"):
        env.records = Notes()


def outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Pages whose records have changed or have become stale: an edit of the package shows on them too."""
    root = Path(app.config.records_root)
    pages = notes(env).seen
    places = {place for seen in pages.values() for place in seen}
    try:
        known = {place: state(root / "data" / "results" / place, root) for place in places}
    except UserError as error:
        raise ExtensionError(str(error)) from None
    return [name for name, seen in pages.items() if any(known[place] != was for place, was in seen.items())]


def purge(app: Sphinx, env: Any, docname: str) -> None:
    notes(env).seen.pop(docname, None)
    notes(env).stale = {entry for entry in notes(env).stale if entry[0] != docname}


def merge(app: Sphinx, env: Any, docnames: set[str], other: Any) -> None:
    notes(env).seen.update({name: seen for name, seen in notes(other).seen.items() if name in docnames})
    notes(env).stale |= {entry for entry in notes(other).stale if entry[0] in docnames}


def finish(app: Sphinx, error: Exception | None) -> None:
    for docname, what in sorted(notes(app.env).stale) if error is None else []:
        logger.info("stale on page %s: %s", docname, what)
