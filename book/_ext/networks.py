"""The papers' networks: what ``data/models.yml`` declares of each, and what ``data/models.lock.json`` pins it to.

Directive::

    ```{networks}
    ```
"""

from __future__ import annotations

from typing import Any

import record_tables as tables
from docutils import nodes
from record_pages import Directive
from sphinx.application import Sphinx

from fewstep.models import declared, pins

DIGITS = 12


class NetworksDirective(Directive):
    """A table, a line for each network."""

    def content_nodes(self) -> list[nodes.Node]:
        for name in ("data/models.yml", pins.FILE):
            self.env.note_dependency(str(self.root / name))
        content = [self.line(name, record) for name, record in declared.records(self.root).items()]
        table = tables.build_table("The papers' networks", ["name", "network", "from", "pinned to"], content, 1)
        table["classes"] = ["reported"]
        return [table]

    def line(self, name: str, record: declared.Record) -> list[list[nodes.Node]]:
        """The cells of one network."""
        source, pin = record.source, pins.of(name, record, self.root)
        where = source.hub if isinstance(source, declared.Hub) else source.original
        texts = [nodes.Text(f"{record.title}; {record.licence}"), nodes.Text(where)]
        return [[nodes.literal(text=name)], *([text] for text in texts), pinned(record, pin)]


def pinned(record: declared.Record, pin: pins.Pin | None) -> list[nodes.Node]:
    """The commit and the SHA-256 of each part's weights, by their first digits."""
    commit = pin.revision if pin else getattr(record.source, "revision", None)
    texts = [("commit", commit)] if commit else []
    if pin:
        texts += [(part, pin.sha256[file]) for part, file in pin.files(record).items()]
    found: list[nodes.Node] = []
    for what, digits in texts:
        what = {"sha256": "SHA-256"}.get(what, what.replace("_", " "))
        found += [nodes.Text(f"{', ' if found else ''}{what} "), nodes.literal(text=digits[:DIGITS])]
    if pin is None:
        found.append(nodes.Text(", SHA-256 pinned at first use" if found else "pinned at first use"))
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive."""
    app.add_directive("networks", NetworksDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
