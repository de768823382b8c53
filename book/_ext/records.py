"""Measured numbers in the book: read from the records when the book is built, never typed into it.

Role, one number with its interval::

    {result}`digits/frechet solver=ddim nfe=10 metric=frechet_distance`

The first word is profile/experiment or profile/experiment/cell; the others are coordinates of exactly one measurement,
and ``digits=2`` asks for two significant digits.

Directives, tables::

    ```{results} digits/frechet
    :rows: solver
    :columns: nfe
    :metric: frechet_distance
    :filter: grid=uniform|quadratic, samples=1000
    :digits: 3
    :caption: Fréchet distance of the samplers
    :name: frechet
    ```

    ```{all-results}
    ```

    ```{pictures} cifar10/samples
    :filter: solver=ddim|pndm-f
    ```

    ```{drawn} cifar10/trajectories
    :function: extrapolation
    :arguments: grid=uniform
    :caption: How well a polynomial predicts the next ε
    :alt: Two panels of falling curves.
    :name: fig-cifar-extrapolation
    ```

    ```{reported} ddim_2010.02502
    :rows: sampler
    :columns: nfe
    :filter: dataset=CIFAR-10, metric=FID
    ```

``rows`` and ``columns`` name coordinates (several rows: separated by commas); without them the table shows what varies.
Numbers that differ in their seeds only are one: the mean, with its 95 % interval.
A filter's values are separated by ``|``; one that has a comma in it is put in quotes whole (``"model=a, b"``).
``all-results`` shows every experiment of every profile; ``pictures`` the image grids that an experiment wrote to
``book/_static``, a line for each sampler and grid, a column for each budget; ``drawn`` what a function of
:mod:`fewstep.figures` draws of an experiment's records; ``reported`` a file of ``data/reported``,
each row with its source. A number that is not there is an error that fails the build, unless a cell of its experiment
is still to be run: then its place says so. A number whose making has changed
since is struck through and says so; a page is written anew when a record of it changes or becomes stale.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import shlex
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import record_tables as tables
import yaml
from dark_figures import pair
from docutils import nodes
from docutils.parsers.rst import directives
from record_tables import Absent, Row
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from fewstep import dark, figures, reported, results
from fewstep.errors import UserError, unknown
from fewstep.provenance import ROOT

logger = logging.getLogger(__name__)

# --- the records that a page shows ---------------------------------------------------------------------------------


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


class _Records:
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


class ResultRole(SphinxRole, _Records):
    """One number, with its interval; it links to its table among all results, its title says where it is from."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            text, made, row = self.find()
        except (UserError, ValueError) as error:
            raise self.fail(f"result {self.text!r}", error, self.lineno) from None
        classes = ["result", "stale"] if row["stale"] else ["result"]
        shown: nodes.TextElement = nodes.inline(self.rawtext, text, classes=classes)
        if page := self.config.records_page:
            place = place_of(row["profile"], row["experiment"], row["metric"])
            uri = f"{self.env.app.builder.get_relative_uri(self.env.docname, page)}#{place}"
            title = "; ".join(origin([made], [row], self.root))
            shown = nodes.reference("", "", shown, refuri=uri, reftitle=title, internal=True, classes=["result"])
        if not row["stale"]:
            return [shown], []
        notes(self.env).stale.add((self.env.docname, self.text))
        return [shown, nodes.inline("", f" (stale: {row['stale']})", classes=["stale-note"])], []

    def find(self) -> tuple[str, results.Record, Row]:
        profile, experiment, filters = address(self.text)
        digits = int(filters.pop("digits", ["3"])[0])
        records = self.records(profile, experiment)
        rows = rows_of(records, self.root)
        if not rows:
            raise UserError(f"no record; make experiments PROFILE={profile}")
        row = tables.single(tables.choose(rows, filters))
        (made,) = (record for record in records if record.provenance.cell == row["cell"])
        return tables.shown(row, digits), made, row


# --- tables --------------------------------------------------------------------------------------------------------


class _Directive(SphinxDirective, _Records):
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


class _Table(_Directive):
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
        text = f"{f'Experiment {experiment} of profile' if experiment else 'Profile'} {profile} was not run{begun}: "
        why = nodes.emphasis("", text, nodes.literal(text=command(profile, experiment, self.root)))
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


class ResultsDirective(_Table):
    """A table of one metric of one experiment."""

    required_arguments = 1

    def content_nodes(self) -> list[nodes.Node]:
        parts = self.arguments[0].split("/")
        if len(parts) != 2:
            raise UserError("profile/experiment is needed")
        records = self.records(*parts)
        if not records:
            return [self.not_run(*parts)]
        filters = tables.parse_filter(self.options.get("filter", ""))
        if "metric" in self.options:
            filters["metric"] = [self.options["metric"]]
        rows = tables.choose(rows_of(records, self.root), filters)
        metrics = sorted({row["metric"] for row in rows})
        if len(metrics) > 1:
            raise UserError(f"a table shows one metric; there are {', '.join(metrics)}")
        for name in [*self.names("rows"), *filter(None, [self.options.get("columns")])]:
            tables.choose(rows, {name: [str(row.get(name)) for row in rows]})
        table, *rest = self.measured(records, rows)
        return [self.place(table), *rest]


