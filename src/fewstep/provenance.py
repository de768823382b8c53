r"""What made a number: the key of an experiment's cell, the machine and the code's revision.

A *cell* is one run of an experiment's notebook with one set of parameters. Its **key** is a SHA-256 over the content
that determines its numbers:

- the code cells of ``book/experiments/<experiment>.ipynb``;
- the parameters;
- the SHA-256 of every shipped weight file that a parameter names (``model: digits-unet``);
- of a paper's network (``network: ddpm-cifar10``) its record in ``data/models.yml`` and what it is pinned to;
- the source of the modules of this package that the notebook imports, directly or through others. Solver families are
  found by name when they run, so a family belongs to the cells whose ``solver`` or ``solvers`` parameter names one of
  its solvers: an edit of one family changes the keys of its own rows only.

Code enters as its syntax tree without comments and docstrings: prose never makes a number stale. The modules that only
write numbers down or show them (:data:`OUTSIDE`) are left out, and so are the versions of other packages and the
machine; a record states those, and ``make check`` finds what they change.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, unknown

__all__ = ["OUTSIDE", "ROOT", "WEIGHTS", "cell_key", "device_name", "package_versions", "revision", "weights_of"]

ROOT = Path(os.environ.get("FEWSTEP_ROOT") or Path(__file__).resolve().parents[2])
"""The clone that holds the notebooks, the weights and the records (``FEWSTEP_ROOT`` names another one)."""

OUTSIDE = frozenset(f"fewstep.{name}" for name in ("results", "provenance", "figures", "cli", "errors", "files"))
"""Modules that determine no number: a change of the records' layout, a plot or a message makes nothing stale.

Of a package, all its modules."""

WEIGHTS = ("model", "other", "features", "guide")
"""The parameters that name networks."""

REGISTRY = ("SOLVERS", "ALIASES", "FIRST_ORDER", "RISING", "DDIM_LAST", "_table")
"""The names in ``fewstep.solvers`` that list the solvers."""

NETWORKS = ("data/models.yml", "data/models.lock.json")
"""What the papers' networks are, and what they are pinned to."""

PACKAGES = ("torch", "diffusers", "torch-fidelity", "numpy", "scipy")
DIRTY_PATHS = ("src", "book/experiments", "workflow", "data/checkpoints", *NETWORKS)


