"""Replays of the golden vectors: what the authors' programs computed, by this package's solvers.

One module for each program; ``BUILDERS`` makes the replay of a vector, or None where this package does not have the
sampler. Whatever a program does differently from its paper enters as the schedule, the grid or the slope that it
amounts to, never as a switch of a solver. ``EXPLAINED`` says of a vector that differs why it does, and checks the
difference itself.
"""

from __future__ import annotations

import importlib
import pkgutil

from .problem import DISCRETE, Builder, Case, Problem, cases

__all__ = ["BUILDERS", "DISCRETE", "EXPLAINED", "Case", "Problem", "cases"]

_PROGRAMS = [
    importlib.import_module(f".{module.name}", __name__)
    for module in pkgutil.iter_modules(__path__)
    if module.name != "problem"
]
BUILDERS: dict[str, Builder] = {name: builder for module in _PROGRAMS for name, builder in module.BUILDERS.items()}
EXPLAINED = {name: check for module in _PROGRAMS for name, check in getattr(module, "EXPLAINED", {}).items()}
