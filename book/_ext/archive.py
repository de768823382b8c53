"""What a notebook needs where there is no clone, as one archive: the package, what it reads, and the notebooks.

The bytes follow from the names and contents alone, so that a book that is built twice offers the same file.
"""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from execution import IGNORED

ROOT = Path(__file__).resolve().parents[2]

FOLDER = "fewstep-book"
NAME = f"{FOLDER}.zip"

CONTENT = ("LICENSE", "README.md", "book/experiments", "data", "pyproject.toml", "src", "workflow/experiments.yml")
"""What pip installs, and what the code of a page reads: weights, records, and what the keys of records are made of."""
HEAVY = "data/checkpoints/cifar10-*"
"""Weights of tens of MB, with which no page computes."""


def sources(root: Path = ROOT) -> dict[str, Path]:
    """The files of :data:`CONTENT` by their names below ``root``; none that git ignores."""
    found = _known_to_git(root) or [path for name in CONTENT for path in (root / name, *(root / name).rglob("*"))]
    files = {path.relative_to(root).as_posix(): path for path in sorted(found) if path.is_file()}
    return {name: path for name, path in files.items() if not _left_out(name)}


def _known_to_git(root: Path) -> list[Path]:
    """The files of :data:`CONTENT` that git tracks or would track; none where there is no git, or no clone."""
    if not (root / ".git").exists():  # then git may speak of a clone around it, which has other rules
        return []
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *CONTENT]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [root / name for name in names.split("\0") if name]


def _left_out(name: str) -> bool:
    """Whether a file has no place in the archive: by its name, for there may be no git to ask."""
    parts = name.split("/")
    by_tools = any(part in IGNORED or part.startswith(".") or part.endswith(".egg-info") for part in parts)
    return by_tools or fnmatch(name, HEAVY)


def pack(files: Mapping[str, Path]) -> bytes:
    """A ZIP archive of one folder, :data:`FOLDER`, with these files by their names in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}")  # the date is 1980's first day
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, whatever this machine is
            packed = path.suffix != ".safetensors"  # weights hardly get smaller
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return content.getvalue()
