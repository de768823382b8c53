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
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import record_tables as tables
import yaml
from dark_figures import pair
from docutils import nodes
from docutils.parsers.rst import directives
from record_pages import (
    Records,
    Table,
    address,
    finish,
    merge,
    notes,
    origin,
    outdated,
    provenance,
    purge,
    rows_of,
    start,
)
from record_tables import Absent, Row
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from fewstep import dark, figures, reported, results
from fewstep.errors import UserError, unknown
from fewstep.provenance import ROOT


class ResultRole(SphinxRole, Records):
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


class ResultsDirective(Table):
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


class PicturesDirective(Table):
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


class DrawnDirective(Table):
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


class AllResultsDirective(Table):
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


class ReportedDirective(Table):
    """A table of numbers that a paper reports, each row with its source; ``head`` names what the columns count."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {**Table.option_spec, "head": directives.unchanged}

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
            *(f"{self.options.get('head', tables.head(column))} {tables.label(column, value)}" for value in columns),
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
