"""Tables of numbers for :mod:`records`: which rows, in which order, and how a number is written."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from docutils import nodes

from fewstep.errors import UserError
from fewstep.metrics import confidence_interval
from fewstep.solvers import SOLVERS

Row = dict[str, Any]


class Absent(UserError):
    """Nothing is there of what was asked for."""


LABELS = {"solver": "sampler", "nfe": "NFE", "budget": "NFE", "gamma": "γ", "eta": "η", "mu": "μ", "t_end": "end time"}
LABELS |= {"rho_data": "ρ₀", "rho_start": "ρ at the start", "snr": "ν"}
"""How a coordinate is spelled in a table's head."""

NOT_COORDINATES = {"profile", "experiment", "cell", "metric", "value", "low", "high", "seeds", "stale", "cells"}


# --- numbers as text -----------------------------------------------------------------------------------------------


def number(value: float, half: float | None = None, digits: int = 3) -> str:
    """A number to so many significant digits, ± half the width of its interval to the same place.

    Where the interval is wider than the number is large, the digits are the interval's.

    Raises:
        ValueError: if fewer than one digit is asked for.
    """
    if digits < 1:
        raise ValueError("a number has at least one digit")
    leading = max(abs(value), half or 0.0)
    exponent = int(f"{leading:.{digits - 1}e}".partition("e")[2])
    scaled = not -3 <= exponent < 5
    scale = 10.0**exponent if scaled else 1.0
    decimals = max(digits - 1 - (0 if scaled else exponent), 0)
    text = f"{value / scale:.{decimals}f}"
    if half is not None:
        width = f"{half / scale:.{decimals}f}"
        text += f" ± {width if float(width) or not half else f'{half / scale:.1g}'}"
    if not scaled:
        return text.replace("-", "−")
    power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return (f"({text})" if half is not None else text).replace("-", "−") + f"×10{power}"


def shown(row: Row, digits: int) -> str:
    """The value of a row with its interval."""
    half = None if row["low"] is None else (row["high"] - row["low"]) / 2
    return number(row["value"], half, digits)


def label(coordinate: str, value: Any) -> str:
    """A coordinate's value as a table shows it."""
    if value in (None, ""):
        return "–"
    if coordinate == "solver" and value in SOLVERS:
        return SOLVERS[value].title
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text.replace("-", "−") if isinstance(value, int | float) else text


SPELLINGS = {"sigma-hat": "σ̂", "rhoRK": "ρRK", "L_simple": "simple loss", " (Ours)": ""}
"""Of the papers' names in the files, which are in ASCII; theirs is not ours."""


def spelled(sampler: str) -> str:
    """A sampler's name as a paper's table has it, with its letters in Greek."""
    for there, here in SPELLINGS.items():
        sampler = sampler.replace(there, here)
    return re.sub(r"\beta ?= ?", "η\u00a0=\u00a0", sampler)


def capital(text: str) -> str:
    """A text with its first letter large, as a caption begins."""
    return text[:1].upper() + text[1:]


def head(coordinate: str) -> str:
    """A coordinate's name as a table shows it."""
    return LABELS.get(coordinate, coordinate.replace("_", " "))


# --- choosing rows -------------------------------------------------------------------------------------------------


def parse_filter(text: str, delimiter: str = ",") -> dict[str, list[str]]:
    """``a=1|2, "b=x, y"`` as ``{"a": ["1", "2"], "b": ["x, y"]}``.

    Raises:
        UserError: if a part is not ``name=value``.
    """
    found = {}
    for part in next(csv.reader([text.replace("\n", " ")], delimiter=delimiter, skipinitialspace=True), []):
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"filter {part!r}: name=value is needed")
        found[name.strip()] = [choice.strip() for choice in value.split("|")]
    return found


def matches(value: Any, texts: Sequence[str]) -> bool:
    """Whether a value is one of those written as text; a number is, if it is written to six digits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return any(math.isclose(_float(text), value, rel_tol=1e-6) for text in texts)
    return str(value).lower() in [text.lower() for text in texts] if isinstance(value, bool) else str(value) in texts


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def choose(rows: list[Row], filters: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows that all filters keep.

    Raises:
        Absent: if a filter names no column, or keeps nothing.
    """
    for name, texts in filters.items():
        if not any(name in row for row in rows):
            columns = sorted({column for row in rows for column in row})
            raise Absent(f"no column {name!r}; there are {', '.join(columns)}")
        kept = [row for row in rows if matches(row.get(name), texts)]
        if not kept:
            values = sorted({str(row.get(name)) for row in rows})
            raise Absent(f"nothing with {name}={'|'.join(texts)}; there is {', '.join(values)}")
        rows = kept
    return rows


def single(rows: list[Row]) -> Row:
    """The only row.

    Raises:
        UserError: if there are several; the line names the coordinates that tell them apart.
    """
    if len(rows) > 1:
        raise UserError(f"{len(rows)} numbers; they differ in {', '.join(varying(rows) or ['cell'])}")
    return rows[0]


def varying(rows: list[Row]) -> list[str]:
    """The coordinates in which these rows differ."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_COORDINATES)
    return [name for name in names if len({json.dumps(row.get(name)) for row in rows}) > 1]


def ordered(rows: list[Row], coordinate: str) -> list[Any]:
    """The values of a coordinate in a table's order: solvers as registered, numbers by size, others as they come."""
    values = list({json.dumps(row.get(coordinate)): row.get(coordinate) for row in rows}.values())
    if coordinate == "solver":
        names = list(SOLVERS)
        return sorted(values, key=lambda name: names.index(name) if name in SOLVERS else len(names))
    numbers = [value for value in values if isinstance(value, int | float)]
    return sorted(numbers) + [value for value in values if not isinstance(value, int | float)]


