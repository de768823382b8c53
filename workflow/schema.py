"""What the parameters of a cell may be: those of its notebook, each of the type and meaning of its value there.

Nothing of a profile or a notebook is executed.
"""

from __future__ import annotations

import ast
import collections
import functools
import json
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    JsonValue,
    TypeAdapter,
    ValidationError,
)

from fewstep import grids, results, schedules, solvers
from fewstep.errors import UserError, unknown
from fewstep.provenance import ROOT
from fewstep.solvers.score_sde import PREDICTORS

HANDED_IN = "record_as"
"""The one parameter that every experiment has: the arguments of :func:`fewstep.results.recorder.recording`."""

CHECKPOINTS = ROOT / "data" / "checkpoints"


def _known(kind: str, names: Iterable[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise unknown(kind, name, names)
        return name

    return AfterValidator(check)


def _distinct(values: list[Any]) -> list[Any]:
    for value, count in collections.Counter(map(repr, values)).items():
        if count > 1:
            raise UserError(f"{value} stands there {count} times; once is needed")
    return values


def _solver(name: str) -> str:
    solvers.get(name)
    return name


def manifest() -> dict[str, Any]:
    """The checkpoints' manifest, by the names of the networks; empty if there is none.

    Raises:
        UserError: if it is not valid JSON.
    """
    path = CHECKPOINTS / "manifest.json"
    try:
        return {Path(file).stem: entry for file, entry in json.loads(path.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError):
        raise UserError(f"{path} is not valid JSON; restore it with git or train again with make train") from None


def _weights(*kinds: str) -> AfterValidator:
    def check(name: str) -> str:
        entries = manifest()
        if name not in entries:
            raise unknown("weights", name, entries)
        if entries[name]["kind"] not in kinds:
            right = [other for other, entry in entries.items() if entry["kind"] in kinds]
            raise UserError(
                f"{name!r} is of kind {entries[name]['kind']}; known of kind {kinds[0]}: {', '.join(right)}"
            )
        return name

    return AfterValidator(check)


def _network(name: str) -> str:
    from fewstep.models import declared  # here, not above: it needs torch, which takes seconds

    declared.record_of(name)
    return name


IMAGES = {"digits": (1_797, 1 * 8 * 8), "cifar10": (50_000, 3 * 32 * 32), "cifar10-test": (10_000, 3 * 32 * 32)}
"""How many images a data set has, and how many numbers an image."""

SOME = (Field(min_length=1), AfterValidator(_distinct))
Grid = Annotated[str, _known("grid", grids.GRIDS)]
Count = Annotated[int, Field(gt=0, le=10**12)]

MEANING: dict[str, Any] = {
    "solver": Annotated[str, AfterValidator(_solver)],
    "grid": Grid,
    "dataset": Annotated[str, _known("dataset", IMAGES)],
    "test": Annotated[str, _known("dataset", IMAGES)],
    "process": Annotated[str, _known("process", schedules.PROCESSES)],
    "model": Annotated[str, _weights("unet")],
    "network": Annotated[str, AfterValidator(_network)],
    "other": Annotated[str, _weights("unet")],
    "features": Annotated[str, _weights("features", "resnet")],
    "guide": Annotated[str, _weights("noisy-classifier")],
    "seed": Annotated[int, Field(ge=0, lt=2**64)],
    "predictor": Annotated[str, _known("predictor", PREDICTORS)],
    "weight": Annotated[FiniteFloat, Field(ge=0)],
    "snr": Annotated[FiniteFloat, Field(gt=0)],
    "gamma": FiniteFloat,
    "minutes": Annotated[FiniteFloat, Field(gt=0)],
    "keep": Annotated[int, Field(ge=0)],
    **dict.fromkeys(("budget", "samples", "batch", "calls", "reference_calls", "repeats", "trajectories"), Count),
}
"""What a parameter of this name is in every notebook; where a notebook's own value is a list, each of its values."""

PLURAL = {
    "processes": "process",
    **{f"{name}s": name for name in ("solver", "grid", "seed", "gamma", "budget", "predictor", "weight", "snr")},
}


def _schema(name: str, default: Any) -> Any:
    """The type that a parameter must have, by its name and by the value that its notebook gives it."""
    one = MEANING.get(PLURAL.get(name, name))
    if one is None:
        return kind(default)
    if name == "solvers" and isinstance(default, dict):
        with_grids = dict[one, Annotated[list[Grid], *SOME]]  # type: ignore[valid-type]
        return Annotated[with_grids, Field(min_length=1)]
    if name not in PLURAL and not isinstance(default, list):
        return one
    some = SOME[1:] if default == [] else SOME  # where nothing means something to the notebook, it may be nothing
    return Annotated[list[one], *some]  # type: ignore[valid-type]


def notebook(experiment: str) -> Path:
    """The notebook of an experiment.

    Raises:
        UserError: if there is none.
    """
    path = ROOT / "book" / "experiments" / f"{experiment}.ipynb"
    if not path.exists():
        raise unknown("experiment", experiment, (other.stem for other in path.parent.glob("*.ipynb")))
    return path


def defaults(experiment: str) -> dict[str, Any]:
    """The notebook's parameters and their values; None for a value that is not a literal.

    Raises:
        UserError: if there is no such notebook, or no cell tagged ``parameters`` that holds :data:`HANDED_IN`.
    """
    path = notebook(experiment)
    return _defaults(path, path.stat().st_mtime_ns)


@functools.cache
def _defaults(path: Path, changed_ns: int) -> dict[str, Any]:
    try:
        parts = json.loads(path.read_text("utf-8"))["cells"]
        tagged = [part for part in parts if "parameters" in part["metadata"].get("tags", [])]
        body = [node for part in tagged[:1] for node in ast.parse("".join(part["source"])).body]
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise UserError(f"{path}: not a notebook with plain Python ({error}); Jupyter's nbformat 4 is needed") from None
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    found[target.id] = _literal(node.value)
    if HANDED_IN not in found:
        raise UserError(f"{path}: a cell tagged 'parameters' with {HANDED_IN!r} in it is needed")
    return found


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None


def kind(default: Any) -> Any:
    """The type of the values that may replace this one: alike at every depth, and whatever JSON has for a None."""
    if isinstance(default, list | tuple | dict):
        parts = default.values() if isinstance(default, dict) else default
        kinds = tuple(dict.fromkeys(kind(part) for part in parts)) or (JsonValue,)
        return dict[str, Union[kinds]] if isinstance(default, dict) else list[Union[kinds]]  # type: ignore[valid-type]  # noqa: UP007
    for plain in (bool, int, str):  # a bool is an int too
        if isinstance(default, plain):
            return plain
    return FiniteFloat if isinstance(default, float) else JsonValue


def _complaint(name: str, value: Any, default: Any) -> str | None:
    """What is wrong with the value of a parameter, in one line; None if nothing is."""
    try:
        TypeAdapter(_schema(name, default)).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), UserError):
            return f"{name}: {cause}"
        place = "".join(f"[{part!r}]" for part in first["loc"] if part != "[key]")
        like = "" if default is None else f", like the notebook's {reprlib.repr(default)}"
        return f"{name}{place}: {first['msg']}{like}; got {reprlib.repr(first['input'])}"
    return None


def mistakes(cells: Iterable[results.Cell]) -> list[str]:
    """What is wrong with the cells' parameters, after the notebooks and :data:`MEANING`; a line for each mistake."""
    found: dict[str, list[str]] = {}  # several cells may share a mistake
    for cell in cells:
        try:
            known = {name: value for name, value in defaults(cell.experiment).items() if name != HANDED_IN}
        except UserError as error:
            found.setdefault(str(error), [])
            continue
        for name, value in cell.parameters.items():
            complaint = _complaint(name, value, known.get(name)) if name in known or name in MEANING else None
            if complaint is None and name not in known:
                complaint = str(unknown("parameter", name, known))
            if complaint is not None:
                found.setdefault(complaint, []).append(f"{cell.profile}/{cell.experiment}/{cell.name}")
    lines = []
    for complaint, places in found.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        lines.append(str(UserError(f"{places[0]}{more}: {complaint}" if places else complaint)))
    return lines


def complete(cell: results.Cell) -> dict[str, Any]:
    """All parameters of a cell, those that it leaves to the notebook too."""
    return {
        **{name: value for name, value in defaults(cell.experiment).items() if name != HANDED_IN},
        **cell.parameters,
    }