def cell_key(experiment: str, parameters: Mapping[str, Any], root: Path = ROOT) -> str:
    """The key of one cell: a SHA-256 in hexadecimal, the same on every machine and supported Python.

    Raises:
        UserError: if the notebook does not exist or is not plain Python, or a solver or weight file is unknown.
    """
    notebook = root / "book" / "experiments" / f"{experiment}.ipynb"
    cells = _code_cells(notebook)
    names = parameters.get("solvers", [])
    solvers = sorted({*([names] if isinstance(names, str) else names), *filter(None, [parameters.get("solver")])})
    entries = {name: _solver(name) for name in solvers}
    start = {found for cell in cells for found in _imports(cell, "", False, root)}
    start |= {module for module, _ in entries.values()}
    content: dict[str, Any] = {
        "notebook": [_dump(cell) for cell in cells],
        "parameters": parameters,
        "weights": weights_of(parameters, root),
        "solvers": {name: entry for name, (_, entry) in entries.items()},
        "sources": _closure(start, root),
    }
    if "network" in parameters:
        content["network"] = _declared(str(parameters["network"]), root)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def weights_of(parameters: Mapping[str, Any], root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of the weight files that the parameters in :data:`WEIGHTS` name, from the checkpoints' manifest.

    Raises:
        UserError: if the manifest does not know the name.
    """
    manifest = root / "data" / "checkpoints" / "manifest.json"
    known = {}
    if manifest.exists():
        known = {Path(file).stem: entry["sha256"] for file, entry in json.loads(manifest.read_text("utf-8")).items()}
    found = {}
    for name in filter(None, map(parameters.get, WEIGHTS)):
        if name not in known:
            raise unknown("weights", name, known)
        found[name] = known[name]
    return found


def _declared(network: str, root: Path) -> list[dict[str, Any]]:
    """The record and the pin of a paper's network, less what is only said about it; empty where there is none."""
    found = []
    for file in NETWORKS:
        path = root / file
        entries = _entries(path, path.stat().st_mtime_ns) if path.exists() else {}
        known = entries.get(network, {}).items()
        found.append({key: value for key, value in known if key not in ("title", "licence")})
    return found


@functools.cache
def _entries(path: Path, changed_ns: int) -> dict[str, dict[str, Any]]:
    try:
        found = yaml.safe_load(path.read_text("utf-8")) or {}  # JSON is YAML
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    entries = found.get("models", found) if isinstance(found, dict) else found
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: no networks by name; restore it with git")
    return entries


def _code_cells(notebook: Path) -> list[ast.Module]:
    try:
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
    except FileNotFoundError:
        known = sorted(path.stem for path in notebook.parent.glob("*.ipynb"))
        raise unknown("experiment", notebook.stem, known) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{notebook}: not a notebook ({error}); Jupyter's nbformat 4 is needed") from None
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    try:
        return [ast.parse(source) for source in sources]
    except SyntaxError as error:
        raise UserError(f"{notebook}: a code cell is not plain Python: {error.msg} ({error.text!r})") from None


def _solver(name: str) -> tuple[str, dict[str, Any]]:
    """The module of a solver, and its entry in the registry less what is only said about it."""
    from .solvers import get

    entry = get(name)
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    return entry.module, {key: value for key, value in values.items() if key not in ("title", "reference", "rules")}


def _path(module: str, root: Path) -> Path | None:
    path = root / "src" / Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@functools.cache
def _read(path: Path, changed_ns: int, module: str, root: Path) -> tuple[str, frozenset[str]]:
    """The digest of a module's code, and the modules of the package that it imports."""
    tree = ast.parse(path.read_text("utf-8"))
    # The registry lists every solver; only the entries of the cell's own solvers count, and those are added by name.
    digest = hashlib.sha256(_dump(tree, REGISTRY if module == "fewstep.solvers" else ()).encode()).hexdigest()
    return digest, frozenset(_imports(tree, module, path.name == "__init__.py", root))


def _closure(start: set[str], root: Path) -> dict[str, str]:
    """Digests of all modules of the package that these import, statically, at any depth of the code."""
    found: dict[str, str] = {}
    queue = set(start)
    while queue:
        module = queue.pop()
        path = _path(module, root)
        if path is None or module in found or ".".join(module.split(".")[:2]) in OUTSIDE:
            continue
        found[module], imported = _read(path, path.stat().st_mtime_ns, module, root)
        queue |= imported
    return found


def _imports(tree: ast.Module, module: str, is_package: bool, root: Path) -> Iterator[str]:
    """Modules of the package that a syntax tree imports, with the packages around them."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            members = [f"{base}.{alias.name}" for alias in node.names]
            inside = [name for name in members if _path(name, root)]
            names = inside if len(inside) == len(members) else [*inside, base]
        for name in names:
            parts = name.split(".")
            if parts[0] != "fewstep" or _path(name, root) is None:
                continue
            # Python runs fewstep/__init__.py before any module, but it holds the version only: not counted as a parent.
            yield from (".".join(parts[:n]) for n in range(2, len(parts)))
            yield name


def _dump(node: Any, skip: tuple[str, ...] = ()) -> str:
    """A syntax tree as text: no positions, no comments, no docstrings, and alike on every supported Python.

    ``ast.dump`` is not used because it gained fields (``type_params``) and omits empty ones since 3.13.
    """
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_dump(value, skip)}"
            for name, value in ast.iter_fields(node)
            if name not in ("ctx", "kind", "type_comment") and value is not None and value != []
        ]
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return "[" + ", ".join(_dump(item, skip) for item in node if not _is_prose(item, skip)) + "]"
    return repr(node)


def _is_prose(node: Any, skip: tuple[str, ...]) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.FunctionDef):
        return node.name in skip
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id in skip for target in targets)


def revision(root: Path = ROOT) -> tuple[str | None, bool | None]:
    """The commit checked out and whether the files that make numbers differ from it; ``(None, None)`` without git."""
    try:
        top, head = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != root.resolve():  # a copy that lies in another project's clone
            return None, None
        return head, bool(_git(root, "status", "--porcelain", "--", *DIRTY_PATHS).strip())
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def package_versions() -> dict[str, str]:
    """Versions of the packages that compute the numbers."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def device_name(device: str = "cpu") -> str:
    """The device in words: a GPU's product name, or the processor's and the threads that torch uses of it."""
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch

        return f"{torch.cuda.get_device_name(device)} (cuda)"
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    loaded = sys.modules.get("torch")
    threads = loaded.get_num_threads() if loaded else os.cpu_count()
    return f"{name}, {threads} thread{'s' if threads != 1 else ''} ({kind})"
