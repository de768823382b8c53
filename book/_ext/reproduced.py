"""The page *Reported and reproduced*: every reported number beside ours, or beside the command that measures it.

Directives::

    ```{reproduced} ddim_2010.02502
    :table: Table 1
    ```

    ```{left-out}
    ```

``reproduced`` shows the rows of one table of a file of ``data/reported``: what is reported, what the records of profile
``paper`` have, and the difference; where there is no record yet, the cell to run and about how many GPU-hours that
number takes; where no cell reproduces it, why. ``left-out`` lists the tables of which no row is at hand. A row that has
neither a cell nor a reason, or a cell whose budgets are not those of its rows, fails the build.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import record_tables as tables
from docutils import nodes
from docutils.parsers.rst import directives
from record_pages import Directive, rows_of
from record_tables import Row
from sphinx.application import Sphinx

from fewstep import reported, results
from fewstep.errors import unknown


@functools.cache
def numbers(root: Path) -> list[reported.Number]:
    """:func:`fewstep.reported.numbers`, once for a build."""
    return reported.numbers(root)


def command(cell: results.Cell) -> str:
    """What runs a cell."""
    return f"make experiments PROFILE={cell.profile} CELL={cell.experiment}/{cell.name}"


class _Reported(Directive):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.root / "data" / "reported" / "reproduced.yml"))
        self.env.note_dependency(str(self.root / "workflow" / "experiments.yml"))
        for experiment in reported.METRICS:  # the page is read again when a record is made, changes or becomes stale
            self.records(reported.PROFILE, experiment)
        return super().run()

    def number(self, row: Row) -> list[nodes.Node]:
        """A measurement, struck if it is stale."""
        text = tables.shown(row, 3)
        return [nodes.inline("", text, classes=["stale"])] if row["stale"] else [nodes.Text(text)]

    def to_be_run(self, target: reported.Target) -> list[nodes.Node]:
        """Which command makes a number that is not there, and what that takes."""
        hours = reported.gpu_hours(target, self.root)
        text = f", about {hours:.2g} GPU-hours" if hours >= 1 else f", about {60 * hours:.2g} GPU-minutes"
        return [nodes.Text("not run yet: "), nodes.literal(text=command(target.cell)), nodes.Text(text)]

    def behind(self, targets: list[reported.Target]) -> list[nodes.Node]:
        """Where the measurements of a table come from, a line for each experiment."""
        found: list[nodes.Node] = []
        for experiment in reported.METRICS:
            paths = [t.cell.path(self.root / "data" / "results") for t in targets if t.cell.experiment == experiment]
            records = [results.read(path) for path in dict.fromkeys(paths) if path.exists()]
            if records:
                found += self.origins(records, rows_of(records, self.root))
        return found


class ReproducedDirective(_Reported):
    """One table of a paper."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {"table": directives.unchanged_required}

    def content_nodes(self) -> list[nodes.Node]:
        file, wanted = self.arguments[0], self.options["table"]
        of_file = [number for number in numbers(self.root) if number.file == file]
        if not of_file:
            raise unknown("file of data/reported/reproduced.yml", file, {n.file for n in numbers(self.root)})
        found = [number for number in of_file if number.row["table"] == wanted]
        if not found:
            raise unknown(f"table of {file}", wanted, {n.row["table"] for n in of_file})
        self.env.note_dependency(str(self.root / "data" / "reported" / f"{file}.csv"))
        metrics = list(dict.fromkeys(number.row["metric"] for number in found))
        reasons = dict.fromkeys(number.reason for number in found if number.reason)
        if not any(number.targets for number in found):
            text = f"{wanted[0].upper()}{wanted[1:]}, {len(found)} rows, not reproduced: {'; '.join(reasons)}."
            return [nodes.paragraph(text=text)]
        # A data set with several networks: where each has its own, its name says enough.
        by_model = len({(n.row["dataset"], n.row["model"]) for n in found}) > len({n.row["dataset"] for n in found})
        made = [reported.ours(target, self.root) for number in found for target in number.targets]
        top = ["data", *(["network"] if by_model else []), "sampler", "calls", "reported", "ours"]
        top += ["difference", "ratio", "verdict"] if any(made) else []
        content = []
        notes: dict[str, str] = {}
        for number in found:
            row = number.row
            value = row["value"] + (f"\u00a0±\u00a0{float(row['std']):g}" if row["std"] else "")
            value += f" ({row['metric']})" if len(metrics) > 1 else ""
            targets: list[reported.Target | None] = [*number.targets] or [None]
            for target in targets:
                sampler: list[nodes.Node] = [nodes.Text(tables.spelled(row["sampler"]))]
                if target is not None and len(number.targets) > 1:
                    sampler.append(nodes.Text(f", {target.cell.name}"))
                calls = row["nfe"] or "–" if target is None or target.budget is None else str(target.budget)
                line: list[list[nodes.Node]] = [[nodes.Text(row["dataset"])]]
                line += [[nodes.Text(row["model"])]] if by_model else []
                line += [sampler, [nodes.Text(calls)], [nodes.Text(value)]]
                line += self.measured(number, target)
                content.append(line + [[] for _ in top[len(line) :]])
                if target is not None and target.differs:
                    notes[f"{target.cell.experiment}/{target.cell.name}"] = target.differs
        caption = f"{found[0].row['paper']}, {wanted}: {', '.join(metrics)}"
        table = with_words(tables.build_table(caption, top, content, 2 + by_model), top.index("ours"))
        behind = self.behind([target for number in found for target in number.targets])
        return [table, *behind, *differences(notes)]

    def measured(self, number: reported.Number, target: reported.Target | None) -> list[list[nodes.Node]]:
        """Our number beside the reported one, or what stands in their place."""
        if target is None:
            return [[nodes.Text(f"left out: {number.reason}")]]
        row = reported.ours(target, self.root)
        if row is None:
            return [self.to_be_run(target)]
        theirs = float(number.row["value"])
        texts = [f"{row['value'] - theirs:+.2f}".replace("-", "−"), f"{row['value'] / theirs:.3g}"]
        return [self.number(row), *([nodes.Text(text)] for text in (*texts, reported.verdict(number, row)))]


