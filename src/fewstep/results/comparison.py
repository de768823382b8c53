"""Which numbers of two sets of records differ."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .record import TOLERANCE, Measurement, Record, key_of, words_of

__all__ = ["Change", "Comparison", "compare"]


class Change(NamedTuple):
    """A number that moved, or that only one side has (the other is None)."""

    record: str
    coordinates: dict[str, Any]
    field: str
    old: float | None
    new: float | None
    tolerance: tuple[float, float]

    def __str__(self) -> str:
        what = f"{self.record} {words_of(self.coordinates)} {self.field}:"
        if self.new is None:
            return f"{what} {self.old:.9g} → missing"
        if self.old is None:
            return f"{what} missing → {self.new:.9g}"
        relative, absolute = self.tolerance
        return f"{what} {self.old:.9g} → {self.new:.9g} (tolerance {relative:g} relative, {absolute:g} absolute)"


@dataclass(frozen=True)
class Comparison:
    """How many numbers were compared, and those that moved."""

    compared: int
    changes: list[Change]


def compare(committed: Iterable[Record], fresh: Iterable[Record]) -> Comparison:
    """Compares every number of two sets of records, intervals too.

    Each may move within the :data:`~fewstep.results.record.TOLERANCE` of its metric; one of a network in bfloat16, by
    half the width of its committed interval too.
    """
    old, new = _numbers(committed), _numbers(fresh)
    changes = []
    for place in [*old, *(place for place in new if place not in old)]:
        name, measurement, which, _ = old.get(place) or new[place]
        before = old[place][3] if place in old else None
        after = new[place][3] if place in new else None
        relative, absolute = _tolerance(measurement)
        if before is None or after is None or not math.isclose(before, after, rel_tol=relative, abs_tol=absolute):
            changes.append(Change(name, measurement.coordinates, which, before, after, (relative, absolute)))
    return Comparison(len(old.keys() | new.keys()), changes)


def _tolerance(measurement: Measurement) -> tuple[float, float]:
    allowed = TOLERANCE[measurement.metric]
    assert allowed is not None  # otherwise it is not compared
    relative, absolute = allowed
    in_bfloat16 = measurement.settings.get("network") == "bfloat16"
    if in_bfloat16 and measurement.low is not None and measurement.high is not None:
        absolute = max(absolute, (measurement.high - measurement.low) / 2)
    return relative, absolute


def _numbers(records: Iterable[Record]) -> dict[str, tuple[str, Measurement, str, float]]:
    found = {}
    for record in records:
        for measurement in record.measurements:
            if TOLERANCE[measurement.metric] is None:
                continue
            for which in ("value", "low", "high"):
                number = getattr(measurement, which)
                if number is not None:
                    place = key_of({"record": record.name, "field": which, **measurement.coordinates})
                    found[place] = (record.name, measurement, which, number)
    return found
