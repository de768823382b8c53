"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import UserError

__all__ = ["write_atomically"]


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
