"""``fewstep list``."""

from __future__ import annotations

from typing import Any

import click

from .. import profiles, schedules
from ..errors import unknown


def _solvers() -> list[tuple[str, str]]:
    from ..solvers import ALIASES, SOLVERS

    rows = []
    for s in SOLVERS.values():
        aliases = [alias for alias, name in ALIASES.items() if name == s.name]
        also = f"; also {', '.join(aliases)}" if aliases else ""
        rows.append((s.name, f"{s.title}; order {s.order}, on {s.default_grid} by default ({s.reference}){also}"))
    return rows


def _grids() -> list[tuple[str, str]]:
    from ..grids import GRIDS

    return [(name, _first_line(function)) for name, function in GRIDS.items()]


def _processes() -> list[tuple[str, str]]:
    return [(name, _first_line(make)) for name, make in schedules.PROCESSES.items()]


def _layouts() -> list[tuple[str, str]]:
    from ..models.convert import LAYOUTS

    return [(name, layout.title) for name, layout in LAYOUTS.items()]


def _models() -> list[tuple[str, str]]:
    from ..models import declared, pins

    known, rows = pins.read(), []
    for name, record in declared.records().items():
        pin = known.get(name)
        at = f"pinned to {pin.short}" if pin else "pinned at first use"
        rows.append((name, f"{record.title} ({record.licence}), {at}"))
    return rows


def _profiles() -> list[tuple[str, str]]:
    return [
        (p.name, f"data {p.dataset}, network {p.model}, features {p.features}") for p in profiles.PROFILES.values()
    ]


def _first_line(thing: Any) -> str:
    """The first paragraph of a docstring as one line, without its markup."""
    text = " ".join((thing.__doc__ or "").split("\n\n")[0].split())
    for mark in (":math:", ":func:", ":data:", "`"):
        text = text.replace(mark, "")
    return text


KINDS = {
    "solvers": _solvers,
    "grids": _grids,
    "processes": _processes,
    "layouts": _layouts,
    "models": _models,
    "profiles": _profiles,
}
"""What ``fewstep list`` lists, each as rows of a name and what it is."""


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