class PicturesDirective(_Table):
    """The image grids of an experiment, ``book/_static/<profile>/<solver>-<grid>-<budget>.png``."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        name: directives.unchanged for name in ("filter", "caption", "name")
    }

    def content_nodes(self) -> list[nodes.Node]:
        profile, experiment = [*self.arguments[0].split("/"), ""][:2]
        records = self.records(profile, experiment)
        if not records:
            return [self.not_run(profile, experiment)]
        rows = tables.choose(rows_of(records, self.root), tables.parse_filter(self.options.get("filter", "")))
        lines, budgets, cells = tables.pivot(rows, ["solver", "grid"], "budget")
        content = []
        for solver, grid in lines:
            line: list[list[nodes.Node]] = [[nodes.Text(tables.label("solver", solver))], [nodes.Text(grid)]]
            for budget in budgets:
                row = cells.get(((solver, grid), budget))
                line.append([nodes.Text("–")] if row is None else [self.picture(row)])
            content.append(line)
        top = [tables.head("solver"), tables.head("grid"), *(f"{budget} calls" for budget in budgets)]
        caption = self.options.get("caption") or f"Samples, profile {profile}"
        table = self.place(tables.build_table(caption, top, content, 1))
        table["classes"].append("pictures")
        used = {row["cell"] for row in rows}
        return [table, provenance([r for r in records if r.provenance.cell in used], rows, self.root)]

    def picture(self, row: Row) -> nodes.image:
        path = f"_static/{row['profile']}/{row['solver']}-{row['grid']}-{row['budget']}.png"
        if not (self.root / "book" / path).exists():
            raise UserError(f"book/{path} is missing although its record is there; run the experiment again")
        sampler = tables.label("solver", row["solver"])
        alt = f"{row['samples']} samples drawn by {sampler} in {row['nfe']} calls on the grid {row['grid']}"
        return nodes.image(uri=f"/{path}", alt=alt)


class DrawnDirective(_Table):
    """A figure of :mod:`fewstep.figures` that takes the records of one experiment."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        name: directives.unchanged_required for name in ("function", "arguments", "caption", "alt", "name")
    }

    def content_nodes(self) -> list[nodes.Node]:
        for option in ("function", "caption", "alt"):
            if option not in self.options:
                raise UserError(f":{option}: is needed")
        profile, experiment = [*self.arguments[0].split("/"), ""][:2]
        records = self.records(profile, experiment)
        if not records:
            return [self.not_run(profile, experiment)]
        arguments: dict[str, Any] = {}
        for name, texts in tables.parse_filter(self.options.get("arguments", "")).items():
            values = [yaml.safe_load(text) for text in texts]
            arguments[name] = values if len(values) > 1 else values[0]
        paths, cells = self.draw(records, arguments)
        used = [record for record in records if record.provenance.cell in cells] or records
        places = (Path(os.path.relpath(path, self.env.srcdir)).as_posix() for path in paths)
        images = (nodes.image(uri=f"/{place}", alt=self.options["alt"]) for place in places)
        figure = nodes.figure("", *pair(*images), align="center")
        content, _ = self.state.inline_text(self.options["caption"], self.lineno)
        figure += nodes.caption("", "", *content)
        if "name" in self.options:
            self.add_name(figure)
        return [figure, *self.origins(used, rows_of(used, self.root))]

    def draw(self, records: list[results.Record], arguments: dict[str, Any]) -> tuple[list[Path], set[str]]:
        """The picture, light and dark, in files beside the site, from which Sphinx takes them; and the cells in it."""
        name = self.options["function"]
        if name not in figures.__all__:
            raise unknown("function of fewstep.figures", name, figures.__all__)
        try:
            with figures.cells_drawn() as cells:
                figure = getattr(figures, name)(records, **arguments)
        except TypeError as error:
            raise UserError(f"figures.{name}: {error}") from None
        except UserError as error:  # of a function of figures: the records have nothing of the kind
            raise Absent(str(error)) from None
        content = json.dumps([self.env.docname, self.arguments, self.options], default=str)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        folder = Path(self.env.app.outdir).parent / "drawn"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}-{digest}{kind}.png" for kind in ("", "-dark")]
        left = iter(paths)
        dark.in_both(figure, lambda drawn: drawn.savefig(next(left), dpi=160))
        plt.close(figure)
        return paths, cells


