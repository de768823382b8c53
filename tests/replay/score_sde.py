"""The vectors of score SDE's program."""

from __future__ import annotations

from .problem import Builder

BUILDERS: dict[str, Builder] = {}
