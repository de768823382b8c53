"""Executed pages depend on more than their own text.

MyST-NB caches a page's outputs by its code cells alone, so a page would keep an old figure after a change in the
package that it imports or in the data that it reads. This extension puts the content of both into the cache's path:
when they change, every page is executed again; when only prose changes, none is.

``python book/_ext/execution.py PATH...`` prints the digest of these files and folders.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ("src", "data", "requirements.lock")
"""What the code of a page can read."""
IGNORED = {"__pycache__", ".ipynb_checkpoints", "cache", ".snakemake"}


def digest(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over the names (below ``root``) and contents of files, and of all files below folders."""
    files = [f for path in paths for f in ([path] if path.is_file() else path.rglob("*"))]
    total = hashlib.sha256()
    for file in sorted(set(files)):
        name = file.resolve().relative_to(root)
        if file.is_file() and not IGNORED.intersection(name.parts):
            total.update(f"{name.as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def choose_cache(app, config) -> None:
    """Point MyST-NB at the cache that belongs to the present package and data, and drop the others."""
    folder = Path(app.outdir).parent / "executed"
    cache = folder / digest((ROOT / name for name in INPUTS), ROOT)[:16]
    for old in folder.glob("*"):
        if old != cache:
            shutil.rmtree(old)
    config.nb_execution_cache_path = str(cache)


def setup(app) -> dict[str, object]:
    app.connect("config-inited", choose_cache)
    # A library in the kernels looks for widgets, which a printed page has no use for, and warns that it finds none.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    print(digest((Path(path) for path in sys.argv[1:]), ROOT))
