"""The one exception that means *the user asked for something impossible*.

Its text is one line: what is wrong, and what would be right. The command line prints it and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["NotAtHandError", "UserError", "unknown"]


class UserError(ValueError):
    """A request that cannot be carried out, said in one line (names that are quoted in it may have had several)."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class NotAtHandError(UserError):
    """Something must be fetched first, and cannot be fetched here."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not in a registry, with the nearest names that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
