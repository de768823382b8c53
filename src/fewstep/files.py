"""Files that appear whole or not at all, and YAML files that fit a schema."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = ["complaint", "read_yaml", "write_atomically"]


def read_yaml(path: Path, schema: Any) -> Any:
    """The content of a YAML file as a type that pydantic knows.

    Raises:
        UserError: if it cannot be read, is not YAML or does not fit; the line names the file and the first fault.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(schema).validate_python(yaml.safe_load(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; restore it with git") from None
    except ValidationError as error:
        raise UserError(f"{path}: {complaint(error)}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no text, or a date that does not exist
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def complaint(error: Any) -> str:
    """The first fault that pydantic's ``ValidationError`` names, in one line: the field, and what is wrong with it."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place or 'the document'}: {first['msg']}{more}"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: a reader sees the old file or the new one.

    What was written is on the disk before the rename, so that a crash of the machine leaves one of the two as well. A
    temporary file that a killed writer of the same file has left is removed.

    Raises:
        UserError: if the folder cannot be written to, or is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's file is readable by its owner only
        temporary.replace(path)
        with contextlib.suppress(OSError):
            for left in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
                left.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose a folder with room and rights"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
