"""``fewstep list``."""

from __future__ import annotations

from typing import Any

import click

from .. import grids, profiles, schedules, solvers
from ..errors import unknown


def _also(solver: str) -> str:
    names = [alias for alias, name in solvers.ALIASES.items() if name == solver]
    return f"; also {', '.join(names)}" if names else ""


KINDS = {
    "solvers": lambda: [
        (s.name, f"{s.title}; order {s.order}, on {s.default_grid} by default ({s.reference}){_also(s.name)}")
        for s in solvers.SOLVERS.values()
    ],
    "grids": lambda: [(name, _first_line(function)) for name, function in grids.GRIDS.items()],
    "processes": lambda: [(name, _first_line(make)) for name, make in schedules.PROCESSES.items()],
    "layouts": lambda: [(name, layout.title) for name, layout in _layouts().items()],
    "models": lambda: [(name, f"{record.title} ({record.licence})") for name, record in _paper_models().items()],
    "profiles": lambda: [
        (p.name, f"data {p.dataset}, network {p.model}, features {p.features}") for p in profiles.PROFILES.values()
    ],
}
"""What ``fewstep list`` lists."""


def _layouts() -> Any:
    from ..models.convert import LAYOUTS  # here, not above: it imports torch

    return LAYOUTS


def _paper_models() -> Any:
    from ..models import zoo

    return zoo.records()


def _first_line(thing: Any) -> str:
    """The first sentence of a docstring, without its markup."""
    text = " ".join((thing.__doc__ or "").split("\n\n")[0].split())
    for mark in (":math:", ":func:", ":data:", "`"):
        text = text.replace(mark, "")
    return text


@click.command("list")
@click.argument("kind", required=False)
def list_(kind: str | None) -> None:
    """List what there is: KIND is solvers, grids, processes, layouts, models or profiles (default: all of them)."""
    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    for name in [kind] if kind else KINDS:
        rows = KINDS[name]()
        width = max(len(row[0]) for row in rows)
        if kind is None:
            click.echo(f"{name}:")
        for row in rows:
            click.echo(f"{'' if kind else '  '}{row[0]:{width}s}  {row[1]}")
