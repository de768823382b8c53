"""The dry run of profile `paper`: tiny networks of every layout, images in every format, every sampler."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("papermill")

import smoke

from fewstep import results
from fewstep.models import declared, pins

ROOT = Path(__file__).resolve().parents[1]

ONE_EACH = [  # a cell for every table and every layout of weights and images
    "fid/ddim-cifar10-quadratic",
    "fid/ddim-church",
    "fid/pndm-f-celeba",
    "fid/deis-tab3-vp-1e-3",
    "fid/ge-celeba-5",
    "fid/plms-coco",
    "fid/ve-corrector",
    "fid/rk45-vp",
    "bits/deis-rhork-kutta3-vp-deep",
]


def done(out):
    return tuple(map(int, re.search(r"paper-smoke: (\d+) numbers in (\d+) cells done, (\d+) failed", out).groups()))


def test_one_cell_of_each_kind(tmp_path, capfd):
    pinned = (ROOT / pins.FILE).read_bytes()
    assert smoke.run(ONE_EACH, first=True, place=tmp_path / "smoke", count=8) == 0
    assert done(capfd.readouterr().out) == (len(ONE_EACH), len(ONE_EACH), 0)
    made = tmp_path / "smoke" / "data" / "results" / "paper-smoke"
    records = {f"{path.parent.name}/{path.stem}": results.read(path) for path in made.rglob("*.json")}
    assert set(records) == set(ONE_EACH)
    for record in records.values():
        first = record.measurements[0]
        assert record.provenance.profile == "paper-smoke" and first.samples == 2
        assert not first.settings.get("published_inception", False)
    assert not list((ROOT / "data" / "results").glob("paper*"))
    assert (ROOT / pins.FILE).read_bytes() == pinned
    assert pins.read(tmp_path / "smoke").keys() == declared.records().keys()


def test_what_is_reduced_is_what_is_said():
    cells = results.cells("paper")
    small = [smoke.reduced(cell) for cell in cells]
    for cell, less in zip(cells, small, strict=True):
        kept = cell.parameters.keys() - smoke.REDUCED.keys() - {"budgets"}
        assert {name: less.parameters[name] for name in kept} == {name: cell.parameters[name] for name in kept}
        assert less.parameters["samples"] == 2 and less.profile == "paper-smoke"
        budgets = less.parameters.get("budgets", [])
        assert len(set(budgets)) == len(budgets) == len(cell.parameters.get("budgets", []))
        assert all(b in (a, a // 25) for a, b in zip(cell.parameters.get("budgets", []), budgets, strict=True))
    score = [cell.parameters["network"] for cell in cells if "score" in str(cell.parameters)]
    assert {declared.record_of(name).source.layout for name in score} == {"score-sde"}


@pytest.mark.slow
def test_all_cells(tmp_path, capfd):
    assert smoke.run(place=tmp_path / "smoke") == 0
    cells = results.cells("paper")
    numbers = sum(len(cell.parameters.get("budgets", [0])) for cell in cells)
    assert done(capfd.readouterr().out) == (numbers, len(cells), 0)


def test_an_unknown_cell_is_named(capsys):
    assert smoke.main(["--cell", "fid/ddim"]) == 2
    assert "unknown cell of profile paper 'fid/ddim'; did you mean" in capsys.readouterr().err
