"""Which numbers of two sets of records differ."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .record import TOLERANCE, Record, key_of, words_of

__all__ = ["Change", "Comparison", "compare"]


class Change(NamedTuple):
    """A number that moved, or that only one side has (the other is None)."""

    record: str
    coordinates: dict[str, Any]
    field: str
    old: float | None
    new: float | None

    def __str__(self) -> str:
        what = f"{self.record} {words_of(self.coordinates)} {self.field}:"
        if self.new is None:
            return f"{what} {self.old:.9g} → missing"
        if self.old is None:
            return f"{what} missing → {self.new:.9g}"
        relative, absolute = TOLERANCE[self.coordinates["metric"]] or (math.inf, math.inf)
        return f"{what} {self.old:.9g} → {self.new:.9g} (tolerance {relative:g} relative, {absolute:g} absolute)"


@dataclass(frozen=True)
class Comparison:
    """How many numbers were compared, and those that moved."""

    compared: int
    changes: list[Change]


def compare(committed: Iterable[Record], fresh: Iterable[Record]) -> Comparison:
    """Compares every number of two sets of records, intervals too.

    Each may move within the :data:`~fewstep.results.record.TOLERANCE` of its metric.
    """
    old, new = _numbers(committed), _numbers(fresh)
    changes = []
    for place in [*old, *(place for place in new if place not in old)]:
        name, coordinates, which = (old.get(place) or new[place])[:3]
        before = old[place][3] if place in old else None
        after = new[place][3] if place in new else None
        relative, absolute = TOLERANCE[coordinates["metric"]] or (math.inf, math.inf)
        if before is None or after is None or not math.isclose(before, after, rel_tol=relative, abs_tol=absolute):
            changes.append(Change(name, coordinates, which, before, after))
    return Comparison(len(old.keys() | new.keys()), changes)


def _numbers(records: Iterable[Record]) -> dict[str, tuple[str, dict[str, Any], str, float]]:
    found = {}
    for record in records:
        for measurement in record.measurements:
            if TOLERANCE[measurement.metric] is None:
                continue
            coordinates = measurement.coordinates
            for which in ("value", "low", "high"):
                number = getattr(measurement, which)
                if number is not None:
                    place = key_of({"record": record.name, "field": which, **coordinates})
                    found[place] = (record.name, coordinates, which, number)
    return found