def with_words(table: nodes.table, ours: int) -> nodes.table:
    """A table whose columns from ``ours`` on hold words where a number is missing: they are set as text."""
    table["classes"] = ["reported", "reproduced"]
    for line in table.findall(nodes.row):
        for entry in line.children[ours:]:
            cast(nodes.entry, entry)["classes"] = []
    return table


def differences(notes: dict[str, str]) -> list[nodes.Node]:
    """A list of what differs from the paper's protocol, and the cells that it holds for."""
    if not notes:
        return []
    by_text: dict[str, list[str]] = {}
    for name, text in notes.items():
        by_text.setdefault(text, []).append(name)
    found = nodes.bullet_list()
    for text, names in by_text.items():
        line = nodes.paragraph()
        for i, name in enumerate(names):
            line += [nodes.Text(", ")] * bool(i) + [nodes.literal(text=name)]
        line += nodes.Text(f": {text}.")
        found += nodes.list_item("", line)
    return [nodes.paragraph(text="Where the measurements differ from the paper's:"), found]


class LeftOutDirective(_Reported):
    """The tables of which no row is at hand, and what their cells measure."""

    def content_nodes(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for entry, targets in reported.unreported(self.root):
            if not targets:
                found.append(nodes.paragraph(text=f"{entry.table}: {entry.reason}."))
                continue
            content = [self.line(target) for target in targets]
            top = ["sampler", "grid", "network", "calls", "ours"]
            table = tables.build_table(entry.table, top, content, 3)
            found += [with_words(table, top.index("ours")), *self.behind(targets)]
        return found

    def line(self, target: reported.Target) -> list[list[nodes.Node]]:
        given = target.cell.parameters
        row = reported.ours(target, self.root)
        texts = [tables.label("solver", given["solver"]), given["grid"], given["network"], str(target.budget)]
        return [*([nodes.Text(text)] for text in texts), self.to_be_run(target) if row is None else self.number(row)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directives."""
    app.add_directive("reproduced", ReproducedDirective)
    app.add_directive("left-out", LeftOutDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