class AllResultsDirective(_Table):
    """A section for every profile, with a table for every metric of every experiment."""

    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {"digits": directives.positive_int}

    def content_nodes(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for profile, experiments in results.planned(self.root).items():
            section = self.section(f"Profile {profile}", f"results-{profile}")
            folder = self.root / "data" / "results" / profile
            measured = {path.name for path in folder.glob("*") if any(path.glob("*.json"))}
            names = [*experiments, *sorted(measured - set(experiments))]
            if not measured:
                section += self.not_run(profile)
            for name in names if measured else []:
                inner = self.section(name.replace("_", " "), f"results-{profile}-{name}")
                records = self.records(profile, name)
                rows = rows_of(records, self.root)
                for metric in dict.fromkeys(row["metric"] for row in rows):
                    shown = folded(self.measured(records, [row for row in rows if row["metric"] == metric]))
                    inner += nodes.container("", *shown, ids=[place_of(profile, name, metric)])
                if not rows:
                    inner += self.not_run(profile, name)
                section += inner
            found.append(section)
        return found

    def section(self, title: str, name: str) -> nodes.section:
        section = nodes.section("", nodes.title(text=title), ids=[nodes.make_id(name)], names=[name])
        self.state.document.note_explicit_target(section)
        return section


def place_of(profile: str, experiment: str, metric: str) -> str:
    """The id of a table on the page with all results, to which its numbers link."""
    return nodes.make_id(f"results-{profile}-{experiment}-{metric}")


def folded(found: list[nodes.Node], limit: int = 24) -> list[nodes.Node]:
    """A table of many rows, folded away under its caption; the line on its origin stays in sight."""
    lines = len(list(found[0].findall(nodes.row))) - 1
    if lines <= limit:
        return found
    caption = next(iter(found[0].findall(nodes.title))).astext()
    opening = f"<details class='results'><summary>{html.escape(caption)}: {lines} rows</summary>"
    table, *rest = found
    return [nodes.raw("", opening, format="html"), table, nodes.raw("", "</details>", format="html"), *rest]


class ReportedDirective(_Table):
    """A table of numbers that a paper reports, each row with its source."""

    required_arguments = 1

    def content_nodes(self) -> list[nodes.Node]:
        rows: list[Row] = [dict(row) for row in reported.read(self.arguments[0], self.root)]
        self.env.note_dependency(str(self.root / "data" / "reported" / f"{self.arguments[0]}.csv"))
        filters = tables.parse_filter(self.options.get("filter", ""))
        if "metric" in self.options:
            filters["metric"] = [self.options["metric"]]
        rows = tables.choose(rows, filters)
        by, column = self.names("rows") or ["sampler"], self.options.get("columns", "nfe")
        for name in [*by, column]:
            tables.choose(rows, {name: [row.get(name, "") for row in rows]})
        rows = [{**row, column: _integer(row[column])} for row in rows]
        # One publication may quote another's number: then the same sampler stands in two rows, by source.
        lines, columns, cells = tables.pivot(rows, [*by, "source"], column)
        top = [
            *(tables.head(name) for name in by),
            *(f"{tables.head(column)} {tables.label(column, value)}" for value in columns),
            "source",
        ]
        content = []
        for *line, source in lines:
            texts = [[nodes.Text(tables.spelled(value) or "–")] for value in line]
            for value in columns:
                row = cells.get(((*line, source), value))
                text = "–" if row is None else row["value"] + (f" ± {float(row['std']):g}" if row["std"] else "")
                texts.append([nodes.Text(text)])
            content.append([*texts, [nodes.Text(source)]])
        caption = tables.some(f"{row['paper']}, {row['metric']}, {row['dataset']}" for row in rows)
        table = tables.build_table(self.options.get("caption") or caption, top, content, len(by))
        table["classes"] = ["reported"]
        return [self.place(table)]


def _integer(text: str) -> int | str:
    return int(text) if text.isdigit() else text


# --- Sphinx --------------------------------------------------------------------------------------------------------


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


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("records_root", str(ROOT), "env", [str])
    app.add_config_value("records_page", "", "env", [str])  # the page with all-results, to which numbers link
    app.add_role("result", ResultRole())
    app.add_directive("results", ResultsDirective)
    app.add_directive("all-results", AllResultsDirective)
    app.add_directive("pictures", PicturesDirective)
    app.add_directive("drawn", DrawnDirective)
    app.add_directive("reported", ReportedDirective)
    same = (lambda self, node: self.visit_entry(node), lambda self, node: self.depart_entry(node))
    app.add_node(tables.HeadEntry, html=(tables.visit_head_entry, same[1]), latex=same, text=same)
    app.connect("builder-inited", start)
    app.connect("env-get-outdated", outdated)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("build-finished", finish)
    app.add_css_file("records.css")
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
