"""`make gpu` in small: a tiny network on a few images, on the CPU, cut short once and taken up again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gpu as program
import numpy as np
import preflight
import pytest
import smoke
from PIL import Image

from fewstep import results, shards

ROOT = Path(__file__).resolve().parents[1]

PLAN = """\
cifar10:
  train_classifier:
    cells:
      features: {steps: 5, batch: 8, warmup: 0, lr: 0.01, widths: [4, 6, 8, 8]}
  train_unet:
    cells:
      unet:
        minutes: 0.04
        batch: 2
        warmup: 0
        levels: 2
        probe: 4
        unet: {channels: [4, 4], layers: 1, attention_head_dim: 2, norm_num_groups: 2, attention: [1]}
  sanity:
    parameters: {features: cifar10-features}
    cells:
      images: {blurs: [1.0], noises: [0.1], qualities: [20]}
  samples:
    cells:
      grids: {model: cifar10-unet, budgets: [2], samples: 4}
  speed:
    cells:
      ddim: {model: cifar10-unet, calls: 2, batch: 3, repeats: 1, ways: [eager]}
  ode_error:
    parameters: {model: cifar10-unet, features: cifar10-features, budgets: [2], reference_calls: 80, samples: 3}
    cells:
      ddim: {solvers: {ddim: [quadratic]}}
      ge: {solvers: {ge: [log-linear]}}
  ideal_error:
    cells:
      ddim: {solvers: {ddim: [quadratic], fon: [uniform]}, budgets: [5], reference_calls: 40, samples: 3}
  trajectories:
    cells:
      ddim:
        {model: cifar10-unet, times: [999, 10], steps: [1, 10], nodes: 5, reference_steps: 20, budget: 3, samples: 2}
  encoding:
    cells:
      ddim: {dataset: cifar10, model: cifar10-unet, ideals: [], budgets: [3], samples: 3}
  fid_cifar:
    cells:
      ddim: {model: cifar10-unet, budgets: [2], samples: 4, batch: 4}
  fd_cifar:
    shards: 3
    parameters: {model: cifar10-unet, features: cifar10-features, samples: 12, keep: 12, batch: 5, budgets: [2]}
    cells:
      ddim: {solvers: {ddim: [uniform]}, seeds: [0, 1]}
      sweep: {solvers: {ge: [log-linear]}, gammas: [1.0, 2.0]}
      wrong: {solvers: {ddim: [uniformm]}}
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    root = tmp_path_factory.mktemp("clone")
    for folder in ("src", "workflow", "book/experiments"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "workflow/experiments.yml").write_text(PLAN)
    random = np.random.default_rng(1)
    for part, count in (("train", 3), ("test", 2)):
        for name in "abcdefghij":
            (root / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / part / name / f"{number}.png")
    return root


