"""The field guide, the list of deviations, and the tests, made from the registry, the records and the source.

::

    ```{field-guide} methods
    :name: tab-guide-methods
    ```

``methods`` is what each sampler is, ``errors`` what it does on the exact problems (option ``process``), ``reported``
what its authors report; ``budgets`` chooses the columns of the last two. A sampler whose table is equal to a measured
one's shows that one's numbers and says so; one that was not measured says that.

::

    ```{deviations}
    ```

    ```{deviation} pndm-label
    ```

Sizes of the deviations of :mod:`deviations`, all of them or one, computed when the page is read.

::

    ```{tests} tests/test_solvers.py
    ```

    {test}`tests/test_solvers.py::test_order_of_convergence`

Files of tests (a name, a pattern, or ``mathematics``: those that import solvers by name), each test with an address of
its own, and a link to one; a link to a test that does not exist fails the build.
"""

from __future__ import annotations

import ast
import csv
import functools
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import record_tables as tables
import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from record_pages import Records, Table, notes, provenance, rows_of
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from fewstep import analysis, grids, schedules
from fewstep.errors import UserError, unknown
from fewstep.results import METRICS
from fewstep.solvers import SOLVERS, Solver

Row = dict[str, Any]
Content = list[nodes.Node]

NO_BREAK = "\u00a0"
EXPERIMENT = ("digits", "exact_error")
"""Where the errors on the exact problems are recorded."""


def text(value: Any) -> Content:
    return [nodes.Text(str(value))]


def quiet(value: str) -> Content:
    """What stands where there is no number."""
    return [nodes.inline("", value, classes=["none"])]


# --- what follows from the registry --------------------------------------------------------------------------------


@functools.cache
def stochastic(name: str) -> bool:
    """Whether a solver's plan draws noise."""
    return example(name).stochastic


@functools.cache
def example(name: str) -> Any:
    """A plan of a solver, on DDPM's schedule, with at least 20 calls."""
    solver, process = SOLVERS[name], schedules.linear_vp()
    steps = max(solver.steps(max(20, solver.nfe(solver.min_steps, True)), True), solver.min_steps)
    return solver.load()(process, grids.uniform(process, steps), **solver.options)


@functools.cache
def equals() -> dict[str, list[str]]:
    """For each deterministic solver the others whose table is the same on every process and grid tried."""
    found: dict[str, set[str]] | None = None
    for process in (schedules.linear_vp(), schedules.ContinuousVP(), schedules.VE()):
        for spacing in (grids.uniform, grids.quadratic):
            plans = analysis.on_grid(process, 24, spacing)
            here = {name: set(group) for group in analysis.classes(plans) for name in group}
            found = here if found is None else {name: found[name] & here.get(name, set()) for name in found}
    return {name: [other for other in SOLVERS if other in group - {name}] for name, group in (found or {}).items()}


def calls(solver: Solver) -> str:
    """How many calls n steps make."""
    count = "n" if solver.calls == 1 else f"{solver.calls} n"
    if solver.extra:
        count += f" {'+' if solver.extra > 0 else '−'} {abs(solver.extra)}"
    return count.replace(" ", NO_BREAK)


def order(solver: Solver) -> str:
    return "–" if stochastic(solver.name) else str(solver.order)


def link(target: str, label: str, docname: str, role: str = "func") -> nodes.Node:
    """A link to an object of the API pages."""
    node = addnodes.pending_xref(
        "", refdomain="py", reftype=role, reftarget=target, refdoc=docname, refexplicit=True, refwarn=True
    )
    node += nodes.literal("", label, classes=["xref", "py"])
    return node


# --- tests ---------------------------------------------------------------------------------------------------------


