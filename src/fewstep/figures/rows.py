"""Records as flat rows, of which a figure takes what it draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..errors import UserError
from ..results import Record, Recorder

__all__ = ["Records", "cells_drawn", "distinct", "nothing_measured", "rows_of"]

Records = Iterable[Record | Recorder]
"""Records as :func:`fewstep.results.files.load` returns them, or the recorder that a notebook has just filled."""

_LOOKED_AT: ContextVar[set[str] | None] = ContextVar("_LOOKED_AT", default=None)


class _Row(dict[str, Any]):
    """A measurement as a flat row; notes its record's cell when its value is looked at.

    Records of another experiment than a figure draws lack some of its columns.
    """

    cell = ""

    def __getitem__(self, column: str) -> Any:
        if column == "value" and (cells := _LOOKED_AT.get()) is not None:
            cells.add(self.cell)
        return super().__getitem__(column)

    def __missing__(self, column: str) -> Any:
        raise nothing_measured(f"{self['metric']} against {column}")


@contextmanager
def cells_drawn() -> Iterator[set[str]]:
    """Collects the cells of the records whose values the functions of this package draw, as long as it is open."""
    cells: set[str] = set()
    token = _LOOKED_AT.set(cells)
    try:
        yield cells
    finally:
        _LOOKED_AT.reset(token)


def nothing_measured(what: str) -> UserError:
    """The error for what no record measures."""
    return UserError(f"no record measures {what}; `make experiments` makes the records")


def rows_of(records: Records, **where: Any) -> list[dict[str, Any]]:
    """The measurements as flat rows, those whose columns have these values.

    Raises:
        UserError: if there are none.
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        for measurement in record.measurements:
            row = _Row({**measurement.model_dump(exclude={"settings"}), **measurement.settings})
            row.cell = record.provenance.cell if isinstance(record, Record) else ""
            rows.append(row)
    rows = [row for row in rows if all(row.get(column) == value for column, value in where.items())]
    if not rows:
        wanted = " ".join(f"{column}={value}" for column, value in where.items())
        raise nothing_measured(wanted or "anything")
    return rows


def distinct(rows: Iterable[dict[str, Any]], column: str) -> list[Any]:
    """The distinct values of a column, in their order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))