def gpu(clone, minutes, **more):
    environment = {**os.environ, "FEWSTEP_ROOT": str(clone), "PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
    environment |= {"FEWSTEP_DATA": str(clone / "images"), "https_proxy": "http://127.0.0.1:9", **more}  # no network
    command = [sys.executable, str(clone / "workflow/gpu.py"), "cifar10", "--minutes", str(minutes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def records(clone):
    return sorted(
        p.relative_to(clone / "data/results/cifar10").as_posix() for p in clone.glob("data/results/*/*/*.json")
    )


def test_a_mistake_costs_nothing(clone):
    code, said = gpu(clone, 1, FEWSTEP_DATA=str(clone / "none"))
    assert code == 2 and said.count("\n") == 1 and "none is not a folder" in said
    plan = clone / "workflow/experiments.yml"
    plan.write_text(PLAN.replace("{ddim: [uniform]}", "{ddimm: [uniform]}"))
    code, said = gpu(clone, 1)
    plan.write_text(PLAN)
    assert code == 2 and "unknown solver 'ddimm'" in said and "start" not in said
    assert not (clone / "data").exists()


def test_cut_short_and_taken_up_again(clone):
    # A deadline that has passed cuts a training after its first block.
    code, said = gpu(clone, 5, FEWSTEP_DEADLINE="0", TRAIN_MINUTES="10")
    assert code == 0, said
    assert "start  cifar10/train_unet/unet" in said and "later  cifar10/train_unet/unet" in said, said
    assert records(clone) == ["train_classifier/features.json"]
    manifest = json.loads((clone / "data/checkpoints/manifest.json").read_text())
    assert list(manifest) == ["cifar10-features.safetensors"]

    code, said = gpu(clone, 5)
    assert code == 1 and "unknown grid 'uniformm'" in said, said  # one bad cell stops no other
    assert "later  cifar10/fid_cifar/ddim: cannot fetch" in said and "1 left, 2 failed" in said
    # Images of noise are no nearer to other noise than to themselves with a damage: it is said, and recorded.
    wrongly = "cifar10-features order images wrongly: test images are nearer than damaged ones"
    assert f"failed cifar10/sanity/images: {wrongly}" in said
    assert "Traceback" not in said
    assert "train_classifier" not in said  # what is there is left alone
    measured = [
        *(
            "encoding/ddim",
            "fd_cifar/ddim",
            "fd_cifar/sweep",
            "ideal_error/ddim",
            "ode_error/ddim",
            "ode_error/ge",
            "samples/grids",
            "sanity/images",
            "speed/ddim",
        ),
        "trajectories/ddim",
    ]
    assert records(clone) == [
        f"{name}.json" for name in sorted([*measured, "train_classifier/features", "train_unet/unet"])
    ]
    assert (clone / "book/_static/cifar10/ddim-uniform-2.png").exists()
    assert len(list(clone.glob("data/cache/solutions/*"))) == 1  # both cells of ode_error are compared with it
    swept = json.loads((clone / "data/results/cifar10/fd_cifar/sweep.json").read_text())["measurements"]
    assert {m["settings"]["gamma"] for m in swept} == {1.0, 2.0}
    along = json.loads((clone / "data/results/cifar10/trajectories/ddim.json").read_text())["measurements"]
    kinds = {"score_error", "eps_error", "extrapolation_error", "distance", "relative_error"}
    assert {m["metric"] for m in along} == kinds
    record = json.loads((clone / "data/results/cifar10/fd_cifar/ddim.json").read_text())
    metrics = [m["metric"] for m in record["measurements"] if m["seeds"] == [1]]
    assert metrics == ["frechet_distance", "kernel_distance", "precision", "recall", "seconds"]
    assert set(record["provenance"]["weights"]) == {"cifar10-unet", "cifar10-features"}
    sanity = json.loads((clone / "data/results/cifar10/sanity/images.json").read_text())["measurements"]
    distance = {m["settings"]["images"]: m["value"] for m in sanity if m["metric"] == "frechet_distance"}
    truth = {m["settings"]["statement"]: m["value"] for m in sanity if m["metric"] == "truth"}
    assert truth["no distance to itself"] == 1 and truth["test images are nearer than damaged ones"] == 0
    assert set(distance) == {"train", "test", "blurred", "noised", "JPEG", "half resolution"}
    assert abs(distance["train"]) < 1e-3 * distance["test"]
    smoke.inception(clone)
    code, said = gpu(clone, 5, FEWSTEP_INCEPTION=str(clone / "inception.pth"))
    assert code == 1 and "done   cifar10/fid_cifar/ddim" in said and "0 left, 1 failed" in said, said
    (fid,) = json.loads((clone / "data/results/cifar10/fid_cifar/ddim.json").read_text())["measurements"]
    assert fid["metric"] == "fid" and fid["samples"] == 4 and not fid["settings"]["published_inception"]
    state = clone / "data/cache/train/cifar10-unet.state.safetensors"
    assert state.exists()  # a longer training goes on from there


def test_what_is_worth_most_comes_first(monkeypatch):
    """After training and samples, FD-cifar at 10 calls; then the other experiments, then the rest of FD-cifar."""
    monkeypatch.setattr(results, "stale_cells", results.cells)  # there need be no weights
    order = program.by_worth("cifar10")
    assert sorted(map(repr, order)) == sorted(map(repr, results.cells("cifar10")))
    names = [cell.experiment for cell in order]
    start = names.index("fd_cifar")
    first = [cell for cell in order[start:] if cell.experiment == "fd_cifar"][:9]
    assert set(names[:start]) == {"sanity", "samples"} and order[start : start + 9] == first
    assert all(cell.parameters["budgets"] == [10] and cell.parameters["seeds"] == [0] for cell in first)
    assert set(names[start + 9 : names.index("fd_cifar", start + 9)]) == set(names) - {"fd_cifar", "sanity", "samples"}


def test_all_of_the_first_table_is_measured_with_three_seeds():
    cells = results.cells("cifar10", "fd_cifar")
    first = {
        (solver, grid) for cell in cells[:9] for solver, grids in cell.parameters["solvers"].items() for grid in grids
    }
    for seeds in ([0], [1, 2]):
        measured = {
            (solver, grid)
            for cell in cells
            if cell.parameters["budgets"] == [10] and cell.parameters["seeds"] == seeds
            for solver, grids in cell.parameters["solvers"].items()
            for grid in grids
        }
        assert first <= measured


@pytest.fixture
def long_cell(tmp_path, monkeypatch):
    """A profile of one cell of 300 s, cut into ten ranges, after one with the same rate; it is never executed."""
    parameters = {"solvers": {"ddim": ["uniform"]}, "budgets": [10], "seeds": [0], "samples": 100}
    cell = results.Cell("cifar10", "fd_cifar", "long", parameters, shards=10)
    monkeypatch.setattr(results.Cell, "scratch", lambda self: tmp_path / "scratch")
    monkeypatch.setattr(program, "past", lambda *_: [preflight.Past(cell, 300.0, program.torch.cuda.is_available())])
    monkeypatch.setattr(program, "by_worth", lambda profile: [cell])
    monkeypatch.setattr(results, "training", lambda profile: [])
    monkeypatch.setattr(program.cifar, "load", lambda part: shards)
    monkeypatch.setattr(shards, "labels", [], raising=False)
    monkeypatch.setattr(program, "execute", lambda cell: None)
    monkeypatch.chdir(tmp_path)
    return cell


def test_a_cell_in_pieces_is_started_when_one_fits(long_cell, capsys, monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEADLINE", "inf")
    assert program.run("cifar10", 25 / 60) == 0
    assert "later  cifar10/fd_cifar/long: needs about 300 s, 25 s are left" in capsys.readouterr().out
    assert program.run("cifar10", 35 / 60) == 0
    assert "done   cifar10/fd_cifar/long" in capsys.readouterr().out


def test_of_an_unknown_kind_a_cell_is_taken_to_be_slow(long_cell, capsys, monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEADLINE", "inf")
    monkeypatch.setattr(program, "past", lambda *_: [])
    whole = {"solvers": {"ddim": ["uniform"]}, "budgets": [10], "seeds": [0], "samples": 10 * int(program.RATE)}
    cells = [
        results.Cell("cifar10", "ode_error", name, {**whole, "reference_calls": calls})
        for name, calls in (("short", 0), ("long", 20))
    ]
    monkeypatch.setattr(program, "by_worth", lambda profile: cells)
    assert program.run("cifar10", 0.9 * program.GUESS / 60) == 0
    said = capsys.readouterr().out
    assert f"ode_error/short: needs about {program.GUESS:.0f} s" in said  # 100 s at the rate
    assert "ode_error/long: needs about 400 s" in said  # 10 calls, and 20 + 10 of the reference


def test_a_training_that_does_not_fit_is_said_in_one_line(long_cell, capsys, monkeypatch):
    def execute(cell):
        raise program.torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setenv("FEWSTEP_DEADLINE", "inf")
    monkeypatch.setattr(program, "execute", execute)
    assert program.run("cifar10", 35 / 60) == 1
    line = "failed cifar10/fd_cifar/long: out of GPU memory; free some, or take a smaller batch"
    assert line in capsys.readouterr().out.splitlines()


def test_what_is_kept_is_not_needed_again(long_cell, capsys, monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEADLINE", "inf")
    rows = shards.torch.zeros(90, 2)
    shards.save(shards.Shard(0, 90, shards.Moments.of(rows), rows, 290.0), long_cell.scratch() / "set/0-90.safetensors")
    (long_cell.scratch() / "set/90-100.safetensors").write_bytes(b"half a sh")
    assert program.run("cifar10", 5 / 60) == 0
    said = capsys.readouterr().out
    assert "needs about 10 s, 5 s are left" in said and "will take about 0.0 hours" in said
    assert program.run("cifar10", 15 / 60) == 0
    assert "done   cifar10/fd_cifar/long" in capsys.readouterr().out


def test_the_alarm_rings_until_it_is_heard_and_not_after(long_cell, capsys, monkeypatch):
    """The first alarm is lost where Python ignores errors; what is said of the cell afterwards is not cut short."""
    armed = []

    def execute(cell):
        armed.append(program.signal.getitimer(program.signal.ITIMER_REAL))
        raise program.TimeIsUpError

    def kept(cell):
        armed.append(program.signal.getitimer(program.signal.ITIMER_REAL))
        return 0.0

    monkeypatch.setenv("FEWSTEP_DEADLINE", "inf")
    monkeypatch.setattr(program, "execute", execute)
    monkeypatch.setattr(program, "kept", kept)
    assert program.run("cifar10", 35 / 60) == 0
    assert "later  cifar10/fd_cifar/long: time is up" in capsys.readouterr().out
    before, running, handled = armed
    assert before == handled == (0.0, 0.0) and running[0] > 30 and running[1] == 5.0
