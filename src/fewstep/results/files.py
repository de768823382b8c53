"""Records in their files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import UserError, unknown
from ..files import complaint, write_atomically
from ..provenance import ROOT
from .record import Record

__all__ = ["RESULTS", "load", "read", "table", "write"]

RESULTS = ROOT / "data" / "results"
"""The committed records."""


def read(path: Path) -> Record:
    """One record from its file.

    Raises:
        UserError: if the file cannot be read or does not fit the schema; the line names the file and the field.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {complaint(error)}; a record as `make experiments` writes it is needed") from None


def write(record: Record, folder: Path = RESULTS) -> Path:
    """Writes a record to its place in a folder of records; the file appears whole or not at all.

    Raises:
        UserError: if it cannot be written (no space, no right).
    """
    where = record.provenance
    path = folder / where.profile / where.experiment / f"{where.cell}.json"
    text = json.dumps(record.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def load(profile: str, experiment: str, folder: Path = RESULTS) -> list[Record]:
    """All records of one experiment, by cell name; empty where none was made.

    Raises:
        UserError: if a file does not fit the schema, or lies where another record belongs.
    """
    records = []
    for path in sorted((folder / profile / experiment).glob("*.json")):
        record = read(path)
        if record.name != f"{profile}/{experiment}/{path.stem}":
            raise UserError(f"{path}: provenance: says {record.name}; a record's file is named by its provenance")
        records.append(record)
    return records


def table(records: Iterable[Record], **filters: Any) -> list[dict[str, Any]]:
    """Flat rows, one per measurement: profile, experiment, cell, the coordinates and settings, value, low, high.

    A filter keeps the rows whose column has this value, or one of these when a list, tuple or set is given.

    Raises:
        UserError: if no row has a column that is filtered by.
    """
    rows = []
    for record in records:
        where = {name: getattr(record.provenance, name) for name in ("profile", "experiment", "cell")}
        for measurement in record.measurements:
            rows.append({**where, **measurement.model_dump(exclude={"settings"}), **measurement.settings})
    for column, wanted in filters.items():
        if rows and not any(column in row for row in rows):
            raise unknown("column", column, {name for row in rows for name in row})
        allowed = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        rows = [row for row in rows if row.get(column) in allowed]
    return rows
