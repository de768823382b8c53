"""What autodoc and napoleon make of this package's docstrings, put right."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

kept: dict[str, list[str]] = {}


def keep(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Lay a constant's docstring aside: napoleon takes what stands before a colon in it for a type."""
    if what in ("attribute", "data", "property"):
        kept[name] = list(lines)


def restore(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = kept.pop(name, lines)


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what others describe: Python the fields of a named tuple, which its docstring has, pydantic its own."""
    alias = str(getattr(obj, "__doc__", "")).startswith("Alias for field number")
    return True if alias or name == "model_config" else None


def readable(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A default that a dataclass makes anew: ``<factory>`` is no Python, and a signature with it stays unparsed."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", keep, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", readable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