@functools.cache
def test_functions(path: Path) -> dict[str, str]:
    """The tests of a file: name and source, decorators included."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def mathematics(root: Path) -> list[Path]:
    """The files of tests that import solvers by name."""
    imports = re.compile(r"^from fewstep\.(solvers|adaptive)\.\w+ import", re.MULTILINE)
    return [path for path in sorted((root / "tests").glob("test_*.py")) if imports.search(path.read_text("utf-8"))]


def label_of(path: str, name: str) -> str:
    """The label of a test's address."""
    return f"{Path(path).stem}-{name}".replace("_", "-").lower()


@functools.cache
def names_in_tests(root: Path) -> dict[tuple[str, str], set[str]]:
    """For each test, (file, test), the strings and names in it."""
    found = {}
    for path in mathematics(root):
        for name, source in test_functions(path).items():
            tree = list(ast.walk(ast.parse(source)))
            words = {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
            found[f"tests/{path.name}", name] = words | {node.id for node in tree if isinstance(node, ast.Name)}
    return found


def tests_of(solver: Solver, root: Path) -> list[tuple[str, str]]:
    """The tests that name a solver or its function: those of the function, of the fewest others first; (file, test)."""
    every = {*SOLVERS, *(other.function.split(":")[1] for other in SOLVERS.values())}
    function = solver.function.split(":")[1]
    found = {place: words for place, words in names_in_tests(root).items() if words & {solver.name, function}}
    return sorted(found, key=lambda place: (function not in found[place], len(found[place] & every)))


@functools.cache
def replays(root: Path) -> dict[str, set[str]]:
    """For each module of tests/replay what it imports from ``fewstep.solvers``: functions, and modules by full name."""
    found = {}
    for path in sorted((root / "tests" / "replay").glob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fewstep.solvers."):
                names |= {alias.name for alias in node.names} | {str(node.module)}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names.add(node.attr)
        found[path.stem] = names
    return {stem: names for stem, names in found.items() if stem not in ("__init__", "problem")}


PROPER = (
    "AB Bayes DDIM DDPM DEIS DPM EDM EI Euler FID FON GE GPU Heun iPNDM Kutta Langevin Maruyama ODE PLMS PNDM RK RK45"
    " Runge SDE tAB Taylor UniPC VE VP"
)
NAMES = {name.lower(): name for name in PROPER.split()}
NAMES |= {"f pndm": "F-PNDM", "s pndm": "S-PNDM", "ito": "Itô", "lambda": "λ", "rho": "ρ"}
"""How names that tests' names have in small letters are written."""


def in_words(name: str) -> str:
    """A test's name as words."""
    known = "|".join(sorted(NAMES, key=len, reverse=True))
    return re.sub(rf"\b({known})\b", lambda found: NAMES[found[0]], name.replace("_", " "))


def to_test(path: str, name: str | None, docname: str, label: str | None = None) -> nodes.Node:
    """A link to a test's address, or to its file's."""
    target = label_of(path, name) if name else label_of(path, "file")
    node = addnodes.pending_xref(
        "", refdomain="std", reftype="ref", reftarget=target, refdoc=docname, refexplicit=True, refwarn=True
    )
    node += nodes.inline("", label or in_words((name or Path(path).stem).removeprefix("test_")))
    return node


class TestRole(SphinxRole, Records):
    """A link to a test."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        path, _, name = self.text.partition("::")
        file = self.root / path
        known = test_functions(file) if file.exists() else {}
        if name not in known:
            raise self.fail(f"test {self.text!r}", unknown("test", name, known), self.lineno)
        return [to_test(path, name, self.env.docname)], []


class TestsDirective(SphinxDirective, Records):
    """The tests of a file, each under an address of its own."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        pattern = self.arguments[0]
        found = mathematics(self.root) if pattern == "mathematics" else sorted(self.root.glob(pattern))
        if not found:
            raise self.fail("tests", UserError(f"there is no file {pattern}"), self.lineno)
        return [self.file(path) for path in found]

    def file(self, path: Path) -> nodes.Node:
        self.env.note_dependency(str(path))
        name = path.relative_to(self.root).as_posix()
        section = nodes.section("", nodes.title("", "", nodes.literal(text=name)))
        self.address(section, label_of(name, "file"), path.stem)
        source = path.read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(source))
        if doc:
            section += nodes.paragraph(text=doc.split("\n\n")[0].replace("``", "").replace("\n", " "))
        tests = test_functions(path)
        for test, code in tests.items():
            holder = nodes.container("", nodes.literal_block(code, code, language="python"), classes=["test"])
            self.address(holder, label_of(name, test), test)
            section += holder
        if not tests:
            section += nodes.literal_block(source, source, language="python")
        return section

    def address(self, node: nodes.Element, label: str, title: str) -> None:
        node["ids"].append(label)
        self.env.domains["std"].note_hyperlink_target(label, self.env.docname, label, title)


# --- the field guide -----------------------------------------------------------------------------------------------


class FieldGuide(Table):
    """A row for each registered solver."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        "process": directives.unchanged,
        "budgets": directives.unchanged,
        "caption": directives.unchanged,
        "name": directives.unchanged,
    }

    def content_nodes(self) -> list[nodes.Node]:
        sources = (self.root / "src" / "fewstep").rglob("*.py")
        for path in [Path(__file__), *sources, *mathematics(self.root)]:
            self.env.note_dependency(str(path))
        parts = {"methods": self.methods, "errors": self.errors, "reported": self.reported}
        if self.arguments[0] not in parts:
            raise unknown("part of the field guide", self.arguments[0], parts)
        return parts[self.arguments[0]]()

    def budgets(self) -> list[int]:
        return [int(n) for n in self.options.get("budgets", "5, 10, 20, 50").split(",")]

    # --- what each is

    def methods(self) -> list[nodes.Node]:
        top = ["sampler", "name and source", "order", "calls", "noise", "tensors", "start and finish", "tests"]
        content = [[text(s.title), *self.method(s)] for s in SOLVERS.values()]
        table = tables.build_table(self.options.get("caption", "What each sampler is"), top, content, 1)
        table["classes"] = ["results", "guide"]
        return [self.place(table)]

    def method(self, solver: Solver) -> list[Content]:
        docname = self.env.docname
        function = solver.function.split(":")[1]
        links: list[nodes.Node] = []
        for file, name in tests_of(solver, self.root)[:1]:
            links += [nodes.Text("; "), to_test(file, name, docname)]
        programs = [stem for stem, names in replays(self.root).items() if function in names]
        # A replay may build a sampler of parts: it imports from the solver's module, but no sampler of it.
        whole = {other.function.split(":")[1] for other in SOLVERS.values() if other.module == solver.module}
        of_parts = [stem for stem, names in replays(self.root).items() if solver.module in names and not names & whole]
        programs = programs or of_parts
        for k, stem in enumerate(programs):
            links += [
                nodes.Text("; replays: " if k == 0 else ", "),
                to_test(f"tests/replay/{stem}.py", None, docname, stem.removesuffix("_schedulers").replace("_", "-")),
            ]
        if links:
            links[0] = nodes.Text(links[0].astext().removeprefix("; "))
        return [
            [
                link(f"{solver.module}.{function}", solver.name, docname),
                nodes.Text(" "),
                nodes.inline("", solver.reference, classes=["source"]),
            ],
            text(order(solver)),
            text(calls(solver)),
            text("yes" if stochastic(solver.name) else "no"),
            text(example(solver.name).slots),
            text(solver.rules.replace("ρ = 0", f"ρ{NO_BREAK}={NO_BREAK}0") or "–"),
            links or quiet("those of all"),
        ]

    # --- what each does

    def errors(self) -> list[nodes.Node]:
        process = self.options.get("process", "vp")
        records = self.records(*EXPERIMENT)
        rows = [row for row in rows_of(records, self.root) if row["metric"] == "error"]
        rows = tables.choose(rows, {"process": [process]}) if rows else []
        budgets = self.budgets()
        top = ["sampler", "best grid at 10", "at 20", *(f"error at {n}" for n in budgets)]
        content = [[text(s.title), *self.error(s, rows, budgets)] for s in SOLVERS.values()]
        caption = self.options.get("caption", f"{tables.capital(METRICS['error'])}, process {process}")
        table = tables.build_table(caption, top, content, 1)
        table["classes"] = ["results", "guide"]
        used = {row["cell"] for row in rows}
        found: list[nodes.Node] = [self.place(table)]
        if rows:
            found.append(provenance([r for r in records if r.provenance.cell in used], rows, self.root))
        for reason in dict.fromkeys(filter(None, (row["stale"] for row in rows))):
            found.append(nodes.paragraph(text=f"† stale: {reason}; to be measured again", classes=["stale-note"]))
            notes(self.env).stale.add((self.env.docname, "/".join(EXPERIMENT)))
        return found

    def error(self, solver: Solver, rows: list[Row], budgets: list[int]) -> list[Content]:
        mine, twin = [row for row in rows if row["solver"] == solver.name], None
        if not mine:
            measured = {row["solver"] for row in rows}
            twin = next((name for name in equals().get(solver.name, []) if name in measured), None)
            mine = [row for row in rows if row["solver"] == twin]
        if not mine:
            word = "stochastic" if stochastic(solver.name) else "not measured"
            return [quiet(word), *[quiet("–")] * (1 + len(budgets))]
        cells = [text(best["grid"]) if (best := least(mine, n)) else quiet("–") for n in (10, 20)]
        if twin:
            cells[0] = [*cells[0], *quiet(f", as {SOLVERS[twin].title}")]
        for n in budgets:
            row = least(mine, n)
            if row is None:
                cells.append(quiet("–"))
                continue
            shown: Content = text(tables.number(row["value"], digits=2))
            if row["stale"]:
                shown = [nodes.inline("", shown[0].astext(), classes=["stale"]), nodes.superscript(text="†")]
            if row["nfe"] != n:
                shown.append(nodes.inline("", f" at {row['nfe']}", classes=["nfe"]))
            cells.append(shown)
        return cells

    # --- what its authors report

    def reported(self) -> list[nodes.Node]:
        folder = self.root / "data" / "reported"
        self.env.note_dependency(str(folder / "by_solver.yml"))
        mapping = yaml.safe_load((folder / "by_solver.yml").read_text(encoding="utf-8"))
        for name in mapping:
            if name not in SOLVERS:
                raise unknown("solver in by_solver.yml", name, SOLVERS)
        budgets = self.budgets()
        top = ["sampler", "network", *(f"{n}" for n in budgets), "other calls", "source"]
        content = []
        for solver in SOLVERS.values():
            if solver.name not in mapping:
                content.append([text(solver.title), quiet("no number at hand"), *[quiet("–")] * (len(budgets) + 2)])
                continue
            for choice in mapping[solver.name]:
                content.append([text(solver.title), *self.quoted(choice, budgets)])
        caption = self.options.get("caption", "What the authors report: FID on CIFAR-10 at this many calls")
        table = tables.build_table(caption, top, content, 1)
        table["classes"] = ["reported", "guide"]
        return [self.place(table)]

    def quoted(self, choice: dict[str, Any], budgets: list[int]) -> list[Content]:
        path = self.root / "data" / "reported" / f"{choice['file']}.csv"
        if not path.exists():
            raise unknown("file of data/reported", choice["file"], (p.stem for p in path.parent.glob("*.csv")))
        self.env.note_dependency(str(path))
        with path.open(encoding="utf-8", newline="") as file:
            rows = tables.choose(list(csv.DictReader(file)), {k: [str(v)] for k, v in choice["where"].items()})
        values = {int(row["nfe"]): row["value"] for row in rows if row["nfe"].isdigit()}
        if len(values) < len([row for row in rows if row["nfe"].isdigit()]):
            raise UserError(f"by_solver.yml: two values at one NFE in {choice}; they differ in {tables.varying(rows)}")
        others = ", ".join(f"{values[n]} at {n}" for n in sorted(values) if n not in budgets)
        cells = [text(values[n]) if n in values else quiet("–") for n in budgets]
        source = tables.some((row["source"] for row in rows), 2)
        return [text(choice["network"]), *cells, text(others) if others else quiet("–"), text(source)]


def least(rows: list[Row], budget: int) -> Row | None:
    """The row of the smallest error at a budget, over the grids."""
    return min((row for row in rows if row.get("budget") == budget), key=lambda row: row["value"], default=None)


# --- deviations ----------------------------------------------------------------------------------------------------


class DeviationsDirective(Table):
    """All deviations, or the one that is named."""

    optional_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        "steps": directives.unchanged,
        "caption": directives.unchanged,
        "name": directives.unchanged,
    }

    def content_nodes(self) -> list[nodes.Node]:
        import deviations  # not before a page asks for it: it imports the replays

        steps = [int(n) for n in self.options.get("steps", "5, 10, 20, 50").split(",")]
        for path in [Path(inspect.getfile(deviations)), *(self.root / "tests" / "replay").glob("*.py")]:
            self.env.note_dependency(str(path))
        if not self.arguments:
            return [self.place(self.all(deviations, steps))]
        if self.arguments[0] not in deviations.DEVIATIONS:
            raise unknown("deviation", self.arguments[0], deviations.DEVIATIONS)
        return [self.place(self.one(deviations, self.arguments[0], steps))]

    def all(self, deviations: Any, steps: list[int]) -> nodes.table:
        top = ["program", "what differs", *(f"{n} steps" for n in steps)]
        content = []
        for key, deviation in deviations.DEVIATIONS.items():
            sizes = deviations.measured(key).difference
            to_section = addnodes.pending_xref(
                "", refdomain="std", reftype="ref", reftarget=f"dev-{key}", refdoc=self.env.docname, refexplicit=True,
                refwarn=True,
            )  # fmt: skip
            to_section += nodes.inline("", deviation.what)
            content.append([text(deviation.program), [to_section], *(self.size(sizes, n) for n in steps)])
        caption = self.options.get(
            "caption", "Size of each deviation: root mean square over 16 samples of the exact problem"
        )
        table = tables.build_table(caption, top, content, 1)
        table["classes"] = ["results", "guide", "deviations"]
        return table

    def one(self, deviations: Any, key: str, steps: list[int]) -> nodes.table:
        found = deviations.measured(key)
        steps = [n for n in steps if n in found.difference] or sorted(found.difference)
        lines = {
            "program to paper": found.difference,
            "paper to exact": found.paper,
            "program to exact": found.program,
        }
        top = ["root mean square", *(f"{n} steps" for n in steps)]
        content = [[text(name), *(self.size(of, n) for n in steps)] for name, of in lines.items() if of]
        deviation = deviations.DEVIATIONS[key]
        caption = self.options.get("caption", f"{deviation.program}, run {deviation.run}")
        table = tables.build_table(caption, top, content, 1)
        table["classes"] = ["results", "deviation"]
        return table

    def size(self, sizes: dict[int, float], n: int) -> Content:
        if n not in sizes:
            return quiet("–")
        if math.isnan(sizes[n]):
            return quiet("not finite")
        return text(tables.number(sizes[n], digits=2)) if sizes[n] > 1e-12 else quiet("none")


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("records")
    app.add_directive("field-guide", FieldGuide)
    app.add_directive("deviations", DeviationsDirective)
    app.add_directive("deviation", DeviationsDirective)
    app.add_directive("tests", TestsDirective)
    app.add_role("test", TestRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
