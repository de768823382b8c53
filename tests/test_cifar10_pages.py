"""The tables and figures of the profile cifar10 on the pages, from records that are made up: all of them, and few."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("myst_parser")

from test_records_ext import CONF, ROOT, build, table_text

from fewstep import results

FENCE = re.compile(r"^```\{(?:results|drawn)\} cifar10/(?:fd_cifar|ode_error)\n.*?^```$", re.MULTILINE | re.DOTALL)
PAGE = "\n\n".join(
    found[0] for path in sorted((ROOT / "book/chapters").glob("*.md")) for found in FENCE.finditer(path.read_text())
)


@pytest.fixture
def clone(tmp_path):
    for folder in ("src", "book/experiments", "workflow"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    weights = tmp_path / "data/checkpoints/manifest.json"
    weights.parent.mkdir(parents=True)
    names = ("cifar10-unet", "cifar10-features")
    weights.write_text(json.dumps({f"{name}.safetensors": {"sha256": "0" * 64} for name in names}))
    (tmp_path / "book/conf.py").write_text(CONF.format(extensions=str(ROOT / "book/_ext"), root=str(tmp_path)))
    return tmp_path


def measure(cell: results.Cell) -> list[results.Measurement]:
    """What the cell's notebook would measure, with other values."""
    found = []
    given = {"budgets": [5, 6, 8, 10, 12, 15, 20, 50, 100], "seeds": [0], **cell.parameters}
    distances = cell.experiment == "fd_cifar"
    metrics = ("frechet_distance", "seconds") if distances else ("ode_error", "feature_error")
    pairs = [(solver, grid) for solver, grids in given["solvers"].items() for grid in grids]
    options = [{"gamma": gamma} for gamma in given.get("gammas", ())] or [{}]
    for solver, grid in pairs:
        for budget in given["budgets"]:
            for more in options:
                for seed in given["seeds"]:
                    where = {"solver": solver, "grid": grid, "nfe": budget, "seeds": [seed]}
                    where |= {"samples": given["samples"], "settings": {"budget": budget, **more}}
                    found += [results.Measurement(metric=name, value=100 / budget + seed, **where) for name in metrics]
    if not distances:
        where = {"solver": "rk4", "grid": "quadratic", "nfe": 1000, "seeds": [0], "samples": given["samples"]}
        settings = {"budget": 1000, "of": "the reference"}
        found.append(results.Measurement(metric="ode_error", value=1e-5, **where, settings=settings))
    return found


def record(root: Path, names: set[str] | None = None) -> None:
    for cell in (c for name in ("fd_cifar", "ode_error") for c in results.cells("cifar10", name)):
        if names is None or f"{cell.experiment}/{cell.name}" in names:
            made = results.Provenance(
                profile="cifar10",
                experiment=cell.experiment,
                cell=cell.name,
                parameters=cell.parameters,
                key=cell.key(root),
                weights={},
                feature_net=None,
                device="a card (cuda)",
                python="3.12",
                packages={},
                revision=None,
                dirty=None,
                started="2026-01-01T00:00:00+00:00",
                wall_s=1.0,
            )
            results.write(results.Record(provenance=made, measurements=measure(cell)), root / "data/results")


def test_all_records_make_all_tables_and_figures(clone):
    record(clone)
    html, _, _ = build(clone, PAGE)
    assert len(re.findall(r"^```\{drawn\}", PAGE, re.MULTILINE)) <= html.count("<img") and "was not run" not in html
    # DDIM at 10 calls: the mean of 10, 11 and 12 over the seeds of two cells.
    assert any("11.0 ± 2.5" in line for line in table_text(html))


def test_few_records_make_some(clone):
    record(clone, {"fd_cifar/ddim-10", "fd_cifar/ge-few"})
    html, _, _ = build(clone, PAGE)
    assert any("10.0" in line for line in table_text(html)) and "was not run" in html