def layout(rows: list[Row], wanted_rows: list[str], wanted_columns: str | None) -> tuple[list[str], str | None]:
    """The coordinates of a table's rows and columns.

    What is not asked for is what varies: NFE stands in the columns, or else the coordinate with the most values that
    still fit beside each other.
    """
    free = [name for name in varying(rows) if name not in wanted_rows]
    counts = {name: len(ordered(rows, name)) for name in free}
    narrow = [name for name in free if counts[name] <= 8] if len(free) + len(wanted_rows) > 1 else []
    others = [name for name in narrow if name != "solver"]
    column = wanted_columns or next((name for name in ("budget", "nfe") if name in free), None)
    column = column or max(others, key=lambda name: counts[name], default=None)
    if wanted_rows:
        return wanted_rows, column
    alone = "solver" if any(row.get("solver") for row in rows) else "cell"
    by = [name for name in free if name != column] or [alone]
    # NFE follows from solver and budget (the table notes where it is less), and the cell tends to follow from the rest.
    short = [name for name in by if column != "budget" or name != "nfe"] or [alone]
    for choice in (short, by, ["cell", *short]):
        if len({json.dumps([row.get(name) for name in [*choice, column or "metric"]]) for row in rows}) == len(rows):
            return choice, column
    return ["cell", *by], column


def pool(rows: list[Row]) -> list[Row]:
    """One row for measurements that differ in their seeds only: their mean, with its 95 % interval.

    Such a row has the names of all cells that it comes from in ``cells``.
    """
    groups: dict[str, list[Row]] = {}
    apart = NOT_COORDINATES - {"profile", "experiment", "metric"}
    for row in rows:
        key = json.dumps({name: value for name, value in row.items() if name not in apart}, sort_keys=True)
        groups.setdefault(key, []).append(row)
    found = []
    for group in groups.values():
        seeds = [seed for row in group for seed in row["seeds"]]
        known = all(row["seeds"] and row["low"] is None for row in group)
        if len(group) == 1 or not known or len(set(seeds)) < len(seeds):
            found += group
            continue
        mean, low, high = confidence_interval([row["value"] for row in group])
        stale = next(filter(None, (row["stale"] for row in group)), None)
        cells = [row["cell"] for row in group]
        whole = {"value": mean, "low": low, "high": high, "seeds": sorted(seeds), "stale": stale, "cells": cells}
        found.append(group[0] | whole)
    return found


Cells = dict[tuple[tuple[Any, ...], Any], Row]


def pivot(rows: list[Row], by: list[str], column: str | None) -> tuple[list[tuple[Any, ...]], list[Any], Cells]:
    """Row keys, column keys and the one row at each of their crossings.

    Raises:
        UserError: if two rows meet in one place; the line names the coordinates that tell them apart.
    """
    ranks = [{json.dumps(value): rank for rank, value in enumerate(ordered(rows, name))} for name in by]
    cells: Cells = {}
    for row in rows:
        place = (tuple(row.get(name) for name in by), row.get(column) if column else None)
        if place in cells:
            apart = varying([cells[place], row])
            where = ", ".join(f"{name}={row.get(name)}" for name in filter(None, [*by, column]))
            how = f"they differ in {', '.join(apart)}: add it to rows or filter" if apart else "they are of two records"
            raise UserError(f"several numbers at {where}; {how}")
        cells[place] = row
    lines = sorted(
        {place[0] for place in cells},
        key=lambda line: [rank[json.dumps(value)] for rank, value in zip(ranks, line, strict=True)],
    )
    return lines, ordered(rows, column) if column else [None], cells


# --- nodes ---------------------------------------------------------------------------------------------------------


class HeadEntry(nodes.entry):
    """A cell of a table's head or of its first column: ``<th scope=…>``."""


def visit_head_entry(self: Any, node: HeadEntry) -> None:
    self.visit_entry(node)
    self.body[-1] = self.body[-1].replace("<th", f'<th scope="{node["scope"]}"', 1)


def build_table(caption: str, top: list[str], lines: list[list[list[nodes.Node]]], stubs: int) -> nodes.table:
    """A table with a caption, header cells in its first row and its first columns, and numbers elsewhere.

    A cell holds inline nodes, or lists.
    """
    group = nodes.tgroup(cols=len(top))
    group += [nodes.colspec(colwidth=1, **({"stub": 1} if index < stubs else {})) for index in range(len(top))]
    group["stubs"] = [int(index < stubs) for index in range(len(top))]
    cells = []
    for index, text in enumerate(top):
        texts = ["".join(node.astext() for node in line[index]) for line in lines]
        numbers = index >= stubs and all(re.match(r"[(−+\d]|(–|none|not finite)?$", below) for below in texts)
        cells.append(HeadEntry("", nodes.paragraph(text=text), scope="col", classes=["number"] * numbers))
    group += nodes.thead("", nodes.row("", *cells))
    body = nodes.tbody()
    for line in lines:
        row = nodes.row()
        for index, content in enumerate(line):
            entry = HeadEntry(scope="row") if index < stubs else nodes.entry(classes=["number"])
            lists = any(isinstance(node, nodes.bullet_list) for node in content)
            entry += content if lists else nodes.paragraph("", "", *content)
            row += entry
        body += row
    group += body
    return nodes.table("", nodes.title(text=caption), group, classes=["results"])


def some(values: Iterable[Any], limit: int = 4) -> str:
    """Distinct values as a list, shortened in the middle of a long one."""
    texts = list(dict.fromkeys(str(value) for value in values))
    return ", ".join(texts if len(texts) <= limit else [texts[0], f"… ({len(texts)})", texts[-1]])
