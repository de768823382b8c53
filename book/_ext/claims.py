"""The ledger of the papers' claims: ``data/claims.yml`` beside the tests and the records that check them.

::

    ```{claims}
    ```

    ```{claims}
    :paper: liu2022pndm
    ```

Without a paper the directive counts outcomes by paper; with one it shows a table of that paper's claims. A claim's
outcome is computed from its checks (:mod:`ledger`) when the page is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import guide
import record_tables as tables
from docutils import nodes
from docutils.parsers.rst import directives
from guide import Content
from ledger import ByTest, Checker, Claim, Finding, Least, Ledger, Less, Order, Verdict, Within, combine, read
from record_pages import Table, address, command, notes, provenance
from record_tables import Row
from sphinx import addnodes
from sphinx.application import Sphinx

from fewstep import results
from fewstep.errors import unknown

FILE = Path("data") / "claims.yml"

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


class ClaimsDirective(Table):
    """The claims of one paper, or the outcomes of all of them counted."""

    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        "paper": directives.unchanged_required,
        "caption": directives.unchanged,
        "name": directives.unchanged,
    }

    def content_nodes(self) -> list[nodes.Node]:
        self.env.note_dependency(str(self.root / FILE))
        for name in ("claims.py", "ledger.py"):
            self.env.note_dependency(str(Path(__file__).with_name(name)))
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
